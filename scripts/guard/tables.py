"""The guard's tables: what it does on a set of runs, by signal, by kind of run, and run by run."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from recipe.spro.guard import Thresholds
from recipe.spro.guard_signals import SIGNALS
from scripts.compare.statistics import Estimate, wilson
from scripts.compare.tables import NONE, Cell, Table
from scripts.guard.verdicts import AHEAD, WELL, Totals, Verdict, facts, judge
from scripts.runs import METHOD_NAMES, Run

# Steps between which collapses are told apart; the last is beyond every run.
LIVES = (0, 15, 30, 60, 1 << 30)


def share(estimate: Estimate) -> str:
    """A count as it is read: ``38 of 40: 95.0 % (83.5 to 98.6)``."""
    if estimate.n == 0 or estimate.low is None or estimate.high is None:
        return NONE
    count = round(estimate.mean * estimate.n)
    return f"{count} of {estimate.n}: {estimate.mean:.1%} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def _row(name: str, verdicts: Sequence[Verdict]) -> list[Cell]:
    totals = Totals.of(verdicts)
    ahead = NONE if totals.median_ahead is None else f"{totals.median_ahead:g}"
    counts = [totals.in_time, totals.in_time_where_possible, totals.before_decline]
    counts += [totals.in_vain, totals.in_vain_that_ended_well]
    return [Cell(name), *(Cell(share(count)) for count in counts), Cell(ahead)]


COLUMNS = [
    "runs",
    f"collapses alarmed ≥ {AHEAD} steps ahead",
    "of those that left so many",
    "alarmed before the decline",
    "healthy runs alarmed",
    f"of those that ended at ≥ {WELL:g} of their best",
    "median steps ahead",
]


def totals(sets: dict[str, Sequence[Verdict]]) -> Table:
    """One row a set of runs."""
    return Table(COLUMNS, [_row(name, verdicts) for name, verdicts in sets.items()])


def by_signal(runs: Sequence[Run], thresholds: Thresholds) -> Table:
    """What each signal does by itself, and what is left without it."""
    rows = []
    for name in thresholds.limits:
        alone: dict[str, Any] = {other: None for other in SIGNALS if other != name}
        without: dict[str, Any] = {name: None}
        rows.append(_row(f"`{name}` alone", [judge(run, replace(thresholds, **alone)) for run in runs]))
        rows.append(_row(f"all but `{name}`", [judge(run, replace(thresholds, **without)) for run in runs]))
    return Table(COLUMNS, rows)


def by_rate(verdicts: Sequence[Verdict]) -> Table:
    """One row a learning rate."""
    rates = sorted({float(verdict.run.settings.get("lr") or 0) for verdict in verdicts})
    of_rate = {rate: [v for v in verdicts if float(v.run.settings.get("lr") or 0) == rate] for rate in rates}
    return Table(COLUMNS, [_row(f"lr {rate:g}", members) for rate, members in of_rate.items()])


def by_kind(verdicts: Sequence[Verdict]) -> Table:
    """One row a method, beta and learning rate."""
    kinds: dict[tuple[str, float, float], list[Verdict]] = {}
    for verdict in verdicts:
        run = verdict.run
        kinds.setdefault((run.method, run.beta or 0.0, float(run.settings.get("lr") or 0)), []).append(verdict)
    rows = []
    for (method, beta, lr), members in sorted(kinds.items()):
        of_beta = f", beta {beta:g}" if beta else ""
        rows.append(_row(f"{METHOD_NAMES.get(method, method)}{of_beta}, lr {lr:g}", members))
    return Table(COLUMNS, rows)


def by_life(verdicts: Sequence[Verdict]) -> Table:
    """Collapsed runs by how long they lived: a fast collapse leaves no time for a warning."""
    rows = []
    for low, high in itertools.pairwise(LIVES):
        members = [v for v in verdicts if v.collapse is not None and low < v.collapse <= high]
        alarmed = [(v.alarm, v.collapse) for v in members if v.alarm is not None and v.collapse is not None]
        in_time = share(wilson(sum(v.in_time for v in members), len(members)))
        ahead = f"{median(collapse - alarm for alarm, collapse in alarmed):g}" if alarmed else NONE
        part = f"{median(alarm / collapse for alarm, collapse in alarmed):.2f}" if alarmed else NONE
        words = f"{low + 1} to {high}" if high < LIVES[-1] else f"{low + 1} and later"
        rows.append([Cell(words), Cell(in_time), Cell(ahead), Cell(part)])
    columns = [
        "collapse at step",
        f"alarmed ≥ {AHEAD} steps ahead",
        "median steps ahead",
        "alarm over collapse, median",
    ]
    return Table(columns, rows)


def runs_table(verdicts: Sequence[Verdict]) -> Table:
    """One row a run."""
    rows = [facts(verdict) for verdict in verdicts]
    return Table(list(rows[0]), [[Cell(str(value) or NONE) for value in row.values()] for row in rows])


def runs_csv(sets: dict[str, Sequence[Verdict]]) -> str:
    """One row a run, with the set that it belongs to."""
    text = io.StringIO()
    rows = [{"set": name, **facts(verdict)} for name, verdicts in sets.items() for verdict in verdicts]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
