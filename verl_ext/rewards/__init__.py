"""Outcome verification that can be trusted: a verdict is a kind, not only a number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from verl_ext.rewards.verdict import Kind, Verdict

if TYPE_CHECKING:
    from verl_ext.rewards.math import verify_math

__all__ = ["Kind", "Verdict", "verify_math"]


def __getattr__(name: str) -> Any:
    # Importing the package costs nothing; pebble and multiprocessing come with the first use.
    if name == "verify_math":
        from verl_ext.rewards.math import verify_math

        return verify_math
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
