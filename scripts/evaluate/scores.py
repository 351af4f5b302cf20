"""What graded responses say: accuracy, avg@k and pass@k with intervals, lengths, truncation, kinds of verdicts.

A response that could not be graded (`UNGRADED`) is neither right nor wrong: it is left out, counted, and bounds say
what it could change. A response without a readable answer, or that runs past its deadline, is one that is not correct.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from scripts.compare import statistics
from scripts.compare.statistics import Estimate
from scripts.evaluate.store import Response
from verl_ext.rewards.verdict import Kind

UNGRADED = (Kind.GRADER_ERROR, Kind.INFRA_ERROR)

# Of the bootstrap over problems: the memory is resamples times problems.
RESAMPLES = 2_000


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Probability that one of ``k`` responses is correct: 1 - C(n - c, k) / C(n, k), unbiased.

    Chen et al. 2021 (arXiv 2107.03374), Eq. 1: the share of all choices of k from the n responses that hold a correct
    one. 1 - (1 - c/n)^k, which suggests itself, is too low.

    Args:
        n, correct: responses to one problem, and how many of them are correct.

    Raises:
        ValueError: unless 0 <= correct <= n and 1 <= k <= n.
    """
    if not (0 <= correct <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} of {correct} correct among {n}: needs 0 <= correct <= n and 1 <= k <= n")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def mean_over_problems(values: Sequence[float]) -> Estimate:
    """Mean with a 95 % interval of the bootstrap over problems.

    Where all problems have the same value there is nothing to resample, and an interval without width would claim
    certainty. If that value is 0 or 1, Wilson's interval of as many problems is given; otherwise none.
    """
    if not values:
        return Estimate(math.nan, None, None, 0)
    if len(set(values)) == 1:
        if values[0] in (0.0, 1.0):
            return statistics.wilson(int(values[0]) * len(values), len(values))
        return Estimate(values[0], None, None, len(values))
    return statistics.means([[value] for value in values], RESAMPLES)[0]


@dataclass(frozen=True)
class Lengths:
    """Tokens of responses; the end-of-sequence token is one."""

    mean: float
    median: float
    p95: float
    max: int
    correct_mean: float | None
    """of the correct ones"""

    @classmethod
    def of(cls, responses: Sequence[Response]) -> Lengths:
        tokens = [each.tokens for each in responses]
        correct = [each.tokens for each in responses if each.kind == Kind.CORRECT]
        median, p95 = np.percentile(tokens, [50, 95])
        return cls(fmean(tokens), float(median), float(p95), max(tokens), fmean(correct) if correct else None)


@dataclass(frozen=True)
class Scores:
    """Of some problems, all asked in one way.

    Attributes:
        problems, responses: how many.
        kinds: responses by kind of verdict.
        accuracy: share of correct responses, problems weighing equally. Greedy (one response a problem): Wilson's
            interval. avg@k: bootstrap over problems. ``n`` is the number of problems with a graded response.
        bounds: the accuracy if all that could not be graded were wrong, or right; None where all were graded.
        pass_at: by k; over the problems with at least k graded responses.
        truncated: share of responses that do not end by themselves.
    """

    problems: int
    responses: int
    kinds: dict[str, int]
    accuracy: Estimate
    bounds: tuple[float, float] | None
    pass_at: dict[int, Estimate]
    lengths: Lengths
    truncated: float

    @property
    def ungraded(self) -> int:
        return sum(self.kinds.get(kind, 0) for kind in UNGRADED)

    @classmethod
    def of(cls, answers: Sequence[Sequence[Response]], ks: Sequence[int] = ()) -> Scores:
        """Count the answers, one list a problem.

        Args:
            ks: of pass@k.
        """
        responses = [each for one in answers for each in one]
        graded = [[each.kind == Kind.CORRECT for each in one if each.kind not in UNGRADED] for one in answers]
        shares = [fmean(one) for one in graded if one]
        one_each = all(len(one) == 1 for one in answers)
        accuracy = statistics.wilson(int(sum(shares)), len(shares)) if one_each else mean_over_problems(shares)
        kinds = Counter(each.kind for each in responses)
        bounds = None
        if any(kinds[kind] for kind in UNGRADED):
            right = [sum(one) / len(all_of_it) for one, all_of_it in zip(graded, answers, strict=True)]
            open_ = [1 - len(one) / len(all_of_it) for one, all_of_it in zip(graded, answers, strict=True)]
            bounds = (fmean(right), fmean(right) + fmean(open_))
        return cls(
            problems=len(answers),
            responses=len(responses),
            kinds={str(kind): kinds[kind] for kind in Kind if kinds[kind]},
            accuracy=accuracy,
            bounds=bounds,
            pass_at={
                k: mean_over_problems([pass_at_k(len(one), sum(one), k) for one in graded if len(one) >= k]) for k in ks
            },
            lengths=Lengths.of(responses),
            truncated=fmean(each.truncated for each in responses),
        )


def by_category(
    answers: dict[int, list[Response]], categories: dict[str, list[str]], ks: Sequence[int] = ()
) -> dict[str, dict[str, Scores]]:
    """Scores by column and value, problems by their row; the values in alphabetical order."""
    found: dict[str, dict[str, Scores]] = {}
    for column, values in categories.items():
        groups: dict[str, list[list[Response]]] = {}
        for problem, responses in answers.items():
            groups.setdefault(values[problem], []).append(responses)
        found[column] = {value: Scores.of(groups[value], ks) for value in sorted(groups)}
    return found
