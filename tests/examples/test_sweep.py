"""What the sweep says of its runs: collapse, the choice of beta, the tables; and the progress lines."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from examples.arithmetic import sweep, watch
from examples.arithmetic.sweep import Result, Run


def result(
    after: float, *, beta: str | None = None, seed: int = 0, share: float | None = None, collapsed: bool = False
) -> Result:
    run = Run("spro" if beta else "grpo", "1e-4", seed, beta)
    return Result(run, 0.5, after, [(0, 0.5), (20, after)], share, collapsed)


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([0.5, 0.6, 0.7], False),
        ([0.5, 0.7, 0.3, 0.2], True),
        # One evaluation is not two.
        ([0.5, 0.7, 0.6, 0.1], False),
        # Recovered by the end.
        ([0.5, 0.7, 0.1, 0.1, 0.6], False),
        # Exactly half is not below half.
        ([0.6, 0.3, 0.3], False),
        ([], False),
    ],
)
def test_collapse_is_two_evaluations_below_half_and_no_recovery(accuracies: list[float], expected: bool) -> None:
    assert sweep.collapsed([(20 * index, accuracy) for index, accuracy in enumerate(accuracies)]) is expected


def seeds(accuracies: list[float], beta: str | None = None, *, collapsed: bool = False) -> list[Result]:
    return [result(x, beta=beta, seed=seed, collapsed=collapsed) for seed, x in enumerate(accuracies)]


def test_the_largest_beta_within_the_tolerance_is_chosen() -> None:
    grpo = seeds([0.80, 0.70, 0.75])
    by_beta = {
        "0.01": seeds([0.80, 0.70, 0.75], "0.01"),
        "0.03": seeds([0.75, 0.72, 0.73], "0.03"),
        "0.1": seeds([0.80, 0.10, 0.75], "0.1"),
    }
    assert sweep.choose_beta(by_beta, grpo) == "0.03"
    # A beta without all seeds has not been shown to hold, nor has one that collapsed.
    by_beta["0.1"] = seeds([0.99], "0.1")
    assert sweep.choose_beta(by_beta, grpo) == "0.03"
    by_beta["0.1"] = seeds([0.99, 0.99, 0.99], "0.1", collapsed=True)
    assert sweep.choose_beta(by_beta, grpo) == "0.03"
    assert sweep.choose_beta({"0.1": seeds([0.1, 0.1, 0.1], "0.1")}, grpo) is None
    assert sweep.choose_beta(by_beta, grpo[:2]) is None


def test_the_table_says_when_a_run_shows_grpo() -> None:
    text = sweep.table("x", [("low", [result(0.6, beta="0.001", share=0.002)])])
    assert "0.0020 (shows GRPO, not SPRO)" in text
    assert "+10.0 points" in text
    assert "shows GRPO" not in sweep.table("x", [("high", [result(0.6, beta="0.1", share=0.2)])])


def test_a_run_is_kept_the_same_each_time_and_read_back(tmp_path: Path) -> None:
    run = Run("spro", "1e-4", 0, "0.03")
    folder = tmp_path / run.name
    folder.mkdir()
    rows = [
        {"step": 0, "data": {watch.ACCURACY: 0.5}},
        # Not warm: left out of the share, as in the summary.
        {"step": 2, "data": {"spro/process_share": 0.9}},
        {"step": 3, "data": {"spro/process_share": 0.04}},
        {"step": 4, "data": {watch.ACCURACY: 0.6, "spro/process_share": 0.02}},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"method": "spro", "lr": 1e-4, "seed": 0, "beta": 0.03, "steps": 80, "heldout_n": 1000}
    (folder / "run.json").write_text(json.dumps(settings))
    kept = tmp_path / "kept" / f"{run.name}.jsonl.gz"
    sweep.keep(folder, kept)
    first = kept.read_bytes()
    sweep.keep(folder, kept)
    assert kept.read_bytes() == first
    assert gzip.decompress(first) == (folder / "metrics.jsonl").read_bytes()
    sweep.check_kept(run, kept, 80)
    with pytest.raises(ValueError, match="'steps': 80"):
        sweep.check_kept(run, kept, 100)
    read = sweep.read_result(run, kept)
    assert (read.before, read.after, read.share, read.collapsed) == (0.5, 0.6, 0.03, False)


def test_progress_shows_what_was_logged_and_the_time_left() -> None:
    line = watch.format_step(3, 80, {"critic/score/mean": 0.5, "timing_s/step": 2.04, watch.ACCURACY: 0.61}, 125.0)
    assert line == "step    3/80  reward 0.50  held-out 0.610  2.0 s  2:05 left"


def test_half_a_line_of_the_log_waits_for_its_end(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_bytes(b"one\ntwo\nthr")
    lines, position = watch.new_lines(log, 0)
    assert lines == ["one", "two"]
    log.write_bytes(b"one\ntwo\nthree\n")
    assert watch.new_lines(log, position)[0] == ["three"]
    assert watch.new_lines(tmp_path / "absent", 7) == ([], 7)
