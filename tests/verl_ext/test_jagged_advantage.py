"""V1's advantage stage on jagged fields gives what verl's own, padded one gives for grpo."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl.trainer.ppo import rollout_corr_helper

from scripts.bench_stage import InMemoryQueueInPlaceOfTransferQueue, compute_stage
from verl_ext import jagged_advantage, rollout_metrics
from verl_ext.patching import PatchError

LENGTHS = torch.tensor([7, 3, 1, 5, 7, 4])
UIDS = ["a", "b", "a", "b", "a", "pad-0"]


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
    estimator: str, batch_fields: dict[str, Any], **algorithm: Any
) -> tuple[InMemoryQueueInPlaceOfTransferQueue, dict[str, float]]:
    """V1's advantage stage, with our patches around it, on these fields."""
    queue = InMemoryQueueInPlaceOfTransferQueue(batch_fields, UIDS)
    return queue, compute_stage(queue, {"adv_estimator": estimator, "spro": {"beta": 0.0}, **algorithm})


@pytest.mark.parametrize("kl_penalty", ["kl", "abs", "low_var_kl"])
@pytest.mark.parametrize("use_kl_in_reward", [True, False])
def test_equals_verls_own_stage(use_kl_in_reward: bool, kl_penalty: str) -> None:
    """spro with beta 0 is grpo: the same advantages, returns, rewards and metrics."""
    options: dict[str, Any] = {"use_kl_in_reward": use_kl_in_reward, "kl_penalty": kl_penalty}
    verls, verls_metrics = stage("grpo", fields(), **options)
    ours, our_metrics = stage("spro", fields(), **options)
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


def test_a_kl_in_the_reward_is_subtracted_as_verl_does() -> None:
    """For other estimators that take jagged fields; spro refuses it before Ray starts."""
    verls, _ = stage("grpo", fields(), kl_coef=0.3)
    ours, _ = stage("spro", fields(), kl_coef=0.3)
    got, expected = (x.written["token_level_rewards"].values() for x in (ours, verls))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_nothing_is_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TensorDict, "to_padded_tensor", lambda *_: pytest.fail("padded"))
    ours, _ = stage("spro", fields())
    assert len(ours.fetched) == 1
    with pytest.raises(pytest.fail.Exception, match="padded"):
        stage("grpo", fields())


def with_rollout_log_probs() -> dict[str, Any]:
    batch = fields()
    mismatch = 0.05 * torch.randn(int(LENGTHS.sum()), generator=torch.Generator().manual_seed(1))
    return {**batch, "rollout_log_probs": ragged(batch["old_log_probs"].values() + mismatch)}


@pytest.mark.parametrize("places", [1, 10, 1 << 22])
def test_the_rollouts_mismatch_is_reported_as_verl_does(places: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the size of the parts that verl's own function sees."""
    monkeypatch.setattr(rollout_metrics, "_PLACES", places)
    verls, expected = stage("grpo", with_rollout_log_probs())
    ours, metrics = stage("spro", with_rollout_log_probs())
    expected = {name: value for name, value in expected.items() if name.startswith("rollout_corr/")}
    assert len(expected) == 13
    # The last row is padding, whose perplexity verl counts as 1.
    assert {name: metrics.get(name) for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert len(ours.fetched) == 1
    torch.testing.assert_close(
        ours.written["advantages"].values(), verls.written["advantages"].values(), rtol=0, atol=1e-6
    )


def test_a_metric_that_is_not_known_is_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_corr_helper, "compute_offpolicy_metrics", lambda **_: {"kl": 0.0, "new": 1.0})
    with pytest.raises(PatchError, match="verl's metrics new"):
        stage("spro", with_rollout_log_probs())


@pytest.mark.parametrize(
    "correction", [{"rollout_is": "token"}, {"rollout_rs": "token_k1", "rollout_rs_threshold": 2.0}]
)
def test_a_correction_is_left_to_verl(correction: dict[str, Any]) -> None:
    """It makes weights or changes the mask."""
    options = {"rollout_correction": {"bypass_mode": False, "rollout_is_threshold": 2.0, **correction}}
    ours, metrics = stage("spro", with_rollout_log_probs(), **options)
    assert "response_mask" in ours.written
    assert any(name.startswith("rollout_corr/rollout_") for name in metrics)
    plain, _ = stage("spro", fields())
    torch.testing.assert_close(ours.written["advantages"].values(), plain.written["advantages"].values())


def test_lengths_that_differ_are_refused() -> None:
    offsets = torch.tensor([0, 6, 10, 11, 16, 23, 27])
    other = torch.nested.nested_tensor_from_jagged(torch.zeros(27), offsets)
    with pytest.raises(ValueError, match="'old_log_probs' differs from the response mask in its lengths"):
        stage("spro", fields(old_log_probs=other))


def test_only_marked_estimators() -> None:
    algorithm = OmegaConf.create({"adv_estimator": "spro"})
    assert jagged_advantage._has_jagged_estimator(algorithm)
    algorithm.adv_estimator = "grpo"
    assert not jagged_advantage._has_jagged_estimator(algorithm)
