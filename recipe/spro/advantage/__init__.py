"""The SPRO advantage as a pure function of tensors: torch, numpy, numba and triton, nothing of verl."""

from recipe.spro.advantage.dispatch import spro_advantage, spro_advantage_with_stats
from recipe.spro.advantage.interface import Options, SproParts, SproStats
from recipe.spro.advantage.naive import spro_advantage_naive

__all__ = [
    "Options",
    "SproParts",
    "SproStats",
    "spro_advantage",
    "spro_advantage_naive",
    "spro_advantage_with_stats",
]
