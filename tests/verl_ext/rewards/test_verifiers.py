"""The verifiers by name: gold answers as the data sets have them, and the settings' scores."""

from __future__ import annotations

from typing import Any

import pytest

from verl_ext.rewards import Kind, Verdict
from verl_ext.rewards.settings import RewardSettings
from verl_ext.rewards.verifiers import score_of, verdict_of, verdict_of_result

SETTINGS = RewardSettings(correct=2.0, wrong=-1.0)


@pytest.mark.parametrize(
    ("verifier", "response", "gold", "kind"),
    [
        ("math", r"so \boxed{\frac{1}{2}}", "0.5", Kind.CORRECT),
        ("math", r"so \boxed{3}", "4", Kind.WRONG),
        ("math", "", "4", Kind.UNPARSEABLE),
        ("gsm8k", "She has 18.\n#### 18", "9 * 2 = <<9*2=18>>18\n#### 18", Kind.CORRECT),
        ("gsm8k", "#### 1,800", "1800", Kind.CORRECT),
        ("gsm8k", "#### 17", "#### 18", Kind.WRONG),
        ("choice", r"\boxed{B}", "B", Kind.CORRECT),
        ("choice", "The answer is (B).", "(b)", Kind.CORRECT),
        ("choice", "The answer is (C).", "B", Kind.WRONG),
        ("choice", "The answer is (C).", "five", Kind.GRADER_ERROR),
        ("arithmetic", "1+2=3;A3", "3", Kind.CORRECT),
        ("arithmetic", "1+2=3", "3", Kind.UNPARSEABLE),
    ],
)
def test_kinds(verifier: str, response: str, gold: str, kind: Kind) -> None:
    verdict = verdict_of(verifier, response, gold, SETTINGS)
    assert verdict.kind == kind, verdict
    assert verdict.score == (2.0 if kind == Kind.CORRECT else -1.0)


def test_partial_credit_lies_between_the_two() -> None:
    partial = RewardSettings(correct=2.0, wrong=-1.0, partial=True)
    assert score_of(Verdict(Kind.WRONG, 0.5), partial) == 0.5
    assert score_of(Verdict(Kind.WRONG, 0.5), SETTINGS) == -1.0
    # Nobody has looked at what timed out or was never run.
    assert score_of(Verdict(Kind.TIMEOUT, 0.5), partial) == score_of(Verdict(Kind.INFRA_ERROR, 0.5), partial) == -1.0


@pytest.mark.parametrize(
    ("result", "kind", "score"),
    [
        (2.0, Kind.CORRECT, 2.0),
        (0.3, Kind.WRONG, 0.3),
        ({"score": 1, "kind": "timeout"}, Kind.TIMEOUT, 1.0),
        (float("nan"), Kind.GRADER_ERROR, -1.0),
        ({"score": float("inf")}, Kind.GRADER_ERROR, -1.0),
        (None, Kind.GRADER_ERROR, -1.0),
        ({"acc": 1.0}, Kind.GRADER_ERROR, -1.0),
    ],
)
def test_what_a_users_function_returns(result: Any, kind: Kind, score: float) -> None:
    verdict, _ = verdict_of_result(result, SETTINGS)
    assert (verdict.kind, verdict.score) == (kind, score)


def test_its_other_values_are_kept() -> None:
    _, more = verdict_of_result({"score": 2.0, "depth": 3}, SETTINGS)
    assert more == {"depth": 3}
