"""Batches of PRIME's advantage, from those of SPRO's: it takes the same tensors."""

from typing import Any

from tests.recipe.spro.advantage.batches import random_batch

# Every form, with every option that changes what is computed.
FORMS: list[dict[str, Any]] = [
    *(dict(prime_granularity=g, prime_norm=n) for g in ("token", "whole") for n in ("batch_norm", "none")),
    dict(form="paper", prime_norm="none"),
]


def prime_batch(seed: int, T: int, *, holes: bool = True) -> dict[str, Any]:
    """B = 11 rows in shuffled groups of 4, 3, 2, 1 and 1, with ties, an empty row and poison at masked places."""
    batch = random_batch(seed, T, holes=holes)
    return {"rm_log_probs" if name == "log_probs" else name: x for name, x in batch.items()}
