"""How far the rollout engine's log-probs are from the actor's, and what that puts into sums along a response."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch


@dataclass(frozen=True)
class Mismatch:
    """Of the tokens that the policy chose; NaN where there is none, or where a log-prob is not finite.

    Attributes:
        prob_diff_mean: mean of |p_rollout - p_actor|: verl's ``training/rollout_probs_diff_mean``.
        log_prob_diff_mean, log_prob_diff_max: of |log p_rollout - log p_actor|, nats.
        cumulative_rms, cumulative_max: of the running sum of log p_rollout - log p_actor over each response, nats:
            what a cumulative log-ratio (SPRO's CPR over beta) holds of it.
    """

    prob_diff_mean: float
    log_prob_diff_mean: float
    log_prob_diff_max: float
    cumulative_rms: float
    cumulative_max: float

    def within(self, max_prob_diff: float | None, max_cumulative: float | None) -> bool:
        """Whether `prob_diff_mean` and `cumulative_rms` are at most these; None: any. What is NaN is beyond."""
        limits = ((self.prob_diff_mean, max_prob_diff), (self.cumulative_rms, max_cumulative))
        return all(limit is None or value <= limit for value, limit in limits)

    def as_metrics(self, prefix: str) -> dict[str, float]:
        """The attributes by name, each behind the prefix."""
        return {prefix + name: value for name, value in asdict(self).items()}


def measure(
    rollout_log_probs: torch.Tensor, actor_log_probs: torch.Tensor, response_mask: torch.Tensor
) -> tuple[Mismatch, torch.Tensor]:
    """Compare the two engines' log-probs of the same tokens.

    Args:
        rollout_log_probs, actor_log_probs: (B, t_i) nested of layout torch.jagged, natural logarithms.
        response_mask: (B, t_i) jagged, 1 where the policy chose the token; what stands at the others has no effect.

    Returns:
        the numbers, and the running sum of rollout minus actor at the valid tokens, (valid tokens,) float64.
    """
    valid = response_mask.values().bool()
    rollout, actor = (x.values().double() for x in (rollout_log_probs, actor_log_probs))
    drift = running_sums(rollout_log_probs, actor_log_probs, response_mask)
    difference = (rollout - actor)[valid].abs()
    if not len(difference):
        return Mismatch(*[torch.nan] * 5), drift
    return (
        Mismatch(
            prob_diff_mean=(rollout.exp() - actor.exp())[valid].abs().mean().item(),
            log_prob_diff_mean=difference.mean().item(),
            log_prob_diff_max=difference.max().item(),
            cumulative_rms=_rms(drift),
            cumulative_max=drift.abs().max().item(),
        ),
        drift,
    )


def running_sums(log_probs: torch.Tensor, other: torch.Tensor, response_mask: torch.Tensor) -> torch.Tensor:
    """Sum of the difference over the response up to each valid token, current one included.

    Args:
        log_probs, other, response_mask: (B, t_i) jagged.

    Returns:
        (valid tokens,) float64, row after row.
    """
    valid, offsets = response_mask.values().bool(), response_mask.offsets()
    difference = torch.where(valid, log_probs.values().double() - other.values().double(), 0.0)
    sums = torch.cat([difference.new_zeros(1), difference.cumsum(0)])
    before = sums[offsets[:-1]].repeat_interleave(offsets.diff())
    return (sums[1:] - before)[valid]


def share(drift: torch.Tensor, log_ratio_sums: torch.Tensor) -> float:
    """rms(drift) over rms(log_ratio_sums), both `running_sums` of the same tokens; NaN where the second is 0."""
    of = _rms(log_ratio_sums)
    return _rms(drift) / of if of > 0 else torch.nan


def _rms(x: torch.Tensor) -> float:
    return x.square().mean().sqrt().item()
