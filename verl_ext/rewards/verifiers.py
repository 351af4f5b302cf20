"""The verifiers by name: each takes a response, the gold answer of its row and the settings, and gives a verdict."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from verl_ext.rewards.settings import RewardSettings
from verl_ext.rewards.verdict import Kind, Verdict

_LETTER = re.compile(r"[A-J]")


def verdict_of(verifier: str, response: str, gold: Any, settings: RewardSettings) -> Verdict:
    """The verdict of a verifier (see `routing`) but `user`, with the settings' scores.

    Blocks for as long as the verification takes, which is bounded by its deadline. Never raises for what a response
    or a gold answer holds: that is a verdict too.
    """
    verdict = _VERIFIERS[verifier](response, gold, settings)
    return Verdict(verdict.kind, score_of(verdict, settings), verdict.extracted, verdict.detail)


def score_of(verdict: Verdict, settings: RewardSettings) -> float:
    """The score of a kind; of a wrong one, with `partial`, between the two by the verdict's own score (0 to 1)."""
    if verdict.kind == Kind.CORRECT:
        return settings.correct
    share = min(max(verdict.score, 0.0), 1.0) if settings.partial and verdict.kind == Kind.WRONG else 0.0
    return settings.wrong + share * (settings.correct - settings.wrong)


def verdict_of_result(result: Any, settings: RewardSettings) -> tuple[Verdict, dict[str, Any]]:
    """What a user's function returned, a number or a dict with `score`: the verdict, and the other values.

    A score that is not finite is a grader error, not a reward.
    """
    values = dict(result) if isinstance(result, dict) else {"score": result}
    score = values.pop("score", None)
    if not isinstance(score, int | float) or not math.isfinite(score):
        detail = f"reward.custom_reward_function returned the score {score!r}, which is not a finite number"
        return Verdict(Kind.GRADER_ERROR, settings.wrong, None, detail), {}
    # Without a kind of its own: what it scores as much as a correct answer is one.
    kind = Kind(values.pop("kind", Kind.CORRECT if score >= settings.correct else Kind.WRONG))
    return Verdict(kind, float(score)), values


def _math(response: str, gold: Any, settings: RewardSettings) -> Verdict:
    from verl_ext.rewards.math import verify_math

    return verify_math(response, str(gold), timeout_s=settings.timeout_s)


def _gsm8k(response: str, gold: Any, settings: RewardSettings) -> Verdict:
    """The gold answer may be the whole worked solution of the data set, which ends with `#### answer`."""
    return _math(response, str(gold).rpartition("####")[2].strip(), settings)


def _choice(response: str, gold: Any, settings: RewardSettings) -> Verdict:
    """A letter: in the last box, after a final-answer phrase, or at the end."""
    letter = str(gold).strip().strip("().").upper()
    if not _LETTER.fullmatch(letter):
        return Verdict(Kind.GRADER_ERROR, 0.0, None, f"the gold answer {str(gold)[:40]!r} is not a letter from A to J")
    return _math(response, letter, settings)


def _arithmetic(response: str, gold: Any, settings: RewardSettings) -> Verdict:
    """The worked example: what follows the last `A` is the sum, character for character."""
    wanted = str(gold)
    if not (wanted.isascii() and wanted.isdigit()):
        return Verdict(Kind.GRADER_ERROR, 0.0, None, f"the gold answer {wanted[:40]!r} is not plain ASCII digits")
    _, marker, answer = response.rpartition("A")
    if not marker:
        return Verdict(Kind.UNPARSEABLE, 0.0, None, "there is no A before the answer")
    return Verdict(Kind.CORRECT, 1.0, answer) if answer == wanted else Verdict(Kind.WRONG, 0.0, answer[:200])


def _code(response: str, gold: Any, settings: RewardSettings) -> Verdict:
    """The tests, as they are or as JSON (Eurus-2-RL-Data has them so)."""
    from verl_ext.rewards.code import verify_code

    try:
        tests = json.loads(gold) if isinstance(gold, str) else gold
    except ValueError:
        # The source of HumanEval's tests is no JSON.
        tests = gold
    return verify_code(response, tests, timeout_s=settings.code_timeout_s, partial=settings.partial)


_VERIFIERS: dict[str, Callable[[str, Any, RewardSettings], Verdict]] = {
    "math": _math,
    "gsm8k": _gsm8k,
    "choice": _choice,
    "arithmetic": _arithmetic,
    "code": _code,
}
