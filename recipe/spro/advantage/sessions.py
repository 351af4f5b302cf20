"""Several outputs of one session, such as an agent that starts a fresh context: each session counts once.

verl's V1 trainer lets an agent loop return several outputs for one response to a prompt, each a row with tokens of
its own, and gives its GRPO this rule: the session's last output speaks for it. So here:

- outcome: mean and std of a group are those of the sessions' final rows, and every row of a session gets the
  outcome advantage of its final row;
- process term: each row is a trajectory of its own. Its CPR starts at 0 with the row's first token, and the baseline
  at a step is over all rows of the group that have it, whichever session and output they are.

Legend: B rows, T token positions, S sessions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recipe.spro.advantage import SproParts, spro_advantage


def final_row_of(session_ids: np.ndarray, final_outputs: np.ndarray) -> torch.Tensor:
    """The row that speaks for each row's session.

    Args:
        session_ids: (B,) which session a row belongs to, any order.
        final_outputs: (B,) bool: the row is its session's last output.

    Returns:
        (B,) int64.

    Raises:
        ValueError: a session without a final row, or with several; names the session.
    """
    names, session_B = np.unique(session_ids.astype(str), return_inverse=True)
    finals_S = np.bincount(session_B, weights=final_outputs, minlength=len(names))
    if len(wrong := np.flatnonzero(finals_S != 1)):
        name, finals = str(names[wrong[0]]), int(finals_S[wrong[0]])
        raise ValueError(f"session {name!r} has {finals} final outputs, it must have one")
    row_S = np.empty(len(names), dtype=np.int64)
    row_S[session_B[final_outputs]] = np.flatnonzero(final_outputs)
    return torch.from_numpy(row_S[session_B])


@torch.no_grad()
def spro_advantage_of_sessions(
    log_probs: torch.Tensor,
    ref_log_probs: torch.Tensor,
    response_mask: torch.Tensor,
    outcome_rewards: torch.Tensor,
    group_ids: np.ndarray,
    *,
    final_rows: torch.Tensor,
    step_ids: torch.Tensor | None = None,
    process_sign: int = 1,
    max_process_share: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, SproParts]:
    """`spro_advantage` with each session counted once in the outcome.

    Args:
        log_probs, ref_log_probs, response_mask, step_ids: (B, T), padded.
        outcome_rewards: (B,); those of rows that are not final have no effect.
        group_ids: (B,) uid of each row's prompt; the rows of a session have one.
        final_rows: (B,) int64 of `final_row_of`.
        process_sign, max_process_share, options: of `spro_advantage`.

    Returns:
        advantages (B, T) float32 and SproParts, as `spro_advantage` with return_parts.

    Raises:
        ValueError, TypeError: as `spro_advantage`.
    """
    # Given the sessions' outcomes, a group's are all equal (the gate) over its rows as over its final rows.
    rewards = outcome_rewards[final_rows]
    _, parts = _with_parts(
        log_probs,
        ref_log_probs,
        response_mask,
        rewards,
        group_ids,
        step_ids=step_ids,
        process_sign=process_sign,
        **options,
    )
    # The outcome needs no tokens.
    is_final = final_rows == torch.arange(len(final_rows), device=final_rows.device)
    none = log_probs[is_final, :0], ref_log_probs[is_final, :0], response_mask[is_final, :0]
    _, of_finals = _with_parts(*none, rewards[is_final], group_ids[is_final.cpu().numpy()], **options)
    outcome = of_finals.outcome[is_final.long().cumsum(0)[final_rows] - 1]

    valid = response_mask.bool()
    scale = _share_scale(outcome[:, None].expand(valid.shape)[valid], parts.msa[valid], max_process_share)
    msa = (scale * parts.msa.double()).float()
    advantages = (outcome[:, None] + process_sign * msa).masked_fill(~valid, 0)
    return advantages, SproParts(parts.cpr, msa, outcome, parts.alive, scale.float())


def _with_parts(*arguments: Any, **options: Any) -> tuple[torch.Tensor, SproParts]:
    result = spro_advantage(*arguments, **options, return_parts=True)
    assert isinstance(result, tuple)
    return result


def _share_scale(outcome: torch.Tensor, msa: torch.Tensor, max_share: float | None) -> torch.Tensor:
    """() the factor that keeps rms(M) within max_share * rms(O) over the valid tokens, as in `spro_advantage`."""
    size_outcome, size_msa = outcome.double().norm(), msa.double().norm()
    if max_share is None or (size_msa == 0 and size_outcome > 0):
        return size_msa.new_ones(())
    if size_outcome == 0:
        return size_msa.new_zeros(())
    return (max_share * size_outcome / size_msa).clamp(max=1)
