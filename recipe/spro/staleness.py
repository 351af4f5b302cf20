"""What CPR compares when responses are older than the policy, and its self-test there.

In verl's asynchronous trainers a response may come from earlier weights, or from several. Which log-probs of it enter
CPR is `algorithm.rollout_correction.bypass_mode`:

    false   `old_log_probs` are recomputed by the policy that is about to be updated, one policy for all tokens of all
            rows: CPR says how far *it* is from the reference along a response, whoever wrote that
    true    they are the rollout's: each token is judged by the weights that chose it. Rows of one group may then carry
            log-ratios of different policies, and CPR holds the engines' mismatch, summed

The self-test asks for CPR where policy and reference are the same weights. Recomputed, that is every update until the
first synchronisation, step 1 at least: every row must have CPR exactly 0, whatever its age, since its author has no
part in it. With the rollout's log-probs it is every row that version 0 wrote from its first to its last token, in
whichever step it arrives: there CPR is the engines' mismatch, and nothing else. It cannot be 0, and must be small.

Recomputed log-probs allow a second test, of the stamps themselves: on what the current weights wrote rollout and
trainer hold the same weights, and may differ by the engines' mismatch only. Where they differ by more, the rollout does
not serve the weights that it says. That is a fresh response, all of it; and of one that earlier weights began and the
current ones ended, the last token: verl does not say where in it the weights were replaced, and the last one is
certain. Where every response is interrupted (long ones, frequent synchronisation) the test has nothing else.
"""

from __future__ import annotations

import numpy as np
import torch

from recipe.spro.advantage.rows import row_sums
from verl_ext.memory_metrics import is_due
from verl_ext.weight_versions import WeightVersions

# Mean absolute difference of a token's log-prob between rollout and trainer, in nats, above which it is not rounding.
# Ours: float32 on CPU gave 2e-7, a policy that had moved by one synchronisation 0.1 to 0.3.
MISMATCH_TOLERANCE = 0.05


def staleness_metrics(
    versions: WeightVersions,
    old_log_probs: torch.Tensor,
    ref_log_prob: torch.Tensor,
    rollout_log_probs: torch.Tensor | None,
    response_mask: torch.Tensor,
    *,
    recomputed: bool,
    reference_stays: bool = True,
) -> dict[str, float]:
    """How old a batch is, and how far apart the log-probs of equal weights are.

    Args:
        versions: of the batch's rows. Rows without a stamp or without a valid token count in nothing.
        old_log_probs, ref_log_prob, rollout_log_probs, response_mask: (B, T), all padded or all jagged alike;
            the rollout's may be missing.
        recomputed: ``old_log_probs`` are the trainer's, not the rollout's (`bypass_mode`).
        reference_stays: the reference is the first model for the whole run.

    Returns:
        Metrics under ``spro/staleness/``: versions that a response is behind the current policy, ``min`` at its last
        token and ``max`` at its first; ``moved_frac``, the share of responses during which the weights were replaced.
        Mean absolute differences of log-probs per token, in nats: of rollout and trainer on what the current weights
        wrote (``mismatch_fresh``: the engines; see above) and on the other tokens (``mismatch_stale``: the engines and
        the policy's movement); with the rollout's log-probs in CPR, of rollout and reference on responses of the first
        model (``mismatch_first``: the engines). One that has no such token is left out.
    """
    tokens = _row_sums_where(response_mask, 1.0)
    real = versions.known & (tokens > 0).numpy()
    if not real.any():
        return {}
    metrics = {
        "spro/staleness/min": float((versions.current - versions.last[real]).min()),
        "spro/staleness/max": float((versions.current - versions.first[real]).max()),
        "spro/staleness/moved_frac": float(versions.moved[real].mean()),
    }
    # Per name the sum of distances, and of how many tokens.
    compared = {}
    if not recomputed and reference_stays:
        distance = _row_sums_where(response_mask, _distance(old_log_probs, ref_log_prob))
        first = torch.from_numpy(versions.of_the_first_model & real)
        compared = {"first": (distance[first].sum(), tokens[first].sum())}
    elif recomputed and rollout_log_probs is not None:
        distance = _row_sums_where(response_mask, _distance(rollout_log_probs, old_log_probs))
        fresh = torch.from_numpy(versions.fresh & ~versions.moved & real)
        others = torch.from_numpy(real) & ~fresh
        ends = _last_distances(rollout_log_probs, old_log_probs, response_mask, versions.continued & real)
        compared = {
            "fresh": (distance[fresh].sum() + ends.sum(), tokens[fresh].sum() + len(ends)),
            "stale": (distance[others].sum() - ends.sum(), tokens[others].sum() - len(ends)),
        }
    for name, (total, count) in compared.items():
        if count > 0:
            # A difference of sums may be a rounding below 0.
            metrics[f"spro/staleness/mismatch_{name}"] = max(float(total / count), 0.0)
    return metrics


def _distance(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Absolute differences, (B, T); of jagged tensors' tokens, flat."""
    a, b = (x.values() if x.is_nested else x for x in (left, right))
    return (a - b).abs()


def _last_distances(left: torch.Tensor, right: torch.Tensor, mask: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
    """(number of rows,) float64 absolute differences at the last valid token of these rows, which have one."""
    chosen = np.flatnonzero(rows)
    if not len(chosen):
        return torch.zeros(0, dtype=torch.float64)
    of_rows = [x.unbind() for x in (left, right, mask)]
    ends = []
    for row in chosen:
        a, b, valid = (x[row] for x in of_rows)
        last = valid.nonzero()[-1]
        ends.append((a[last] - b[last]).abs().double())
    return torch.cat(ends)


def _row_sums_where(mask: torch.Tensor, values: torch.Tensor | float) -> torch.Tensor:
    """(B,) the sum over each row's valid tokens; of a jagged mask's rows, the values are flat."""
    valid = mask.values() if mask.is_nested else mask
    return row_sums(torch.where(valid.bool(), values, 0.0), like=mask)


def complaint(
    metrics: dict[str, float], cpr_abs_max: float, step: int | None, current: int | None, *, recomputed: bool
) -> str | None:
    """What the self-test has against this batch, as one message; None if it passes.

    A mismatch that stays is told at steps that double.

    Args:
        metrics: from `staleness_metrics`, empty where nothing can be stale.
        cpr_abs_max: of the batch, nats times beta.
        step: of training, None where it is not known.
        current: version of the weights that recompute log-probs, None where nothing can be stale.
        recomputed: as above.
    """
    if recomputed and (step == 1 or current == 0) and cpr_abs_max != 0:
        return (
            f"spro/cpr/abs_max is {cpr_abs_max:.3g} at step {step}, where policy and reference are the same weights "
            "and it must be exactly 0. CPR is measuring something else: look for different precision, attention or "
            "micro-batch sizes of actor and ref (actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu and "
            "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu), dropout, log-probs of the rollout engine "
            "(algorithm.rollout_correction.bypass_mode), or an actor that did not start from model.path."
        )
    if step is not None and not is_due(step):
        return None
    first, fresh = (metrics.get(f"spro/staleness/mismatch_{name}", 0.0) for name in ("first", "fresh"))
    if first > MISMATCH_TOLERANCE:
        return (
            f"spro/staleness/mismatch_first is {first:.3g} nats a token: rollout and reference, which held the same "
            f"weights when these responses were written, differ by more than {MISMATCH_TOLERANCE}, and CPR sums that "
            "over a response. Set algorithm.rollout_correction.bypass_mode=False"
        )
    if fresh > MISMATCH_TOLERANCE:
        return (
            f"spro/staleness/mismatch_fresh is {fresh:.3g} nats a token: rollout and trainer differ by more than "
            f"{MISMATCH_TOLERANCE} on tokens that are stamped with the trainer's own weights. Either the engines "
            "disagree (actor_rollout_ref.rollout.dtype, quantization, top_p, top_k), or the rollout serves other "
            "weights than it says (actor_rollout_ref.rollout.checkpoint_engine)."
        )
    return None
