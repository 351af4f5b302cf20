"""The two numbers on how well implicit rewards order responses."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from recipe.prime_v1.advantage import ordering_accuracy, outcome_correlation

GROUPS = torch.zeros(4).long()


def by_hand(scores: list[float], outcomes: list[float], groups: list[int]) -> float | None:
    """Pair by pair."""
    points = []
    for i, j in itertools.combinations(range(len(scores)), 2):
        if groups[i] == groups[j] and outcomes[i] != outcomes[j]:
            tied = scores[i] == scores[j]
            points.append(0.5 if tied else float((scores[i] > scores[j]) == (outcomes[i] > outcomes[j])))
    return sum(points) / len(points) if points else None


@pytest.mark.parametrize(
    ("scores", "outcomes", "expected"),
    [
        ([2, 1, 0, -1], [1, 1, 0, 0], 1.0),
        ([-1, 0, 1, 2], [1, 1, 0, 0], 0.0),
        # right: 2 > 1, 2 > -1; wrong: 0 < 1; right: 0 > -1
        ([2, 0, 1, -1], [1, 1, 0, 0], 0.75),
        # Equal scores order nothing.
        ([0, 0, 0, 0], [1, 0, 0, 0], 0.5),
        ([3, 1, 2, 0], [1, 1, 1, 1], None),
    ],
)
def test_of_one_group(scores: list[float], outcomes: list[float], expected: float | None) -> None:
    assert ordering_accuracy(torch.tensor(scores).float(), torch.tensor(outcomes).float(), GROUPS) == expected


@pytest.mark.parametrize("seed", range(20))
def test_equals_the_pairs_counted_one_by_one(seed: int) -> None:
    """Ties in scores and outcomes, outcomes between 0 and 1, groups of any size in any order, uids."""
    rng = np.random.default_rng(seed)
    B = int(rng.integers(1, 40))
    scores, outcomes, groups = rng.integers(-3, 4, B), rng.integers(0, 4, B) / 3, rng.integers(0, 1 + B // 4, B)
    expected = by_hand(scores.tolist(), outcomes.tolist(), groups.tolist())
    tensors = torch.from_numpy(scores).float(), torch.from_numpy(outcomes)
    uids = np.array([f"uid-{g}" for g in groups], dtype=object)
    for ids in (torch.from_numpy(groups), uids):
        assert ordering_accuracy(*tensors, ids) == (None if expected is None else pytest.approx(expected, abs=1e-12))


def test_groups_are_not_compared_and_lone_rows_not_at_all() -> None:
    scores, outcomes = torch.tensor([0.0, 5, 6, 1]), torch.tensor([0.0, 1, 0, 1])
    assert ordering_accuracy(scores, outcomes, torch.tensor([1, 2, 2, 1])) == 0.5
    assert ordering_accuracy(scores, outcomes, torch.arange(4)) is None
    assert ordering_accuracy(torch.zeros(0), torch.zeros(0), torch.zeros(0).long()) is None


def test_correlation_is_pearsons() -> None:
    rng = np.random.default_rng(0)
    scores, outcomes = rng.normal(size=50), rng.integers(0, 2, 50).astype(float)
    expected = np.corrcoef(scores, outcomes)[0, 1]
    for scale in (1.0, 1e-200, 1e200):
        found = outcome_correlation(torch.from_numpy(scores * scale), torch.from_numpy(outcomes))
        assert found == pytest.approx(expected, abs=1e-12)
    assert outcome_correlation(torch.tensor([1.0, 2, 3]), torch.tensor([0.2, 0.4, 0.6])) == pytest.approx(1)
    assert outcome_correlation(torch.tensor([1.0, 2, 3]), torch.tensor([0.9, 0.6, 0.3])) == pytest.approx(-1)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3])
def test_no_correlation_without_a_spread(constant: float) -> None:
    """The mean of equal values may differ from them by a rounding, which is no spread."""
    same, other = torch.full((7,), constant), torch.arange(7.0)
    assert outcome_correlation(same, other) is None
    assert outcome_correlation(other, same) is None
    assert outcome_correlation(torch.zeros(0), torch.zeros(0)) is None


@pytest.mark.parametrize("measure", [ordering_accuracy, outcome_correlation])
def test_errors(measure: Any) -> None:
    rest = () if measure is outcome_correlation else (GROUPS,)
    fine = torch.arange(4.0)
    with pytest.raises(ValueError, match=r"^scores must be finite; row 2 is nan$"):
        measure(torch.tensor([0, 1, float("nan"), 2]), fine, *rest)
    with pytest.raises(ValueError, match=r"^outcome_rewards must be finite; row 0 is inf$"):
        measure(fine, torch.tensor([float("inf"), 1, 0, 2]), *rest)
    with pytest.raises(ValueError, match=r"^outcome_rewards must have shape \(4,\), as scores, got \(3,\)$"):
        measure(fine, fine[:3], *rest)
    with pytest.raises(ValueError, match=r"^scores must have shape \(B,\), got \(4, 1\)$"):
        measure(fine[:, None], fine, *rest)
