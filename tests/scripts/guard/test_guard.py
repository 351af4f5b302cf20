"""Saved runs under the guard: verdicts that can be checked by hand, and thresholds that a search finds again."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recipe.spro.guard import Thresholds
from scripts.guard import __main__ as command
from scripts.guard import saved, tables, test_set, tuning
from scripts.guard.verdicts import Totals, Verdict, judge, load
from scripts.runs import Run
from tests.scripts.compare.synthetic import ACCURACY, keep, rows, settings

THRESHOLDS = replace(Thresholds(), window=1, early=1)

TRUNCATED = "response_length/clip_ratio"


def make(name: str, accuracies: list[float], truncated_from: int | None = None, peak: float = 0.9) -> Run:
    """A run evaluated every 10 steps, truncated more from a step on."""
    steps: dict[int, dict[str, Any]] = {row["step"]: dict(row["data"]) for row in rows(accuracies)}
    for step, data in steps.items():
        if truncated_from is not None and step >= truncated_from:
            data[TRUNCATED] = peak
    return Run(name, name, "spro", 0, {"lr": 1e-4}, None, steps)


HEALTHY = [0.5, 0.6, 0.7, 0.8, 0.8]
FALLS = [0.5, 0.6, 0.6, 0.1, 0.0]
"""its collapse is at step 30, and the last evaluation before it at 20"""


@pytest.mark.parametrize(
    ("accuracies", "alarm", "word", "ahead", "before_decline"),
    [
        (HEALTHY, None, "quiet", None, False),
        (HEALTHY, 15, "in vain", None, False),
        (FALLS, None, "missed", None, False),
        (FALLS, 20, "in time", 10, True),
        (FALLS, 21, "late", 9, False),
        (FALLS, 35, "late", -5, False),
    ],
)
def test_a_verdict(
    accuracies: list[float], alarm: int | None, word: str, ahead: int | None, before_decline: bool
) -> None:
    verdict = judge(make("run", accuracies, alarm), THRESHOLDS)
    assert (verdict.alarm, verdict.word, verdict.ahead) == (alarm, word, ahead)
    assert verdict.before_decline == before_decline
    assert (verdict.collapse, verdict.decline) == ((30, 20) if accuracies is FALLS else (None, None))


def verdicts() -> list[Verdict]:
    runs = [make("a", HEALTHY), make("b", HEALTHY, 15), make("c", FALLS, 11), make("d", FALLS, 25), make("e", FALLS)]
    return [judge(run, THRESHOLDS) for run in runs]


def test_totals_count_collapses_and_healthy_runs_apart() -> None:
    totals = Totals.of(verdicts())
    assert (totals.in_time.mean, totals.in_time.n) == (pytest.approx(1 / 3), 3)
    assert (totals.in_vain.mean, totals.in_vain.n) == (0.5, 2)
    assert totals.median_ahead == (19 + 5) / 2
    assert tables.share(totals.in_vain) == "1 of 2: 50.0% (9.5 to 90.5)"
    (row,) = csv.DictReader(io.StringIO(tables.runs_csv({"one": verdicts()[2:3]})))
    assert (row["set"], row["steps_ahead"], row["fired"], row["verdict"]) == ("one", "19", "truncation", "in time")


def test_collapses_are_told_apart_by_how_long_they_took() -> None:
    rows = tables.by_life(verdicts()).markdown().splitlines()[2:]
    # Those at step 30 were alarmed at 11, at 25 and never.
    assert [row.split("|")[1].strip() for row in rows] == ["1 to 15", "16 to 30", "31 to 60", "61 and later"]
    assert rows[1] == "| 16 to 30 | 1 of 3: 33.3% (6.1 to 79.2) | 12 | 0.60 |"
    assert rows[0].count("–") == 3


def shared(name: str, accuracies: list[float], share: float, **changed: Any) -> Run:
    """A run whose process share rises from 0.01 to this after step 15."""
    run = make(name, accuracies, **changed)
    for step, data in run.steps.items():
        data["spro/process_share"] = share if step >= 15 else 0.01
    return run


def test_the_leading_signal_takes_the_budget_and_no_more() -> None:
    """Two healthy runs of 40 show what those that fall show late: both may be alarmed, three may not."""
    calm = [shared(f"calm{i}", HEALTHY, 0.06) for i in range(38)]
    falls = [shared(f"falls{i}", FALLS, 0.5) for i in range(4)]
    for odd, limit, counts in ((2, 0.075, (4, 2)), (3, 0.5, (0, 0))):
        rest = [shared(f"odd{i}", HEALTHY, 0.5) for i in range(odd)]
        best = tuning.search([*calm[: 40 - odd], *rest, *falls])[0]
        assert (best.thresholds.process_share, best.in_time, best.in_vain) == (limit, *counts)


def test_another_signal_adds_no_alarm_in_vain_and_has_room() -> None:
    # Over the 0.25 of the first steps they rise by 0.06; the others by 0.31.
    runs = [make(f"healthy{i}", HEALTHY, 15, peak=0.31) for i in range(4)]
    runs += [make(f"falls{i}", FALLS, 15, peak=0.56) for i in range(4)]
    choices = {(choice.thresholds.window, choice.room): choice for choice in tuning.search(runs)}
    assert [choices[3, room].thresholds.truncation for room in tuning.ROOMS] == [0.1, 0.125, 0.15]
    # What nothing passes is watched all the same: other runs may fail in other ways.
    assert choices[3, 1].thresholds.limits.keys() >= {"truncation", "entropy"}
    best = tuning.search(runs)[0]
    assert (best.in_time, best.in_vain, best.late_or_missed) == (4, 0, 0)
    for run in runs:
        assert judge(run, best.thresholds).word == ("quiet" if "healthy" in run.name else "in time")


def test_a_signal_that_healthy_runs_show_as_much_is_not_watched() -> None:
    for choice in tuning.search([make("healthy", HEALTHY, 15, peak=1.0), make("falls", FALLS, 15)]):
        assert "truncation" not in choice.thresholds.limits
        assert (choice.in_time, choice.in_vain) == (0, 0)


def test_the_test_is_split_off_and_copies_are_left_out(tmp_path: Path) -> None:
    first = test_set.SEEDS[0]
    for seed in (0, 1, first):
        keep(tmp_path, f"spro-seed{seed}", rows([0.5, 0.6 + seed / 100]), settings("spro", seed))
    keep(tmp_path, "a-copy", rows([0.5, 0.6]), settings("spro", 0))
    keep(tmp_path, "bounded", rows([0.5, 0.9]), settings("spro", first, overrides=[test_set.BOUND]))
    runs = load([str(tmp_path)])
    assert len(runs) == 4
    known, fresh = command.split(runs)
    assert ([run.seed for run in known], [run.name for run in fresh]) == ([0, 1], [f"spro-seed{first}"])


def test_a_collapse_is_made_again_with_the_bound_of_its_alarm() -> None:
    seed = test_set.SEEDS[0]
    runs = [replace(make(name, FALLS, at), seed=seed) for name, at in (("early", 11), ("late", 31), ("missed", None))]
    runs += [replace(make("fine", HEALTHY, 11), seed=seed), make("other", FALLS, 11)]
    for run in runs:
        run.settings["beta"] = 0.3
        run.settings["lr"] = 2e-5
    (want,) = test_set.bounded(judge(run, THRESHOLDS) for run in runs)
    assert (want.seeds, want.steps) == ((seed,), 30 + test_set.LONGER)
    assert want.variant.key == "spro-beta0.3-bound-lr2e-5"
    held = make("held", HEALTHY)
    held.steps[12]["spro/guard/bound"] = 1.0
    held.settings.update(beta=0.3, overrides=[test_set.BOUND])
    held = replace(held, seed=seed, settings=held.settings | {"lr": 2e-5})
    free = judge(runs[0], THRESHOLDS)
    found = saved.pairs([free, judge(runs[4], THRESHOLDS)], [judge(held, THRESHOLDS), free])
    assert [(one.run.name, other.run.name) for one, other in found] == [("early", "held")]
    assert [tables.share(estimate) for estimate in saved.saved(found)] == ["1 of 1: 100.0% (20.7 to 100.0)"] * 2
    assert saved.table(found).markdown().splitlines()[-1] == "| early | 12 | 30 | no | 40 | 1.00 |"


def drawn(seed: int, steps: int, start: int = 1) -> list[dict[str, float]]:
    """What a run with this seed logs, step by step."""
    return [{"actor/entropy": 1 / (seed + 2) + step / 1000} for step in range(start, start + steps)]


def logged(accuracies: list[float], own: list[dict[str, float]]) -> list[dict[str, Any]]:
    found = rows(accuracies)
    for row, more in zip(found[1:], own, strict=True):
        row["data"] = row["data"] | more
    return found


EVERY_40: dict[str, Any] = {"overrides": ["algorithm.spro.ref_update.mode=every", "algorithm.spro.ref_update.every=40"]}


def test_a_collapse_that_two_runs_share_is_counted_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An override that does nothing before step 36, in a run that has collapsed at 30 by then."""
    plain = logged(FALLS, drawn(0, 40))
    refreshed = logged([*FALLS[:-1], 0.2], [*drawn(0, 35), *drawn(9, 5, start=36)])
    for row in refreshed[1:]:
        # What only one of them logs says nothing.
        row["data"]["ref_update/updates"] = 0
    keep(tmp_path, "a-refreshed", refreshed, settings("spro", 0, **EVERY_40))
    keep(tmp_path, "b-plain", plain, settings("spro", 0))
    keep(tmp_path, "c-other-seed", logged(FALLS, drawn(1, 40)), settings("spro", 1))
    assert [run.name for run in load([str(tmp_path)])] == ["b-plain", "c-other-seed"]
    assert "1 of 3 runs are left out" in capsys.readouterr().err


def test_runs_that_part_before_are_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # By the metrics of step 25, before the collapse; and where nothing collapses, by the last step.
    keep(tmp_path, "a-plain", logged(FALLS, drawn(0, 40)), settings("spro", 0))
    parts = [*drawn(0, 24), *drawn(9, 16, start=25)]
    keep(tmp_path, "b-refreshed", logged(FALLS, parts), settings("spro", 0, **EVERY_40))
    keep(tmp_path, "c-plain", logged(HEALTHY, drawn(3, 40)), settings("spro", 3))
    parts = [*drawn(3, 39), *drawn(9, 1, start=40)]
    keep(tmp_path, "d-refreshed", logged(HEALTHY, parts), settings("spro", 3, **EVERY_40))
    assert [run.name[0] for run in load([str(tmp_path)])] == ["a", "b", "c", "d"]
    assert capsys.readouterr().err == ""


def test_of_a_run_and_its_beginning_the_longer_stays(tmp_path: Path) -> None:
    keep(tmp_path, "a-short", logged(HEALTHY[:3], drawn(0, 20)), settings("grpo", 0))
    keep(tmp_path, "b-long", logged(HEALTHY, drawn(0, 40)), settings("grpo", 0))
    assert [run.name for run in load([str(tmp_path)])] == ["b-long"]


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 2, 20, 22):
        falls = rows([FALLS[0] + seed / 100, *FALLS[1:]])
        for row in falls[12:]:
            row["data"][TRUNCATED] = 0.9
        keep(tmp_path, f"falls-seed{seed}", falls, settings("spro", seed, beta=0.1))
        keep(tmp_path, f"healthy-seed{seed}", rows([*HEALTHY[:-1], 0.8 + seed / 100]), settings("grpo", seed))
    folder = str(tmp_path)
    assert command.main(["replay", folder, "--set", "window=1", "truncation=0.2"]) == 0
    assert "4 of 4: 100.0%" in capsys.readouterr().out
    assert command.main(["replay", folder, "--set", "truncation=null", "entropy=null"]) == 0
    assert "0 of 4: 0.0%" in capsys.readouterr().out
    assert command.main(["tune", folder]) == 0
    assert "4 runs for tuning; 4 are of the test" in capsys.readouterr().out
    out = tmp_path / "out"
    assert command.main(["report", "--inprocess", folder, "--verl", folder, "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"ahead.png", "runs.csv", "signals.png", "tables.md"}


def test_what_cannot_be_used_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["replay", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    keep(tmp_path, "one", [{"step": 1, "data": {ACCURACY: 0.5}}], settings("grpo", 0))
    assert command.main(["replay", str(tmp_path), "--set", "truncations=1"]) == 2
    assert "Did you mean algorithm.spro.guard.truncation?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ("process_share=abc", "process_share='abc': must be null (not watched) or a finite number > 0."),
        ("process_share", "process_share='': must be null (not watched) or a finite number > 0."),
        ("entropy=nan", "entropy=nan: must be null (not watched) or a finite number > 0."),
        ("window=2.5", "window=2.5: must be an integer > 0."),
        ("window=null", "window=None: must be an integer > 0."),
        (
            "action=stop",
            "action='stop': a saved run is looked at, nothing is done to it. --set takes thresholds: window, ",
        ),
        ("bound_share=0.1", "bound_share='0.1': a saved run is looked at"),
    ],
)
def test_a_threshold_that_is_none_is_told(
    pair: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(tmp_path, "one", rows(HEALTHY), settings("grpo", 0))
    assert command.main(["replay", str(tmp_path), "--set", pair]) == 2
    assert f"guard: algorithm.spro.guard.{says}" in capsys.readouterr().err
