"""The control `spro_shuffled`: the process term of another response, of equal size, so without credit.

If training with it does as well as with SPRO, what SPRO added was noise (or its size), not credit.

Legend: B rows (responses), T token positions.
"""

from __future__ import annotations

import numpy as np
import torch

from recipe.spro.advantage.groups import Groups


def derangement(groups: Groups, rng: np.random.Generator) -> np.ndarray:
    """(B,) int64 for each row another row of its group, each once; oneself in a group of one.

    Uniform over cyclic orders of the group: each of the other rows is equally likely.
    """
    donors = np.arange(len(groups.rows))
    for start, end in zip(groups.starts[:-1], groups.starts[1:], strict=True):
        # Each row of a randomly ordered ring gives to the one before it.
        ring = rng.permutation(groups.rows[start:end])
        donors[ring] = np.roll(ring, -1)
    return donors


def shuffle_msa(msa: torch.Tensor, response_mask: torch.Tensor, donors: np.ndarray) -> torch.Tensor:
    """Give each row the process term of its donor, position by position, rescaled to the same rms.

    A row's term moves as a whole: what is compared keeps its growth along the response and its correlation between
    tokens, and loses only whose it is.

    Args:
        msa: (B, T) masked step advantages, 0 at masked places.
        response_mask: (B, T) bool or 0/1.
        donors: (B,) the row whose term each row gets.

    Returns:
        (B, T) like msa: 0 where the donor is not alive or the row is masked; its rms over valid tokens is msa's. All 0
        where no valid token has a living donor with a term.
    """
    valid = response_mask.bool()
    shuffled = torch.where(valid, msa[torch.as_tensor(donors, device=msa.device)], 0.0)
    wanted, got = (x.double().square().sum().sqrt() for x in (msa, shuffled))
    return shuffled * (wanted / got).to(msa.dtype) if got > 0 else shuffled
