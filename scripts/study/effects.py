"""What a study says in numbers: final accuracy over seeds, paired differences, collapses, what could have been seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, stdev

from scipy import stats

from scripts.compare import statistics
from scripts.compare.statistics import Estimate, collapse_step
from scripts.compare.tables import NONE, Cell, Table, amount, estimate
from scripts.runs import Run

ACCURACY = "val-core/arithmetic/acc/mean@1"
# Each method's own: of the advantage's parts, and of the returns' before whitening.
SHARES = ("spro/process_share", "prime/process_share")

# Of the smallest effect that the seeds could have shown.
LEVEL, POWER = 0.05, 0.8


@dataclass(frozen=True)
class Row:
    """One variant of a study, over its seeds."""

    label: str
    runs: dict[int, Run]

    def curve(self, seed: int, key: str = ACCURACY) -> list[tuple[int, float]]:
        """(step, value) of one seed."""
        steps, values = self.runs[seed].series(key)
        return list(zip(steps, values, strict=True))

    def final(self, key: str = ACCURACY) -> dict[int, float]:
        """The last evaluation of each seed."""
        return {seed: self.curve(seed, key)[-1][1] for seed in self.runs}

    def collapses(self) -> dict[int, int]:
        """Where each collapsed seed did."""
        found = {seed: collapse_step(self.curve(seed)) for seed in self.runs}
        return {seed: step for seed, step in found.items() if step is not None}

    def share(self) -> float | None:
        """Median process share over steps and seeds, each until it collapsed; None without a process term."""
        ends = self.collapses()
        values = [
            value
            for seed, run in self.runs.items()
            for key in SHARES
            for step, value in zip(*run.series(key), strict=True)
            if seed not in ends or step < ends[seed]
        ]
        return median(values) if values else None


def difference(row: Row, base: Row, key: str = ACCURACY) -> Estimate | None:
    """Mean over the common seeds of the final value minus the base's of the same seed, with its 95 % t interval.

    The seed fixes base model, data order and the sampler's seed, so pairs share much of what varies. With few seeds a
    bootstrap of their mean is too narrow; Student's interval is not.
    """
    differences = paired_values(row, base, key)
    if not differences:
        return None
    return t_interval(differences)


def paired_values(row: Row, base: Row, key: str = ACCURACY) -> list[float]:
    """Final value minus the base's of the same seed, for the seeds that both have."""
    one, other = row.final(key), base.final(key)
    return [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]


def t_interval(values: Sequence[float]) -> Estimate:
    """Mean and 95 % Student interval; none for a single value."""
    middle, n = statistics.mean(values).mean, len(values)
    if n == 1:
        return Estimate(middle, None, None, 1)
    half = float(stats.t.ppf(1 - LEVEL / 2, n - 1)) * stdev(values) / math.sqrt(n)
    return Estimate(middle, middle - half, middle + half, n)


def detectable(row: Row, base: Row) -> float | None:
    """The smallest true difference that so many pairs, as spread as these are, would show in 80 % of studies.

    Of a two-sided paired t test at 5 %: (t[0.975] + t[0.8]) * sd / sqrt(n), the usual approximation of its power.
    """
    differences = paired_values(row, base)
    if len(differences) < 2:
        return None
    n = len(differences)
    quantiles = float(stats.t.ppf(1 - LEVEL / 2, n - 1) + stats.t.ppf(POWER, n - 1))
    return quantiles * stdev(differences) / math.sqrt(n)


def collapsed_text(row: Row) -> str:
    """``2 of 8 (seed 1 at 40, seed 5 at 90)``."""
    collapses = row.collapses()
    text = f"{len(collapses)} of {len(row.runs)}"
    if not collapses:
        return text
    where = ", ".join(f"{seed} at {step}" for seed, step in sorted(collapses.items()))
    return f"{text} (seed {where})"


def spread(values: Sequence[float]) -> Cell:
    """The mean, and the smallest and largest seed."""
    text = amount(statistics.mean(values).mean, 3)
    return Cell(text, f"{amount(min(values), 3)} to {amount(max(values), 3)}")


def table(rows: list[Row], base: Row, *, with_detectable: bool = False) -> Table:
    """Final accuracy, difference to the base by seed, collapses, process share: a line a variant."""
    columns = ["setting", "final accuracy (range)", f"minus {base.label}, by seed", "collapsed", "process share"]
    if with_detectable:
        columns.append("smallest visible difference")
    lines = []
    for row in rows:
        share = row.share()
        line = [
            Cell(row.label),
            spread(list(row.final().values())),
            Cell(NONE) if row is base else estimate(difference(row, base), 3, sign=True),
            Cell(collapsed_text(row), bad=bool(row.collapses())),
            Cell(NONE if share is None else amount(share)),
        ]
        if with_detectable:
            smallest = None if row is base else detectable(row, base)
            line.append(Cell(NONE if smallest is None else amount(smallest, 3)))
        lines.append(line)
    return Table(columns, lines)
