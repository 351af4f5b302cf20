"""Kinds and times in the metrics of a step, and the end of a run whose verifiers are out of order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import transfer_queue
from omegaconf import OmegaConf
from tensordict import NonTensorStack, TensorDict

from verl_ext.reward_metrics import VerifiersOutOfOrder, _before_advantage, verdict_metrics


def info(kind: str, seconds: float = 0.1, queue: int = 0, detail: str = "") -> dict[str, Any]:
    return {"kind": kind, "verify_s": seconds, "verify_queue": queue, "detail": detail, "acc": 0.0}


def test_by_hand() -> None:
    infos = [info("correct", 0.0), info("correct", 1.0), info("wrong", 2.0, queue=5), info("timeout", 3.0)]
    got = verdict_metrics(infos)
    assert got["reward/correct_frac"] == 0.5
    assert got["reward/wrong_frac"] == got["reward/timeout_frac"] == 0.25
    assert got["reward/unparseable_frac"] == got["reward/grader_error_frac"] == got["reward/infra_error_frac"] == 0
    assert got["reward/verify_s/p50"] == 1.5
    assert got["reward/verify_s/p99"] == pytest.approx(2.97)
    assert got["reward/verify_queue/max"] == 5


def test_nothing_of_ours() -> None:
    assert verdict_metrics([]) == verdict_metrics([{"acc": 1.0}]) == {}


def run_step(monkeypatch: pytest.MonkeyPatch, infos: list[dict[str, Any]], manager: str = "spro") -> dict[str, float]:
    fields = NonTensorStack(*({"reward_extra_info": one} for one in infos))
    monkeypatch.setattr(transfer_queue, "kv_batch_get", lambda **_: TensorDict({"extra_fields": fields}, len(infos)))
    config = OmegaConf.create({"reward": {"reward_manager": {"name": manager}}})
    trainer = SimpleNamespace(config=config, global_steps=7)
    metrics: dict[str, float] = {}
    batch = SimpleNamespace(keys=["a"], partition_id="train")
    assert _before_advantage(lambda *_: "advantage")(trainer, batch, metrics) == "advantage"
    return metrics


def test_only_with_our_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_step(monkeypatch, [info("correct")], "naive") == {}
    assert run_step(monkeypatch, [info("correct")])["reward/correct_frac"] == 1


def test_too_many_infra_errors_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = [info("correct")] * 9 + [info("infra_error", detail="the service died")]
    assert run_step(monkeypatch, fine)["reward/infra_error_frac"] == 0.1
    message = (
        r"^step 7: 20% of the responses could not be verified .*max_infra_error_frac=0\.1\. .*'the service died'\."
    )
    with pytest.raises(VerifiersOutOfOrder, match=message):
        run_step(monkeypatch, [*fine[1:], info("infra_error", detail="the service died")])
