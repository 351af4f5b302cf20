"""A run killed in the middle and started again: nothing is lost, nothing is left."""

from __future__ import annotations

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.e2e.conftest import RESUMED_STEPS
from tests.e2e.stack import Run
from verl_ext.tracking import read_rows, void_path

SAVE_FREQ = 1


def test_no_process_survives_a_killed_driver(killed_and_resumed_run: Run) -> None:
    assert (killed_and_resumed_run.folder / "survivors.txt").read_text() == ""


def test_every_step_is_in_the_history_once(killed_and_resumed_run: Run) -> None:
    assert [row["step"] for row in killed_and_resumed_run.rows] == list(range(1, RESUMED_STEPS + 1))


def test_at_most_save_freq_steps_are_done_again(killed_and_resumed_run: Run) -> None:
    last_before = int((killed_and_resumed_run.folder / "steps_at_kill.txt").read_text().split()[-1])
    void = void_path(killed_and_resumed_run.folder / "metrics.jsonl")
    redone = {row["step"] for row in read_rows(void)[0]} if void.exists() else set()
    assert len(redone) <= SAVE_FREQ
    # It went on, and did not start anew.
    assert "Resuming from" in killed_and_resumed_run.log
    assert min(redone, default=last_before) >= last_before - SAVE_FREQ + 1


def test_tensorboard_shows_one_unbroken_curve(killed_and_resumed_run: Run) -> None:
    events = EventAccumulator(str(killed_and_resumed_run.folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    for tag in ("critic/score/mean", "spro/process_share"):
        assert [scalar.step for scalar in events.Scalars(tag)] == list(range(1, RESUMED_STEPS + 1))


def test_reference_stays_the_first_model(killed_and_resumed_run: Run) -> None:
    # A reference rebuilt from the checkpoint would make CPR 0 again at the first step after the resume.
    for row in killed_and_resumed_run.rows[1:]:
        assert row["data"]["spro/cpr/abs_max"] > 0
