"""Every error names what is wrong, where, and what would be right."""

import re
from typing import Any

import numpy as np
import pytest
import torch

from recipe.prime_v1.advantage import prime_advantage, prime_advantage_naive
from tests.recipe.spro.advantage.batches import jagged

both = pytest.mark.parametrize("advantage", [prime_advantage, prime_advantage_naive])

B, T = 3, 4
NAN, INF = float("nan"), float("inf")


def batch(**changes: Any) -> dict[str, Any]:
    """Rows of 4, 3 and 0 valid tokens."""
    return dict(
        rm_log_probs=torch.zeros(B, T),
        ref_log_probs=torch.zeros(B, T),
        response_mask=torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0]]),
        outcome_rewards=torch.tensor([1.0, 0, 0]),
        group_ids=torch.tensor([0, 0, 1]),
    ) | dict(changes)


def zeros_but(row: int, position: int, value: float) -> torch.Tensor:
    x = torch.zeros(B, T)
    x[row, position] = value
    return x


OPTIONS = [
    (dict(beta=-0.1), "beta=-0.1 is not allowed: it must be a finite number >= 0"),
    (dict(beta=NAN), "beta=nan is not allowed: it must be a finite number >= 0"),
    (dict(beta="0.05"), "beta='0.05' is not allowed: it must be a finite number >= 0"),
    (dict(reward_dpo_coef=-1), "reward_dpo_coef=-1 is not allowed: it must be a finite number >= 0"),
    (dict(reward_gt_coef=True), "reward_gt_coef=True is not allowed: it must be a finite number >= 0"),
    (
        dict(reward_dpo_coef=0, reward_gt_coef=0.0),
        "reward_dpo_coef=0 and reward_gt_coef=0 leave no reward: set one of them above 0",
    ),
    (dict(form="verl"), "form='verl' is not one of 'upstream', 'paper'"),
    (dict(prime_granularity="line"), "prime_granularity='line' is not one of 'token', 'whole'"),
    (dict(prime_norm=None), "prime_norm=None is not one of 'batch_norm', 'none'"),
    (
        dict(form="paper"),
        "form='paper' has no prime_norm='batch_norm', which is upstream's alone: set prime_norm='none', "
        "or form='upstream'",
    ),
    (
        dict(form="paper", prime_norm="none", prime_granularity="whole"),
        "form='paper' has no prime_granularity='whole', which is upstream's alone: set prime_granularity='token', "
        "or form='upstream'",
    ),
]

VALUES = [
    (dict(rm_log_probs=torch.zeros(T)), "rm_log_probs must be 2-D (B, T), got shape (4,)"),
    (dict(ref_log_probs=torch.zeros(B, 5)), "ref_log_probs has shape (3, 5), rm_log_probs has (3, 4)"),
    (dict(response_mask=torch.ones(B, 1)), "response_mask has shape (3, 1), rm_log_probs has (3, 4)"),
    (dict(outcome_rewards=torch.zeros(B, 1)), "outcome_rewards must have shape (3,), got (3, 1)"),
    # Row 2 is all masked, but an outcome that is not finite is a fault of the verifier anywhere.
    (dict(outcome_rewards=torch.tensor([0, 0, NAN])), "outcome_rewards must be finite; row 2 is nan"),
    (dict(group_ids=torch.zeros(B + 1).long()), "group_ids must have shape (3,), got (4,)"),
    (dict(group_ids=torch.zeros(B)), "group_ids must be integers, got torch.float32"),
    (dict(response_mask=torch.full((B, T), 2)), "response_mask must be 0 or 1; row 0, position 0 is 2"),
    (dict(response_mask=torch.full((B, T), -1)), "response_mask must be 0 or 1; row 0, position 0 is -1"),
    (dict(response_mask=zeros_but(1, 2, 0.5)), "response_mask must be 0 or 1; row 1, position 2 is 0.5"),
    (
        dict(rm_log_probs=zeros_but(1, 2, NAN)),
        "rm_log_probs must be finite where response_mask is 1; row 1, position 2 is nan",
    ),
    (
        # The last valid token, whose reward upstream drops.
        dict(ref_log_probs=zeros_but(0, 3, -INF)),
        "ref_log_probs must be finite where response_mask is 1; row 0, position 3 is -inf",
    ),
    (
        dict(rm_log_probs=zeros_but(1, 1, -INF), ref_log_probs=zeros_but(1, 1, -INF)),
        "rm_log_probs must be finite where response_mask is 1; row 1, position 1 is -inf",
    ),
    (
        dict(ref_log_probs=jagged(torch.zeros(B, T), torch.tensor([4, 2, 1]))),
        "ref_log_probs has layout torch.jagged, rm_log_probs has torch.strided: give both in one layout",
    ),
]

TYPES = [
    (dict(rm_log_probs=torch.zeros(B, T).bfloat16()), "rm_log_probs is torch.bfloat16, float32 is needed"),
    (dict(ref_log_probs=torch.zeros(B, T).half()), "ref_log_probs is torch.float16, float32 is needed"),
    (dict(rm_log_probs=np.zeros((B, T))), "rm_log_probs must be a torch.Tensor, got ndarray"),
    (dict(outcome_rewards=[0.0] * B), "outcome_rewards must be a torch.Tensor, got list"),
    (dict(group_ids=["a"] * B), "group_ids must be a torch.Tensor or a numpy.ndarray, got list"),
]


@both
@pytest.mark.parametrize(("changes", "message"), [*OPTIONS, *VALUES])
def test_values(advantage: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        advantage(**batch(**changes))


@both
@pytest.mark.parametrize(("changes", "message"), TYPES)
def test_types(advantage: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(message)}"):
        advantage(**batch(**changes))


@both
def test_jagged_lengths_that_differ(advantage: Any) -> None:
    x, lengths = torch.zeros(B, T), torch.tensor([4, 2, 1])
    ragged = {name: jagged(x, lengths) for name in ("rm_log_probs", "ref_log_probs")}
    with pytest.raises(ValueError, match=r"^response_mask has 1 tokens in row 1, rm_log_probs has 2$"):
        advantage(**batch(**ragged, response_mask=jagged(x, torch.tensor([4, 1, 1]))))


def test_sums_that_float32_cannot_hold() -> None:
    huge = torch.full((B, T), -3e38)
    with pytest.raises(ValueError, match=r"add up to more than float32 holds: these are no log-probs"):
        prime_advantage(**batch(rm_log_probs=huge))
