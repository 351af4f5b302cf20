"""Train the runs of a study that are not kept yet: in this machine's in-process loop, or through verl."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.compare.matrix import Cell, Matrix
from scripts.compare.run import Runner
from scripts.study.kept import KeptRuns
from scripts.study.variant import INPROCESS, VERL, Variant, Wanted

OUT = Path("outputs/study")

# Evaluations: the loop's cost little; through verl one of 1,000 problems takes as long as five steps.
TEST_FREQ = {INPROCESS: "10", VERL: "20"}


class TrainingFailed(Exception):
    """Some runs did not end well; the message says which and where their logs are."""


def train(wanted: Iterable[Wanted], kept: KeptRuns, *, stack: str, launcher: Path, jobs: int) -> None:
    """Train what is missing and keep it.

    Raises:
        TrainingFailed: a run failed. Those that ended well are kept.
    """
    of_seeds = missing(wanted, kept, stack, launcher)
    if stack == INPROCESS:
        try:
            make_in_process(of_seeds, jobs)
        finally:
            for want, seed in of_seeds:
                if (folder_of(want.variant, seed) / "run.json").exists():
                    kept.keep(folder_of(want.variant, seed))
    else:
        _through_verl(of_seeds, kept, launcher, jobs)


def missing(wanted: Iterable[Wanted], kept: KeptRuns, stack: str, launcher: Path) -> list[tuple[Wanted, int]]:
    """The runs to make, each once and as long as any of those asked for, seed by seed.

    So an interrupted study compares what it has.
    """
    longest: dict[tuple[int, str], Wanted] = {}
    for want in wanted:
        for seed in kept.missing(want, stack, str(launcher)):
            before = longest.get((seed, want.variant.key))
            if before is None or (want.steps, want.snapshots) > (before.steps, before.snapshots):
                longest[seed, want.variant.key] = want
    return [(want, seed) for (seed, _), want in sorted(longest.items(), key=lambda item: item[0][0])]


def folder_of(variant: Variant, seed: int) -> Path:
    """Where the in-process loop works."""
    return OUT / INPROCESS / f"{variant.key}-seed{seed}"


def make_in_process(wanted: list[tuple[Wanted, int]], jobs: int) -> list[Path]:
    """Make runs in process, and return their folders; those that are there, snapshots included, are left as they are.

    Raises:
        TrainingFailed: a run failed.
    """
    cells = []
    for want, seed in wanted:
        of_run = {"TEST_FREQ": TEST_FREQ[INPROCESS], "SNAPSHOTS": str(want.snapshots)}
        of_run["OUT"] = str(folder_of(want.variant, seed))
        environment = want.variant.environment(seed, want.steps) | of_run
        cells.append({"environment": environment, "overrides": list(want.variant.overrides)})
    run_cells(cells, jobs)
    return [folder_of(want.variant, seed) for want, seed in wanted]


def run_cells(cells: Sequence[Mapping[str, Any]], jobs: int) -> None:
    """Give the in-process loop its runs, ``{"environment": {...}, "overrides": [...]}`` each.

    Raises:
        TrainingFailed: a run failed; the others have ended.
    """
    if not cells:
        return
    print(f"{len(cells)} runs in process", file=sys.stderr)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(cells, file)
        file.flush()
        command = [sys.executable, "-m", "examples.arithmetic.inprocess", "--cells", file.name, "--jobs", str(jobs)]
        if subprocess.run(command).returncode:
            raise TrainingFailed("some in-process runs failed, see above; those that ended are kept")


def _through_verl(wanted: list[tuple[Wanted, int]], kept: KeptRuns, launcher: Path, jobs: int) -> None:
    failed = 0
    # Seeds of one setting are one matrix, whose runs go side by side.
    for want in dict.fromkeys(want for want, _ in wanted):
        variant = want.variant
        variables = {"LR": variant.lr, "STEPS": str(want.steps), "TEST_FREQ": TEST_FREQ[VERL]}
        variables |= {"BETA": variant.beta} if variant.beta else {}
        variables |= {"RM_LR": variant.rm_lr} if variant.rm_lr else {}
        cells = [Cell(variant.method, seed, tuple(variables.items())) for other, seed in wanted if other == want]
        # Runs that are told apart by their overrides or launcher only have the same names.
        folder = "-".join(filter(None, (launcher.stem, variant.tag)))
        out, keep = OUT / VERL / folder, kept.root / f"study-{folder}"
        failed += Runner(Matrix(cells, launcher, list(variant.overrides), out, keep, jobs)).run()
    if failed:
        raise TrainingFailed(f"{failed} runs through {launcher} failed, see above; started again, they go on")
