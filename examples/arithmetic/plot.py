"""Draw one run, or several over each other: reward, accuracy, entropy, length, process share and where time went.

python -m examples.arithmetic.plot outputs/spro-seed0 outputs/grpo-seed0 --out demo.png
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from examples.arithmetic.summary import ACCURACY_KEYS, PHASES, SHARE, WARM_AFTER, NoMetrics, Run, load_run

# Okabe and Ito's palette, told apart by readers with any form of colour blindness.
RUN_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
}

# title, y label, metric keys, y limits or None, what a panel without data says
PANELS = (
    ("Training reward", "mean reward (0 to 1)", ("critic/score/mean",), (0, 1), "not logged"),
    ("Held-out accuracy, greedy", "share solved (0 to 1)", ACCURACY_KEYS, (0, 1), "not logged"),
    ("Policy entropy", "entropy per token (nats)", ("actor/entropy",), None, "not logged"),
    ("Response length", "mean length (tokens)", ("response_length/mean",), None, "not logged"),
    ("Process share", "rms process / rms outcome", (SHARE,), None, "not logged (GRPO)"),
)


def smoothed(values: list[float], reach: int) -> list[float]:
    """Mean of each value and its neighbours up to ``reach`` away, fewer at the ends."""
    windows = (values[max(0, index - reach) : index + reach + 1] for index in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def draw_series(axis: Any, runs: list[Run], keys: tuple[str, ...], absent: str) -> None:
    """One line a run; a dense one is drawn faintly with its running mean on top."""
    for run, colour in zip(runs, RUN_COLOURS, strict=False):
        steps, values = run.series(*keys)
        if len(steps) > 20:
            axis.plot(steps, values, color=colour, alpha=0.25, linewidth=0.9)
            axis.plot(steps, smoothed(values, len(values) // 20), color=colour, linewidth=1.8)
        elif steps:
            axis.plot(steps, values, color=colour, linewidth=1.8, marker="o", markersize=4.5)
    if not axis.lines:
        write_absent(axis, absent)


def draw_phases(axis: Any, runs: list[Run]) -> None:
    """A group of bars a phase, one bar a run: median seconds over the warm steps that had the phase."""
    seconds = [run.phase_seconds() for run in runs]
    seen = [phase for phase in PHASES if any(phase in of_run for of_run in seconds)]
    if not seen:
        write_absent(axis, f"no step after step {WARM_AFTER}")
        return
    height = 0.8 / len(runs)
    # Validation of a thousand problems takes many times a step: its bar is cut rather than the others made invisible.
    inside = [spent for of_run in seconds for phase, spent in of_run.items() if phase != "testing"]
    reach = 1.25 * max(inside, default=max(max(of_run.values(), default=0.0) for of_run in seconds)) or 1.0
    for index, (of_run, colour) in enumerate(zip(seconds, RUN_COLOURS, strict=False)):
        rows = [seen.index(phase) + (index - (len(runs) - 1) / 2) * height for phase in of_run]
        axis.barh(rows, list(of_run.values()), height=height * 0.9, color=colour)
        for row, spent in zip(rows, of_run.values(), strict=True):
            cut = spent > reach
            text, colour_of_text = (f"{spent:.2f} →", "white") if cut else (f"{spent:.2f}", "black")
            place: dict[str, Any] = {"va": "center_baseline", "ha": "right" if cut else "left", "color": colour_of_text}
            if len(runs) <= 2 or cut:
                axis.text(reach * (0.99 if cut else 0.01) + (0 if cut else spent), row, text, fontsize=7.5, **place)
    axis.set(yticks=range(len(seen)), yticklabels=seen, ylim=(len(seen) - 0.4, -0.6))
    axis.set_xlim(0, reach)
    axis.set_xlabel("median of the steps that run it (s)")
    axis.grid(axis="y", visible=False)


def write_absent(axis: Any, text: str) -> None:
    """Say why a panel is empty, in place of its ticks."""
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", color="#777777")
    axis.set(xticks=[], yticks=[])


def plot(runs: list[Run], out: Path, title: str | None = None) -> None:
    """Write the figure of six panels to ``out``.

    Raises:
        ValueError: more runs than colours.
    """
    if len(runs) > len(RUN_COLOURS):
        raise ValueError(f"at most {len(RUN_COLOURS)} runs in one figure, got {len(runs)}")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 3, figsize=(11.5, 6.2), layout="constrained")
        for axis, (name, unit, keys, limits, absent) in zip(axes.flat, PANELS, strict=False):
            draw_series(axis, runs, keys, absent)
            axis.set(title=name, xlabel="training step", ylabel=unit)
            if limits and axis.lines:
                axis.set_ylim(*limits)
        for axis in (axes.flat[2], axes.flat[4]):
            if axis.lines:
                axis.set_ylim(bottom=0)
        # Lengths that hardly move should look so: never less than two tokens from bottom to top.
        low, high = axes.flat[3].get_ylim()
        if axes.flat[3].lines and high - low < 2:
            axes.flat[3].set_ylim((low + high) / 2 - 1, (low + high) / 2 + 1)
        draw_phases(axes.flat[5], runs)
        axes.flat[5].set_title("Where a step's time goes")
        figure.suptitle(title or (runs[0].name if len(runs) == 1 else "Three-digit addition"), fontsize=12)
        if len(runs) > 1:
            handles = [plt.Line2D([], [], color=colour, linewidth=2.5) for colour in RUN_COLOURS[: len(runs)]]
            figure.legend(handles, [run.name for run in runs], loc="outside lower center", ncol=min(4, len(runs)))
        scratch = out.with_name(f".{out.name}.{os.getpid()}.tmp")
        figure.savefig(scratch, dpi=150, format="png")
        plt.close(figure)
    os.replace(scratch, out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, nargs="+", help="folders with a metrics.jsonl each")
    parser.add_argument("--out", type=Path, default=Path("demo.png"), help="the picture (default %(default)s)")
    parser.add_argument("--title", help="default: the run's name")
    args = parser.parse_args()
    try:
        runs = [load_run(folder) for folder in args.run_dir]
    except NoMetrics as error:
        print(f"plot: {error}", file=sys.stderr)
        return 2
    plot(runs, args.out, args.title)
    print(args.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
