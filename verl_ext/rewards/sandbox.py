"""What a sandbox for model-written programs is: limits, sessions, and what can go wrong.

Not covered: a hole in the kernel (use a remote sandbox on machines you can lose); what a program can learn of the CPU;
several sandboxes at once may each use their memory limit. Third-party packages (numpy) are not there.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from typing import Any, Protocol

from verl_ext.rewards.seccomp import blocked_calls

MIB = 2**20
RUNNER = ("code_runner.py", "code_grader.py", "code_values.py")
"""the files of this folder that run inside"""
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
