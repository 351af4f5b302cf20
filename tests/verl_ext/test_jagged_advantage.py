"""V1's advantage stage on jagged fields gives what verl's own, padded one gives for grpo."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transfer_queue
from omegaconf import OmegaConf
from tensordict import NonTensorStack, TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

import recipe.spro.plugin  # noqa: F401 (its import installs the extensions)
from verl_ext import jagged_advantage

LENGTHS = torch.tensor([7, 3, 1, 5, 7, 4])
UIDS = ["a", "b", "a", "b", "a", "pad-0"]


class InMemoryQueueInPlaceOfTransferQueue:
    """What `transfer_queue.kv_batch_get` and `kv_batch_put` do, in this process; keeps what was asked of it."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self.fetched: list[list[str]] = []
        self.written: dict[str, Any] = {}

    def kv_batch_get(self, keys: Any, partition_id: str, select_fields: Any = None) -> TensorDict:
        self.fetched.append(list(select_fields))
        held = {name: x for name, x in self.fields.items() if name in select_fields}
        # Each field comes with offsets of its own.
        fresh = {name: _again(x) if isinstance(x, torch.Tensor) else x for name, x in held.items()}
        return TensorDict({**fresh, "uid": NonTensorStack(*UIDS)}, batch_size=len(UIDS))

    def kv_batch_put(self, keys: Any, partition_id: str, fields: TensorDict) -> Any:
        self.written = dict(fields.items())
        return SimpleNamespace(keys=keys, partition_id=partition_id)


def _again(x: torch.Tensor) -> torch.Tensor:
    return torch.nested.nested_tensor_from_jagged(x.values().clone(), x.offsets().clone())


def ragged(values: torch.Tensor) -> torch.Tensor:
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), LENGTHS.cumsum(0)])
    return torch.nested.nested_tensor_from_jagged(values, offsets)


def fields(**more: Any) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(0)
    total = int(LENGTHS.sum())
    mask = torch.ones(total, dtype=torch.int64)
    # A tool's tokens in row 0, and a row of padding.
    mask[2:4] = 0
    mask[-4:] = 0
    scores, ends = torch.zeros(total), LENGTHS.cumsum(0) - 1
    scores[ends] = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    log_probs = -torch.rand(total, generator=rng)
    return {
        "response_mask": ragged(mask),
        "rm_scores": ragged(scores),
        "old_log_probs": ragged(log_probs),
        "ref_log_prob": ragged(log_probs + 0.1 * torch.randn(total, generator=rng)),
        **more,
    }


def stage(
    monkeypatch: pytest.MonkeyPatch,
    estimator: str,
    batch_fields: dict[str, Any],
    *,
    kl_coef: float = 0.0,
    **algorithm: Any,
) -> tuple[InMemoryQueueInPlaceOfTransferQueue, dict[str, float]]:
    """Run V1's advantage stage, with our patches around it, on these fields."""
    queue = InMemoryQueueInPlaceOfTransferQueue(batch_fields)
    monkeypatch.setattr(transfer_queue, "kv_batch_get", queue.kv_batch_get)
    monkeypatch.setattr(transfer_queue, "kv_batch_put", queue.kv_batch_put)
    config = OmegaConf.create(
        {
            "algorithm": {
                "adv_estimator": estimator,
                "gamma": 1.0,
                "lam": 1.0,
                "use_kl_in_reward": True,
                "kl_penalty": "kl",
                "norm_adv_by_std_in_grpo": True,
                "rollout_correction": {"bypass_mode": False},
                "spro": {"beta": 0.0},
                **algorithm,
            },
            "actor_rollout_ref": {"rollout": {"n": 3}},
        }
    )
    trainer = SimpleNamespace(
        config=config, kl_ctrl_in_reward=core_algos.FixedKLController(kl_coef), global_steps=1, tokenizer=None
    )
    keys = [f"{uid}_{i}_0" for i, uid in enumerate(UIDS)]
    batch = KVBatchMeta(partition_id="train", keys=keys, tags=[{} for _ in keys])
    metrics: dict[str, float] = {}
    PPOTrainer._compute_advantage(trainer, batch, metrics)
    return queue, metrics


@pytest.mark.parametrize("kl_penalty", ["kl", "abs", "low_var_kl"])
@pytest.mark.parametrize("use_kl_in_reward", [True, False])
def test_equals_verls_own_stage(monkeypatch: pytest.MonkeyPatch, use_kl_in_reward: bool, kl_penalty: str) -> None:
    """spro with beta 0 is grpo: the same advantages, returns, rewards and metrics."""
    options: dict[str, Any] = {"use_kl_in_reward": use_kl_in_reward, "kl_penalty": kl_penalty}
    verls, verls_metrics = stage(monkeypatch, "grpo", fields(), **options)
    ours, our_metrics = stage(monkeypatch, "spro", fields(), **options)
    assert set(ours.written) == set(verls.written)
    for name, expected in verls.written.items():
        got = ours.written[name]
        assert got.layout == torch.jagged
        assert torch.equal(got.offsets(), expected.offsets())
        torch.testing.assert_close(
            got.values(), expected.values(), rtol=0, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert {name: our_metrics[name] for name in verls_metrics} == pytest.approx(verls_metrics, rel=1e-6)
    assert "spro/cpr/abs_max" in our_metrics


def test_a_kl_in_the_reward_is_subtracted_as_verl_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """For other estimators that take jagged fields; spro refuses it before Ray starts."""
    verls, _ = stage(monkeypatch, "grpo", fields(), kl_coef=0.3)
    ours, _ = stage(monkeypatch, "spro", fields(), kl_coef=0.3)
    got, expected = (x.written["token_level_rewards"].values() for x in (ours, verls))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_nothing_is_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TensorDict, "to_padded_tensor", lambda *_: pytest.fail("padded"))
    ours, _ = stage(monkeypatch, "spro", fields())
    assert len(ours.fetched) == 1
    with pytest.raises(pytest.fail.Exception, match="padded"):
        stage(monkeypatch, "grpo", fields())


def test_rollout_correction_is_left_to_verl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its metrics need the rollout's log-probs in verl's own stage."""
    batch = fields()
    ours, metrics = stage(monkeypatch, "spro", {**batch, "rollout_log_probs": _again(batch["old_log_probs"])})
    assert len(ours.fetched) == 2
    assert any(name.startswith("rollout_corr/") for name in metrics)
    torch.testing.assert_close(
        ours.written["advantages"].values(), stage(monkeypatch, "spro", fields())[0].written["advantages"].values()
    )


def test_lengths_that_differ_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    offsets = torch.tensor([0, 6, 10, 11, 16, 23, 27])
    other = torch.nested.nested_tensor_from_jagged(torch.zeros(27), offsets)
    with pytest.raises(ValueError, match="'old_log_probs' differs from the response mask in its lengths"):
        stage(monkeypatch, "spro", fields(old_log_probs=other))


def test_only_marked_estimators() -> None:
    algorithm = OmegaConf.create({"adv_estimator": "spro"})
    assert jagged_advantage._has_jagged_estimator(algorithm)
    algorithm.adv_estimator = "grpo"
    assert not jagged_advantage._has_jagged_estimator(algorithm)
