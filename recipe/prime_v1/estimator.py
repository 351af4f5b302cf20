"""The adapter: registers `prime` with verl and feeds `prime_advantage` from verl's batch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from verl.trainer.ppo.core_algos import register_adv_est

from recipe.prime_v1.advantage import (
    Options,
    PrimeStats,
    ordering_accuracy,
    outcome_correlation,
    prime_advantage_with_stats,
)
from recipe.prime_v1.requirements_check import LOW_PRECISION
from recipe.prime_v1.reward_model import LOG_PROBS, NAME
from recipe.prime_v1.settings import PrimeSettings
from recipe.spro.advantage.rows import row_sums
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

    outcome_rewards = row_sums(token_level_scores)
    options = Options(
        beta=settings.beta_train,
        reward_dpo_coef=settings.reward_dpo_coef,
        reward_gt_coef=settings.reward_gt_coef,
        form=settings.form,
        prime_granularity=settings.prime_granularity,
        prime_norm=settings.norm,
    )
    rows = (rm_log_probs, reference, response_mask, outcome_rewards, index)
    advantages, returns, stats = prime_advantage_with_stats(*rows, options)
    record(_reward_model_metrics(*rows, settings.beta_train))
    if settings.reward_dpo_coef and settings.reward_gt_coef:
        record({"prime/process_share": _process_share(stats)})
    return advantages, returns


def _process_share(stats: PrimeStats) -> float:
    """rms of the process part of the returns over that of the outcome part; 0 where there is no outcome part."""
    # Both are over the same tokens, so that their count cancels. A sum of terms that cancel may be a rounding below 0.
    process, outcome = max(stats.process_square_sum, 0.0), stats.outcome_square_sum
    return math.sqrt(process / outcome) if outcome > 0 else 0.0


def _reward_model_metrics(
    rm_log_probs: torch.Tensor,
    ref_log_probs: torch.Tensor,
    response_mask: torch.Tensor,
    outcome_rewards: torch.Tensor,
    group_ids: np.ndarray,
    beta: float,
) -> dict[str, float]:
    """How well the reward of whole responses agrees with their outcomes; rows without a chosen token count nowhere."""
    rm, ref, mask = (x.values() if x.is_nested else x for x in (rm_log_probs, ref_log_probs, response_mask))
    chosen = mask.bool()
    real = row_sums(chosen.float(), like=response_mask) > 0
    scores = beta * row_sums(torch.where(chosen, rm - ref, 0.0), like=response_mask)
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
