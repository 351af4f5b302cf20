"""What engines hold, counted on real modules and optimizers."""

from __future__ import annotations

import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from verl.trainer.ppo.v1 import trainer_base
from verl.workers import engine_workers

from verl_ext import memory_metrics
from verl_ext.patching import PatchError


def engine(*, trains: bool) -> Any:
    module = torch.nn.Linear(10, 20)
    if not trains:
        return SimpleNamespace(module=module, optimizer=None)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 10)).sum().backward()
    optimizer.step()
    return SimpleNamespace(module=module, optimizer=optimizer)


def test_an_engine_that_trains_holds_gradients_and_moments() -> None:
    weights = 4 * (10 * 20 + 20)
    held = memory_metrics.held_by(engine(trains=True))
    # Two moments for each weight, and a step count for each tensor.
    assert held == {"weights": weights, "gradients": weights, "optimizer": 2 * weights + 2 * 4}
    assert memory_metrics.held_by(engine(trains=False)) == {"weights": weights}


def test_an_engine_that_is_not_torchs_is_left_out() -> None:
    module = torch.nn.Linear(2, 2)
    # Megatron's: a list of modules, an optimizer of its own.
    assert memory_metrics.held_by(SimpleNamespace(module=[module], optimizer=None)) == {}
    assert memory_metrics.held_by(SimpleNamespace(module=module, optimizer=object())) == {}


def test_frozen_weights_have_no_gradients() -> None:
    lora = engine(trains=True)
    lora.module.weight.requires_grad_(False)
    assert memory_metrics.held_by(lora)["gradients"] == 4 * 20


def test_ranks_are_summed_and_components_told_apart() -> None:
    actor = SimpleNamespace(
        actor=SimpleNamespace(engine=engine(trains=True)), ref=SimpleNamespace(engine=engine(trains=False))
    )
    reward_model = SimpleNamespace(engine=engine(trains=True))
    groups = {
        "actor": SimpleNamespace(**{memory_metrics.METHOD: lambda: [memory_metrics._of_actor_worker(actor)] * 2}),
        "critic": SimpleNamespace(
            **{memory_metrics.METHOD: lambda: [memory_metrics._of_training_worker(reward_model)]}
        ),
    }
    metrics = memory_metrics.measure(groups)
    weights = 880 / 2**30
    assert metrics["memory/actor/weights_gib"] == pytest.approx(2 * weights)
    assert metrics["memory/reference/weights_gib"] == pytest.approx(2 * weights)
    assert "memory/reference/gradients_gib" not in metrics
    assert metrics["memory/critic/weights_gib"] == pytest.approx(weights)


def test_a_process_that_ends_meanwhile_is_left_out_and_others_are_not_ours() -> None:
    code = "import ctypes, time; ctypes.CDLL(None).prctl(15, b'x'); x = bytearray(30_000_000); time.sleep(60)"
    # The name that vLLM gives its engine.
    engine_process = subprocess.Popen(["VLLM::EngineCore", "-c", code], executable=sys.executable)
    try:
        deadline = time.monotonic() + 30
        while memory_metrics.host_peaks(engine_process.pid).get("rollout", 0) < 30_000_000:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert memory_metrics.host_peaks(engine_process.pid)["rollout"] < 200_000_000
        # Init's other children are none of this run's.
        elsewhere = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        assert memory_metrics.host_peaks(elsewhere.pid) == {}
        elsewhere.kill()
        elsewhere.wait()
        assert memory_metrics.host_peaks(elsewhere.pid) == {}
    finally:
        engine_process.kill()
        engine_process.wait()


def test_it_is_measured_at_steps_that_double() -> None:
    assert [step for step in range(20) if memory_metrics.is_due(step)] == [1, 2, 4, 8, 16]


def test_it_fails_loudly_when_its_targets_have_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(engine_workers, "TrainingWorker")
    with pytest.raises(PatchError, match="TrainingWorker"):
        memory_metrics._patch_workers(engine_workers)
    monkeypatch.delattr(trainer_base.PPOTrainer, "_update_actor")
    with pytest.raises(PatchError, match="_update_actor"):
        memory_metrics._patch_trainer(trainer_base)
