"""Tokens of groups that no update sees are counted, through verl's own replay buffer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import transfer_queue
from verl.trainer.ppo.v1 import replay_buffer, trainer_base

from verl_ext import generated_tokens
from verl_ext.patching import PatchError


class FakeTrainer:
    """As much of V1's trainer as the count sees."""

    def __init__(self, batch: Any) -> None:
        self.replay_buffer = replay_buffer.ReplayBuffer("sync", None, None, "drop", None)
        self.batch = batch

    def step(self) -> dict[str, Any]:
        """One local step, around which the count is."""
        metrics: dict[str, Any] = {}
        log = generated_tokens._log_generated(lambda self, metrics, *arguments: self.batch)
        log(self, metrics, {}, 1)
        return metrics


def test_kept_and_discarded_tokens_are_counted_and_padding_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer_queue, "kv_clear", lambda **_: None)
    tags = [{"response_len": 3}, {"response_len": 4}, {"response_len": 4, "is_padding": True}]
    trainer = FakeTrainer(SimpleNamespace(tags=tags))
    buffer = trainer.replay_buffer
    for partition in ("train", "val"):
        buffer.partitions[partition] = {
            "a_0_0": {"response_len": 10},
            "a_1_0": {"response_len": 20},
            "b_0_0": {"response_len": 100},
        }
        buffer._clear_groups(partition, {"a"})
    assert trainer.step() == {"training/generated_tokens/sum": 37}
    # What is discarded belongs to one step.
    assert trainer.step() == {"training/generated_tokens/sum": 7}


def test_it_fails_loudly_when_its_targets_have_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(replay_buffer.ReplayBuffer, "_clear_groups")
    with pytest.raises(PatchError, match="_clear_groups"):
        generated_tokens._patch_buffer(replay_buffer)
    monkeypatch.delattr(trainer_base.PPOTrainer, "_step_once")
    with pytest.raises(PatchError, match="_step_once"):
        generated_tokens._patch_trainer(trainer_base)
