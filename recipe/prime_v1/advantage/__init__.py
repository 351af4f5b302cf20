"""The PRIME advantage as a pure function of tensors: torch, numpy and numba, nothing of verl."""

from recipe.prime_v1.advantage.fast import PrimeStats, prime_advantage, prime_advantage_with_stats
from recipe.prime_v1.advantage.naive import prime_advantage_naive
from recipe.prime_v1.advantage.options import Options
from recipe.prime_v1.advantage.quality import ordering_accuracy, outcome_correlation

__all__ = [
    "Options",
    "PrimeStats",
    "ordering_accuracy",
    "outcome_correlation",
    "prime_advantage",
    "prime_advantage_naive",
    "prime_advantage_with_stats",
]
