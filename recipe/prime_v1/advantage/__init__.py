"""The PRIME advantage as a pure function of tensors: torch, numpy and numba, nothing of verl."""

from recipe.prime_v1.advantage.fast import prime_advantage
from recipe.prime_v1.advantage.naive import prime_advantage_naive
from recipe.prime_v1.advantage.quality import ordering_accuracy, outcome_correlation

__all__ = ["ordering_accuracy", "outcome_correlation", "prime_advantage", "prime_advantage_naive"]
