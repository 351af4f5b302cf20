"""Against closed forms, enumeration and hand counts."""

from __future__ import annotations

import itertools
import math
from statistics import fmean

import numpy as np
import pytest
from scipy import stats

from scripts.compare.statistics import Estimate
from scripts.evaluate.scores import Lengths, Scores, by_category, mean_over_problems, pass_at_k
from tests.scripts.evaluate.synthetic import answers


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_share_of_all_choices_with_a_correct_one(n: int) -> None:
    for correct, k in itertools.product(range(n + 1), range(1, n + 1)):
        choices = list(itertools.combinations([True] * correct + [False] * (n - correct), k))
        assert pass_at_k(n, correct, k) == pytest.approx(fmean(any(choice) for choice in choices), abs=1e-15)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.9])
def test_pass_at_k_is_unbiased(p: float) -> None:
    """Its expectation over the binomial number of correct ones is 1 - (1 - p)^k, which the plug-in misses."""
    n = 6
    weights = stats.binom.pmf(range(n + 1), n, p)
    for k in range(1, n + 1):
        expected = sum(weight * pass_at_k(n, c, k) for c, weight in enumerate(weights))
        assert expected == pytest.approx(1 - (1 - p) ** k, abs=1e-12)
    plugged_in = sum(weight * (1 - (1 - c / n) ** 4) for c, weight in enumerate(weights))
    assert plugged_in < 1 - (1 - p) ** 4 - 1e-4


def test_pass_at_k_of_many() -> None:
    assert pass_at_k(1000, 1, 1) == pytest.approx(0.001)
    assert pass_at_k(1000, 1, 1000) == 1
    assert pass_at_k(10_000, 10, 100) == pytest.approx(1 - math.prod(1 - 100 / i for i in range(9991, 10_001)))


@pytest.mark.parametrize(("n", "correct", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 5), (4, 2, 0)])
def test_pass_at_k_of_nonsense(n: int, correct: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"pass@{k} of {correct} correct among {n}"):
        pass_at_k(n, correct, k)


def test_the_interval_over_problems_is_that_of_a_mean() -> None:
    """Of 400 problems the percentiles of the bootstrap are those of the normal distribution, nearly."""
    values = np.random.default_rng(0).choice([0.0, 0.25, 0.5, 1.0], 400).tolist()
    found, error = mean_over_problems(values), np.std(values) / 20
    assert found.mean == pytest.approx(fmean(values))
    assert (found.low, found.high) == pytest.approx((found.mean - 1.96 * error, found.mean + 1.96 * error), abs=0.005)


def test_no_interval_claims_certainty() -> None:
    """Where every problem has the same value."""
    none, every = mean_over_problems([0.0] * 20), mean_over_problems([1.0] * 20)
    # Wilson's upper end for none of n: z^2 / (n + z^2).
    z2 = 1.959964**2
    assert (none.mean, none.low) == (0, 0)
    assert none.high == pytest.approx(z2 / (20 + z2), abs=1e-6)
    assert every.low == pytest.approx(20 / (20 + z2), abs=1e-6)
    assert mean_over_problems([0.5] * 20) == Estimate(0.5, None, None, 20)
    assert math.isnan(mean_over_problems([]).mean)


def test_one_response_a_problem_has_wilsons_interval() -> None:
    found = Scores.of(answers("c", "w", "c", "u", "t"))
    expected = stats.binomtest(2, 5).proportion_ci(method="wilson")
    assert (found.accuracy.mean, found.accuracy.n) == (0.4, 5)
    assert (found.accuracy.low, found.accuracy.high) == pytest.approx((expected.low, expected.high))
    assert found.kinds == {"correct": 2, "wrong": 1, "unparseable": 1, "timeout": 1}
    assert found.bounds is None


def test_samples() -> None:
    found = Scores.of(answers("ccww", "wwww", "cccc"), ks=(1, 2, 4))
    assert found.accuracy.mean == pytest.approx(0.5)
    # C(2, 2) / C(4, 2) of the pairs of the first problem hold no correct one.
    assert {k: one.mean for k, one in found.pass_at.items()} == pytest.approx(
        {1: 0.5, 2: (5 / 6 + 0 + 1) / 3, 4: 2 / 3}
    )
    assert found.pass_at[1].mean == pytest.approx(found.accuracy.mean)


def test_what_could_not_be_graded_is_not_wrong() -> None:
    found = Scores.of(answers("cg", "ww", "ii"), ks=(1, 2))
    # 1 of 1 graded, 0 of 2, and one problem of which nothing is known.
    assert (found.accuracy.mean, found.accuracy.n) == (0.5, 2)
    assert found.ungraded == 3
    assert found.bounds == pytest.approx((0.5 / 3, (0.5 + 0.5 + 1) / 3))
    # pass@2 needs two graded responses.
    assert (found.pass_at[1].n, found.pass_at[2].n, found.pass_at[2].mean) == (2, 1, 0.0)


def test_nothing_graded_at_all() -> None:
    found = Scores.of(answers("i", "g"))
    assert math.isnan(found.accuracy.mean)
    assert found.bounds == (0, 1)


def test_lengths() -> None:
    found = Lengths.of([response for one in answers("cw", "cw", tokens=10) for response in one])
    assert (found.mean, found.median, found.max, found.correct_mean) == (10.5, 10.5, 11, 10)
    assert Lengths.of(answers("w")[0]).correct_mean is None


def test_categories() -> None:
    found = by_category(
        {0: answers("c")[0], 2: answers("w")[0]}, {"level": ["1", "2", "1"], "subject": ["b", "x", "a"]}
    )
    assert list(found) == ["level", "subject"]
    assert {value: scores.accuracy.mean for value, scores in found["level"].items()} == {"1": 0.5}
    assert [(value, one.accuracy.mean) for value, one in found["subject"].items()] == [("a", 0.0), ("b", 1.0)]
