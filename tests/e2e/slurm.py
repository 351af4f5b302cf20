"""A Slurm of this test's own: a controller and two node daemons on this host, in one folder, on free ports.

No service of the system is touched; munge, which tells the daemons who asks, has a key and a socket of its own.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import free_ports

# Jobs have the Python of these tests, whatever started them. Debian's packages slurm-wlm and munge: a user's PATH may
# lack the folder of daemons.
_PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
_PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol", "squeue")

NODES = ("n1", "n2")


def missing_programs() -> list[str]:
    """What a machine lacks for this."""
    return [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]


@dataclass
class LocalSlurm:
    """A running cluster of two nodes of this host."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """For Slurm's commands; less what a job that this test itself runs in has set."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        return {**inherited, "SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": _PATH}

    def ask(self, *command: str, **environment: str) -> str:
        """Run one of Slurm's commands; returns what it printed."""
        done = subprocess.run(
            command, env={**self.environment, **environment}, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """What the controller knows of a job."""
        words = self.ask("scontrol", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)


def _configuration(folder: Path, ports: list[int]) -> str:
    host = socket.gethostname()
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    lines = [
        "ClusterName=spro",
        f"SlurmctldHost={host}(127.0.0.1)",
        f"SlurmctldPort={ports[0]}",
        f"SlurmUser={user}",
        f"SlurmdUser={user}",
        "AuthType=auth/munge",
        "CredType=cred/munge",
        # A requeued job waits as long as a credential lives: two minutes, if nobody says so.
        f"AuthInfo=socket={folder}/munge/socket,cred_expire=5",
        f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/spool-%n",
        f"SlurmctldPidFile={folder}/slurmctld.pid",
        f"SlurmdPidFile={folder}/slurmd-%n.pid",
        f"SlurmctldLogFile={folder}/slurmctld.log",
        f"SlurmdLogFile={folder}/slurmd-%n.log",
        # No cgroups: containers do not let them be written.
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "MpiDefault=none",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_CPU",
        "SlurmdParameters=config_overrides",
        # Seconds; the default lets a requeued job wait half a minute longer.
        "SchedulerParameters=sched_interval=1",
        "ReturnToService=2",
        # Seconds; after the default of five minutes nobody knows what became of a job.
        "MinJobAge=86400",
    ]
    for node, port in zip(NODES, ports[1:], strict=True):
        lines.append(f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2")
    lines.append(f"PartitionName=test Nodes={','.join(NODES)} Default=YES MaxTime=INFINITE State=UP")
    return "\n".join(lines) + "\n"


@contextmanager
def _daemon(folder: Path, environment: Mapping[str, str], *command: str) -> Iterator[None]:
    """In the foreground, as a child of this process, ended by its id."""
    with (folder / f"{command[0]}.out").open("ab") as output:
        process = subprocess.Popen(
            command, env=dict(environment), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until(ready: object, what: str, folder: Path, timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready():  # type: ignore[operator]
        logs = "\n".join(path.read_text(errors="replace")[-1500:] for path in folder.glob("*.out"))
        assert time.monotonic() < deadline, f"{what} after {timeout_s} s:\n{logs}"
        time.sleep(0.5)


@contextmanager
def local_slurm() -> Iterator[LocalSlurm]:
    """Start it, wait until both nodes are idle; everything is ended and removed afterwards."""
    # Short: sockets live below.
    folder = Path(tempfile.mkdtemp(prefix="spro-slurm-"))
    for name in ("munge", "state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir(mode=0o700)
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    (folder / "slurm.conf").write_text(_configuration(folder, free_ports(1 + len(NODES))))
    slurm = LocalSlurm(folder)
    munge = {name: f"--{name}={folder}/munge/{name.removesuffix('-file')}" for name in ("socket", "key-file")}
    munge |= {name: f"--{name}={folder}/munge/{name}" for name in ("pid-file", "seed-file", "log-file")}
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        # --force: nobody else has to reach the socket, which munge would ask for.
        stack.enter_context(
            _daemon(folder, slurm.environment, "munged", "--foreground", "--force", "--num-threads=4", *munge.values())
        )
        _wait_until((folder / "munge" / "socket").exists, "no socket of munged", folder)
        stack.enter_context(_daemon(folder, slurm.environment, "slurmctld", "-D", "-i"))
        for node in NODES:
            stack.enter_context(_daemon(folder, slurm.environment, "slurmd", "-D", "-N", node))
        _wait_until(lambda: _idle(slurm) == len(NODES), "the nodes are not idle", folder)
        stack.callback(_cancel_all, slurm)
        yield slurm


def _cancel_all(slurm: LocalSlurm) -> None:
    """What a failed test has left, while there is still somebody to end it."""
    if jobs := slurm.ask("squeue", "-h", "-o", "%A").split():
        slurm.ask("scancel", *jobs)
        _wait_until(lambda: not slurm.ask("squeue", "-h"), "jobs do not end", slurm.folder)


def _idle(slurm: LocalSlurm) -> int:
    done = subprocess.run(
        ["sinfo", "-h", "-N", "-o", "%T"], env=slurm.environment, capture_output=True, text=True, timeout=60
    )
    return done.stdout.split().count("idle")
