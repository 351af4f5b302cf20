"""What SPRO's step costs beyond GRPO's, measured in one run whose steps take turns between them.

    python -m scripts.reference_cost train --model full --seed 1 --blocks 60 [OVERRIDES...]
    python -m scripts.reference_cost collect outputs/reference_cost/* --csv docs/bench/reference_cost.csv
    python -m scripts.reference_cost report docs/bench/reference_cost.csv

`train` is the worked example (`examples/arithmetic/run.sh`), full fine-tuning or LoRA, with and without the gate of
`verl_ext/log_prob_gate.py`. `collect` keeps the times of each step, `report` prints the tables of
docs/reference_cost.md.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from scripts.compare.statistics import Estimate
from scripts.measure import ROOT, provenance
from scripts.reference_cost.alternate import ARMS, SEED_VARIABLE
from scripts.reference_cost.times import MISMATCH, PHASES, Step, by_block, median, outside_generation, ratio, read
from scripts.tables import Cell, Table, amount

_LORA = (
    "actor_rollout_ref.model.lora_rank=8",
    "actor_rollout_ref.model.lora_alpha=16",
    "actor_rollout_ref.model.target_modules=all-linear",
    "actor_rollout_ref.model.lora.merge=True",
)

_ALTERNATING = (
    "trainer.val_before_train=false",
    "algorithm.spro.guard.action=off",
    "algorithm.log_prob_gate.enable=true",
)


def train(model: str, seed: int, blocks: int, out: Path, overrides: Sequence[str]) -> int:
    """Run the worked example with alternating steps; returns its exit status."""
    folder = out / f"{model}-{seed}"
    environment = {
        "METHOD": "spro",
        "STEPS": str(blocks * len(ARMS)),
        "OUT": str(folder),
        "TEST_FREQ": "-1",
        "SAVE_FREQ": "-1",
        SEED_VARIABLE: str(seed),
        "VERL_USE_EXTERNAL_MODULES": "recipe.spro.plugin,scripts.reference_cost.alternate",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    command = ["bash", "examples/arithmetic/run.sh", *_ALTERNATING, *(_LORA if model == "lora" else ()), *overrides]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}).returncode


def collect(folders: Iterable[Path], path: Path) -> int:
    """Write the times of every step of these runs; returns how many. Without any, no file is written."""
    where = provenance()
    rows = [
        {"model": step.model, "part": step.part, "block": step.block, "step": step.step, "arm": step.arm}
        | {f"{phase}_s": f"{step.seconds[phase]:.4f}" for phase in PHASES}
        | {"tokens": f"{step.tokens:.0f}", "used_rollout": int(step.used_rollout)}
        | {name: f"{step.mismatch[name]:.3g}" if name in step.mismatch else "" for name in MISMATCH}
        | where
        for folder in folders
        for step in read(folder)
    ]
    if not rows:
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=[*rows[0]])
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)


def load(path: Path) -> dict[str, list[Step]]:
    """The steps of a file that `collect` wrote, by model."""
    found: defaultdict[str, list[Step]] = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            found[row["model"]].append(
                Step(
                    model=row["model"],
                    part=row["part"],
                    block=int(row["block"]),
                    step=int(row["step"]),
                    arm=row["arm"],
                    seconds={phase: float(row[f"{phase}_s"]) for phase in PHASES},
                    tokens=float(row["tokens"]),
                    used_rollout=row["used_rollout"] == "1",
                    mismatch={name: float(row[name]) for name in MISMATCH if row[name]},
                )
            )
    return found


def _cell(estimate: Estimate, digits: int) -> Cell:
    """With its interval."""
    return Cell(
        amount(estimate.mean, digits), f"{amount(estimate.low or 0, digits)} to {amount(estimate.high or 0, digits)}"
    )


_TITLES = {"full": "Full fine-tuning", "lora": "LoRA (rank 8, merged for the rollout)"}

COMPARED = [
    ("both recompute (verl's default)", "spro", "grpo"),
    ("both gated", "spro, gated", "grpo, gated"),
    ("SPRO gated, GRPO recomputes", "spro, gated", "grpo"),
]


def cost_table(steps: Sequence[Step]) -> Table:
    """SPRO's step against GRPO's; medians over blocks, 95 % intervals."""
    rows = []
    for name, top, bottom in COMPARED:
        step, base = by_block(steps, top, "step"), by_block(steps, bottom, "step")
        rest = outside_generation(steps, top) - outside_generation(steps, bottom)
        reference = median(by_block(steps, top, "ref"))
        estimates: list[tuple[Estimate, int]] = [
            (median(base), 2),
            (median(step), 2),
            (ratio(step, base), 3),
            (median(step - base), 2),
            (median(rest), 3),
            (reference, 3),
        ]
        rows.append([Cell(name), *(_cell(estimate, digits) for estimate, digits in estimates)])
    columns = ["", "GRPO, s", "SPRO, s", "ratio", "added, s", "added outside of generation, s", "the reference, s"]
    return Table(columns, rows, note=f"{len(by_block(steps, 'spro', 'step'))} paired steps a row.")


def gate_table(steps: Sequence[Step]) -> Table:
    """What the gate saves, how often it let the rollout's log-probs through, and what it measured."""
    rows = []
    for estimator in ("grpo", "spro"):
        gated = [step for step in steps if step.arm == f"{estimator}, gated"]
        old = [by_block(steps, arm, "old_log_prob") for arm in (estimator, f"{estimator}, gated")]
        measured: list[Any] = []
        for name in MISMATCH:
            values = [step.mismatch[name] for step in gated if name in step.mismatch]
            measured.append(Cell(f"{max(values):.1e}" if values else "–"))
        rows.append(
            [
                Cell(estimator.upper()),
                Cell(f"{sum(step.used_rollout for step in gated)} of {len(gated)}"),
                _cell(median(old[0]), 3),
                _cell(median(old[1]), 3),
                _cell(median(old[0] - old[1]), 3),
                *measured,
            ]
        )
    columns = ["", "steps with the rollout's", "recomputed, s", "gated, s", "saved, s"]
    return Table([*columns, *(f"largest `{name}`" for name in MISMATCH)], rows)


def report(path: Path) -> str:
    """Both tables of each model, as they stand in docs/reference_cost.md."""
    return "\n".join(
        f"### {_TITLES[model]}\n\n{cost_table(steps).markdown()}\n{gate_table(steps).markdown()}"
        for model, steps in load(path).items()
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train")
    training.add_argument("--model", choices=("full", "lora"), default="full")
    training.add_argument("--seed", type=int, default=1)
    training.add_argument("--blocks", type=int, default=60)
    training.add_argument("--out", type=Path, default=Path("outputs/reference_cost"))
    collecting = commands.add_parser("collect")
    collecting.add_argument("folders", nargs="+", type=Path)
    collecting.add_argument("--csv", type=Path, required=True)
    reporting = commands.add_parser("report")
    reporting.add_argument("csv", type=Path)
    given, overrides = parser.parse_known_args(arguments)
    if overrides and given.command != "train":
        parser.error(f"unknown arguments: {' '.join(overrides)}")
    if given.command == "train":
        return train(given.model, given.seed, given.blocks, given.out.resolve(), overrides)
    if given.command == "collect":
        if not (count := collect(given.folders, given.csv)):
            folders = " ".join(map(str, given.folders))
            print(f"{folders}: no run has {len(ARMS)} steps past the first ones; nothing is written", file=sys.stderr)
            return 1
        print(f"{count} steps in {given.csv}")
        return 0
    print(report(given.csv))
    return 0


if __name__ == "__main__":
    sys.exit(main())
