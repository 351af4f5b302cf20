"""The guard's figures: the signals around a collapse, and how far ahead the alarms came."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from recipe.spro.guard import Thresholds
from scripts.compare.drawing import Canvas, Picture, line
from scripts.guard.verdicts import AHEAD, Verdict, readings

BEFORE, AFTER = 60, 10

# Steps between markers: those of one curve beside those of the others.
EVERY = 10


def signals(verdicts: Sequence[Verdict], thresholds: Thresholds) -> Picture:
    """Median over collapsed runs of each signal over its threshold, by steps from the collapse."""
    limits = thresholds.limits
    by_signal: dict[str, dict[int, list[float]]] = {name: {} for name in limits}
    for verdict in verdicts:
        if verdict.collapse is None:
            continue
        for reading in readings(verdict.run, window=thresholds.window, early=thresholds.early):
            for name in limits.keys() & reading.signals.keys():
                by_signal[name].setdefault(reading.step - verdict.collapse, []).append(reading.signals[name])

    def draw(canvas: Canvas) -> None:
        axis = canvas.axis
        axis.axhline(1, color=canvas.theme.muted, linewidth=1, linestyle="--")
        axis.axvline(0, color=canvas.theme.muted, linewidth=1)
        for index, name in enumerate(limits):
            points = [
                (step, median(values) / limits[name])
                for step, values in sorted(by_signal[name].items())
                # Fewer than half of the runs reach back so far, or log it.
                if -BEFORE <= step <= AFTER and len(values) >= 3
            ]
            if points:
                look = {**line(index), "markersize": 5, "markevery": (2 * index, EVERY)}
                axis.plot(*zip(*points, strict=True), color=canvas.colour(index), linewidth=1.8, **look)
        axis.set(xlim=(-BEFORE, AFTER), xlabel="steps from the collapse", ylabel="signal / threshold")
        axis.set_ylim(0, 4)

    names = tuple((name, index) for index, name in enumerate(limits))
    return Picture(
        "signals",
        "Signals around a collapse",
        "median over the collapsed runs of each signal divided by its threshold, over steps from the collapse",
        draw,
        names,
    )


def ahead(verdicts: Sequence[Verdict]) -> Picture:
    """Histogram of steps from the first alarm to the collapse."""
    found = [verdict.ahead for verdict in verdicts if verdict.ahead is not None]

    def draw(canvas: Canvas) -> None:
        axis = canvas.axis
        low, high = min([*found, 0]), max([*found, AHEAD])
        bins = list(range(10 * (low // 10), 10 * (high // 10) + 11, 10))
        axis.hist(found, bins=bins, color=canvas.part(0), edgecolor=canvas.theme.background)
        axis.axvline(AHEAD, color=canvas.theme.muted, linewidth=1, linestyle="--")
        axis.set(xlabel="steps from the first alarm to the collapse", ylabel="collapsed runs")

    return Picture("ahead", "How far ahead the alarm came", "histogram of steps ahead over the collapsed runs", draw)
