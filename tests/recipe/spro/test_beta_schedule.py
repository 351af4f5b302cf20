"""Beta over the steps of a training, by hand and through the estimator."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from recipe.spro.beta_schedule import adapted_beta, beta_now, linear_beta
from recipe.spro.settings import BetaSchedule
from tests.recipe.spro.test_estimator import batch, compute
from verl_ext import estimator_metrics, estimator_state

ADAPTIVE = "algorithm.spro.beta_schedule.kind=adaptive"


@pytest.fixture(autouse=True)
def _a_run_of_its_own() -> Iterator[None]:
    estimator_state.clear()
    estimator_metrics.drain()
    yield
    estimator_state.clear()
    estimator_metrics.drain()


def step(number: int | None, *overrides: str) -> dict[str, float]:
    """The metrics of a training step, the same batch each time."""
    with estimator_metrics.at_step(number):
        compute(batch(0), *overrides)
    return estimator_metrics.drain()


def test_linear_by_hand() -> None:
    assert [linear_beta(0.4, number, 5) for number in (1, 2, 3, 4, 5, 6, 90)] == pytest.approx(
        [0.4, 0.3, 0.2, 0.1, 0, 0, 0]
    )


@pytest.mark.parametrize(
    ("beta", "share", "expected"),
    [
        # On target, and a little beside it.
        (0.1, 0.2, 0.1),
        (0.1, 0.21, 0.1 * 0.2 / 0.21),
        # Far above it: a tenth.
        (0.1, 5.0, 0.1 / 1.1),
        # Below it, up to where it began.
        (0.1, 0.19, 0.1 * 0.2 / 0.19),
        (0.1, 0.01, 0.11),
        (0.19, 0.01, 0.2),
        (0.2, 0.01, 0.2),
        (0.1, 0.0, 0.11),
    ],
)
def test_adapted_by_hand(beta: float, share: float, expected: float) -> None:
    assert adapted_beta(beta, share, target_share=0.2, highest=0.2) == pytest.approx(expected)


def test_a_beta_that_is_lowered_for_a_resumed_run_holds() -> None:
    schedule = BetaSchedule("adaptive", target_share=0.1)
    assert beta_now(0.3, schedule, None, None) == 0.3
    assert beta_now(0.3, schedule, None, 0.2) == 0.2
    assert beta_now(0.1, schedule, None, 0.2) == 0.1
    # Another schedule does not look at what an adaptive one has left.
    assert beta_now(0.3, BetaSchedule(), None, 0.2) == 0.3


def test_linear_through_the_estimator() -> None:
    schedule = ("algorithm.spro.beta=0.4", "algorithm.spro.beta_schedule={kind:linear,steps:5}")
    logged = [step(number, *schedule) for number in (1, 3, 5, 6)]
    assert [metrics["spro/beta"] for metrics in logged] == pytest.approx([0.4, 0.2, 0, 0])
    assert logged[1]["spro/process_share"] == pytest.approx(logged[0]["spro/process_share"] / 2)
    assert logged[2]["spro/process_share"] == logged[2]["spro/cpr/abs_max"] == 0


def test_linear_without_a_step_says_so() -> None:
    with pytest.raises(ValueError, match=r"beta_schedule\.kind=linear: this trainer does not tell its step\. Use "):
        step(None, "algorithm.spro.beta_schedule={kind:linear,steps:5}")


@pytest.mark.parametrize("method", ["spro", "spro_shuffled", "spro_pooled"])
def test_adaptive_reaches_its_share_a_tenth_at_a_time(method: str) -> None:
    overrides = (
        f"+method={method}",
        "algorithm.spro.beta=0.5",
        ADAPTIVE,
        "algorithm.spro.beta_schedule.target_share=0.1",
    )
    logged = [step(number, *overrides) for number in range(1, 21)]
    beta, share = ([metrics[name] for metrics in logged] for name in ("spro/beta", "spro/process_share"))
    assert beta[0] == 0.5
    assert share[0] > 0.2
    assert beta[1:4] == pytest.approx([0.5 / 1.1, 0.5 / 1.1**2, 0.5 / 1.1**3])
    assert share[-1] == pytest.approx(0.1)


def test_adaptive_starts_again_where_it_was() -> None:
    overrides = ("algorithm.spro.beta=0.5", ADAPTIVE, "algorithm.spro.beta_schedule.target_share=0.1")
    for number in (1, 2):
        step(number, *overrides)
    kept = estimator_state.get("spro/adapted_beta")
    assert kept is not None
    whole = step(3, *overrides)
    # As a checkpoint of step 2 gives it back.
    estimator_state.clear()
    estimator_state.put("spro/adapted_beta", kept)
    assert step(3, *overrides) == whole


def test_a_batch_without_an_outcome_moves_nothing() -> None:
    data = batch(0)
    data.batch["token_level_scores"] *= 0
    compute(data, "algorithm.spro.beta=0.5", ADAPTIVE, "algorithm.spro.beta_schedule.target_share=0.1")
    assert estimator_metrics.drain()["spro/outcome_is_zero"] == 1
    assert estimator_state.get("spro/adapted_beta") is None
