"""The SPRO advantage in vectorised torch, on any device.

Legend: B rows (responses), T token positions, G groups, N valid tokens of the batch (row by row),
K steps of the batch: one per row and step, so N of them where a step is a token.
"""

from dataclasses import dataclass

import numpy as np
import torch

from recipe.spro.advantage.interface import Inputs, SproParts, check_inputs, check_options


@torch.no_grad()
def spro_advantage(
    log_probs: torch.Tensor,
    ref_log_probs: torch.Tensor,
    response_mask: torch.Tensor,
    outcome_rewards: torch.Tensor,
    group_ids: torch.Tensor | np.ndarray,
    *,
    beta: float,
    step_ids: torch.Tensor | None = None,
    baseline: str = "group",
    process: str = "prefix",
    process_sign: int = 1,
    norm_by_std: bool = True,
    gate_degenerate_groups: bool = False,
    max_process_share: float | None = None,
    return_parts: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, SproParts]:
    """Outcome advantage plus masked step advantage, A = O + process_sign * M: SPRO (arXiv 2507.01551), Eqs. 11-13.

    A group is the responses to one prompt. (B, T) may also be a nested tensor of layout torch.jagged, (B, t_i); then
    all of log_probs, ref_log_probs, response_mask and step_ids are, with equal lengths, and so is the result.
    Whatever stands at masked places, NaN included, has no effect.

    Args:
        log_probs: (B, T) float32 (float64 also), in nats: of the policy that sampled, as the trainer recomputed them.
        ref_log_probs: (B, T), like log_probs: of the reference policy.
        response_mask: (B, T) bool or 0/1: 1 where the policy chose the token. Zeros may stand anywhere.
        outcome_rewards: (B,) the outcome of each response; counts in its group even if the row is all masked.
        group_ids: (B,) integer tensor, or numpy array of uids. Rows in any order, groups of any size.
        beta: weight of the log-ratio, finite and >= 0.
        step_ids: (B, T) integers, the step of each token, not decreasing over a row's valid tokens, ignored at masked
            ones. Rows of a group share a step where the value is equal. None: a step is a token (the paper).
        baseline: of M, over the group's rows that have the step: "group", oneself included (the paper), "loo", without
            oneself (alone: M = 0), or "none".
        process: a step's value: "prefix", CPR at its last valid token (the paper); "token", beta times the sum of the
            log-ratios of its valid tokens; "suffix", the same from its first valid token to the end of the row.
        process_sign: 1 (the paper) or -1.
        norm_by_std: divide the outcome by its group's sample std + 1e-6 (the paper), or only subtract the mean.
        gate_degenerate_groups: set M to 0 in groups whose outcomes are all equal (groups of one included).
        max_process_share: bound on rms(M) / rms(O) over the valid tokens of the batch, after the gate; only ever
            scales M down, and to 0 if rms(O) is 0. None: no bound (the paper).
        return_parts: also return what the advantage is made of.

    Returns:
        advantages: (B, T) float32, layout and device of log_probs, 0 at masked places. With return_parts
        (advantages, SproParts).

    Raises:
        ValueError: an option that is not allowed; shapes that differ; a mask that is not 0/1; a non-finite log-prob at
            a valid place or outcome anywhere; step ids that decrease. Names the argument and, if any, the row.
        TypeError: log-probs in bfloat16 or float16, or no tensor.
    """
    check_options(
        beta=beta,
        baseline=baseline,
        process=process,
        process_sign=process_sign,
        norm_by_std=norm_by_std,
        gate_degenerate_groups=gate_degenerate_groups,
        max_process_share=max_process_share,
        return_parts=return_parts,
    )
    inputs = check_inputs(log_probs, ref_log_probs, response_mask, outcome_rewards, group_ids, step_ids)
    mask_BT = inputs.mask
    row_N = mask_BT.nonzero()[:, 0]
    outcome_B, degenerate_B = _outcome(inputs, norm_by_std)

    # float64 from the first subtraction on: CPR is a sum over the whole response.
    reward_BT = float(beta) * (inputs.log_probs.double() - inputs.ref_log_probs.double()).masked_fill(~mask_BT, 0)
    cpr_BT = reward_BT.cumsum(1).masked_fill(~mask_BT, 0)

    steps = _token_steps(inputs) if inputs.step_ids is None else _wide_steps(inputs)
    value_K = _step_values(steps, reward_BT, cpr_BT, mask_BT, process)
    msa_K, alive_K = _subtract_baseline(value_K, steps.slot, baseline)
    msa_N, alive_N = msa_K[steps.of_token], alive_K[steps.of_token]
    if gate_degenerate_groups:
        msa_N = msa_N.masked_fill(degenerate_B[row_N], 0)

    outcome_N = outcome_B[row_N]
    scale = _share_scale(outcome_N, msa_N, max_process_share)
    msa_N = scale * msa_N

    def dense(x_N: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        x_BT = x_N.new_zeros(mask_BT.shape, dtype=dtype)
        x_BT[mask_BT] = x_N.to(dtype)
        return inputs.in_layout(x_BT)

    advantages = dense(outcome_N + process_sign * msa_N)
    if not return_parts:
        return advantages
    return advantages, SproParts(
        cpr=inputs.in_layout(cpr_BT.float()),
        msa=dense(msa_N),
        outcome=outcome_B.float(),
        alive=dense(alive_N, torch.int64),
        scale=scale.float(),
    )


@dataclass(frozen=True)
class _Steps:
    """The batch's steps, in the order of their tokens."""

    of_token: torch.Tensor  # (N,) the step of each valid token
    first: torch.Tensor  # (K,) its first valid token, in [0, N)
    last: torch.Tensor  # (K,) its last one
    slot: torch.Tensor  # (K,) equal for the steps that share a baseline: same group, same step id


def _token_steps(inputs: Inputs) -> _Steps:
    """Every valid token is a step, K = N."""
    row_N, column_N = inputs.mask.nonzero(as_tuple=True)
    each_N = torch.arange(len(row_N), device=row_N.device)
    return _Steps(each_N, each_N, each_N, inputs.groups[row_N] * inputs.mask.shape[1] + column_N)


def _wide_steps(inputs: Inputs) -> _Steps:
    """A step is the tokens of a row with one step id; they follow each other, because ids do not decrease."""
    assert inputs.step_ids is not None
    row_N = inputs.mask.nonzero()[:, 0]
    ids, id_N = inputs.step_ids[inputs.mask].unique(return_inverse=True)
    _, step_N, width_K = (row_N * len(ids) + id_N).unique_consecutive(return_inverse=True, return_counts=True)
    last_K = width_K.cumsum(0) - 1
    _, slot_K = (inputs.groups[row_N[last_K]] * len(ids) + id_N[last_K]).unique(return_inverse=True)
    return _Steps(step_N, last_K - width_K + 1, last_K, slot_K)


def _step_values(
    steps: _Steps, reward_BT: torch.Tensor, cpr_BT: torch.Tensor, mask_BT: torch.Tensor, process: str
) -> torch.Tensor:
    """(K,) each step's value, before a baseline."""
    reward_N = reward_BT[mask_BT]
    if process == "prefix":
        return cpr_BT[mask_BT][steps.last]
    if process == "token":
        return reward_N.new_zeros(len(steps.slot)).index_add_(0, steps.of_token, reward_N)
    suffix_BT = reward_BT.flip(1).cumsum(1).flip(1)
    return suffix_BT[mask_BT][steps.first]


def _subtract_baseline(value_K: torch.Tensor, slot_K: torch.Tensor, baseline: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(K,) each step's value less its baseline, and (K,) int64 how many rows share that baseline (Eq. 12)."""
    slots = int(slot_K.max()) + 1 if len(slot_K) else 0
    alive_K = slot_K.bincount(minlength=slots)[slot_K]
    if baseline == "none":
        return value_K, alive_K
    total_K = value_K.new_zeros(slots).index_add_(0, slot_K, value_K)[slot_K]
    if baseline == "group":
        return value_K - total_K / alive_K, alive_K
    others_K = alive_K - 1
    loo_K = value_K - (total_K - value_K) / others_K.clamp(min=1)
    return loo_K.masked_fill(others_K == 0, 0), alive_K


def _outcome(inputs: Inputs, norm_by_std: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(B,) the outcome as verl's GRPO has it, and (B,) bool whether all outcomes of the row's group are equal."""
    rewards_B, groups_B = inputs.rewards, inputs.groups
    zeros_G = rewards_B.new_zeros(int(groups_B.max()) + 1 if len(groups_B) else 0)

    def group_sum(x_B: torch.Tensor) -> torch.Tensor:
        return zeros_G.index_add(0, groups_B, x_B)[groups_B]

    lowest_B = zeros_G.scatter_reduce(0, groups_B, rewards_B, "amin", include_self=False)[groups_B]
    size_B = group_sum(torch.ones_like(rewards_B))
    # Measured from the lowest, equal outcomes deviate by exactly 0: 1e-6 in the denominator would blow up a rounding.
    above_B = rewards_B - lowest_B
    degenerate_B = group_sum(above_B) == 0
    # A group of one has mean 0 and std 1.
    centred_B = torch.where(size_B > 1, above_B - group_sum(above_B) / size_B, rewards_B)
    if not norm_by_std:
        return centred_B, degenerate_B
    std_B = (group_sum(centred_B.square()) / (size_B - 1).clamp(min=1)).sqrt()
    return centred_B / (torch.where(size_B > 1, std_B, 1.0) + 1e-6), degenerate_B


def _share_scale(outcome_N: torch.Tensor, msa_N: torch.Tensor, max_share: float | None) -> torch.Tensor:
    """() the factor that keeps rms(M) within max_share * rms(O)."""
    one = outcome_N.new_ones(())
    if max_share is None:
        return one
    # Both means are over the same N tokens, so norms do; no term to bound (0 / 0) leaves it as it is.
    size_O, size_M = outcome_N.norm(), msa_N.norm()
    bound = torch.where(size_M > 0, float(max_share) * size_O / size_M, one).clamp(max=1)
    return torch.where(size_O > 0, bound, torch.zeros_like(one))
