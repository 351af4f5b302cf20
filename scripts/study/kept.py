"""The runs kept under docs/runs: found by their settings, so that no study trains what another has.

A run through verl is kept whole (see scripts/compare/matrix.py). One of the in-process loop is kept with the metrics
that studies and the guard read, to six digits: hundreds of them have to fit into the repository.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from scripts.compare.sources import load_one
from scripts.runs import Run
from scripts.study.variant import INPROCESS, VERL, Wanted

RUNS = Path("docs/runs")

# Of the worked example: what made a run that names no launcher.
LAUNCHER = "examples/arithmetic/run.sh"

# Made for times only: too short to have learned anything.
NOT_LEARNED = ("times",)

METRICS = (
    "actor/entropy",
    "actor/grad_norm",
    "actor/kl_loss",
    "actor/pg_loss",
    "critic/score/mean",
    "response_length/clip_ratio",
    "response_length/max",
    "response_length/mean",
    "response_length/truncated_frac",
)
PREFIXES = ("spro/", "prime/", "reward_model/", "val-core/", "val-aux/", "reward/", "ref_update/")


class KeptRuns:
    """An index of the kept runs; a run itself is read when it is asked for."""

    def __init__(self, root: Path = RUNS) -> None:
        self.root = root
        self._settings: dict[Path, dict[str, Any]] = {}
        self._read: dict[Path, Run] = {}
        for path in sorted(root.glob("*/*.jsonl.gz")):
            if path.parent.name not in NOT_LEARNED:
                self._add(path)

    def _add(self, path: Path) -> None:
        settings = path.with_name(path.name.removesuffix(".jsonl.gz") + ".json")
        self._settings[path] = json.loads(settings.read_text())
        # A longer run may have taken the place of one that was read.
        self._read.pop(path, None)

    def find(self, want: Wanted, seed: int, stack: str = INPROCESS, launcher: str = LAUNCHER) -> Run | None:
        """A kept run of at least so many steps, cut to them; None if there is none.

        Cutting is sound: nothing in these runs depends on how long they are to be. (A schedule of beta does, and says
        so in its overrides.)
        """
        for path, settings in self._settings.items():
            # The in-process loop is one, and has no launcher.
            of_launcher = settings.get("launcher", LAUNCHER) if stack == VERL else launcher
            there = settings.get("stack", VERL), of_launcher, settings["seed"]
            if there != (stack, launcher, seed) or settings["steps"] < want.steps or not want.variant.fits(settings):
                continue
            if path not in self._read:
                self._read[path] = load_one(path)
            run = self._read[path]
            return replace(run, steps={step: row for step, row in run.steps.items() if step <= want.steps})
        return None

    def missing(self, want: Wanted, stack: str = INPROCESS, launcher: str = LAUNCHER) -> list[int]:
        """The seeds of a variant without a kept run."""
        return [seed for seed in want.seeds if self.find(want, seed, stack, launcher) is None]

    @property
    def seeds(self) -> list[int]:
        """Every seed of any kept run."""
        return sorted({settings["seed"] for settings in self._settings.values()})

    def keep(self, folder: Path) -> Path:
        """Keep a finished run of the in-process loop; returns its file."""
        settings = json.loads((folder / "run.json").read_text())
        starts = json.loads((folder / "metrics.provenance.json").read_text().replace(f"{Path.cwd()}{os.sep}", ""))
        # Hundreds of runs share a machine and its versions: the versions that matter to a result are enough.
        versions = {key: starts[-1]["versions"][key] for key in ("python", "verl", "torch", "transformers")}
        settings["provenance"] = {"commit": starts[-1]["commit"], "dirty": starts[-1]["dirty"], "versions": versions}
        settings["provenance"]["started"] = starts[0]["started"]
        # The guard's tables are of every run in the folder of the process term's methods.
        kind = "prime" if settings["method"] == "prime" else INPROCESS
        target = self.root / kind / f"{folder.name}.jsonl.gz"
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_suffix(".tmp")
        with temporary.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as file:
            for line in _compact((folder / "metrics.jsonl").read_text().splitlines()):
                file.write(line.encode())
        target.with_name(f"{folder.name}.json").write_text(json.dumps(settings, indent=1) + "\n")
        os.replace(temporary, target)
        self._add(target)
        return target


def _compact(lines: Iterable[str]) -> Iterable[str]:
    for line in lines:
        row = json.loads(line)
        data = {
            name: float(f"{value:.6g}")
            for name, value in row["data"].items()
            if name in METRICS or name.startswith(PREFIXES)
        }
        yield json.dumps({"step": row["step"], "data": data}, separators=(",", ":")) + "\n"
