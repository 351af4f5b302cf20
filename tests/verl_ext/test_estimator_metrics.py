"""What an estimator records joins the metrics of its step, once."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from verl import DataProto
from verl.experimental.separation.ray_trainer import SeparateRayPPOTrainer
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

from verl_ext import estimator_metrics
from verl_ext.estimator_metrics import COMPUTE_DATA_METRICS_IN, current_step, drain, record


@pytest.fixture(autouse=True)
def _nothing_recorded() -> Iterator[None]:
    drain()
    yield
    drain()


def test_a_record_is_drained_once() -> None:
    record({"mine/rms": 0.5})
    assert drain() == {"mine/rms": 0.5}
    assert drain() == {}


def test_records_of_one_step_are_merged() -> None:
    record({"mine/rms": 1, "mine/abs_max": 5.0})
    record({"mine/rms": 2, "mine/abs_max": 3.0})
    record({"mine/rms": 6})
    assert drain() == {"mine/rms": 3.0, "mine/abs_max": 5.0}


def test_values_become_floats() -> None:
    record({"mine/rms": torch.tensor(0.25)})
    (value,) = drain().values()
    assert type(value) is float


def batch() -> DataProto:
    """What verl's data metrics ask for."""
    ones = torch.ones(2, 3)
    tensors = {
        "prompts": torch.ones(2, 4).long(),
        "responses": torch.ones(2, 3).long(),
        "attention_mask": torch.ones(2, 7).long(),
        "response_mask": ones.long(),
        "token_level_scores": ones,
        "token_level_rewards": ones,
        "advantages": ones,
        "returns": ones,
    }
    return DataProto.from_dict(tensors=tensors)


@pytest.mark.parametrize("module", COMPUTE_DATA_METRICS_IN)
def test_verls_data_metrics_carry_them(module: str) -> None:
    compute_data_metrics = importlib.import_module(module).compute_data_metrics
    without = compute_data_metrics(batch(), use_critic=False)
    record({"mine/rms": 0.5})
    assert compute_data_metrics(batch(), use_critic=False) == {**without, "mine/rms": 0.5}
    assert compute_data_metrics(batch(), use_critic=False) == without
    assert without["critic/score/mean"] == 3.0


class FakeTrainer:
    """Stands in for verl's trainer, whose own method needs a running TransferQueue."""

    global_steps = 17


def around(original: Any) -> Any:
    """Our wrapper around a method in place of verl's."""
    return estimator_metrics._take_after_advantage(original)


def test_the_trainers_method_is_the_wrapped_one() -> None:
    method = PPOTrainer._compute_advantage
    assert "verl_ext.estimator_metrics" in method.__verl_ext_patch__


def test_the_step_is_known_while_the_advantage_is_computed() -> None:
    seen = []

    def fake_compute_advantage(self: Any, batch: str, metrics: dict[str, Any]) -> str:
        seen.append(current_step())
        record({"mine/rms": 0.5})
        return batch

    metrics = {"critic/kl": 1.0}
    assert current_step() is None
    assert around(fake_compute_advantage)(FakeTrainer(), "the batch", metrics=metrics) == "the batch"
    assert seen == [17]
    assert current_step() is None
    assert metrics == {"critic/kl": 1.0, "mine/rms": 0.5}
    assert drain() == {}


def test_a_failure_leaves_no_step_behind() -> None:
    def fake_compute_advantage(self: Any, batch: str, metrics: dict[str, Any]) -> str:
        raise RuntimeError("no advantage")

    with pytest.raises(RuntimeError, match="no advantage"):
        around(fake_compute_advantage)(FakeTrainer(), "the batch", {})
    assert current_step() is None


def test_every_place_is_patched() -> None:
    for module in COMPUTE_DATA_METRICS_IN:
        function = importlib.import_module(module).compute_data_metrics
        assert function.__verl_ext_patch__ == ("verl_ext.estimator_metrics",), module


def test_the_step_is_known_in_the_trainers_of_one_step_off_and_fully_async() -> None:
    assert "verl_ext.estimator_metrics" in SeparateRayPPOTrainer._fit_compute_advantage.__verl_ext_patch__

    def fake_fit_compute_advantage(self: Any, batch: str) -> tuple[str, int | None]:
        return batch, current_step()

    assert estimator_metrics._tell_step(fake_fit_compute_advantage)(FakeTrainer(), "the batch") == ("the batch", 17)
    assert current_step() is None
