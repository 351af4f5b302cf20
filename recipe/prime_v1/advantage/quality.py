"""How well the implicit reward orders responses: numbers for a log, float64 on the host.

Legend: B rows (responses).
"""

import numpy as np
import torch

from recipe.spro.advantage.groups import Groups


def ordering_accuracy(
    scores: torch.Tensor, outcome_rewards: torch.Tensor, group_ids: torch.Tensor | np.ndarray
) -> float | None:
    """Of the pairs of one group whose outcomes differ, the share that the scores order as the outcomes do.

    Equal scores count one half: they order nothing. Upstream's compute_dpo_accuracy differs in three ways: it averages
    over groups, and a group whose outcomes are all equal counts 0.5, so a batch without information reads as chance;
    within a group it weighs a pair by the difference of its outcomes (the same for outcomes of 0 and 1); and equal
    scores are right or wrong by the order of the rows.

    Args:
        scores: (B,) the sum of each response's implicit rewards, of any scale.
        outcome_rewards: (B,) the outcomes.
        group_ids: (B,) integers or uids, in any order. A row alone in its group is in no pair.

    Returns:
        A share in [0, 1], or None if there is no such pair.

    Raises:
        ValueError: shapes that differ; a score or outcome that is not finite, naming the row.
    """
    score, outcome = _finite("scores", scores), _finite("outcome_rewards", outcome_rewards)
    _same_rows(score, outcome_rewards=outcome, group_ids=group_ids)
    groups = Groups.of(group_ids)
    score, outcome, group = score[groups.rows], outcome[groups.rows], groups.index[groups.rows]
    right, pairs = 0.0, 0
    # Rows of a group lie side by side now: those k apart make the k-th part of its pairs.
    for apart in range(1, int(np.diff(groups.starts).max(initial=1))):
        differs = (group[apart:] == group[:-apart]) & (outcome[apart:] != outcome[:-apart])
        by_score = np.sign(score[apart:] - score[:-apart])[differs]
        by_outcome = np.sign(outcome[apart:] - outcome[:-apart])[differs]
        right += float((1 + by_score * by_outcome).sum()) / 2
        pairs += len(by_score)
    return right / pairs if pairs else None


def outcome_correlation(scores: torch.Tensor, outcome_rewards: torch.Tensor) -> float | None:
    """Pearson's correlation of the scores with the outcomes over the batch, in [-1, 1].

    Args:
        scores: (B,) the sum of each response's implicit rewards, of any scale.
        outcome_rewards: (B,) the outcomes.

    Returns:
        The correlation, or None if all scores or all outcomes are equal.

    Raises:
        ValueError: shapes that differ; a score or outcome that is not finite, naming the row.
    """
    score, outcome = _finite("scores", scores), _finite("outcome_rewards", outcome_rewards)
    _same_rows(score, outcome_rewards=outcome)
    # Asked of the values: after the mean is subtracted, equal ones may differ by a rounding.
    if len(score) == 0 or (score == score[0]).all() or (outcome == outcome[0]).all():
        return None
    # To a scale of 1 first, so that no square leaves float64.
    x, y = ((v - v.mean()) / np.abs(v - v.mean()).max() for v in (score, outcome))
    return float(np.clip((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()), -1.0, 1.0))


def _finite(name: str, x: torch.Tensor) -> np.ndarray:
    if x.dim() != 1:
        raise ValueError(f"{name} must have shape (B,), got {tuple(x.shape)}")
    values = x.detach().cpu().double().numpy()
    if not np.isfinite(values).all():
        row = int((~np.isfinite(values)).argmax())
        raise ValueError(f"{name} must be finite; row {row} is {values[row]}")
    return values


def _same_rows(scores: np.ndarray, **others: np.ndarray | torch.Tensor) -> None:
    for name, x in others.items():
        if tuple(x.shape) != scores.shape:
            raise ValueError(f"{name} must have shape {scores.shape}, as scores, got {tuple(x.shape)}")
