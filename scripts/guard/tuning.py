"""Choosing thresholds on one set of runs: one signal leads, the others guard against what it does not see.

The process share is what comes first in a collapse of the process term, so it gets the budget of alarms in vain: its
threshold is the lowest round number with which they stay within `BUDGET` of the healthy runs. Each of the others has
the lowest round number at which it alarms no healthy run that is not alarmed already, moved up by a few further ones
(its room). Not the combination that catches most on these runs: it would leave every other signal at a level at which
it sees nothing, and other runs may fail in other ways. Window and room are chosen together: most collapses in time, of
several choices the earliest alarms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipe.spro.guard import Thresholds
from scripts.guard.verdicts import AHEAD, WELL, collapse_of, readings
from scripts.runs import Run

NEVER = 1 << 30

GRID: dict[str, tuple[float, ...]] = {
    "process_share": (0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.225, 0.25, 0.3, 0.35, 0.4, 0.5, 0.75, 1.0),
    "cpr_growth": (2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0),
    "entropy": (1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.4, 1.5, 1.75, 2.0, 2.5, 3.0),
    "truncation": (0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5),
    "degenerate_groups": (0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.1, 0.125, 0.15, 0.2, 0.3),
}
"""Round numbers: a threshold is read by people."""

LEADS = "process_share"

WINDOWS = (3, 5, 8)
ROOMS = (1, 2, 3)

BUDGET = 0.05
"""of the healthy runs: alarms in vain that are accepted"""


@dataclass(frozen=True)
class Choice:
    """One set of thresholds and what it does on the tuning runs.

    Attributes:
        room: levels of the grid that a threshold is above the lowest that adds no alarm in vain; the leading signal has
            none.
    """

    thresholds: Thresholds
    room: int
    in_time: int
    in_vain: int
    late_or_missed: int
    median_ahead: float


def crossings(runs: Sequence[Run], window: int) -> dict[str, NDArray[np.int64]]:
    """For each signal (levels of its grid, runs): the first step at which it is above the level."""
    found = {name: np.full((len(levels), len(runs)), NEVER) for name, levels in GRID.items()}
    for column, run in enumerate(runs):
        seen = readings(run, window=window, early=Thresholds.early)
        for name, levels in GRID.items():
            values = [(reading.step, reading.signals[name]) for reading in seen if name in reading.signals]
            for row, level in enumerate(levels):
                found[name][row, column] = next((step for step, value in values if value > level), NEVER)
    return found


def search(runs: Sequence[Run]) -> list[Choice]:
    """Every window and room, the best first: most collapses in time, then most steps ahead, then fewest in vain.

    A run that was cut off far below its best, not collapsed, says nothing of what is in vain: it is left out.
    """
    ends = {id(run): collapse_of(run) for run in runs}
    runs = [run for run in runs if ends[id(run)][0] is not None or ends[id(run)][2] >= WELL]
    collapses = np.array([-1 if ends[id(run)][0] is None else ends[id(run)][0] for run in runs])
    healthy = collapses < 0
    choices: list[Choice] = []
    for window in WINDOWS:
        crossed = crossings(runs, window)
        for room in ROOMS:
            limits, first = _limits(crossed, healthy, room)
            in_time = int((collapses[~healthy] - first[~healthy] >= AHEAD).sum())
            thresholds = replace(Thresholds(), window=window, **limits)
            late_or_missed = int((~healthy).sum()) - in_time
            ahead = [int(steps) for steps in (collapses - first)[~healthy & (first < NEVER)]]
            median_ahead = median(ahead) if ahead else 0.0
            choices.append(Choice(thresholds, room, in_time, _in_vain(first, healthy), late_or_missed, median_ahead))
    return sorted(choices, key=lambda c: (-c.in_time, -c.median_ahead, c.in_vain, -c.room, -c.thresholds.window))


def _limits(
    crossed: dict[str, NDArray[np.int64]], healthy: NDArray[np.bool_], room: int
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """The thresholds, and the step of each run's first alarm with them."""
    limits: dict[str, Any] = dict.fromkeys(GRID)
    first = np.full(len(healthy), NEVER)
    for name in sorted(GRID, key=lambda name: name != LEADS):
        accepted = int(BUDGET * healthy.sum()) if name == LEADS else _in_vain(first, healthy)
        alarmed = [_in_vain(np.minimum(first, steps), healthy) for steps in crossed[name]]
        found = [row for row, count in enumerate(alarmed) if count <= accepted]
        # Without a level that healthy runs keep, the signal is not watched.
        if found:
            row = found[0] if name == LEADS else min(found[0] + room, len(GRID[name]) - 1)
            limits[name] = GRID[name][row]
            first = np.minimum(first, crossed[name][row])
    return limits, first


def _in_vain(first: NDArray[np.int64], healthy: NDArray[np.bool_]) -> int:
    return int((first[healthy] < NEVER).sum())
