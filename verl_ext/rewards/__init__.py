"""Outcome verification that can be trusted: a verdict is a kind, not only a number."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from verl_ext.rewards.verdict import Kind, Verdict

if TYPE_CHECKING:
    from verl_ext.rewards.code import verify_code
    from verl_ext.rewards.math import verify_math

__all__ = ["Kind", "Verdict", "verify_code", "verify_math"]

# Imported with their first use: whoever needs a kind needs no worker processes.
_VERIFIERS = {"verify_code": "verl_ext.rewards.code", "verify_math": "verl_ext.rewards.math"}


def __getattr__(name: str) -> Any:
    if name in _VERIFIERS:
        return getattr(import_module(_VERIFIERS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
