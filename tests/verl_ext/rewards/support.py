"""Functions that run in workers, and what a process leaves behind."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import time
from pathlib import Path

import psutil


def double(x: int) -> int:
    return 2 * x


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def wait_for(path: str) -> str:
    while not os.path.exists(path):
        time.sleep(0.01)
    return "there"


def stuck_in_c() -> None:
    """In C code that holds the interpreter's lock: no Python signal handler will run."""
    ctypes.PyDLL(None).sleep(1000)


def kill_own_process(number: int) -> None:
    os.kill(os.getpid(), number)


def kill_once(marker: str) -> str:
    """Dies the first time, as if the system had killed it."""
    try:
        os.mkdir(marker)
    except FileExistsError:
        return "done"
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


def die_with_the_lock(marker: str) -> str:
    """Killed in the worst moment, once: holding the lock of the pipe that all workers share."""
    try:
        os.mkdir(marker)
    except FileExistsError:
        return "done"
    channel = next(x for x in gc.get_objects() if type(x).__name__ == "WorkerChannel")
    channel.mutex.acquire()
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


def slow_pid() -> int:
    time.sleep(0.05)
    return os.getpid()


def allocate(bytes_: int) -> int:
    return len(bytearray(bytes_))


def fail() -> None:
    raise ValueError("on purpose")


def environment() -> dict[str, str]:
    # What the system shows, not what Python kept.
    pairs = Path("/proc/self/environ").read_bytes().split(b"\0")
    return dict(pair.decode().split("=", 1) for pair in pairs if pair)


def open_files() -> list[str]:
    found = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{entry}"))
        except OSError:
            continue
    return found


def write_file(path: str) -> None:
    Path(path).write_text("written")


def failing_warm_up() -> None:
    raise ImportError("no such library")


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE}


def descriptors() -> int:
    return psutil.Process().num_fds()


def resident_bytes() -> int:
    return psutil.Process().memory_info().rss
