"""The adapter: registers `prime` with verl and feeds `prime_advantage` from verl's batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from verl.trainer.ppo.core_algos import register_adv_est

from recipe.prime_v1.advantage import ordering_accuracy, outcome_correlation, prime_advantage
from recipe.prime_v1.requirements_check import LOW_PRECISION
from recipe.prime_v1.reward_model import LOG_PROBS, NAME
from recipe.prime_v1.settings import PrimeSettings
from verl_ext.estimator_context import extra_fields
from verl_ext.estimator_metrics import record
from verl_ext.jagged_advantage import takes_jagged


@takes_jagged
@extra_fields(lambda algorithm: (LOG_PROBS,))
@register_adv_est("prime")
def compute_prime_advantage(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray,
    rm_log_probs: torch.Tensor,
    token_level_scores: torch.Tensor,
    old_log_probs: torch.Tensor,
    ref_log_prob: torch.Tensor | None = None,
    config: Any = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """PRIME's advantage, from the fields that ``verl_ext.estimator_inputs`` hands over.

    (B, T) may also be a nested tensor of layout torch.jagged, which V1's trainers keep: then all of them are.

    Args:
        token_level_rewards: (B, T), not used: the outcome is the verifier's, without a KL penalty.
        response_mask: (B, T) integer, 1 where the policy chose the token.
        index: (B,) uid of each row's prompt, any order.
        rm_log_probs: (B, T) float32, the reward model's.
        token_level_scores: (B, T), the verifier's score, on one token of each row.
        old_log_probs: (B, T) float32, the actor's; the reference where `algorithm.prime.ref_type` is ``policy``.
        ref_log_prob: (B, T) float32, the reference policy's; the reference otherwise.
        config: verl's `algorithm` config.

    Returns:
        advantages and returns, both (B, T) float32.

    Raises:
        TypeError: log-probs below float32; the message names the overrides that mend it.
        ValueError: no reference; a non-finite value at a valid place.
    """
    del token_level_rewards
    settings = PrimeSettings.from_config(config.get("prime", None) if config is not None else None)
    reference = old_log_probs if settings.ref_type == "policy" else ref_log_prob
    if reference is None:
        raise ValueError(
            "algorithm.prime.ref_type=freeze needs the reference policy's log-probs (ref_log_prob), and the batch has "
            "none. Switch it on: algorithm.use_kl_in_reward=True algorithm.kl_ctrl.kl_coef=0.0"
        )
    for name, log_probs in ((LOG_PROBS, rm_log_probs), (settings.reference_field, reference)):
        if log_probs.dtype in (torch.bfloat16, torch.float16):
            raise TypeError(f"{name} is {log_probs.dtype}. {LOW_PRECISION}")

    outcome_rewards = _row_sums(token_level_scores)
    advantages, returns = prime_advantage(
        rm_log_probs,
        reference,
        response_mask,
        outcome_rewards,
        index,
        beta=settings.beta_train,
        reward_dpo_coef=settings.reward_dpo_coef,
        reward_gt_coef=settings.reward_gt_coef,
        form=settings.form,
        prime_granularity=settings.prime_granularity,
        prime_norm=settings.norm,
    )
    record(_reward_model_metrics(rm_log_probs, reference, response_mask, outcome_rewards, index, settings.beta_train))
    return advantages, returns


def _row_sums(values: torch.Tensor) -> torch.Tensor:
    """(B,) the sum of each row, padded or jagged."""
    if not values.is_nested:
        return values.sum(dim=-1)
    # Not values.sum(-1), which pads.
    return torch.segment_reduce(values.values(), "sum", lengths=values.offsets().diff(), unsafe=True)


def _masked_row_sums(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    if not mask.is_nested:
        return torch.where(mask.bool(), values, 0.0).sum(dim=-1)
    inside = torch.where(mask.values().bool(), values.values(), 0.0)
    return torch.segment_reduce(inside, "sum", lengths=mask.offsets().diff(), unsafe=True)


def _reward_model_metrics(
    rm_log_probs: torch.Tensor,
    ref_log_probs: torch.Tensor,
    response_mask: torch.Tensor,
    outcome_rewards: torch.Tensor,
    group_ids: np.ndarray,
    beta: float,
) -> dict[str, float]:
    """How well the reward of whole responses agrees with their outcomes; rows without a chosen token count nowhere."""
    ones = torch.ones_like(response_mask.values() if response_mask.is_nested else response_mask)
    ones = torch.nested.nested_tensor_from_jagged(ones, response_mask.offsets()) if response_mask.is_nested else ones
    real = _masked_row_sums(ones.float(), response_mask) > 0
    scores = beta * (
        _masked_row_sums(rm_log_probs, response_mask) - _masked_row_sums(ref_log_probs, response_mask)
    )
    scores, outcomes, groups = scores[real], outcome_rewards[real], group_ids[real.numpy()]
    if not len(scores):
        return {}
    found = {
        "reward": float(scores.mean()),
        "accuracy": float((scores.sign() == (2 * outcomes - 1).sign()).float().mean()),
        "ordering_accuracy": ordering_accuracy(scores, outcomes, groups),
        "outcome_correlation": outcome_correlation(scores, outcomes),
    }
    return {f"{NAME}/{name}": value for name, value in found.items() if value is not None}
