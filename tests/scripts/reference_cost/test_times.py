"""Steps that take turns: every arm once a block, and what is said of their times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.reference_cost import __main__ as command
from scripts.reference_cost.alternate import ARMS, arm_of
from scripts.reference_cost.times import by_block, median, outside_generation, ratio, read
from scripts.runs import BadRun

BLOCKS = 9

# Of a step without generation: GRPO's, what the reference adds, what the gate saves.
REST, REFERENCE, SAVED = 1.0, 0.25, 0.125


def metrics_of(arm: str, generation: float) -> dict[str, float]:
    spro, gated = arm.startswith("spro"), arm.endswith("gated")
    old = 0.25 - SAVED * gated
    found = {"timing_s/gen": generation, "timing_s/old_log_prob": old, "perf/total_num_tokens": 100.0}
    found["timing_s/step"] = generation + REST + REFERENCE * spro - SAVED * gated
    if spro:
        found["timing_s/ref"] = REFERENCE
    if gated:
        found |= {"log_prob_gate/used_rollout": 1.0, "log_prob_gate/cumulative_rms": 1e-5}
    return found


def write_run(folder: Path, *, seed: int = 3, lora: bool = False, steps: int = BLOCKS * len(ARMS)) -> Path:
    """A run as `train` leaves it; generation takes 0 to 1 s more at each step, by chance."""
    folder.mkdir()
    random = np.random.default_rng(0)
    rows: list[dict[str, Any]] = [
        {"step": step, "data": metrics_of(arm_of(step, seed)[1], 2.0 + random.random())} for step in range(1, steps + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = ["actor_rollout_ref.model.lora_rank=8"] if lora else []
    (folder / "metrics.provenance.json").write_text(json.dumps([{"overrides": overrides}]))
    return folder


def test_each_arm_has_one_step_a_block_in_an_order_of_its_own() -> None:
    orders = set()
    for first in range(1, 40 * len(ARMS), len(ARMS)):
        turns = [arm_of(step, 0) for step in range(first, first + len(ARMS))]
        assert {block for block, _ in turns} == {first // len(ARMS)}
        assert sorted(arm for _, arm in turns) == sorted(ARMS)
        orders.add(tuple(arm for _, arm in turns))
    assert len(orders) > 10
    assert arm_of(7, 1) == arm_of(7, 1)


def test_what_is_read(tmp_path: Path) -> None:
    # The last block is not whole.
    steps = read(write_run(tmp_path / "full-3", steps=BLOCKS * len(ARMS) + 2))
    assert {step.model for step in steps} == {"full"}
    assert len(steps) == (BLOCKS - 1) * len(ARMS)
    assert all(step.used_rollout == step.arm.endswith("gated") for step in steps)
    assert read(write_run(tmp_path / "lora-3", lora=True))[0].model == "lora"


def test_runs_that_are_too_short_leave_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "full-3", steps=len(ARMS))
    assert command.main(["collect", str(folder), "--csv", str(tmp_path / "cost.csv")]) == 1
    assert str(folder) in capsys.readouterr().err
    assert not (tmp_path / "cost.csv").exists()


def test_a_block_without_an_arm_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "full-3")
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:2] + lines[3:]))
    with pytest.raises(BadRun, match="block 0 does not hold each"):
        read(folder)


def test_pairs_take_out_what_both_share(tmp_path: Path) -> None:
    steps = read(write_run(tmp_path / "full-3"))
    added = median(outside_generation(steps, "spro") - outside_generation(steps, "grpo"))
    assert (added.mean, added.low, added.high, added.n) == pytest.approx((REFERENCE,) * 3 + (BLOCKS - 1,))
    saved = median(by_block(steps, "spro", "old_log_prob") - by_block(steps, "spro, gated", "old_log_prob"))
    assert saved.mean == pytest.approx(SAVED)


def test_ratio_keeps_pairs_together() -> None:
    base = np.array([1.0, 2.0, 5.0, 9.0, 30.0])
    found = ratio(1.5 * base, base)
    assert (found.mean, found.low, found.high) == pytest.approx((1.5, 1.5, 1.5))
    noisy = ratio(base[::-1], base)
    assert noisy.low is not None
    assert noisy.high is not None
    assert noisy.low < 0.5 < 1 < 2 < noisy.high


def test_from_runs_to_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [write_run(tmp_path / "full-1"), write_run(tmp_path / "full-2")]
    table = tmp_path / "times.csv"
    assert command.main(["collect", *map(str, folders), "--csv", str(table)]) == 0
    assert command.main(["report", str(table)]) == 0
    printed = capsys.readouterr().out
    assert f"{2 * (BLOCKS - 1)} paired steps a row" in printed
    both, gated, mixed = (line for line in printed.splitlines() if line.startswith(("| both", "| SPRO gated")))
    assert both.endswith("| 0.250 (0.250 to 0.250) | 0.250 (0.250 to 0.250) |")
    assert "| 0.250 (0.250 to 0.250) | 0.250" in gated
    assert "| 0.125 (0.125 to 0.125) | 0.250" in mixed
    assert "| SPRO | 16 of 16 | 0.250 (0.250 to 0.250) | 0.125 (0.125 to 0.125) | 0.125 (0.125 to 0.125) |" in printed
