"""Outcome verification that can be trusted: a verdict is a kind, not only a number."""

from verl_ext.rewards.verdict import Kind, Verdict

__all__ = ["Kind", "Verdict"]
