"""How far any function of the logged metrics might get: single metrics with hindsight, and a model of all of them.

The model is a logistic regression of "collapses in 10 to 50 steps" on every metric's last means, its change, and its
level against the run's first and best ones; each seed is scored by the model of the others. The level of the score at
which an alarm is raised is then the lowest that alarms at most 5 % of the healthy runs, chosen with hindsight. A guard,
whose thresholds are settled before, does no better than the best of this table on such runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recipe.spro.guard import Thresholds
from scripts.compare.statistics import wilson
from scripts.compare.tables import Cell, Table
from scripts.guard.tables import share
from scripts.guard.verdicts import AHEAD, WELL, collapse_of, readings
from scripts.runs import Run

# The model gets its logarithm as well.
_CPR = "spro/cpr/abs_max"

METRICS = (
    "actor/entropy",
    "actor/grad_norm",
    "critic/score/mean",
    "response_length/clip_ratio",
    "response_length/mean",
    "spro/alive_one_frac",
    "spro/beta",
    _CPR,
    "spro/cpr/mean",
    "spro/degenerate_group_frac",
    "spro/msa/rms",
    "spro/outcome/rms",
    "spro/process_share",
)

IN_VAIN = 0.05

# A collapse within so many steps is what the model is to tell.
HORIZON = 50

WINDOW = Thresholds.window

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """One run: its steps, (steps, features), when it collapsed, and whether it ended well."""

    run: Run
    steps: NDArray[np.int64]
    features: Array
    collapse: int | None
    well: bool


def case_of(run: Run) -> Case:
    """A run in numbers; what it does not log is 0 after scaling."""
    steps = np.array([step for step in run.steps if step > 0])
    logged = np.array([[run.steps[step].get(name, np.nan) for name in METRICS] for step in steps])
    rows = [_features(logged[: end + 1]) for end in range(len(steps))]
    collapse, _, fell = collapse_of(run)
    return Case(run, steps, np.array(rows), collapse, collapse is None and fell >= WELL)


def _features(logged: Array) -> Array:
    """Of the last of these steps."""
    means = [logged[max(0, end - WINDOW) : end] for end in (len(logged), max(1, len(logged) - WINDOW))]
    now, before = (part.mean(axis=0) for part in means)
    first = logged[1 : 1 + WINDOW].mean(axis=0) if len(logged) > 1 else logged[0]
    small = 1e-3
    best = np.maximum.reduce([logged[max(0, end - WINDOW) : end].mean(axis=0) for end in range(1, len(logged) + 1, 2)])
    ratios = np.log((np.abs(now) + small) / (np.abs(first) + small))
    cpr = np.log(now[METRICS.index(_CPR)] + small)
    return np.concatenate([now, now - before, ratios, now / (np.abs(best) + small), [cpr]])


def _fit(features: Array, target: Array, penalty: float = 20.0) -> Callable[[Array], Array]:
    """L2-penalised logistic regression by Newton's method, both answers weighing the same."""
    centre, scale = np.nanmean(features, axis=0), np.nanstd(features, axis=0) + 1e-9

    def scaled(values: Array) -> Array:
        clipped = np.clip(np.nan_to_num((values - centre) / scale), -5, 5)
        return np.hstack([clipped, np.ones((len(values), 1))])

    rows = scaled(features)
    weights = np.where(target > 0, 0.5 / max(target.mean(), 1e-9), 0.5 / max(1 - target.mean(), 1e-9))
    found = np.zeros(rows.shape[1])
    for _ in range(15):
        chance = 1 / (1 + np.exp(-rows @ found))
        gradient = rows.T @ (weights * (chance - target)) + penalty * found
        curvature = (rows * (weights * chance * (1 - chance))[:, None]).T @ rows + penalty * np.eye(len(found))
        found -= np.linalg.solve(curvature, gradient)
    return lambda values: scaled(values) @ found


def _scores_of_model(cases: Sequence[Case]) -> list[float]:
    """The highest score of each run in time, by the model of the other seeds."""
    scores = []
    models: dict[int, Callable[[Array], Array]] = {}
    for case in cases:
        if case.run.seed not in models:
            others = [other for other in cases if other.run.seed != case.run.seed]
            parts = [_labelled(other) for other in others]
            models[case.run.seed] = _fit(*(np.concatenate(part) for part in zip(*parts, strict=True)))
        scores.append(_highest(case, models[case.run.seed](case.features)))
    return scores


def _labelled(case: Case) -> tuple[Array, Array]:
    """The steps that teach: those of healthy runs, and those 10 to 50 steps before a collapse."""
    if case.collapse is None:
        return case.features, np.zeros(len(case.steps))
    chosen = (case.steps <= case.collapse - AHEAD) & (case.steps >= case.collapse - HORIZON)
    return case.features[chosen], np.ones(int(chosen.sum()))


def _highest(case: Case, values: Array) -> float:
    """Over the steps with a whole window, of a run that collapsed those that leave time."""
    in_time = case.steps >= WINDOW
    if case.collapse is not None:
        in_time &= case.steps <= case.collapse - AHEAD
    return float(np.nanmax(values[in_time], initial=-np.inf))


def _scores_of_signals(cases: Sequence[Case]) -> dict[str, list[float]]:
    """The highest value of each of the guard's signals in time."""
    found: dict[str, list[float]] = {}
    for case in cases:
        seen = {reading.step: reading.signals for reading in readings(case.run, window=WINDOW, early=Thresholds.early)}
        for name in Thresholds().limits:
            values = np.array([seen[step].get(name, -np.inf) for step in case.steps.tolist()])
            found.setdefault(name, []).append(_highest(case, values))
    return found


def table(runs: Sequence[Run]) -> Table:
    """One row a score: collapses above the level that at most 5 % of the healthy runs pass.

    Runs that were cut off below 0.8 of their best, not collapsed, are left out.
    """
    cases = [case for case in map(case_of, runs) if case.collapse is not None or case.well]
    rows = []
    scores = {f"`{name}`": values for name, values in _scores_of_signals(cases).items()}
    for name, values in {**scores, "all metrics, logistic": _scores_of_model(cases)}.items():
        healthy = sorted(value for value, case in zip(values, cases, strict=True) if case.collapse is None)
        level = healthy[len(healthy) - 1 - int(IN_VAIN * len(healthy))]
        caught = [(case, value > level) for value, case in zip(values, cases, strict=True) if case.collapse is not None]
        possible = [hit for case, hit in caught if (case.collapse or 0) >= AHEAD + WINDOW]
        counts = [wilson(sum(hits), len(hits)) for hits in ([hit for _, hit in caught], possible)]
        rows.append([Cell(name), *(Cell(share(count)) for count in counts), Cell(str(len(healthy)))])
    columns = ["score", f"collapses ≥ {AHEAD} steps ahead", "of those that left so many", "healthy runs"]
    return Table(columns, rows)
