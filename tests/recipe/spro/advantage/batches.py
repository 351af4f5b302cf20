"""Random batches with all that goes wrong in real ones: ragged, shuffled, tied, lone, empty and poisoned."""

from typing import Any

import numpy as np
import torch


def random_batch(seed: int, T: int, *, holes: bool = True, steps: str = "none") -> dict[str, Any]:
    """Arguments of an SPRO advantage: B = 11 rows of T positions in shuffled groups of 4, 3, 2, 1 and 1.

    The group of 4 holds a row without a valid token and copies of one row (ties); the group of 3 has equal outcomes.
    Masked places are NaN or infinite. `steps`: none, wide (0, 0, 1, ...), or gappy (ids jump and start below 0).
    """
    rng = torch.Generator().manual_seed(seed)
    group = torch.tensor([5, 5, 5, 5, -2, -2, -2, 7, 7, 1, 0])
    B = len(group)
    lengths = torch.randint(0, T + 1, (B,), generator=rng)
    # One full row and one empty row.
    lengths[0], lengths[3] = T, 0
    mask = torch.arange(T) < lengths[:, None]
    if holes:
        mask &= torch.rand(B, T, generator=rng) < 0.8
    log_probs = -3 * torch.rand(B, T, generator=rng)
    ref_log_probs = log_probs + 0.3 * torch.randn(B, T, generator=rng)
    for x in (log_probs, ref_log_probs, mask):
        x[2] = x[1]
    rewards = torch.randn(B, generator=rng)
    rewards[4:7] = 0.1
    poison = torch.tensor([float("nan"), float("inf"), -float("inf")])
    log_probs[~mask] = poison[torch.randint(0, 3, (int((~mask).sum()),), generator=rng)]
    ref_log_probs[~mask] = float("nan")
    order = torch.randperm(B, generator=rng)
    batch = dict(
        log_probs=log_probs[order],
        ref_log_probs=ref_log_probs[order],
        response_mask=mask[order].long(),
        outcome_rewards=rewards[order],
        group_ids=group[order],
    )
    if steps != "none":
        jump = torch.rand(B, T, generator=rng) < 0.3
        size = torch.randint(1, 4, (B, T), generator=rng) if steps == "gappy" else 1
        step_ids = (jump * size).cumsum(1) - (2 if steps == "gappy" else 0)
        # What a masked place says is nobody's step.
        batch["step_ids"] = step_ids.masked_fill(~mask[order], -1_000_000_007)
    return batch


def as_uids(group_ids: torch.Tensor) -> np.ndarray:
    """The same groups as verl names them: a numpy array of objects."""
    return np.array([f"uid-{g}" for g in group_ids.tolist()], dtype=object)


def in_order(batch: dict[str, Any]) -> list[Any]:
    """A batch's six tensors, as the functions that check them take them."""
    names = ("log_probs", "ref_log_probs", "response_mask", "outcome_rewards", "group_ids", "step_ids")
    return [batch.get(name) for name in names]


def jagged(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The first lengths[i] places of each row of (B, T), as a nested tensor with offsets of its own."""
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return torch.nested.nested_tensor_from_jagged(x[torch.arange(x.shape[1]) < lengths[:, None]], offsets)
