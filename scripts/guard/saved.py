"""What the alarm's bound makes of runs that collapsed without it."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.compare.statistics import Estimate, wilson
from scripts.compare.tables import NONE, Cell, Table
from scripts.guard.tables import share
from scripts.guard.test_set import is_bounded
from scripts.guard.verdicts import WELL, Verdict
from scripts.runs import Run

Pair = tuple[Verdict, Verdict]


def pairs(collapsed: Sequence[Verdict], acted: Sequence[Verdict]) -> list[Pair]:
    """Each run that collapsed with the same run under ``action=bound``."""
    by_setting = {_setting(verdict.run): verdict for verdict in acted if is_bounded(verdict.run)}
    return [(free, by_setting[key]) for free in collapsed if (key := _setting(free.run)) in by_setting]


def _setting(run: Run) -> tuple[object, ...]:
    return run.method, run.settings.get("beta"), run.settings.get("lr"), run.seed


def saved(found: Sequence[Pair]) -> tuple[Estimate, Estimate]:
    """How many of them did not collapse any more, and how many ended well."""
    alive = sum(held.collapse is None for _, held in found)
    return wilson(alive, len(found)), wilson(sum(held.ended_well for _, held in found), len(found))


def _begins(run: Run) -> object:
    """The first step that the bound was on; it tells when the run's own thresholds fired."""
    return next((step for step, logged in run.steps.items() if logged.get("spro/guard/bound")), "never")


def words(found: Sequence[Pair]) -> str:
    """The counts, as they are read."""
    alive, well = saved(found)
    return f"Collapsed no more: {share(alive)}. Ended at {WELL:g} of their best or above: {share(well)}."


def table(found: Sequence[Pair]) -> Table:
    """One row a pair."""
    rows = []
    for free, held in found:
        until = "no" if held.collapse is None else f"at {held.collapse}"
        cells = [free.run.name, _begins(held.run), free.collapse, until, max(held.run.steps), f"{held.fell:.2f}"]
        rows.append([Cell(str(cell)) for cell in cells])
    columns = ["run", "bound from step", "collapse without the bound", "with it", "its steps", "final over best"]
    return Table(columns, rows or [[Cell(NONE)] * len(columns)])
