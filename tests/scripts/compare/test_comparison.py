"""What a comparison computes, against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripts.compare import notes, provenance, sources, tables
from scripts.compare.comparison import Comparison
from scripts.compare.drawing import LIGHT_SERIES, line
from scripts.compare.measures import PANELS, accuracy_keys, measure
from scripts.runs import BadRun, Run, numbers
from tests.scripts.compare.synthetic import ACCURACY, STEP, family, rows, settings


def run(
    method: str, seed: int, accuracies: list[float], more: dict[str, float] | None = None, beta: float | None = None
) -> Run:
    steps = {row["step"]: numbers(row["data"]) for row in rows(accuracies, more)}
    return Run(f"{method}{seed}", f"{method}{seed}.jsonl", method, seed, settings(method, seed, beta), None, steps)


def test_what_a_run_costs() -> None:
    measured = measure(run("grpo", 0, [0.2, 0.5, 0.6]), [ACCURACY])
    # 4 responses of 10 tokens a step; 2 seconds a step on 2 devices.
    assert [measured.at("tokens", step) for step in (0, 1, 10, 20)] == [0, 40, 400, 800]
    assert [measured.at("wall-clock", step) for step in (0, 10, 20)] == [0, 20, 40]
    assert measured.at("device-hours", 20) == pytest.approx(80 / 3600)
    assert measured.at("steps", 10) == 10
    assert measured.phases == {"gen": 1.0, "update_actor": 0.75, "other": 0.25}
    assert (measured.missing, measured.devices, measured.devices_from) == (0, 2, "settings")


def test_a_step_that_was_not_logged_counts_as_a_usual_one() -> None:
    short = run("grpo", 0, [0.2, 0.5])
    del short.steps[4]
    measured = measure(short, [ACCURACY])
    assert measured.missing == 1
    assert measured.at("tokens", 10) == 400
    text = notes.inequalities(Comparison.of([short]))
    assert any("grpo0 1" in sentence and "median step" in sentence for sentence in text)


def test_devices_come_from_throughput_where_settings_have_none() -> None:
    # 60 tokens in 2 s on 4 devices.
    foreign = run("grpo", 0, [0.2, 0.5], {"perf/time_per_step": 2.0, "perf/throughput": 7.5})
    foreign.settings.clear()
    assert measure(foreign, [ACCURACY]).devices == 4
    assert measure(foreign, [ACCURACY], devices=8).devices == 8
    bare = run("grpo", 0, [0.2, 0.5])
    bare.settings.clear()
    comparison = Comparison.of([bare])
    assert comparison.runs[0].devices == 1
    assert any("One device was assumed" in sentence for sentence in notes.limits(comparison))


def test_the_cost_of_reaching_grpos_best() -> None:
    comparison = Comparison.of(
        [
            run("grpo", 0, [0.2, 0.4, 0.5, 0.6]),
            run("grpo", 1, [0.2, 0.3, 0.6, 0.6]),
            run("spro", 0, [0.2, 0.6, 0.6, 0.7], beta=0.01),
            run("spro", 1, [0.2, 0.5, 0.7, 0.6], beta=0.01),
        ]
    )
    assert comparison.targets == {"GRPO": pytest.approx(0.6), "SPRO, beta 0.01": pytest.approx(0.65)}
    grpo, spro = (comparison.reaches[label, "GRPO"] for label in ("GRPO", "SPRO, beta 0.01"))
    assert grpo.reached == {0: 30, 1: 20}
    assert grpo.costs["steps"].mean == 25
    assert grpo.ratios == {}
    assert spro.reached == {0: 10, 1: 20}
    assert spro.costs["tokens"].mean == 15 * 40
    assert spro.costs["device-hours"].mean == pytest.approx(15 * 4 / 3600)
    ratio = spro.ratios["steps"]
    assert ratio.mean == pytest.approx(15 / 25)
    # At the ends: its quick seed against GRPO's slow one, and the other way round.
    assert (ratio.low, ratio.high) == (pytest.approx(10 / 30), pytest.approx(1.0))
    # The mean curves: GRPO .2 .35 .55 .6, SPRO .2 .55 .65 .65.
    assert (grpo.mean_step, spro.mean_step) == (30, 20)
    assert spro.mean_ratios["tokens"] == pytest.approx(20 / 30)


def test_no_ratio_unless_every_seed_reached() -> None:
    comparison = Comparison.of(
        [
            run("grpo", 0, [0.2, 0.5]),
            run("grpo", 1, [0.2, 0.5]),
            run("rloo", 0, [0.2, 0.9]),
            run("rloo", 1, [0.2, 0.3]),
            run("prime", 0, [0.2, 0.3]),
            run("prime", 1, [0.2, 0.3]),
        ]
    )
    some, none = comparison.reaches["RLOO", "GRPO"], comparison.reaches["PRIME", "GRPO"]
    assert (some.count, some.costs, some.ratios) == (1, {}, {})
    assert (none.count, none.mean_step) == (0, None)
    text = tables.summary(comparison).markdown()
    assert "| 1 of 2 seeds (mean curve, 1.00 ×) |" in text
    assert "**not reached**" in text


def test_a_collapsed_run_is_counted_and_stays_in_the_mean() -> None:
    comparison = Comparison.of([run("grpo", 0, [0.4, 0.8, 0.1, 0.1]), run("grpo", 1, [0.4, 0.8, 0.8, 0.9])])
    (method,) = comparison.methods
    assert [measured.run.seed for measured in method.collapsed] == [0]
    assert method.collapsed[0].collapse == 20
    assert method.final.mean == pytest.approx(0.5)
    assert [value.mean for value in method.accuracy.values()] == pytest.approx([0.4, 0.8, 0.45, 0.5])
    assert "**1 of 2 (seed 0 at 20)**" in tables.summary(comparison).markdown()
    assert any("Collapsed: 1 of 2 runs: GRPO, seed 0 (from step 20)" in text for text in notes.findings(comparison))


def test_the_mean_curve_is_over_common_evaluations() -> None:
    comparison = Comparison.of([run("grpo", 0, [0.2, 0.4, 0.6]), run("grpo", 1, [0.4, 0.6])])
    assert {step: value.mean for step, value in comparison.methods[0].accuracy.items()} == {
        0: pytest.approx(0.3),
        10: pytest.approx(0.5),
    }
    text = " ".join(notes.inequalities(comparison))
    assert "not every run was evaluated at step 20" in text
    assert "grpo1 at 10" in text


def test_one_seed_has_no_interval_and_says_so() -> None:
    comparison = Comparison.of([run("grpo", 0, [0.2, 0.5]), run("spro", 0, [0.2, 0.6], beta=0.01)])
    text = tables.summary(comparison).markdown()
    assert "0.500 (1 seed, no interval)" in text
    assert "One seed only, so no interval: GRPO; SPRO, beta 0.01." in notes.limits(comparison)
    assert any("says nothing about the next one" in sentence for sentence in notes.findings(comparison))


def test_findings_claim_no_more_than_the_intervals() -> None:
    curves = {"grpo": (0.5, 0.6, 0.4), "rloo": (0.6, 0.7, 0.6), "prime": (0.6, 0.5, 0.5)}
    comparison = Comparison.of(
        [run(m, seed, [0.2, end]) for m, ends in curves.items() for seed, end in enumerate(ends)]
    )
    above, alike, collapsed = notes.findings(comparison)
    assert above == (
        "RLOO ends 0.133 above GRPO, seed by seed; the interval over 3 seeds leaves out 0 "
        "(chance alone makes 3 seeds agree in sign 25% of the time)."
    )
    assert alike == "Not told apart from GRPO, the interval holds 0: PRIME (0.033 above, 3 seeds)."
    assert collapsed == "None of the 9 runs collapsed."


def test_no_two_of_many_methods_look_the_same() -> None:
    looks = [(index % len(LIGHT_SERIES), str(line(index))) for index in range(14)]
    assert len(set(looks)) == 14


def test_without_grpo_there_are_no_ratios() -> None:
    comparison = Comparison.of([run("spro", 0, [0.2, 0.5], beta=0.01)])
    assert comparison.baseline is None
    assert "No run is GRPO: there are no ratios to it." in notes.inequalities(comparison)
    assert comparison.reaches["SPRO, beta 0.01", "SPRO, beta 0.01"].ratios == {}


def test_a_method_that_never_improved_sets_no_target() -> None:
    assert Comparison.of([run("grpo", 0, [0.6, 0.5, 0.4])]).targets == {}


def test_what_was_not_logged_is_said() -> None:
    bare = [{"step": step, "data": {ACCURACY: 0.1 * step}} for step in range(4)]
    steps: dict[int, dict[str, Any]] = {row["step"]: row["data"] for row in bare}  # type: ignore[misc]
    comparison = Comparison.of([Run("bare", "bare.csv", "grpo", 0, {}, None, steps)])
    measured = comparison.runs[0]
    assert (measured.tokens, measured.seconds, measured.phases, measured.memory) == (None, None, {}, {})
    assert measured.at("device-hours", 3) is None
    text = " ".join(notes.limits(comparison))
    assert "Policy entropy was not logged by GRPO." in text
    assert "Memory by component was not logged." in text
    assert "reached (cost not logged)" in tables.summary(comparison).markdown()


def test_the_accuracy_is_chosen_and_said() -> None:
    def logging(*keys: str) -> Run:
        return Run("one", "one.csv", "grpo", 0, {}, None, {0: dict.fromkeys(keys, 0.5)})

    both = logging(
        "val-core/a/acc/mean@1", "val-core/b/acc/mean@1", "val-core/a/acc/mean@8", "val-core/a/reward/mean@1"
    )
    assert accuracy_keys([both]) == ["val-core/a/acc/mean@1", "val-core/b/acc/mean@1"]
    assert accuracy_keys([both], "val-core/a/acc/mean@8") == ["val-core/a/acc/mean@8"]
    assert accuracy_keys([both, logging("val-core/a/reward/mean@1")]) == ["val-core/a/reward/mean@1"]
    with pytest.raises(BadRun, match=r"one\.csv has no held-out accuracy .*--accuracy KEY"):
        accuracy_keys([logging("loss")])
    with pytest.raises(BadRun, match="No held-out accuracy is common"):
        accuracy_keys([logging("val-core/a/acc/mean@1"), logging("val-core/b/acc/mean@1")])
    with pytest.raises(BadRun, match=r"one\.csv never logged nothing; its val- metrics: val-core/a/acc/mean@1"):
        accuracy_keys([logging("val-core/a/acc/mean@1")], "nothing")


def test_time_and_memory_against_grpo(tmp_path: Path) -> None:
    comparison = Comparison.of(sources.load([str(family(tmp_path))]))
    grpo, prime, spro = comparison.methods
    assert [method.label for method in comparison.methods] == ["GRPO", "PRIME, beta 0.01", "SPRO, beta 0.01"]
    assert [method.memory_total("static") for method in (grpo, spro, prime)] == [8, 10, 16]
    assert comparison.memory_kind == "static"
    assert prime.memory["reward_model"] == {"weights": 2, "optimizer": 4}
    slower = comparison.time_ratio(prime)
    assert slower is not None
    assert slower.mean == pytest.approx(2.7 / 2)
    assert prime.phases["reward_model"] == 0.5
    assert sum(prime.phases.values()) == pytest.approx(2.7)
    difference = comparison.difference(spro)
    assert difference is not None
    assert difference.mean == pytest.approx(0.05)


def test_runs_that_are_not_equal_are_named(tmp_path: Path) -> None:
    comparison = Comparison.of(sources.load([str(family(tmp_path))]))
    assert notes.inequalities(comparison) == [
        "Runs differ in lr: 0.0001 in grpo-seed0, grpo-seed1, prime-seed0 and 2 more; 0.0002 in prime-seed1."
    ]


def test_start_up_is_left_out_of_the_times() -> None:
    slow = run("grpo", 0, [0.2, 0.5])
    slow.steps[1]["timing_s/step"] = 100.0
    measured = measure(slow, [ACCURACY])
    assert measured.step_seconds == STEP["timing_s/step"]
    # But it was paid for.
    assert measured.at("wall-clock", 10) == 118


def test_times_and_memory_of_separate_runs() -> None:
    def weights(gib: float) -> dict[str, float]:
        return {"memory/actor/weights_gib": gib}

    runs = [
        run(method, seed, [0.2, 0.5], {"timing_s/step": 50.0, **weights(9)})
        for method in ("grpo", "rloo")
        for seed in (0, 1)
    ]
    times = [run("grpo", 7, [0.1], weights(1)), run("rloo", 7, [0.1], weights(2)), run("dapo", 7, [0.1])]
    for alone, seconds in zip(times, (2.0, 3.0, 4.0), strict=True):
        step = {**STEP, "timing_s/step": seconds, **weights(seconds)}
        alone.steps.update({s: dict(step) for s in range(1, 6)})
    comparison = Comparison.of(runs, times=times)
    # Of what is compared only: DAPO was timed for nothing.
    assert [method.label for method in comparison.methods] == ["GRPO", "RLOO"]
    grpo, rloo = comparison.methods
    assert grpo.runs[0].at("wall-clock", 10) == 20
    assert rloo.runs[0].at("device-hours", 10) == pytest.approx(2 * 30 / 3600)
    assert comparison.time_ratio(rloo).mean == pytest.approx(1.5)  # type: ignore[union-attr]
    assert (grpo.memory, rloo.memory) == ({"actor": {"weights": 2.0}}, {"actor": {"weights": 3.0}})
    # Accuracy stays that of the runs.
    assert grpo.final.mean == 0.5
    assert any("2 separate runs of 5 steps (grpo7, rloo7)" in sentence for sentence in notes.limits(comparison))
    with pytest.raises(BadRun, match="--times has no run of RLOO"):
        Comparison.of(runs, times=times[:1])


def test_labels_are_what_a_run_really_had() -> None:
    overridden = run("spro", 0, [0.2, 0.5], {"spro/beta": 0.05}, beta=0.01)
    assert overridden.label == "SPRO, beta 0.05"
    told = run("prime", 0, [0.2, 0.5])
    told.settings["variables"] = {"RM_LR": "1e-6"}
    assert told.label == "PRIME, RM_LR 1e-6"


def test_timed_runs_are_compared_too() -> None:
    runs = [run("grpo", 0, [0.2, 0.5]), run("rloo", 0, [0.2, 0.5])]
    times = [
        replace(one, name=f"{one.name} (timed)", provenance={"hardware": {"cpu": cpu}, "overrides": None})
        for one, cpu in zip(runs, "XY", strict=True)
    ]
    comparison = Comparison.of(runs, times=times)
    assert any("Runs differ in hardware" in sentence for sentence in notes.inequalities(comparison))
    (row,) = [row for row in provenance.facts_table(comparison).rows if row[1].text == "cpu X"]
    assert row[1].sub == "grpo0 (timed)"
    # Their neighbours' marks are in a run's own times: none are shown.
    assert comparison.runs[0].step_seconds is None
    assert comparison.methods[0].step_seconds is not None


def test_tokens_that_were_thrown_away_count() -> None:
    counted = measure(run("dapo", 0, [0.2, 0.5], {"training/generated_tokens/sum": 100.0}), [ACCURACY])
    assert counted.at("tokens", 10) == 1000
    sentence = "Generated tokens are all that were sampled, those that no update saw included."
    assert sentence in notes.limits(Comparison.of([counted.run]))
    assert sentence not in notes.limits(Comparison.of([counted.run, run("grpo", 0, [0.2, 0.5])]))


def test_truncation_is_what_reached_the_limit_where_that_was_logged() -> None:
    both = run("grpo", 0, [0.2, 0.5], {"response_length/truncated_frac": 0.125})
    older = run("grpo", 1, [0.2, 0.5])
    panel = next(panel for panel in PANELS if panel.name == "truncation")
    assert [measure(one, [ACCURACY]).late(panel) for one in (both, older)] == [0.125, 0.25]
    said = [any("clip_ratio" in text for text in notes.limits(Comparison.of([one]))) for one in (both, older)]
    assert said == [False, True]
