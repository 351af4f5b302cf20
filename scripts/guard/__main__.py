"""The guard over saved runs.

python -m scripts.guard replay RUNS... [--set process_share=0.2 ...]    what it would have said of any runs
python -m scripts.guard tune RUNS...                                    thresholds, from the runs for tuning
python -m scripts.guard ceiling RUNS...                                 how far any function of the metrics gets there
python -m scripts.guard make [bound] --jobs 2                           the runs of the test (test_set.py), in process;
                                                                        bound: its collapses again, under the guard
python -m scripts.guard report --inprocess FOLDER --verl FOLDERS... --out docs/guard
                                                                        the tables and figures of that folder

RUNS are what `scripts.compare report` takes: metrics files, folders of them, TensorBoard folders, W&B exports.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from recipe.spro.guard import Thresholds, threshold_names
from recipe.spro.guard_settings import GuardSettings, GuardSettingsError
from scripts.compare import drawing
from scripts.guard import ceiling, figures, saved, tables, test_set, tuning
from scripts.guard.verdicts import Verdict, judge, load
from scripts.runs import BadRun, Run
from scripts.study.kept import KeptRuns
from scripts.study.training import TrainingFailed

# Of the operating table
SHOWN = 20

INPROCESS_RUNS = ("docs/runs/inprocess",)
VERL_RUNS = ("docs/runs/arithmetic", "docs/runs/methods")

Sets = dict[str, Sequence[Verdict]]


def thresholds_of(pairs: Sequence[str]) -> Thresholds:
    """The defaults, with ``NAME=VALUE`` set; ``null`` leaves a signal out.

    Raises:
        GuardSettingsError: as for a training's settings.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        if name in {field.name for field in fields(GuardSettings)} - set(threshold_names()):
            raise GuardSettingsError(
                f"algorithm.spro.guard.{name}={text!r}: a saved run is looked at, nothing is done to it. "
                f"--set takes thresholds: {', '.join(threshold_names())}."
            )
        values[name] = _value(text)
    return GuardSettings.from_config(values)


def _value(text: str) -> int | float | str | None:
    """As YAML reads a number or null; another text is left for the settings to refuse."""
    if text == "null":
        return None
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def split(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """For tuning and for the test. Runs in which the guard acted are neither."""
    free = [run for run in runs if not test_set.is_bounded(run)]
    return [run for run in free if not test_set.is_test(run)], [run for run in free if test_set.is_test(run)]


def replay(options: argparse.Namespace) -> None:
    """Print the verdict on each run, and the totals."""
    verdicts = [judge(run, thresholds_of(options.set)) for run in load(options.runs)]
    print(tables.runs_table(verdicts).markdown())
    print(tables.totals({"all": verdicts}).markdown())


def tune(options: argparse.Namespace) -> None:
    """Print the operating table of the runs for tuning, the best first."""
    runs, left = split(load(options.runs))
    print(f"{len(runs)} runs for tuning; {len(left)} are of the test")
    print("| in time | late or missed | in vain | median ahead | room | thresholds |\n|---:|---:|---:|---:|---:|---|")
    for choice in tuning.search(runs)[:SHOWN]:
        limits = ", ".join(f"{name} {limit:g}" for name, limit in choice.thresholds.limits.items())
        words = f"window {choice.thresholds.window}, {limits}"
        counts = (
            f"{choice.in_time} | {choice.late_or_missed} | {choice.in_vain} | {choice.median_ahead:g} | {choice.room}"
        )
        print(f"| {counts} | {words} |")


def most(options: argparse.Namespace) -> None:
    """Print the table of `ceiling`."""
    print(ceiling.table(load(options.runs)).markdown())


def make(options: argparse.Namespace) -> None:
    """Make the runs of the test that are not kept yet; or, for ``bound``, its collapses once more."""
    kept = KeptRuns()
    if options.what == "bound":
        wanted = test_set.bounded(judge(run, Thresholds()) for run in load(INPROCESS_RUNS))
    else:
        wanted = list(test_set.WANTED)
    test_set.make(wanted, kept, options.jobs)


def sets_of(inprocess: Sequence[str], verl: Sequence[str], thresholds: Thresholds) -> tuple[Sets, list[saved.Pair]]:
    """The verdicts of the report, by set; and the test's collapses with what the bound made of them."""
    runs = load(inprocess)
    tuning_runs, test_runs = split(runs)
    members = {"tuning (in process)": tuning_runs, "test (in process)": test_runs, "through verl": load(verl)}
    verdicts: Sets = {name: [judge(run, thresholds) for run in of_set] for name, of_set in members.items()}
    acted = [judge(run, thresholds) for run in runs if test_set.is_bounded(run)]
    collapsed = [verdict for verdict in verdicts["test (in process)"] if verdict.collapse is not None]
    return verdicts, saved.pairs(collapsed, acted)


def report(options: argparse.Namespace) -> None:
    """Write the tables, the list of runs and the figures."""
    thresholds = thresholds_of(options.set)
    sets, pairs = sets_of(options.inprocess, options.verl, thresholds)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "runs.csv").write_text(tables.runs_csv(sets))
    (options.out / "tables.md").write_text(markdown(sets, pairs, thresholds))
    _, tested, _ = sets.values()
    for picture in (figures.signals(tested, thresholds), figures.ahead(tested)):
        (options.out / f"{picture.name}.png").write_bytes(drawing.png(picture))
    print(tables.totals(sets).markdown())


def markdown(sets: Sets, pairs: Sequence[saved.Pair], thresholds: Thresholds) -> str:
    """The tables of `docs/guard`."""
    tuned, tested, through_verl = sets.values()
    limits = ", ".join(f"`{name}` {limit:g}" for name, limit in thresholds.limits.items())
    parts = [
        f"Window {thresholds.window}, early {thresholds.early}; {limits}.",
        tables.totals(sets).markdown(),
        "By signal, on the test runs:",
        tables.by_signal([verdict.run for verdict in tested], thresholds).markdown(),
        "By learning rate, on the test runs, then on those for tuning:",
        tables.by_rate(tested).markdown(),
        tables.by_rate(tuned).markdown(),
        "By how long the collapsed runs had lived, on the test runs, then on those for tuning:",
        tables.by_life(tested).markdown(),
        tables.by_life(tuned).markdown(),
        "By kind of run, on the test runs:",
        tables.by_kind(tested).markdown(),
        "Collapses of the test that an alarm came before, once more under `action=bound`:",
        saved.words(pairs),
        saved.table(pairs).markdown(),
        "Through verl:",
        tables.runs_table(through_verl).markdown(),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def main(arguments: list[str]) -> int:
    """Returns 0, or 2 for what cannot be read or used."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.guard", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    settings = argparse.ArgumentParser(add_help=False)
    settings.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other thresholds")
    of_replay = commands.add_parser("replay", parents=[settings])
    of_replay.add_argument("runs", nargs="+")
    of_replay.set_defaults(command=replay)
    of_tune = commands.add_parser("tune")
    of_tune.add_argument("runs", nargs="+")
    of_tune.set_defaults(command=tune)
    of_ceiling = commands.add_parser("ceiling")
    of_ceiling.add_argument("runs", nargs="+")
    of_ceiling.set_defaults(command=most)
    of_make = commands.add_parser("make")
    of_make.add_argument("what", nargs="?", choices=("test", "bound"), default="test")
    of_make.add_argument("--jobs", type=int, default=2, help="runs at a time (default %(default)s)")
    of_make.set_defaults(command=make)
    of_report = commands.add_parser("report", parents=[settings])
    of_report.add_argument("--inprocess", nargs="+", default=INPROCESS_RUNS)
    of_report.add_argument("--verl", nargs="+", default=VERL_RUNS)
    of_report.add_argument("--out", type=Path, default=Path("docs/guard"))
    of_report.set_defaults(command=report)
    options = parser.parse_args(arguments)
    try:
        options.command(options)
    except (BadRun, GuardSettingsError, TrainingFailed) as error:
        print(f"guard: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
