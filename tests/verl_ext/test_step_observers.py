"""An observer sees the batch of each step, without padding, and its time is logged by itself."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import transfer_queue
from tensordict import TensorDict
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

from verl_ext import step_observers
from verl_ext.step_observers import TrainedStep, observe_steps

BATCH = SimpleNamespace(keys=["a_0_0", "pad1_0_0", "b_0_0"], tags=[{}, {"is_padding": True}, {}], partition_id="train")
TRAINER = SimpleNamespace(global_steps=7, config="the config", tokenizer="the tokenizer")


@pytest.fixture(autouse=True)
def _no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_observers, "_observers", {})


def step_once(metrics: dict[str, Any], timing_raw: dict[str, float]) -> Any:
    def original(self: Any, metrics: dict[str, Any], timing_raw: dict[str, float], sample_batch_size: int) -> Any:
        metrics["theirs"] = 1.0
        return BATCH

    return step_observers._observed(original)(TRAINER, metrics, timing_raw, sample_batch_size=4)


def test_verls_method_is_the_wrapped_one() -> None:
    assert "verl_ext.step_observers" in PPOTrainer._step_once.__verl_ext_patch__


def test_it_sees_the_step_and_adds_metrics() -> None:
    seen: list[TrainedStep] = []

    @observe_steps("mine")
    def look(step: TrainedStep) -> bool:
        seen.append(step)
        step.metrics["mine/value"] = step.metrics["theirs"] + 1
        time.sleep(0.01)
        return True

    metrics: dict[str, Any] = {}
    timing_raw: dict[str, float] = {"adv": 1.0}
    start = time.perf_counter()
    assert step_once(metrics, timing_raw) is BATCH
    took = time.perf_counter() - start
    (step,) = seen
    assert (step.number, step.config, step.tokenizer) == (7, "the config", "the tokenizer")
    assert step.keys == ["a_0_0", "b_0_0"]
    assert metrics == {"theirs": 1.0, "mine/value": 2.0}
    assert timing_raw["adv"] == 1.0
    assert 0.01 <= timing_raw["mine"] <= took
    # A second update of the same step adds up, as verl's own timers do.
    before = timing_raw["mine"]
    step_once(metrics, timing_raw)
    assert timing_raw["mine"] > before + 0.01


def test_who_did_not_look_has_no_time() -> None:
    observe_steps("mine")(lambda step: False)
    timing_raw: dict[str, float] = {}
    step_once({}, timing_raw)
    assert timing_raw == {}


def test_chosen_rows_are_fetched_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def kv_batch_get(keys: list[str], partition_id: str, select_fields: list[str]) -> TensorDict:
        asked.append((keys, partition_id, select_fields))
        return TensorDict({"advantages": [1.0]}, 1)

    monkeypatch.setattr(transfer_queue, "kv_batch_get", kv_batch_get)
    step = TrainedStep(1, None, None, ["a_0_0", "b_0_0"], "train")
    # A field that the batch does not hold is left out.
    assert set(step.of(["b_0_0"]).fetch("advantages", "values")) == {"advantages"}
    assert asked == [(["b_0_0"], "train", ["advantages", "values"])]
