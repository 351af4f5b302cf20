"""The registered estimator through verl's own `compute_advantage`, against the oracle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from verl import DataProto
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.v1 import utils as v1

from recipe.spro.advantage import spro_advantage_naive
from recipe.spro.requirements_check import FLOAT32_OVERRIDES
from recipe.spro.settings import SettingsError
from tests.support import composed
from verl_ext import estimator_inputs, estimator_metrics
from verl_ext.weight_versions import WeightVersions

GROUPS, N, T = 3, 4, 9


@pytest.fixture(autouse=True)
def _nothing_recorded() -> Iterator[None]:
    estimator_metrics.drain()
    yield
    estimator_metrics.drain()


def batch(seed: int, *, padding: int = 2, on_policy: bool = False) -> DataProto:
    """Ragged responses in shuffled rows, two of them padding, as verl's trainer hands them over."""
    rng = torch.Generator().manual_seed(seed)
    rows = GROUPS * N + padding
    lengths = torch.randint(1, T + 1, (rows,), generator=rng)
    lengths[0] = T
    lengths[rows - padding :] = 0
    mask = (torch.arange(T) < lengths[:, None]).long()
    # A tool's output in the middle is not the policy's.
    mask[1, 2:4] = 0
    old = -3 * torch.rand(rows, T, generator=rng) * mask
    ref = old if on_policy else (old + 0.3 * torch.randn(rows, T, generator=rng)) * mask
    scores = torch.zeros(rows, T)
    scores[torch.arange(rows), (lengths - 1).clamp(min=0)] = torch.rand(rows, generator=rng) * (lengths > 0)
    uids = [f"uid-{row % GROUPS}" for row in range(GROUPS * N)] + [f"pad-{row}" for row in range(padding)]
    order = torch.randperm(rows, generator=rng)
    tensors = {
        "response_mask": mask[order],
        "old_log_probs": old[order],
        "ref_log_prob": ref[order].clone(),
        "token_level_scores": scores[order],
        # Must not be used: scores with something that verl adds to them.
        "token_level_rewards": scores[order] + torch.randn(rows, T, generator=rng),
    }
    return DataProto.from_dict(tensors=tensors, non_tensors={"uid": np.array(uids, dtype=object)[order.numpy()]})


def compute(data: DataProto, *overrides: str) -> DataProto:
    config = composed("+stack=cpu", *overrides).algorithm
    return v1.compute_advantage(
        data,
        adv_estimator=config.adv_estimator,
        num_repeat=N,
        norm_adv_by_std_in_grpo=config.norm_adv_by_std_in_grpo,
        config=config,
    )


def oracle(data: DataProto, **options: Any) -> torch.Tensor:
    return spro_advantage_naive(
        data.batch["old_log_probs"],
        data.batch["ref_log_prob"],
        data.batch["response_mask"],
        data.batch["token_level_scores"].sum(-1),
        data.non_tensor_batch["uid"],
        **{"beta": 0.01, **options},
    )


SETTINGS: list[tuple[list[str], dict[str, Any]]] = [
    ([], {}),
    (["algorithm.spro.beta=0.5"], {"beta": 0.5}),
    (["algorithm.spro.beta=0"], {"beta": 0}),
    (["algorithm.spro.beta=0.5", "algorithm.spro.baseline=loo"], {"beta": 0.5, "baseline": "loo"}),
    (["algorithm.spro.beta=0.5", "algorithm.spro.process=suffix"], {"beta": 0.5, "process": "suffix"}),
    (["algorithm.spro.beta=0.5", "algorithm.spro.process_sign=-1"], {"beta": 0.5, "process_sign": -1}),
    (["algorithm.spro.beta=0.5", "algorithm.spro.max_process_share=0.2"], {"beta": 0.5, "max_process_share": 0.2}),
    (["algorithm.norm_adv_by_std_in_grpo=False"], {"norm_by_std": False}),
    (["~algorithm.spro"], {}),
]


@pytest.mark.parametrize(("overrides", "options"), SETTINGS)
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_the_oracle(seed: int, overrides: list[str], options: dict[str, Any]) -> None:
    data = batch(seed)
    expected = oracle(data, **options).float()
    result = compute(data, *overrides).batch
    torch.testing.assert_close(result["advantages"], expected, rtol=0, atol=1e-5)
    assert torch.equal(result["returns"], result["advantages"])
    assert result["returns"] is result["advantages"]
    assert result["advantages"].dtype == torch.float32
    assert (result["advantages"][data.batch["response_mask"] == 0] == 0).all()


def test_degenerate_groups_are_gated_on_request() -> None:
    data = batch(0)
    data.batch["token_level_scores"] = torch.zeros_like(data.batch["token_level_scores"])
    assert (compute(data, "algorithm.spro.beta=0.5").batch["advantages"] != 0).any()
    assert (
        compute(data, "algorithm.spro.beta=0.5", "algorithm.spro.gate_degenerate_groups=true").batch["advantages"] == 0
    ).all()


def test_the_outcome_is_the_verifiers_score() -> None:
    first, second = batch(0), batch(0)
    second.batch["token_level_rewards"] = torch.full((GROUPS * N + 2, T), 1e6)
    assert torch.equal(compute(first).batch["advantages"], compute(second).batch["advantages"])
    third = batch(0)
    third.batch["token_level_scores"] = third.batch["token_level_scores"].flip(0)
    assert not torch.equal(compute(first).batch["advantages"], compute(third).batch["advantages"])


def test_with_beta_zero_it_is_verls_grpo() -> None:
    data = batch(0, padding=0)
    expected, _ = core_algos.compute_grpo_outcome_advantage(
        data.batch["token_level_scores"], data.batch["response_mask"], data.non_tensor_batch["uid"]
    )
    result = compute(data, "algorithm.spro.beta=0").batch["advantages"]
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)


def test_padding_changes_nothing() -> None:
    data = batch(0)
    real = np.array([not uid.startswith("pad") for uid in data.non_tensor_batch["uid"]])
    alone = data.select_idxs(real)
    with_padding = compute(data).batch["advantages"]
    assert torch.equal(with_padding[torch.from_numpy(real)], compute(alone).batch["advantages"])
    assert (with_padding[torch.from_numpy(~real)] == 0).all()


@pytest.mark.parametrize("field", ["old_log_probs", "ref_log_prob"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_refused_with_the_overrides(field: str, dtype: torch.dtype) -> None:
    data = batch(0)
    data.batch[field] = data.batch[field].to(dtype)
    with pytest.raises(TypeError) as error:
        compute(data)
    assert str(error.value).startswith(f"{field} is {dtype}. ")
    assert FLOAT32_OVERRIDES in str(error.value)


def test_without_a_reference_the_error_says_so() -> None:
    data = batch(0)
    data.batch.pop("ref_log_prob")
    with pytest.raises(KeyError, match=r"'compute_spro_advantage' asks for 'ref_log_prob'"):
        compute(data)


def test_log_probs_of_the_rollout_engine_are_refused_unless_allowed() -> None:
    bypass = "algorithm.rollout_correction.bypass_mode=True"
    with pytest.raises(ValueError, match="allow_rollout_log_probs=true"):
        compute(batch(0), bypass)
    compute(batch(0), bypass, "algorithm.spro.allow_rollout_log_probs=true")
    # As the gate leaves the configuration at a step that it lets through.
    compute(batch(0), bypass, "algorithm.log_prob_gate.enable=true")


def test_a_bad_setting_is_an_error_here_too() -> None:
    with pytest.raises(SettingsError, match=r"algorithm\.spro\.beta=-1"):
        compute(batch(0), "algorithm.spro.beta=-1")


def test_metrics_are_recorded() -> None:
    data = batch(0)
    compute(data, "algorithm.spro.beta=0.5")
    recorded = estimator_metrics.drain()
    log_ratio = (data.batch["old_log_probs"] - data.batch["ref_log_prob"]).double() * data.batch["response_mask"]
    assert recorded["spro/cpr/abs_max"] == pytest.approx(float((0.5 * log_ratio.cumsum(1)).abs().max()), rel=1e-6)
    assert recorded["spro/beta"] == 0.5
    assert recorded["spro/degenerate_group_frac"] == 0
    assert 0 < recorded["spro/process_share"] == recorded["spro/process_share_raw"]
    assert all(name.startswith("spro/") for name in recorded)


@pytest.mark.parametrize(
    ("step", "on_policy", "warned"), [(1, False, True), (1, True, False), (2, False, False), (None, False, False)]
)
def test_step_1_is_on_policy_or_told(
    step: int | None, on_policy: bool, warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with estimator_metrics.at_step(step):
        compute(batch(0, on_policy=on_policy))
    told = capsys.readouterr().err
    assert told.count("warning: spro/cpr/abs_max is 0.0") == warned
    assert ("at step 1, where policy and reference are the same weights" in told) == warned


@pytest.mark.parametrize("estimator", ["spro", "spro_shuffled"])
def test_under_staleness_its_metrics_and_its_warning_are_of_equal_weights(
    estimator: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = batch(0)
    old = data.batch["old_log_probs"]
    rows = len(old)
    # Even rows are fresh; odd ones are the version's before, to their last token.
    stale = torch.arange(rows) % 2 == 1
    data.batch["rollout_log_probs"] = old + torch.where(stale, 0.5, 0.2)[:, None]
    wrote = np.where(stale.numpy(), 3, 4)
    versions = WeightVersions(wrote, wrote, 4)
    monkeypatch.setitem(estimator_inputs._provided, "weight_versions", lambda data: versions)
    compute(data, f"algorithm.adv_estimator={estimator}")
    recorded = estimator_metrics.drain()
    assert recorded["spro/staleness/mismatch_fresh"] == pytest.approx(0.2)
    assert recorded["spro/staleness/mismatch_stale"] == pytest.approx(0.5)
    assert recorded["spro/staleness/max"] == 1
    assert "warning: spro/staleness/mismatch_fresh is 0.2 nats a token" in capsys.readouterr().err


def test_log_probs_of_the_rollout_are_not_asked_to_be_the_references_at_step_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = batch(0, on_policy=True)
    data.batch["old_log_probs"] += 1e-3
    zeros = np.zeros(len(data), dtype=np.int64)
    monkeypatch.setitem(estimator_inputs._provided, "weight_versions", lambda data: WeightVersions(zeros, zeros, 0))
    allowed = "algorithm.rollout_correction.bypass_mode=True", "algorithm.spro.allow_rollout_log_probs=true"
    with estimator_metrics.at_step(1):
        compute(data, *allowed)
    recorded = estimator_metrics.drain()
    assert recorded["spro/cpr/abs_max"] > 0
    assert recorded["spro/staleness/mismatch_first"] == pytest.approx(1e-3, rel=1e-3)
    assert "warning" not in capsys.readouterr().err
