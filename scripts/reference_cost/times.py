"""Times of steps that took turns (`alternate.py`), and what one method adds to another, paired by block."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.compare.statistics import LEVEL, RESAMPLES, SEED, Estimate
from scripts.reference_cost.alternate import ARMS
from scripts.runs import BadRun
from verl_ext.tracking import read_rows

PHASES = ("step", "gen", "old_log_prob", "ref", "adv", "update_actor", "update_weights")

MISMATCH = ("prob_diff_mean", "cumulative_rms", "cumulative_share")

# The first block pays for compilation and the first weight sync.
WARM_BLOCKS = 1


@dataclass(frozen=True)
class Step:
    """One step of a part.

    Attributes:
        model: ``full`` or ``lora``.
        part: name of the run's folder.
        block: in which each arm has one step.
        seconds: by phase; 0 where the step has none.
        used_rollout: whether the gate let the rollout's log-probs through.
        mismatch: of `MISMATCH`; what was measured.
    """

    model: str
    part: str
    block: int
    step: int
    arm: str
    seconds: dict[str, float]
    tokens: float
    used_rollout: bool
    mismatch: dict[str, float]


def arm_of(metrics: dict[str, Any]) -> str:
    """What a step did, by what it logged."""
    estimator = "spro" if "timing_s/ref" in metrics else "grpo"
    return f"{estimator}, gated" if "log_prob_gate/used_rollout" in metrics else estimator


def read(folder: Path) -> list[Step]:
    """The steps of a run's whole blocks, without the first ones.

    Raises:
        BadRun: a block does not hold each arm once.
    """
    (start, *_) = json.loads((folder / "metrics.provenance.json").read_text())
    model = "lora" if any("lora_rank=" in override for override in start["overrides"]) else "full"
    rows = sorted(read_rows(folder / "metrics.jsonl")[0], key=lambda row: row["step"])
    steps = [_step(model, folder.name, row["step"], row["data"]) for row in rows if row["step"] > 0]
    whole = len(steps) // len(ARMS)
    for block in range(whole):
        if sorted(step.arm for step in steps if step.block == block) != sorted(ARMS):
            raise BadRun(f"{folder}: block {block} does not hold each of {', '.join(ARMS)} once; train it anew.")
    return [step for step in steps if WARM_BLOCKS <= step.block < whole]


def _step(model: str, part: str, number: int, metrics: dict[str, Any]) -> Step:
    return Step(
        model=model,
        part=part,
        block=(number - 1) // len(ARMS),
        step=number,
        arm=arm_of(metrics),
        seconds={phase: metrics.get(f"timing_s/{phase}", 0.0) for phase in PHASES},
        tokens=metrics["perf/total_num_tokens"],
        used_rollout=bool(metrics.get("log_prob_gate/used_rollout", False)),
        mismatch={name: x for name in MISMATCH if (x := metrics.get(f"log_prob_gate/{name}")) is not None},
    )


def by_block(steps: Sequence[Step], arm: str, *phases: str) -> NDArray[np.float64]:
    """(blocks,) seconds of the arm's step in these phases, in order of part and block."""
    chosen = sorted((step for step in steps if step.arm == arm), key=lambda step: (step.part, step.block))
    return np.array([sum(step.seconds[phase] for phase in phases) for step in chosen])


def outside_generation(steps: Sequence[Step], arm: str) -> NDArray[np.float64]:
    """(blocks,) seconds of the arm's step without those of generation, which no arm changes."""
    return by_block(steps, arm, "step") - by_block(steps, arm, "gen")


def median(values: NDArray[np.float64]) -> Estimate:
    """Median over blocks with a 95 % percentile bootstrap interval."""
    return _estimate(values[:, None], lambda x: np.median(x[..., 0], axis=-1))


def ratio(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> Estimate:
    """Median of one arm over that of another; the interval resamples blocks, so that pairs stay together."""
    pairs = np.stack([top, bottom], axis=1)
    return _estimate(pairs, lambda x: np.median(x[..., 0], axis=-1) / np.median(x[..., 1], axis=-1))


def _estimate(blocks: NDArray[np.float64], statistic: Any) -> Estimate:
    chosen = np.random.default_rng(SEED).integers(len(blocks), size=(RESAMPLES, len(blocks)))
    low, high = np.percentile(statistic(blocks[chosen]), [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return Estimate(float(statistic(blocks)), float(low), float(high), len(blocks))
