"""Groups (the responses to one prompt) and their outcome advantages: numbers per row, so numpy on the host.

Legend: B rows (responses), G groups (prompts).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Groups:
    """Which rows belong together."""

    index: np.ndarray  # (B,) int64 in [0, G), the group of each row
    rows: np.ndarray  # (B,) int64, the rows group by group
    starts: np.ndarray  # (G+1,) int64, where each group starts in `rows`

    @classmethod
    def of(cls, group_ids: torch.Tensor | np.ndarray) -> "Groups":
        """Of (B,) integers, or any hashable objects in a numpy array."""
        ids = group_ids.detach().cpu().numpy() if isinstance(group_ids, torch.Tensor) else group_ids
        if ids.dtype.kind not in "biu":
            ids = _numbered(ids.tolist())
        # Stable: a group's rows keep their order, and sums over them their bits.
        rows = np.argsort(ids, kind="stable")
        ordered = ids[rows]
        is_first = np.ones(len(rows), bool)
        is_first[1:] = ordered[1:] != ordered[:-1]
        starts = np.append(np.flatnonzero(is_first), len(rows))
        index = np.empty_like(rows)
        index[rows] = is_first.cumsum() - 1
        return cls(index, rows, starts)

    def __len__(self) -> int:
        return len(self.starts) - 1


def _numbered(uids: list) -> np.ndarray:
    """(B,) int64 a number for each uid, equal where they are."""
    number_of: dict[Any, int] = {}
    numbers = np.empty(len(uids), np.int64)
    for row, uid in enumerate(uids):
        try:
            numbers[row] = number_of.setdefault(uid, len(number_of))
        except TypeError:
            raise TypeError(f"group_ids must be hashable; row {row} is {uid!r}") from None
    return numbers


def outcome_advantages(
    rewards: np.ndarray, groups: Groups, norm_by_std: bool, final_rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The outcome as verl's GRPO has it: (r - mean) / (std + 1e-6) within the group, sample std, float64.

    Args:
        rewards: (B,) float64.
        groups: the groups of these rows. A group of one has mean 0 and std 1.
        norm_by_std: divide by the std, or only subtract the mean.
        final_rows: (B,) int64 the row that speaks for each row, if that is not the row itself: only those count.

    Returns:
        (B,) float64 the outcome advantages, and (B,) bool whether all outcomes of the row's group are equal.
    """
    if final_rows is not None:
        speaks = final_rows == np.arange(len(final_rows))
        outcome, degenerate = outcome_advantages(rewards[speaks], Groups.of(groups.index[speaks]), norm_by_std)
        place = speaks.cumsum()[final_rows] - 1
        return outcome[place], degenerate[place]
    index, number = groups.index, len(groups)
    size = np.bincount(index, minlength=number)
    lowest = np.full(number, np.inf)
    np.minimum.at(lowest, index, rewards)
    # Measured from the lowest, equal outcomes deviate by exactly 0: 1e-6 in the denominator would blow up a rounding.
    above = rewards - lowest[index]
    total = np.bincount(index, weights=above, minlength=number)
    degenerate = (total == 0)[index]
    centred = np.where(size[index] > 1, above - (total / size)[index], rewards)
    if not norm_by_std:
        return centred, degenerate
    squares = np.bincount(index, weights=centred**2, minlength=number)
    std = np.where(size > 1, np.sqrt(squares / np.maximum(size - 1, 1)), 1.0)
    return centred / (std[index] + 1e-6), degenerate
