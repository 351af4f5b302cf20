"""What a verifier says of a response: a kind, a score and what it looked at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What became of a verification. Only the first two are judgements of the response."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSEABLE = "unparseable"
    """No answer was found in the response, or none that can be read."""
    TIMEOUT = "timeout"
    """The response took longer than its deadline: an endless program, an expression that explodes."""
    GRADER_ERROR = "grader_error"
    """Our verifier failed on this response, or the gold answer cannot be read."""
    INFRA_ERROR = "infra_error"
    """The response was never looked at: a worker that died for no fault of the response, a sandbox out of reach."""


@dataclass(frozen=True)
class Verdict:
    """The result of one verification.

    Raises:
        ValueError: a score that is not finite.
    """

    kind: Kind
    score: float
    extracted: str | None = None
    """the answer that was found in the response"""
    detail: str = ""
    """why, for a person"""

    def __post_init__(self) -> None:
        if not math.isfinite(self.score):
            raise ValueError(f"score={self.score!r} of a {self.kind} verdict must be finite")
