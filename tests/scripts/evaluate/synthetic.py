"""Graded responses that nobody generated."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.evaluate.results import Asked, Evaluation, SetResult
from scripts.evaluate.scores import Scores, by_category
from scripts.evaluate.store import Response

KINDS = {"c": "correct", "w": "wrong", "u": "unparseable", "t": "timeout", "g": "grader_error", "i": "infra_error"}


def answers(*codes: str, tokens: int = 10) -> list[list[Response]]:
    """One word a problem, one letter a sample: ``answers("cw", "gg")``; sample i has ``tokens + i`` tokens."""
    return [
        [
            Response(problem, sample, f"text {sample}", tokens + sample, False, KINDS[code], float(code == "c"))
            for sample, code in enumerate(word)
        ]
        for problem, word in enumerate(codes)
    ]


def evaluation(
    label: str, greedy: Sequence[str], sampled: Sequence[str], *, name: str = "math500", step: int | None = None
) -> Evaluation:
    """Of one set with two subjects."""
    categories = {"subject": ["Algebra", "Geometry"] * len(greedy)}
    asked = {}
    for way, codes, ks in (("greedy", greedy, ()), ("sampled", sampled, (1, 2))):
        found = answers(*codes)
        groups = by_category(dict(enumerate(found)), categories, ks)
        asked[way] = Asked("0" * 16, {"samples": len(codes[0])}, Scores.of(found, ks), groups)
    return Evaluation(
        label,
        {"source": f"models/{label}", "step": step, "digest": "f" * 64},
        [SetResult(name, len(greedy), asked["greedy"], asked["sampled"])],
        {"commit": None, "versions": {"verl": "0.9.1"}, "overrides": ["+stack=cpu"]},
    )
