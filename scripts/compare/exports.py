"""The report's numbers as CSV: one row a method, and one row a run."""

from __future__ import annotations

import csv
import io
from typing import Any

from scripts.compare.comparison import COSTS, Comparison
from scripts.compare.measures import PANELS
from scripts.compare.statistics import Estimate


def _csv(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _columns(name: str, value: Estimate | None) -> dict[str, Any]:
    if value is None:
        return {name: "", f"{name}_low": "", f"{name}_high": ""}
    # Nine digits: more would show the noise of a float32 that passed through TensorBoard.
    low, high = ("" if end is None else f"{end:.9g}" for end in (value.low, value.high))
    return {name: f"{value.mean:.9g}", f"{name}_low": low, f"{name}_high": high}


def methods_csv(comparison: Comparison) -> str:
    """One row a method; of each estimate the mean and both ends of the 95 % interval."""
    rows = []
    for method in comparison.methods:
        row: dict[str, Any] = {"method": method.label, "runs": method.n, "collapsed": len(method.collapsed)}
        row |= _columns("final_accuracy", method.final)
        row |= _columns("final_minus_grpo_by_seed", comparison.difference(method))
        best = method.best_step
        row |= _columns("best_mean_accuracy", None if best is None else method.accuracy[best])
        row["best_step"] = "" if best is None else best
        row |= _columns("seconds_per_step", method.step_seconds)
        row |= _columns("seconds_per_step_ratio", comparison.time_ratio(method))
        for panel in PANELS:
            row |= _columns(f"late_{panel.name}", method.estimate([run.late(panel) for run in method.runs]))
        for target in comparison.targets:
            reach = comparison.reaches[method.label, target]
            prefix = f"to {target}'s best"
            row[f"{prefix}: seeds"] = reach.count
            row[f"{prefix}: mean curve step"] = "" if reach.mean_step is None else reach.mean_step
            for axis in COSTS:
                row |= _columns(f"{prefix}: {axis}", reach.costs.get(axis))
                row |= _columns(f"{prefix}: {axis} ratio", reach.ratios.get(axis))
        for name, seconds in method.phases.items():
            row[f"seconds_{name}"] = f"{seconds:.9g}"
        for component, parts in method.memory.items():
            row |= {f"memory_{component}_{what}_gib": f"{value:.9g}" for what, value in parts.items()}
        rows.append(row)
    return _csv(rows)


def runs_csv(comparison: Comparison) -> str:
    """One row a run."""
    rows = []
    for run in comparison.runs:
        last = max(run.run.steps)
        row: dict[str, Any] = {
            "run": run.run.name,
            "source": run.run.source,
            "method": run.run.method,
            "beta": "" if run.run.beta is None else f"{run.run.beta:g}",
            "seed": run.run.seed,
            "last_step": last,
            "devices": run.devices,
            "first_accuracy": run.curve[0][1],
            "best_accuracy": run.best,
            "final_accuracy": run.final,
            "collapsed_at_step": "" if run.collapse is None else run.collapse,
            "generated_tokens": _number(run.at("tokens", last)),
            "wall_clock_seconds": _number(run.at("wall-clock", last)),
            "device_hours": _number(run.at("device-hours", last)),
            "seconds_per_step": _number(run.step_seconds),
            **{f"late_{panel.name}": _number(run.late(panel)) for panel in PANELS},
            **{f"seconds_{name}": _number(seconds) for name, seconds in sorted(run.phases.items())},
        }
        rows.append({key: _number(value) if isinstance(value, float) else value for key, value in row.items()})
    return _csv(rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"
