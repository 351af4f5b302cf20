"""The SPRO advantage as a pure function of tensors: torch and numpy, nothing of verl."""

from recipe.spro.advantage.interface import SproParts
from recipe.spro.advantage.naive import spro_advantage_naive
from recipe.spro.advantage.torch_impl import spro_advantage

__all__ = ["SproParts", "spro_advantage", "spro_advantage_naive"]
