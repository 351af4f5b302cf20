"""Spawned processes that inherit nothing: no environment, no open files, no main module.

multiprocessing's spawn hands a child the whole environment, keys and tokens included, and imports the parent's main
module, which in a training run costs seconds and in a script without a guard never ends. It has no setting for either,
so that `_Popen._launch` is the standard library's (Python 3.10-3.12) with these two changes.
"""

from __future__ import annotations

import io
import multiprocessing.context
import multiprocessing.popen_spawn_posix
import multiprocessing.process
import multiprocessing.resource_tracker
import os
import sys
from multiprocessing import reduction, spawn, util
from typing import Any

# What a Python process needs; everything else of the environment stays behind.
_KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "PYTHONHOME", "TZ", "SYSTEMROOT")


def scrubbed_environment() -> dict[str, str]:
    """The environment of a worker: the few variables that an interpreter needs, and one thread per library."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "HOME": "/nonexistent", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}


class _Popen(multiprocessing.popen_spawn_posix.Popen):
    _fds: list[int]
    finalizer: Any
    sentinel: int

    def _launch(self, process_obj: Any) -> None:
        tracker_fd: Any = multiprocessing.resource_tracker.getfd()
        self._fds.append(tracker_fd)
        data = spawn.get_preparation_data(process_obj.name)
        data.pop("init_main_from_name", None)
        data.pop("init_main_from_path", None)
        # The parent may have put its own folders on the path; the child finds what the parent finds.
        data["sys_path"] = [path for path in sys.path if path]
        buffer = io.BytesIO()
        multiprocessing.context.set_spawning_popen(self)
        try:
            reduction.dump(data, buffer)
            reduction.dump(process_obj, buffer)
        finally:
            multiprocessing.context.set_spawning_popen(None)

        parent_r, child_w = os.pipe()
        child_r, parent_w = os.pipe()
        try:
            command = spawn.get_command_line(tracker_fd=tracker_fd, pipe_handle=child_r)
            self._fds.extend([child_r, child_w])
            self.pid = _spawn(os.fsencode(spawn.get_executable()), command, self._fds)
            self.sentinel = parent_r
            with open(parent_w, "wb", closefd=False) as pipe:
                pipe.write(buffer.getbuffer())
        finally:
            self.finalizer = util.Finalize(self, _close, [parent_r, parent_w])
            os.close(child_r)
            os.close(child_w)


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


def _spawn(executable: bytes, command: list[str], fds: list[int]) -> int:
    """`multiprocessing.util.spawnv_passfds` with an environment of its own."""
    # os.posix_spawn closes nothing, so that descriptors without close-on-exec would be inherited; subprocess closes.
    import subprocess

    process = subprocess.Popen(
        command,
        executable=executable,
        env=scrubbed_environment(),
        pass_fds=tuple(fds),
        stdin=subprocess.DEVNULL,
        # A worker prints nothing that a person wants: sympy and ANTLR warn about model text.
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        # Ctrl-C is the trainer's to handle.
        start_new_session=True,
    )
    # multiprocessing waits for the child, not subprocess.
    process.returncode = 0
    return process.pid


class _Process(multiprocessing.process.BaseProcess):
    _start_method = "spawn"

    @staticmethod
    def _Popen(process_obj: Any) -> _Popen:
        return _Popen(process_obj)


class CleanSpawnContext(multiprocessing.context.BaseContext):
    """A multiprocessing context whose processes are spawned and inherit nothing."""

    _name = "spawn"
    Process = _Process
