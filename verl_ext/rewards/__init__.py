"""Outcome verification that can be trusted: a verdict is a kind, not only a number."""

from typing import TYPE_CHECKING, Any

from verl_ext.rewards.verdict import Kind, Verdict

if TYPE_CHECKING:
    from verl_ext.rewards.code import verify_code

__all__ = ["Kind", "Verdict", "verify_code"]


def __getattr__(name: str) -> Any:
    # Lazy: whoever needs a kind does not import the verifiers.
    if name == "verify_code":
        from verl_ext.rewards.code import verify_code

        return verify_code
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
