"""The registered estimator through verl's own `compute_advantage`, against the oracle, and what it logs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from verl import DataProto
from verl.trainer.ppo.v1 import utils as v1

import recipe.prime_v1.plugin  # noqa: F401 (its import registers the estimator)
from recipe.prime_v1.advantage import ordering_accuracy, outcome_correlation, prime_advantage_naive
from tests.support import composed, overrides_after
from verl_ext import estimator_metrics

GROUPS, N, T = 3, 4, 9
PADDING = 2
TENSORS = ("response_mask", "rm_log_probs", "ref_log_prob", "old_log_probs", "token_level_scores")


@pytest.fixture(autouse=True)
def _nothing_recorded() -> Iterator[None]:
    estimator_metrics.drain()
    yield
    estimator_metrics.drain()


def batch(seed: int) -> DataProto:
    """Ragged responses in shuffled rows, two of them padding, as verl's trainer hands them over."""
    rng = torch.Generator().manual_seed(seed)
    rows = GROUPS * N + PADDING
    lengths = torch.randint(1, T + 1, (rows,), generator=rng)
    lengths[0] = T
    lengths[-PADDING:] = 0
    mask = (torch.arange(T) < lengths[:, None]).long()
    # A tool's output in the middle is not the policy's.
    mask[0, 2:4] = 0
    scores = torch.zeros(rows, T)
    outcomes = torch.randint(2, (rows,), generator=rng) * (lengths > 0)
    scores[torch.arange(rows), (lengths - 1).clamp(min=0)] = outcomes.float()
    uids = [f"uid-{row % GROUPS}" for row in range(GROUPS * N)] + ["pad"] * PADDING
    order = torch.randperm(rows, generator=rng)
    tensors = {name: -3 * torch.rand(rows, T, generator=rng) for name in TENSORS[1:4]}
    tensors |= {"response_mask": mask, "token_level_scores": scores}
    tensors = {name: x[order] for name, x in tensors.items()}
    # Must not be used: scores with something that verl adds to them.
    tensors["token_level_rewards"] = torch.randn(rows, T, generator=rng)
    return DataProto.from_dict(tensors=tensors, non_tensors={"uid": np.array(uids, dtype=object)[order.numpy()]})


def compute(data: DataProto, *overrides: str) -> DataProto:
    config = composed("+stack=cpu", "+method=prime", *overrides).algorithm
    return v1.compute_advantage(data, adv_estimator=config.adv_estimator, num_repeat=N, config=config)


def oracle(data: DataProto, reference: str = "ref_log_prob", **options: Any) -> torch.Tensor:
    fields = data.batch
    return prime_advantage_naive(
        fields["rm_log_probs"],
        fields[reference],
        fields["response_mask"],
        fields["token_level_scores"].sum(-1),
        data.non_tensor_batch["uid"],
        **options,
    )[0]


SETTINGS: list[tuple[list[str], dict[str, Any]]] = [
    ([], {}),
    (["algorithm.prime.form=paper"], {"form": "paper", "prime_norm": "none"}),
    (["algorithm.prime.prime_norm=none", "algorithm.prime.beta_train=0.7"], {"prime_norm": "none", "beta": 0.7}),
    (["algorithm.prime.prime_granularity=whole"], {"prime_granularity": "whole"}),
    (["algorithm.prime.reward_dpo_coef=2"], {"reward_dpo_coef": 2}),
    (["algorithm.prime.reward_gt_coef=0"], {"reward_gt_coef": 0}),
    (["algorithm.prime.ref_type=policy"], {"reference": "old_log_probs"}),
    (["~algorithm.prime"], {}),
]


@pytest.mark.parametrize(("overrides", "options"), SETTINGS)
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_the_oracle(seed: int, overrides: list[str], options: dict[str, Any]) -> None:
    data = batch(seed)
    expected = oracle(data, **options)
    result = compute(data, *overrides).batch["advantages"]
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)


def test_jagged_fields_give_the_same() -> None:
    padded, data = batch(0), batch(0)
    # As V1 keeps them: each row as long as its response.
    lengths = [max(int(row.nonzero().max()) + 1 if row.any() else 1, 1) for row in data.batch["response_mask"]]
    for name in [*TENSORS, "token_level_rewards"]:
        rows = [row[:length] for row, length in zip(data.batch[name], lengths, strict=True)]
        flat = torch.cat(rows)
        offsets = torch.tensor([0, *lengths]).cumsum(0)
        data.batch[name] = torch.nested.nested_tensor_from_jagged(
            flat, offsets if name == "response_mask" else data.batch["response_mask"].offsets()
        )
    expected = compute(padded)
    first = estimator_metrics.drain()
    result = compute(data).batch["advantages"]
    torch.testing.assert_close(
        result.values(),
        torch.cat([row[:length] for row, length in zip(expected.batch["advantages"], lengths, strict=True)]),
    )
    assert estimator_metrics.drain() == pytest.approx(first, rel=1e-5)


def test_metrics_by_another_way() -> None:
    data = batch(0)
    compute(data)
    found = estimator_metrics.drain()
    fields, uids = data.batch, data.non_tensor_batch["uid"]
    rewards = 0.05 * ((fields["rm_log_probs"] - fields["ref_log_prob"]) * fields["response_mask"]).sum(-1)
    outcomes = fields["token_level_scores"].sum(-1)
    real = torch.from_numpy(uids != "pad")
    rewards, outcomes, uids = rewards[real], outcomes[real], uids[real.numpy()]
    agreeing = sum(float(reward > 0) == float(outcome) for reward, outcome in zip(rewards, outcomes, strict=True))
    assert found["reward_model/reward"] == pytest.approx(float(rewards.mean()), rel=1e-5)
    assert found["reward_model/accuracy"] == pytest.approx(agreeing / len(rewards))
    assert found["reward_model/ordering_accuracy"] == ordering_accuracy(rewards, outcomes, uids)
    assert found["reward_model/outcome_correlation"] == pytest.approx(outcome_correlation(rewards, outcomes), rel=1e-5)

    def returns(**coefficients: float) -> torch.Tensor:
        options = {"reward_dpo_coef": 0.0, "reward_gt_coef": 0.0, **coefficients}
        return prime_advantage_naive(
            fields["rm_log_probs"],
            fields["ref_log_prob"],
            fields["response_mask"],
            fields["token_level_scores"].sum(-1),
            data.non_tensor_batch["uid"],
            **options,
        )[1]

    share = returns(reward_dpo_coef=5.0).norm() / returns(reward_gt_coef=5.0).norm()
    assert found["prime/process_share"] == pytest.approx(float(share), rel=1e-4)


def test_equal_outcomes_have_neither_order_nor_correlation() -> None:
    data = batch(0)
    data.batch["token_level_scores"] = torch.zeros_like(data.batch["token_level_scores"])
    compute(data)
    found = estimator_metrics.drain()
    assert {"reward_model/ordering_accuracy", "reward_model/outcome_correlation"}.isdisjoint(found)
    assert found["prime/process_share"] == 0
    assert math.isfinite(found["reward_model/reward"])


def test_a_batch_of_padding_only() -> None:
    data = batch(0)
    data.batch["response_mask"] = torch.zeros_like(data.batch["response_mask"])
    assert not compute(data).batch["advantages"].any()
    assert not any(name.startswith("reward_model/") for name in estimator_metrics.drain())


@pytest.mark.parametrize("name", ["rm_log_probs", "ref_log_prob"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_refused_with_the_remedy(name: str, dtype: torch.dtype) -> None:
    data = batch(0)
    data.batch[name] = data.batch[name].to(dtype)
    with pytest.raises(TypeError, match=f"{name} is {dtype}") as error:
        compute(data)
    composed("+method=prime", *overrides_after("or compute in float32: ", str(error.value)))


def test_no_reference() -> None:
    data = batch(0)
    del data.batch["ref_log_prob"]
    with pytest.raises(ValueError, match="ref_type=freeze needs the reference policy's log-probs"):
        compute(data)
    compute(data, "algorithm.prime.ref_type=policy")
