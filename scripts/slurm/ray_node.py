"""Ray on one node: checked before, started in the foreground of this task, ended with it.

``ray stop`` is nowhere used: it ends every cluster of a machine, other people's too. A node ends the one process that
it started, which takes its own along.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.slurm.attempt import Attempt, NodeError

# psutil is imported where it is used: `check`, which says what an environment lacks, comes before.
if TYPE_CHECKING:
    import psutil

_NEEDED = "psutil, ray, verl"

# Ray's own ending takes some seconds a node.
_END_TIMEOUT_S = 30


def check() -> None:
    """Whether this node can run verl with the plugin, in the environment that the raylets will have.

    Raises:
        NodeError: it cannot.
    """
    done = subprocess.run([sys.executable, "-c", f"import {_NEEDED}"], capture_output=True, text=True)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise NodeError(
            f"{sys.executable} cannot import {_NEEDED} with "
            f"VERL_USE_EXTERNAL_MODULES={os.environ.get('VERL_USE_EXTERNAL_MODULES', '')}: {reason}. "
            "Set VENV= or CONTAINER_IMAGE= to an environment that every node sees."
        )


def address_of_this_node() -> str | None:
    """The address on NODE_INTERFACE; None: Ray's own choice.

    Raises:
        NodeError: no such interface, or none with an IPv4 address.
    """
    name = os.environ.get("NODE_INTERFACE")
    if not name:
        return None
    import psutil

    interfaces = psutil.net_if_addrs()
    for address in interfaces.get(name, []):
        if address.family == socket.AF_INET:
            return address.address
    raise NodeError(f"NODE_INTERFACE={name}: no IPv4 address there; this node has {', '.join(sorted(interfaces))}.")


def temporary_folder(attempt: Attempt) -> Path:
    """Ray's sessions of this attempt on this node; short, for sockets live there."""
    return Path(os.environ.get("RAY_TMP", "/tmp"), f"ray-{attempt.folder.name}")


class RayNode:
    """``ray start --block`` as a child of this task, and what it has started in turn."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._known: list[psutil.Process] = []

    @classmethod
    def start(cls, attempt: Attempt, arguments: Sequence[str]) -> RayNode:
        """Start it with what is the same for head and others; its output goes to this task's."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *arguments]
        command += [f"--node-name={attempt.node}"]
        # Free ones: Ray's defaults are fixed ranges, which a second job on this node would share.
        command += ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
        if (address := address_of_this_node()) and "--head" not in arguments:
            command += [f"--node-ip-address={address}"]
        for option, variable in (("num-cpus", "RAY_NUM_CPUS"), ("num-gpus", "RAY_NUM_GPUS")):
            if value := os.environ.get(variable):
                command += [f"--{option}={value}"]
        command += os.environ.get("RAY_START_ARGS", "").split()
        print("$", *command, flush=True)
        # Whatever Ray this task's own environment speaks of is another one.
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        return cls(subprocess.Popen(command, env=environment))

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        import psutil

        if (status := self.process.poll()) is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._known = psutil.Process(self.process.pid).children(recursive=True)
        return status

    def end(self) -> None:
        """End it, and what it leaves behind: Ray's agents have been seen to outlive their raylet."""
        import psutil

        self.poll()
        end(self.process)
        _, left = psutil.wait_procs(self._known, timeout=5)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def end(process: subprocess.Popen[bytes], timeout_s: float = _END_TIMEOUT_S) -> None:
    """End a process that this task has started, and wait for it."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def end_with_this_task() -> None:
    """Slurm's SIGTERM becomes an exception, so that what this task has started is ended."""

    def leave(number: int, frame: object) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def clean_up(attempt: Attempt, *, keep_logs: bool) -> None:
    """Remove Ray's sessions from this node; their logs go to the attempt's folder where something went wrong."""
    folder = temporary_folder(attempt)
    logs = folder / "session_latest" / "logs"
    if keep_logs and logs.is_dir():
        shutil.copytree(logs, attempt.folder / f"ray-{attempt.node}", dirs_exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def wait_for_port(address: str, node: RayNode, timeout_s: float) -> None:
    """Until somebody listens there.

    Raises:
        NodeError: the process ended, or it took too long.
    """
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + timeout_s
    while node.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((host, int(port)), timeout=2).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    status = node.poll()
    state = "still runs" if status is None else f"ended with status {status}"
    raise NodeError(f"Ray's head does not listen at {address}; its process {state}.")
