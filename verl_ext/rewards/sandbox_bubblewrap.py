"""The sandbox of this machine: bubblewrap.

What the sandboxed interpreter can see: the base interpreter with its standard library and the shared libraries that
these load, the three files of the runner, four devices, and an empty folder of its own in memory. No network, no host
file, no other process, no environment. Everything but its folder is read-only.
"""

from __future__ import annotations

import contextlib
import functools
import json
import marshal
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

from verl_ext.rewards.sandbox import (
    HOW_TO_GET_ONE,
    MIB,
    RUNNER,
    Limits,
    OutOfTime,
    ProgramEnded,
    ProgramFailed,
    SandboxUnavailable,
    TooMuchOutput,
)

_RUNNER_AT = "/python/runner"
_START = f"import sys; sys.path.insert(0, {_RUNNER_AT!r}); from verl_ext.rewards.code_runner import main; main()"


class LocalSession:
    """The pipes to a sandboxed process of this machine. Deadlines are in seconds of `time.monotonic`."""

    def __init__(self, program: str, arguments: list[str]) -> None:
        self.first_process: int | None = None
        self.info, info_for_bwrap = os.pipe()
        command = [program, "--info-fd", str(info_for_bwrap), *arguments]
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
                pass_fds=(info_for_bwrap,),
            )
        except OSError as error:
            os.close(self.info)
            raise SandboxUnavailable(f"{program} cannot be started: {error}") from error
        finally:
            os.close(info_for_bwrap)
        assert self.process.stdin
        assert self.process.stdout
        self.requests, self.answers = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self.requests, False)
        os.set_blocking(self.answers, False)
        self._is_ready = False

    def __enter__(self) -> LocalSession:
        return self

    def __exit__(self, *error: object) -> None:
        """Kills what is left of it: the namespace's first process takes all others with it, and bwrap collects it.

        Were bwrap killed first, the host's first process would have to collect the other; in a container that is
        often a trainer, which does not.
        """
        self._find_first_process()
        if self.first_process is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.first_process, signal.SIGKILL)
            os.close(self.first_process)
        else:
            self.process.kill()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.info)
        # The end of the pipe is the proof that no process inside holds it any more.
        with contextlib.suppress(ProgramFailed):
            gone_by = time.monotonic() + 2
            while self._read_some(gone_by):
                pass
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _find_first_process(self) -> None:
        """Waits for bwrap to say which process is the namespace's first (milliseconds), and takes a handle on it.

        Were bwrap killed before, that process could wait for it for ever, outside of every session. A handle, since its
        number may be another's later.
        """
        said = b""
        give_up = time.monotonic() + 10
        while self.first_process is None:
            try:
                self._wait(self.info, select.POLLIN, give_up)
            except OutOfTime:
                return
            piece = os.read(self.info, 4096)
            said += piece
            number = re.search(rb'"child-pid": *(\d+)\D', said)
            if number:
                with contextlib.suppress(ProcessLookupError):
                    self.first_process = os.pidfd_open(int(number[1]))
                return
            if not piece:
                return

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
        self._find_first_process()

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
_LEFT_OUT = (
    "_tkinter",
    "_curses",
    "_ssl",
    "_dbm",
    "_gdbm",
    "readline",
    "nis",
    "_crypt",
    "_test",
    "_xx",
    "spwd",
    "ossaudio",
)


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
        return LocalSession(self.program, _arguments(limits.folder_mb))


@functools.cache
def _arguments(folder_mb: int) -> list[str]:
    interpreter = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    inside = f"/python/{sys.platlibdir}/{version}"
    library = Path(sysconfig.get_path("stdlib"))
    binds = [(interpreter, f"/python/bin/{version}"), (str(library), inside)]
    for name, path in _libraries(interpreter, library / "lib-dynload"):
        # The loader has to stand where the interpreter names it; the rest is found by LD_LIBRARY_PATH.
        binds.append((path, name if name.startswith("/") else f"/python/libraries/{name}"))
    for name in RUNNER:
        # As a namespace package, without the project's own `__init__`.
        binds.append((str(Path(__file__).with_name(name)), f"{_RUNNER_AT}/verl_ext/rewards/{name}"))
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
    # One arena: each of glibc's reserves 64 MiB of the address space that a thread would need.
    environment = {"HOME": "/tmp", "LC_ALL": "C.UTF-8", "LD_LIBRARY_PATH": "/python/libraries", "MALLOC_ARENA_MAX": "1"}
    for name, value in environment.items():
        arguments += ["--setenv", name, value]
    # -S and -I: no site, no user folder, no environment; -X utf8 whatever the locale.
    return [*arguments, f"/python/bin/{version}", "-I", "-S", "-E", "-B", "-X", "utf8", "-c", _START]
