"""The mismatch of two engines, against plain loops over padded-free rows."""

from __future__ import annotations

import math

import pytest
import torch

from verl_ext.log_prob_mismatch import Mismatch, measure, running_sums, share

LENGTHS = (5, 1, 3, 4)


def ragged(values: torch.Tensor) -> torch.Tensor:
    offsets = torch.tensor([0, *LENGTHS]).cumsum(0)
    return torch.nested.nested_tensor_from_jagged(values, offsets)


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rollout and actor log-probs and the mask; a tool's token inside the first row, a last row without any of ours."""
    random = torch.Generator().manual_seed(0)
    actor = -2 * torch.rand(sum(LENGTHS), generator=random)
    rollout = actor + 0.1 * torch.randn(sum(LENGTHS), generator=random)
    mask = torch.ones(sum(LENGTHS), dtype=torch.int64)
    mask[2], mask[-4:] = 0, 0
    return ragged(rollout), ragged(actor), ragged(mask)


def by_loops() -> tuple[list[float], list[float], list[float]]:
    probs, log_probs, sums = [], [], []
    for rollout, actor, mask in zip(*(x.unbind() for x in batch()), strict=True):
        total = 0.0
        for r, a, m in zip(rollout.tolist(), actor.tolist(), mask.tolist(), strict=True):
            if m:
                total += r - a
                probs.append(abs(math.exp(r) - math.exp(a)))
                log_probs.append(abs(r - a))
                sums.append(total)
    return probs, log_probs, sums


def test_equals_loops_over_tokens() -> None:
    probs, log_probs, sums = by_loops()
    mismatch, drift = measure(*batch())
    assert drift.tolist() == pytest.approx(sums)
    assert mismatch.as_metrics("") == pytest.approx(
        {
            "prob_diff_mean": sum(probs) / len(probs),
            "log_prob_diff_mean": sum(log_probs) / len(log_probs),
            "log_prob_diff_max": max(log_probs),
            "cumulative_rms": math.sqrt(sum(x * x for x in sums) / len(sums)),
            "cumulative_max": max(map(abs, sums)),
        }
    )


def test_equal_engines_differ_in_nothing() -> None:
    rollout, _, mask = batch()
    mismatch, drift = measure(rollout, rollout, mask)
    assert set(mismatch.as_metrics("").values()) == {0.0}
    assert not drift.any()
    assert mismatch.within(1e-12, 1e-12)


def test_what_stands_at_masked_places_has_no_effect() -> None:
    expected, sums = measure(*batch())
    rollout, actor, mask = batch()
    hidden = ~mask.values().bool()
    rollout.values()[hidden], actor.values()[hidden] = math.nan, -math.inf
    got, drift = measure(rollout, actor, mask)
    assert got == expected
    assert torch.equal(drift, sums)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_beyond_every_limit(bad: float) -> None:
    rollout, actor, mask = batch()
    rollout.values()[0] = bad
    assert not measure(rollout, actor, mask)[0].within(None, 1e9)


def test_without_a_token_there_is_nothing_to_agree() -> None:
    rollout, actor, mask = batch()
    mismatch, drift = measure(rollout, actor, ragged(torch.zeros_like(mask.values())))
    assert len(drift) == 0
    assert not mismatch.within(1e9, None)


@pytest.mark.parametrize(
    ("limits", "within"),
    [((0.1, 0.5), True), ((0.09, 0.5), False), ((0.1, 0.49), False), ((None, 0.5), True), ((0.1, None), True)],
)
def test_limits(limits: tuple[float | None, float | None], within: bool) -> None:
    assert Mismatch(0.1, 9.0, 9.0, 0.5, 9.0).within(*limits) is within


def test_share_of_a_cumulative_log_ratio() -> None:
    rollout, actor, mask = batch()
    reference = ragged(actor.values() - 1.0)
    _, drift = measure(rollout, actor, mask)
    ratios = running_sums(actor, reference, mask)
    # One nat at each of our tokens.
    assert ratios.tolist() == pytest.approx([1, 2, 3, 4, 1, 1, 2, 3])
    expected = drift.square().mean().sqrt() / ratios.square().mean().sqrt()
    assert share(drift, ratios) == pytest.approx(expected.item())
    assert math.isnan(share(drift, torch.zeros_like(drift)))
