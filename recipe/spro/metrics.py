"""What the process term is doing, as numbers: one flat dict per step, next to verl's own metrics."""

from __future__ import annotations

import numpy as np
import torch

from recipe.spro.advantage import SproParts


def process_metrics(
    parts: SproParts,
    response_mask: torch.Tensor,
    outcome_rewards: torch.Tensor,
    group_ids: np.ndarray,
    *,
    beta: float,
) -> dict[str, float]:
    """Summarise one batch of advantages.

    Args:
        parts: of `spro_advantage` on this batch, padded: cpr, msa, alive (B, T), outcome (B,).
        response_mask: (B, T), 1 where the policy chose the token. Rows without a valid token
            (verl's padding among them) count in nothing.
        outcome_rewards: (B,) the responses' outcome rewards.
        group_ids: (B,) uid of each row's prompt.
        beta: weight of the log-ratios.

    Returns:
        Metrics under ``spro/``. CPR and MSA are in nats times beta; rms are over valid tokens.
        ``process_share`` is rms(MSA) / rms(outcome advantage) of what is used, ``process_share_raw``
        before the bound; where no response of the batch has an outcome advantage both are 0 and
        ``outcome_is_zero`` is 1.
    """
    valid = response_mask.bool()
    cpr, msa, alive = (values[valid].double() for values in (parts.cpr, parts.msa, parts.alive))
    outcome = parts.outcome.double().unsqueeze(-1).expand(valid.shape)[valid]

    scale = float(parts.scale)
    msa_rms, outcome_rms = _rms(msa), _rms(outcome)
    share = msa_rms / outcome_rms if outcome_rms > 0 else 0.0
    return {
        "spro/cpr/abs_max": float(cpr.abs().max()) if cpr.numel() else 0.0,
        "spro/cpr/mean": float(cpr.mean()) if cpr.numel() else 0.0,
        "spro/msa/rms": msa_rms,
        "spro/outcome/rms": outcome_rms,
        "spro/outcome_is_zero": float(outcome_rms == 0),
        "spro/process_share": share,
        "spro/process_share_raw": share / scale if scale > 0 else 0.0,
        "spro/process_scale": scale,
        "spro/alive_one_frac": float((alive == 1).double().mean()) if alive.numel() else 0.0,
        "spro/degenerate_group_frac": _degenerate_group_frac(valid.any(dim=1), outcome_rewards, group_ids),
        "spro/beta": beta,
    }


def _rms(values: torch.Tensor) -> float:
    return float(values.square().mean().sqrt()) if values.numel() else 0.0


def _degenerate_group_frac(real_rows: torch.Tensor, outcome_rewards: torch.Tensor, group_ids: np.ndarray) -> float:
    """Share of the groups whose responses all have the same outcome."""
    outcomes: dict[object, set[float]] = {}
    for real, reward, group in zip(real_rows.tolist(), outcome_rewards.tolist(), group_ids.tolist(), strict=True):
        if real:
            outcomes.setdefault(group, set()).add(reward)
    return sum(len(values) == 1 for values in outcomes.values()) / len(outcomes) if outcomes else 0.0
