"""What a captured batch (see `capture`) should have been trained with: the float64 equations on its own log-probs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recipe.spro.advantage import SproParts, spro_advantage_naive


def oracle_with_parts(batch: dict[str, Any], *, beta: float, **options: Any) -> tuple[torch.Tensor, SproParts]:
    """The oracle's advantages, (B, T) float64, and what they are made of; ``options`` are `spro_advantage_naive`'s."""
    result = spro_advantage_naive(
        batch["old_log_probs"],
        batch["ref_log_prob"],
        batch["response_mask"],
        batch["rm_scores"].sum(-1),
        np.array(batch["uid"], dtype=object),
        beta=beta,
        return_parts=True,
        **options,
    )
    assert isinstance(result, tuple)
    return result


def oracle(batch: dict[str, Any], *, beta: float, **options: Any) -> torch.Tensor:
    """The advantages of `oracle_with_parts`."""
    return oracle_with_parts(batch, beta=beta, **options)[0]


def assert_trained_with(batch: dict[str, Any], expected: torch.Tensor) -> None:
    """The advantages that the update used are these, (B, T) float64."""
    torch.testing.assert_close(batch["advantages"].double(), expected, atol=1e-5, rtol=1e-5)
