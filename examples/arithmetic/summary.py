"""What a run came to: accuracy before and after, seconds a step and where they went.

    python -m examples.arithmetic.summary outputs/spro-seed0

Prints a few lines of Markdown and writes them to ``RUN_DIR/summary.md``.
"""

import argparse
import json
import math
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from verl_ext.tracking import read_rows

ACCURACY_KEYS = ("val-core/arithmetic/acc/mean@1", "val-core/arithmetic/reward/mean@1")
SHARE = "spro/process_share"
PHASES = ("gen", "old_log_prob", "ref", "adv", "update_actor", "update_weights", "save_checkpoint", "testing")

WARM_AFTER = 2
"""Steps up to this one pay for start-up (compilation, first weight sync) and are left out of the times."""

GRPO_BELOW = 0.01
"""Median process share under which an SPRO run is, in effect, GRPO."""


class NoMetrics(Exception):
    """The run has no metrics to read."""


@dataclass
class Run:
    """One run folder: its name, ``run.json`` (empty when absent) and the metrics of each step."""

    name: str
    info: dict[str, Any]
    steps: dict[int, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def from_rows(cls, name: str, info: dict[str, Any], rows: list[dict[str, Any]]) -> "Run":
        """From rows ``{"step": int, "data": {metric: value}}``; what is no number is left out."""
        run = cls(name, info)
        for row in rows:
            numbers = {key: float(value) for key, value in row["data"].items() if isinstance(value, (int, float))}
            # A run of verl without our plugin logs a step again after a resume.
            run.steps.setdefault(row["step"], {}).update(numbers)
        return run

    def series(self, *keys: str) -> tuple[list[int], list[float]]:
        """Steps and values of the first of ``keys`` that any step logged as a finite number."""
        for key in keys:
            points = [(step, self.steps[step][key]) for step in sorted(self.steps) if key in self.steps[step]]
            points = [(step, value) for step, value in points if math.isfinite(value)]
            if points:
                return [step for step, _ in points], [value for _, value in points]
        return [], []

    def warm_median(self, key: str) -> float | None:
        """Median over the warm steps that logged ``key``; None when none did."""
        values = [metrics[key] for step, metrics in self.steps.items() if step > WARM_AFTER and key in metrics]
        return median(values) if values else None

    def phase_seconds(self) -> dict[str, float]:
        """Median seconds of each phase over the warm steps that had it; phases never seen are absent."""
        found = {phase: self.warm_median(f"timing_s/{phase}") for phase in PHASES}
        return {phase: seconds for phase, seconds in found.items() if seconds is not None}


def load_run(folder: Path) -> Run:
    """Read ``metrics.jsonl`` (one ``{"step": int, "data": {metric: value}}`` a line) and ``run.json``.

    Raises:
        NoMetrics: the file is missing or holds no whole line.
        ValueError: a line other than the last is not a row.
    """
    path = folder / "metrics.jsonl"
    rows = read_rows(path)[0] if path.is_file() else []
    if not rows:
        raise NoMetrics(f"{path} is missing or empty: has the run finished its first step?")
    info_path = folder / "run.json"
    info = json.loads(info_path.read_text()) if info_path.is_file() else {}
    return Run.from_rows(folder.resolve().name, info, rows)


def describe(run: Run) -> str:
    """The summary as Markdown."""
    method, seed, beta = (run.info.get(key, "?") for key in ("method", "seed", "beta"))
    # GRPO has no beta.
    strength = "" if beta is None else f", beta {beta}"
    lines = [f"## {run.name}", "", f"- method {method}, seed {seed}{strength}, {max(run.steps)} steps"]

    steps, accuracies = run.series(*ACCURACY_KEYS)
    if len(steps) > 1:
        count = f"n={run.info['heldout_n']}" if "heldout_n" in run.info else "n unknown"
        change = f"{accuracies[0]:.3f} at step {steps[0]}, {accuracies[-1]:.3f} at step {steps[-1]}"
        lines.append(f"- held-out greedy accuracy ({count}): {change}")
    else:
        lines.append(f"- held-out accuracy: {len(steps)} measurement(s), no before and after")

    share = run.warm_median(SHARE)
    if share is not None:
        lines.append(f"- median {SHARE}: {share:.3f}")
    if str(method).startswith("spro"):
        if share is None:
            lines.append(f"- {SHARE} was not logged: nothing here says that this run used SPRO")
        elif share < GRPO_BELOW:
            lines.append(f"- share under {GRPO_BELOW}: this run shows GRPO, not SPRO")

    seconds = run.warm_median("timing_s/step")
    if seconds is None:
        lines.append(f"- no step after step {WARM_AFTER}, so no times")
        return "\n".join(lines) + "\n"
    lines += [f"- median step after the first {WARM_AFTER}: {seconds:.2f} s", "", "| phase | median s | of the step |"]
    lines.append("|---|---:|---:|")
    for phase, spent in run.phase_seconds().items():
        # Validation is outside of verl's step, and checkpoints may be rare: no share of the median step.
        part = "when it runs" if phase in ("save_checkpoint", "testing") else f"{spent / seconds:.0%}"
        lines.append(f"| {phase} | {spent:.2f} | {part} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    args = parser.parse_args()
    try:
        text = describe(load_run(args.run_dir))
    except NoMetrics as error:
        print(f"summary: {error}", file=sys.stderr)
        return 2
    scratch = args.run_dir / f".summary.{os.getpid()}.tmp"
    scratch.write_text(text)
    os.replace(scratch, args.run_dir / "summary.md")
    print(text, end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
