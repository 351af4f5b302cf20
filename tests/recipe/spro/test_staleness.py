"""CPR's self-test where responses are older than the policy, on generated batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recipe.spro.staleness import MISMATCH_TOLERANCE, complaint, staleness_metrics
from verl_ext.weight_versions import UNKNOWN, WeightVersions

LENGTHS = torch.tensor([5, 3, 7, 1, 4, 0])
MASK = (torch.arange(7) < LENGTHS[:, None]).long()
# A tool's tokens.
MASK[2, 2:4] = 0
NOISE, DRIFT = 1e-3, 0.3
FIRST = np.array([6, 5, 4, 6, UNKNOWN, 6])
LAST = np.array([6, 6, 4, 6, UNKNOWN, 6])
FRESH = torch.tensor([True, False, False, True, False, False])
STALE = torch.tensor([False, True, True, False, False, False])
# Of a response that earlier weights began and the current ones ended, the last token is the current ones' for sure.
END = torch.zeros(MASK.shape, dtype=torch.bool)
END[1, LENGTHS[1] - 1] = True


def versions(first: np.ndarray = FIRST, last: np.ndarray = LAST, current: int = 6) -> WeightVersions:
    return WeightVersions(first, last, current)


def log_probs() -> tuple[torch.Tensor, torch.Tensor]:
    """Trainer's and rollout's: noise where the weights are the same, drift where they are not; NaN where masked."""
    rng = torch.Generator().manual_seed(0)
    old = -3 * torch.rand(MASK.shape, generator=rng)
    noise = NOISE * torch.rand(MASK.shape, generator=rng)
    rollout = old + torch.where(FRESH[:, None] | END, noise, noise + DRIFT)
    return torch.where(MASK.bool(), old, torch.nan), torch.where(MASK.bool(), rollout, torch.nan)


def jagged(x: torch.Tensor) -> torch.Tensor:
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), LENGTHS.cumsum(0)])
    inside = torch.arange(x.shape[1]) < LENGTHS[:, None]
    return torch.nested.nested_tensor_from_jagged(x[inside], offsets)


def mean_over(distance: torch.Tensor, tokens: torch.Tensor) -> float:
    """Over the valid ones of these tokens, (B, T) or (B, 1)."""
    return float(distance[MASK.bool() & tokens].mean())


@pytest.mark.parametrize("layout", ["padded", "jagged"])
def test_ages_and_the_distance_of_equal_weights(layout: str) -> None:
    old, rollout = log_probs()
    tensors = [old, old, rollout, MASK]
    metrics = staleness_metrics(versions(), *(map(jagged, tensors) if layout == "jagged" else tensors), recomputed=True)
    assert metrics == pytest.approx(
        {
            "spro/staleness/min": 0,
            "spro/staleness/max": 2,
            # Of four rows that have a stamp and a token.
            "spro/staleness/moved_frac": 0.25,
            "spro/staleness/mismatch_fresh": mean_over((rollout - old).abs(), FRESH[:, None] | END),
            "spro/staleness/mismatch_stale": mean_over((rollout - old).abs(), STALE[:, None] & ~END),
        }
    )
    assert 0 < metrics["spro/staleness/mismatch_fresh"] < NOISE < DRIFT < metrics["spro/staleness/mismatch_stale"]


@pytest.mark.parametrize("layout", ["padded", "jagged"])
def test_where_every_response_is_interrupted_their_ends_are_tested(layout: str) -> None:
    old, rollout = log_probs()
    ends = torch.zeros(MASK.shape, dtype=torch.bool)
    # The third ends in a token after a tool's; the fourth has one token only, the last one none.
    for row, length in enumerate(LENGTHS.tolist()):
        ends[row, max(length - 1, 0)] = True
    rollout = torch.where(ends, old + NOISE, rollout)
    tensors = [jagged(x) if layout == "jagged" else x for x in (old, old, rollout, MASK)]
    moved = np.full(len(LENGTHS), 5)
    metrics = staleness_metrics(versions(moved, moved + 1), *tensors, recomputed=True)
    assert metrics["spro/staleness/moved_frac"] == 1
    assert metrics["spro/staleness/mismatch_fresh"] == pytest.approx(NOISE, rel=1e-3)
    assert metrics["spro/staleness/mismatch_stale"] == pytest.approx(mean_over((rollout - old).abs(), ~ends))
    # Ended by weights before the current ones, nothing of them is certain.
    assert "spro/staleness/mismatch_fresh" not in staleness_metrics(
        versions(moved - 1, moved), *tensors, recomputed=True
    )


def test_log_probs_of_the_rollout_are_compared_with_the_reference_on_the_first_models_responses() -> None:
    ref, rollout = log_probs()
    first, last = np.array([0, 0, 1, 0, UNKNOWN, 0]), np.array([0, 1, 1, 0, UNKNOWN, 0])
    metrics = staleness_metrics(versions(first, last, 1), rollout, ref, rollout, MASK, recomputed=False)
    assert metrics["spro/staleness/mismatch_first"] == pytest.approx(mean_over((rollout - ref).abs(), FRESH[:, None]))
    assert not {"spro/staleness/mismatch_fresh", "spro/staleness/mismatch_stale"} & metrics.keys()
    # When the last of them has gone there is nothing to compare.
    later = staleness_metrics(versions(FIRST, LAST), rollout, ref, rollout, MASK, recomputed=False)
    assert set(later) == {"spro/staleness/min", "spro/staleness/max", "spro/staleness/moved_frac"}


def test_without_the_rollouts_log_probs_there_are_ages_only() -> None:
    old, _ = log_probs()
    metrics = staleness_metrics(versions(), old, old, None, MASK, recomputed=True)
    assert set(metrics) == {"spro/staleness/min", "spro/staleness/max", "spro/staleness/moved_frac"}


def test_a_batch_of_padding_says_nothing() -> None:
    old, rollout = log_probs()
    unknown = np.full(len(LENGTHS), UNKNOWN)
    assert staleness_metrics(versions(unknown, unknown), old, old, rollout, MASK, recomputed=True) == {}
    assert staleness_metrics(versions(), old, old, rollout, 0 * MASK, recomputed=True) == {}


def test_recomputed_cpr_is_exactly_0_at_step_1_whatever_the_ages() -> None:
    stale = {"spro/staleness/max": 3.0, "spro/staleness/mismatch_stale": 5.0}
    for metrics, current in (({}, None), (stale, 0)):
        assert complaint(metrics, 0.0, 1, current, recomputed=True) is None
        assert "must be exactly 0" in (complaint(metrics, 1e-9, 1, current, recomputed=True) or "")
    # Later they differ, by what was learnt.
    assert complaint({}, 1.0, 2, None, recomputed=True) is None
    assert complaint({}, 1.0, None, None, recomputed=True) is None
    assert complaint(stale, 1.0, 2, 1, recomputed=True) is None


def test_it_is_0_in_every_update_before_the_first_synchronisation() -> None:
    assert complaint({}, 0.0, 3, 0, recomputed=True) is None
    assert "is 0.5 at step 3, where" in (complaint({}, 0.5, 3, 0, recomputed=True) or "")


def test_a_reference_that_moves_is_not_the_first_model() -> None:
    ref, rollout = log_probs()
    zeros = np.zeros(len(LENGTHS), dtype=np.int64)
    of_a_step = versions(zeros, zeros, 0), rollout, ref, rollout, MASK
    assert "spro/staleness/mismatch_first" in staleness_metrics(*of_a_step, recomputed=False)
    moved = staleness_metrics(*of_a_step, recomputed=False, reference_stays=False)
    assert "spro/staleness/mismatch_first" not in moved


@pytest.mark.parametrize("step", [1, 2, None])
def test_the_rollouts_may_differ_by_the_engines_on_the_first_models_responses(step: int | None) -> None:
    key = "spro/staleness/mismatch_first"
    assert complaint({key: MISMATCH_TOLERANCE}, 0.4, step, 0, recomputed=False) is None
    reason = complaint({key: 2 * MISMATCH_TOLERANCE}, 0.4, step, 0, recomputed=False)
    assert reason is not None
    assert reason.startswith(f"{key} is 0.1 nats a token")
    assert reason.endswith("Set algorithm.rollout_correction.bypass_mode=False")
    # There is nothing to hold them to on others.
    assert complaint({}, 7.0, step, 0, recomputed=False) is None


@pytest.mark.parametrize("step", [1, 8])
def test_a_fresh_response_that_is_far_from_the_trainer_has_a_wrong_stamp(step: int) -> None:
    key = "spro/staleness/mismatch_fresh"
    assert complaint({key: MISMATCH_TOLERANCE}, 0.0, step, 1, recomputed=True) is None
    reason = complaint({key: 2 * MISMATCH_TOLERANCE}, 0.0, step, 1, recomputed=True)
    assert reason is not None
    assert "the rollout serves other weights than it says" in reason
    # Not at every step of a run whose engines disagree.
    assert complaint({key: 2 * MISMATCH_TOLERANCE}, 0.0, 9, 8, recomputed=True) is None
