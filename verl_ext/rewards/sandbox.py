"""Where model-written programs may run: bubblewrap's namespaces, on Linux.

What the sandboxed interpreter can see: the base interpreter with its standard library and the shared libraries that
these load, `code_runner.py`, four devices, and an empty folder of its own in memory. No network, no host file, no
other process, no environment. Everything but its folder is read-only.

Not covered: a hole in the kernel (use a remote sandbox on machines you can lose); what a program can learn of the CPU;
several sandboxes at once may each use their memory limit. Third-party packages (numpy) are not there.
"""

from __future__ import annotations

import contextlib
import functools
import json
import marshal
import os
import platform
import re
import select
import shutil
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from verl_ext.rewards import code_runner
from verl_ext.rewards.seccomp import blocked_calls

MIB = 2**20
HOW_TO_GET_ONE = (
    "Programs are only run in a sandbox, and none was found. One of: install bubblewrap (Debian, Ubuntu: apt-get "
    "install bubblewrap) on every node that grades; where bwrap says 'Operation not permitted' or 'No permissions to "
    "create new namespace', allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces"
    "=15000, on Ubuntu 24.04 kernel.apparmor_restrict_unprivileged_userns=0; in Docker --security-opt "
    "seccomp=unconfined --security-opt apparmor=unconfined); or set SPRO_SANDBOX_URL to the run_code address of a "
    "SandboxFusion service."
)


class SandboxUnavailable(RuntimeError):
    """No sandbox, or none that answers: nothing was learned of the program."""


class ProgramFailed(Exception):
    """A program did not answer; the text says why."""


class OutOfTime(ProgramFailed):
    """The deadline passed first."""


class TooMuchOutput(ProgramFailed):
    """More than the limit was written to the output or to the answer channel."""


class ProgramEnded(ProgramFailed):
    """The process was gone: os._exit, a crash in C code, a limit on CPU time."""


@dataclass(frozen=True)
class Limits:
    """What one sandbox may use."""

    cpu_s: int = 12
    memory_mb: int = 1024
    """address space of a process, MiB"""
    file_mb: int = 32
    """one file, and so the standard output, MiB"""
    folder_mb: int = 64
    """the private folder, in memory, MiB"""
    processes: int = 64
    """threads too; enforced from Linux 5.14 on, and not for the host's root. New processes are refused by seccomp."""
    open_files: int = 64

    def for_runner(self) -> dict[str, int]:
        """By the names of the resource module."""
        limits = {
            "RLIMIT_CPU": self.cpu_s,
            "RLIMIT_AS": self.memory_mb * MIB,
            "RLIMIT_FSIZE": self.file_mb * MIB,
            "RLIMIT_NOFILE": self.open_files,
            "RLIMIT_CORE": 0,
        }
        # Before 5.14 it counts every process of this user on the host.
        if tuple(int(x) for x in re.findall(r"\d+", platform.release())[:2]) >= (5, 14):
            limits["RLIMIT_NPROC"] = self.processes
        return limits


class Session(Protocol):
    """One started sandbox with `code_runner` in it; a context manager, which kills it at the end."""

    def send(self, request: Any, deadline: float) -> None: ...

    def receive(self, deadline: float, cap: int) -> Any:
        """The next answer, of at most ``cap`` bytes; raises `ProgramFailed` or `SandboxUnavailable`."""

    def receive_bytes(self, deadline: float, cap: int) -> bytes: ...

    def __enter__(self) -> Session: ...

    def __exit__(self, *error: object) -> None: ...


class Sandbox(Protocol):
    """What can start sessions."""

    def start(self, limits: Limits) -> Session: ...


class LocalSession:
    """The pipes to a sandboxed process of this machine. Deadlines are in seconds of `time.monotonic`."""

    def __init__(self, command: list[str]) -> None:
        try:
            # No preexec_fn: the trainer has threads, and a vfork of a large process is cheap.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise SandboxUnavailable(f"{command[0]} cannot be started: {error}") from error
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.requests, self.answers = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self.requests, False)
        os.set_blocking(self.answers, False)
        self._is_ready = False

    def __enter__(self) -> LocalSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kills what is left of it. The namespace's first process dies with bwrap, and takes all others with it."""
        self.process.kill()
        self.process.wait()
        # The end of the pipe is the proof that no process inside holds it any more.
        with contextlib.suppress(ProgramFailed):
            gone_by = time.monotonic() + 2
            while self._read_some(gone_by):
                pass
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _wait(self, fd: int, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(fd, event)
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise OutOfTime("the time limit passed")

    def _read_some(self, deadline: float, count: int = MIB) -> bytes:
        self._wait(self.answers, select.POLLIN, deadline)
        return os.read(self.answers, count)

    def _read(self, count: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = self._read_some(deadline, count - len(data))
            if not piece:
                raise ProgramEnded("the process ended without an answer")
            data += piece
        return bytes(data)

    def _wait_until_ready(self, deadline: float) -> None:
        if self._is_ready:
            return
        # Until it says so the failure is not the program's: that has not been sent.
        try:
            self._read(4, deadline)
            self._read(len(b'["ready"]'), deadline)
        except OutOfTime:
            raise SandboxUnavailable("the sandbox did not start before the deadline") from None
        except ProgramEnded:
            assert self.process.stderr
            self.process.kill()
            said = self.process.stderr.read(2000).decode(errors="replace").strip()
            raise SandboxUnavailable(f"the sandbox did not start: {said or 'no message'}") from None
        self._is_ready = True

    def send(self, request: Any, deadline: float) -> None:
        """Sends one request; a value that marshal does not know is the caller's mistake."""
        self._wait_until_ready(deadline)
        body = marshal.dumps(request)
        data = memoryview(len(body).to_bytes(4, "big") + body)
        while data:
            self._wait(self.requests, select.POLLOUT, deadline)
            try:
                data = data[os.write(self.requests, data) :]
            except BrokenPipeError:
                raise ProgramEnded("the process ended before it took its input") from None

    def receive_bytes(self, deadline: float, cap: int) -> bytes:
        size = int.from_bytes(self._read(4, deadline), "big")
        if size > cap:
            raise TooMuchOutput(f"{size} bytes were written, more than the {cap} allowed")
        return self._read(size, deadline)

    def receive(self, deadline: float, cap: int) -> Any:
        try:
            return json.loads(self.receive_bytes(deadline, cap))
        except (ValueError, RecursionError) as error:
            raise ProgramFailed(f"the answer cannot be read: {type(error).__name__}") from None


# Modules whose libraries are of no use in there: the screen, the network, databases of the host.
_LEFT_OUT = ("_tkinter", "_curses", "_ssl", "_dbm", "_gdbm", "readline", "nis", "_crypt", "_test", "_xx", "spwd", "ossaudio")


@functools.cache
def _libraries(interpreter: str, modules: Path) -> list[tuple[str, str]]:
    """The shared libraries that the interpreter and its modules load: (soname, path)."""
    wanted = [str(x) for x in sorted(modules.glob("*.so")) if not x.name.startswith(_LEFT_OUT)]
    said = subprocess.run(["ldd", interpreter, *wanted], capture_output=True, text=True, env={"PATH": os.defpath})
    found = dict(re.findall(r"^\s*(\S+) => (/\S+) ", said.stdout, re.M))
    loaders = re.findall(r"^\s*(/\S*/ld-\S+) \(", said.stdout, re.M)
    return sorted(found.items()) + [(x, x) for x in sorted(set(loaders))]


class BubblewrapSandbox:
    """Debian's ``bubblewrap``, with unprivileged user namespaces (or as root)."""

    def __init__(self, program: str | None = None) -> None:
        found = program or shutil.which("bwrap")
        if not found:
            raise SandboxUnavailable(HOW_TO_GET_ONE)
        self.program = found

    def start(self, limits: Limits) -> LocalSession:
        return LocalSession([self.program, *_arguments(limits.folder_mb)])


@functools.cache
def _arguments(folder_mb: int) -> list[str]:
    interpreter = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    inside = f"/python/{sys.platlibdir}/{version}"
    library = Path(sysconfig.get_path("stdlib"))
    binds = [(interpreter, f"/python/bin/{version}"), (str(library), inside)]
    for name, path in _libraries(interpreter, library / "lib-dynload"):
        # The loader has to stand where the interpreter names it; the rest is found by LD_LIBRARY_PATH.
        binds.append((path, name if name.startswith("/") else f"/python/shared/{name}"))
    binds.append((str(Path(code_runner.__file__)), "/python/code_runner.py"))
    arguments = ["--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    arguments += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    arguments += ["--uid", "65534", "--gid", "65534", "--hostname", "sandbox"]
    for source, target in binds:
        arguments += ["--ro-bind", source, target]
    for packages in ("site-packages", "dist-packages"):
        if (library / packages).is_dir():
            arguments += ["--tmpfs", f"{inside}/{packages}", "--remount-ro", f"{inside}/{packages}"]
    for device in ("null", "zero", "random", "urandom"):
        arguments += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    arguments += ["--size", str(folder_mb * MIB), "--tmpfs", "/tmp", "--chdir", "/tmp", "--remount-ro", "/"]
    arguments += ["--clearenv"]
    for name, value in {"HOME": "/tmp", "LC_ALL": "C.UTF-8", "LD_LIBRARY_PATH": "/python/shared"}.items():
        arguments += ["--setenv", name, value]
    # -S and -I: no site, no user folder, no environment; -X utf8 whatever the locale.
    return [*arguments, f"/python/bin/{version}", "-I", "-S", "-E", "-B", "-X", "utf8", "/python/code_runner.py"]


def load_request(
    mode: str, candidates: list[list[str]], limits: Limits, *, prelude: list[tuple[str, str, str]] | None = None
) -> dict[str, Any]:
    """The first request of a session: what `code_runner` is to compile, and how it is to confine itself."""
    return {
        "mode": mode,
        "candidates": candidates,
        "prelude": prelude or [],
        "limits": limits.for_runner(),
        "blocked": blocked_calls(),
        "files": {},
        # As verl's prime_code sets it.
        "recursion": 600_000,
    }
