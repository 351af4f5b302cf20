"""Report on finished verl runs: one HTML page, PNGs, Markdown tables and CSVs.

    python -m scripts.compare report RUNS... --out DIR

RUNS are kept runs (`<name>.jsonl.gz` with `<name>.json` beside it), output folders (`metrics.jsonl`, `run.json`),
folders of either, TensorBoard folders, W&B exports (CSV of `run.history()` or of a chart, JSONL of `scan_history()`).
A run without a settings file is given as METHOD:SEED=PATH, e.g. grpo:0=exports/history.csv.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scripts.compare import evaluations, exports, figures, notes, page, provenance, sources, tables
from scripts.compare.comparison import Comparison
from scripts.compare.drawing import Picture, png
from scripts.evaluate.results import Evaluation
from scripts.evaluate.tables import side_by_side
from scripts.files import write
from scripts.runs import BadRun


def markdown(comparison: Comparison, pictures: dict[str, list[Picture]], evaluated: Sequence[Evaluation] = ()) -> str:
    """The report as Markdown, with the PNGs linked."""

    def images(section: str) -> list[str]:
        return [f"![{p.title}](figures/{p.name}.png)" for p in pictures[section]]

    def bullets(sentences: list[str]) -> str:
        return "\n".join(f"- {sentence}" for sentence in sentences)

    parts = [f"# {page.title(comparison)}", page.about(comparison)]
    if unequal := notes.inequalities(comparison):
        parts += ["**Before you compare**", bullets(unequal)]
    parts += [tables.summary(comparison).markdown(), bullets(notes.findings(comparison))]
    parts += images("difference")
    parts += ["## Held-out accuracy", *images("accuracy"), page.INTERVAL_NOTE]
    if evaluated:
        parts += ["## Evaluations", side_by_side(evaluated).markdown()]
    if comparison.targets:
        parts.append("## What it takes to reach an accuracy")
        for target, accuracy in comparison.targets.items():
            parts += [f"### {target}'s best mean accuracy: {accuracy:.3f}"]
            parts.append(tables.reach_table(comparison, target).markdown())
        parts.append(page.REACH_NOTE)
    parts += ["## Health of training", *images("health"), tables.health(comparison).markdown(), page.COLLAPSE_NOTE]
    parts += ["## Time and memory", *images("cost"), tables.phases(comparison).markdown()]
    if (memory := tables.memory(comparison)) is not None:
        parts.append(memory.markdown())
    parts += ["## Runs", tables.runs_table(comparison).markdown()]
    parts += ["## What this report cannot show", bullets(notes.limits(comparison))]
    parts += ["## Provenance", provenance.facts_table(comparison).markdown()]
    if (different := provenance.differing_overrides(comparison)) is not None:
        parts += ["Exact overrides in which runs differ:", different.markdown()]
    if common := provenance.common_overrides(comparison):
        parts += ["Exact overrides of every run:", "\n".join(f"    {override}" for override in common)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def report(comparison: Comparison, out: Path, evaluated: Sequence[Evaluation] = ()) -> None:
    """Write report.html, report.md, report.csv (a row a method), runs.csv (a row a run) and figures/*.png.

    Figures of an earlier report that this one does not have are removed.
    """
    pictures = figures.pictures(comparison)
    drawn = [picture for section in pictures.values() for picture in section]
    for picture in drawn:
        write(out / "figures" / f"{picture.name}.png", png(picture))
    for old in (out / "figures").glob("*.png"):
        if old.stem not in {picture.name for picture in drawn}:
            old.unlink()
    write(out / "runs.csv", exports.runs_csv(comparison).encode())
    write(out / "report.csv", exports.methods_csv(comparison).encode())
    write(out / "report.md", markdown(comparison, pictures, evaluated).encode())
    write(out / "report.html", page.render(comparison, pictures, evaluated).encode())


def main(arguments: list[str]) -> int:
    """The command; 2 for runs that cannot be compared, with the reason and the fix on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.compare report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="files, folders, or METHOD:SEED=PATH")
    parser.add_argument("--out", type=Path, default=Path("outputs/compare"), help="folder (default %(default)s)")
    parser.add_argument("--times", nargs="+", default=[], metavar="RUNS", help="runs made alone, for times and memory")
    parser.add_argument(
        "--evaluations",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="of scripts.evaluate, or folders of them (those beside a run are found)",
    )
    parser.add_argument("--accuracy", metavar="KEY", help="metric to use as accuracy (default: val-core/*/acc/mean@1)")
    parser.add_argument("--devices", type=int, help="devices of each run (default: from its settings or throughput)")
    parsed = parser.parse_intermixed_args(arguments)
    if parsed.devices is not None and parsed.devices < 1:
        parser.error(f"--devices must be at least 1, got {parsed.devices}")
    try:
        times = [replace(run, name=f"{run.name} (timed)") for run in sources.load(parsed.times)] if parsed.times else []
        runs = sources.load(parsed.runs)
        evaluated = evaluations.load(runs, parsed.evaluations)
        comparison = Comparison.of(runs, parsed.accuracy, parsed.devices, times)
        print("drawing", file=sys.stderr)
        report(comparison, parsed.out, evaluated)
    except (BadRun, OSError) as error:
        print(f"compare report: {error}", file=sys.stderr)
        return 2
    print(parsed.out / "report.html")
    return 0
