"""verl's metrics of the mismatch between rollout engine and trainer (`rollout_corr/*`), from jagged log-probs.

verl computes them from padded tensors in a dozen passes. They are means over tokens, means over responses and extremes
over responses, so here verl's own function sees a few rows of like length at a time, and the parts are put together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from verl_ext.patching import PatchError

if TYPE_CHECKING:
    import torch

_PREFIX = "rollout_corr/"

# How the metrics of parts make those of the whole.
_OVER_TOKENS = frozenset({"kl", "k3_kl", "chi2_token"})
_OVER_ROWS = frozenset(
    {
        *("training_ppl", "training_log_ppl", "rollout_ppl", "rollout_log_ppl"),
        *("log_ppl_diff", "log_ppl_abs_diff", "ppl_ratio", "chi2_seq"),
    }
)
_EXTREMES = {"log_ppl_diff_max": max, "log_ppl_diff_min": min}

# Places of a padded part: 16 MiB of float32.
_PLACES = 1 << 22


def rollout_metrics(
    old_log_probs: torch.Tensor, rollout_log_probs: torch.Tensor, response_mask: torch.Tensor
) -> dict[str, float]:
    """What verl logs where neither importance weights nor rejection are configured.

    Args:
        old_log_probs, rollout_log_probs: (B, t_i) jagged, float32.
        response_mask: (B, t_i) jagged, integer.

    Raises:
        PatchError: verl's function returns a metric that is not known here.
    """
    from verl.trainer.ppo.rollout_corr_helper import compute_offpolicy_metrics

    parts: list[tuple[dict[str, float], int, int]] = []
    for rows, old, rollout, mask in _parts(old_log_probs, rollout_log_probs, response_mask):
        metrics = compute_offpolicy_metrics(old_log_prob=old, rollout_log_prob=rollout, response_mask=mask)
        parts.append((metrics, rows, int(mask.sum())))
    if unknown := parts[0][0].keys() - _OVER_TOKENS - _OVER_ROWS - _EXTREMES.keys():
        raise PatchError(
            f"{__name__} does not know how to put together verl's metrics {', '.join(sorted(unknown))}. "
            "Install the versions of requirements.txt, or update the patch."
        )

    def whole(name: str) -> float:
        if name in _EXTREMES:
            return _EXTREMES[name](metrics[name] for metrics, _, _ in parts)
        weights = [tokens if name in _OVER_TOKENS else rows for _, rows, tokens in parts]
        return sum(w * metrics[name] for w, (metrics, _, _) in zip(weights, parts, strict=True)) / sum(weights)

    return {_PREFIX + name: whole(name) for name in parts[0][0]}


def _parts(*fields: torch.Tensor) -> Iterator[tuple[Any, ...]]:
    """The number of rows of a part and its fields, padded with zeros; the last, the mask, is 1 somewhere."""
    import torch

    offsets, mask = fields[0].offsets(), fields[-1].values()
    lengths = offsets.diff()
    order = lengths.argsort(descending=True)
    # Parts are cut by the length of their first row; rows without a valid token go with those before them.
    valid = torch.segment_reduce(mask.to(torch.float32), "sum", lengths=lengths, unsafe=True) > 0
    order = torch.cat([order[valid[order]], order[~valid[order]]])
    real, at = int(valid.sum()), 0
    if not real:
        return
    while at < real:
        width = max(int(lengths[order[at:]].max()), 1)
        end = at + max(1, _PLACES // width)
        rows = order[at : end if end < real else len(order)]
        inside = torch.arange(width) < lengths[rows, None]
        places = (offsets[rows, None] + torch.arange(width))[inside]
        padded = []
        for field in fields:
            x = field.values().new_zeros(inside.shape)
            x[inside] = field.values()[places]
            padded.append(x)
        yield len(rows), *padded
        at = end
