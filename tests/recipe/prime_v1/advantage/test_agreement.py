"""The fast advantage against the float64 oracle, over ragged, odd, empty, tied and NaN-poisoned batches."""

from typing import Any

import pytest
import torch

from recipe.prime_v1.advantage import (
    Options,
    prime_advantage,
    prime_advantage_naive,
    prime_advantage_with_stats,
)
from tests.recipe.prime_v1.advantage.batches import FORMS, prime_batch
from tests.recipe.spro.advantage.batches import as_uids, jagged

every_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(form.values()))
both = pytest.mark.parametrize("advantage", [prime_advantage, prime_advantage_naive])


def assert_agree(batch: dict[str, Any], **options: Any) -> None:
    fast, naive = prime_advantage(**batch, **options), prime_advantage_naive(**batch, **options)
    masked = batch["response_mask"] == 0
    for name, one, other in zip(("advantages", "returns"), fast, naive, strict=True):
        assert one.dtype == torch.float32
        assert other.dtype == torch.float64
        assert one.shape == other.shape == batch["rm_log_probs"].shape
        torch.testing.assert_close(
            one, other, rtol=3e-6, atol=3e-6, check_dtype=False, msg=lambda m, name=name: f"{name}: {m}"
        )
        assert (one[masked] == 0).all()
        assert (other[masked] == 0).all()


@every_form
@pytest.mark.parametrize("T", [1, 2, 5, 63, 130])
def test_fast_equals_oracle(T: int, form: dict[str, Any]) -> None:
    for seed in range(8):
        batch = prime_batch(seed, T, holes=seed % 3 != 0)
        beta = (0.05, 1.0)[seed % 2]
        coefs = [(5.0, 5.0), (0.0, 5.0), (5.0, 0.0), (1.0, 0.3)][seed % 4]
        assert_agree(batch, beta=beta, reward_dpo_coef=coefs[0], reward_gt_coef=coefs[1], **form)


@every_form
@pytest.mark.parametrize("T", [1, 5, 130])
def test_the_parts_are_as_large_as_the_oracles(T: int, form: dict[str, Any]) -> None:
    coefs: dict[str, Any] = {"reward_dpo_coef": 2.0, "reward_gt_coef": 0.3}
    for seed in range(8):
        batch = prime_batch(seed, T, holes=seed % 3 != 0)
        advantages, returns, stats = prime_advantage_with_stats(**batch, options=Options(**coefs, **form))
        for one, other in zip((advantages, returns), prime_advantage(**batch, **coefs, **form), strict=True):
            assert torch.equal(one, other)
        process, outcome = (
            float((prime_advantage_naive(**batch, **coefs | {other: 0.0}, **form)[1] ** 2).sum())
            for other in ("reward_gt_coef", "reward_dpo_coef")
        )
        assert stats.process_square_sum == pytest.approx(process, rel=1e-9, abs=1e-12)
        assert stats.outcome_square_sum == pytest.approx(outcome, rel=1e-9, abs=1e-12)


@every_form
@pytest.mark.parametrize(("B", "T"), [(0, 0), (0, 4), (3, 0)])
def test_no_rows_and_no_columns(B: int, T: int, form: dict[str, Any]) -> None:
    x = torch.zeros(B, T)
    assert_agree(
        dict(rm_log_probs=x, ref_log_probs=x, response_mask=x.bool(), outcome_rewards=torch.arange(B) / 2)
        | dict(group_ids=torch.zeros(B, dtype=torch.int64)),
        **form,
    )


@every_form
def test_equal_responses_have_no_advantage(form: dict[str, Any]) -> None:
    """Not even a rounding, which whitening would blow up by up to 1e4."""
    B, T = 6, 300
    batch = dict(
        rm_log_probs=torch.full((B, T), -0.3),
        ref_log_probs=torch.full((B, T), -0.3),
        response_mask=torch.ones(B, T),
        outcome_rewards=torch.full((B,), 1 / 3),
        group_ids=torch.tensor([1, 2, 2, 1, 2, 2]),
    )
    for x in prime_advantage(**batch, **form):
        assert (x == 0).all()
    if form.get("form") == "paper":
        # The reward of each token is that of all; upstream's drops the last one and keeps its place in the mean.
        advantages, _ = prime_advantage(**batch | dict(ref_log_probs=torch.full((B, T), -0.7)), **form)
        assert float(advantages.abs().max()) < 1e-6


@every_form
@both
def test_row_order_and_names_of_groups_do_not_matter(advantage: Any, form: dict[str, Any]) -> None:
    batch = prime_batch(4, 29)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(1))
    shuffled = {name: x[order] for name, x in batch.items()}
    shuffled["group_ids"] = as_uids(shuffled["group_ids"])
    for one, other in zip(advantage(**batch, **form), advantage(**shuffled, **form), strict=True):
        torch.testing.assert_close(one[order], other, rtol=2e-6, atol=2e-6)


@every_form
@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.uint8, torch.int32, torch.float32])
def test_mask_types(mask_dtype: torch.dtype, form: dict[str, Any]) -> None:
    batch = prime_batch(3, 17)
    expected = prime_advantage(**batch, **form)
    batch["response_mask"] = batch["response_mask"].to(mask_dtype)
    for one, other in zip(prime_advantage(**batch, **form), expected, strict=True):
        assert torch.equal(one, other)


@every_form
@both
@pytest.mark.parametrize("T", [1, 23])
def test_jagged_equals_padded(advantage: Any, T: int, form: dict[str, Any]) -> None:
    """A jagged batch keeps its offsets, zeros inside its mask and rows without a token."""
    batch = prime_batch(1, T)
    # Up to the last valid token, and some padding behind it in row 0.
    lengths = (batch["response_mask"] * torch.arange(1, T + 1)).amax(1)
    lengths[0] = T
    packed = {name: jagged(x, lengths) if x.dim() == 2 else x for name, x in batch.items()}
    for dense, nested in zip(advantage(**batch, **form), advantage(**packed, **form), strict=True):
        assert nested.layout == torch.jagged
        assert nested.offsets() is packed["rm_log_probs"].offsets()
        torch.testing.assert_close(nested.values(), jagged(dense, lengths).values(), rtol=0, atol=0)
        assert (nested + packed["rm_log_probs"]).shape == packed["rm_log_probs"].shape


def test_jagged_with_holes_between_rows() -> None:
    """torch.nested.narrow leaves values that belong to no row."""
    base, lengths = torch.arange(12.0).reshape(3, 4) / 10, torch.tensor([2, 0, 4])
    narrowed = torch.nested.narrow(base, 1, torch.zeros(3, dtype=torch.int64), lengths, layout=torch.jagged)
    rest = (torch.tensor([1.0, 0.0, 0.5]), torch.zeros(3).long())
    inside = torch.arange(4) < lengths[:, None]
    dense = prime_advantage(base, base * 2, inside, *rest)
    ragged = prime_advantage(narrowed, jagged(base * 2, lengths), jagged(torch.ones(3, 4), lengths), *rest)
    for nested, padded in zip(ragged, dense, strict=True):
        for i, row in enumerate(nested.unbind()):
            torch.testing.assert_close(row, padded[i, : lengths[i]], rtol=0, atol=0)


@every_form
def test_threads_and_memory_change_no_bit(form: dict[str, Any]) -> None:
    """Of a batch large enough for several threads and for memory that is used again."""
    rng = torch.Generator().manual_seed(0)
    B, T = 40, 16_400
    x = -torch.rand(B, T, generator=rng)
    inputs: tuple = (x, x + 0.03 * torch.randn(B, T, generator=rng), torch.rand(B, T, generator=rng) < 0.9)
    inputs += (torch.rand(B, generator=rng), torch.randint(0, 7, (B,), generator=rng))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first = prime_advantage(*inputs, **form)
        torch.set_num_threads(3)
        second = prime_advantage(*inputs, **form)
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def test_a_drift_that_all_rows_share_costs_no_precision() -> None:
    """Over 16k tokens rewards and baselines add up to 16k each, and cancel but for less than 1."""
    rng = torch.Generator().manual_seed(0)
    T = 16_384
    x = -torch.rand(2, T, generator=rng)
    batch = (x, x - 1 + 1e-3 * torch.randn(2, T, generator=rng), torch.ones(2, T), torch.tensor([1.0, 0]))
    reward = batch[0].double() - batch[1].double()
    group_ids = torch.zeros(2).long()
    options = dict(beta=1.0, reward_dpo_coef=1.0, reward_gt_coef=0.0, prime_norm="none")
    exact = (reward - reward.mean(1).flip(0)[:, None]).flip(1).cumsum(1).flip(1)
    advantages, returns = prime_advantage(*batch, group_ids, form="paper", **options)
    torch.testing.assert_close(returns.double(), exact, rtol=1e-6, atol=1e-6)
    white = (exact - exact.mean()) / (exact.var() + 1e-8).sqrt()
    torch.testing.assert_close(advantages.double(), white, rtol=2e-6, atol=2e-6)


@both
def test_inputs_stay_as_they_are_and_carry_no_gradient(advantage: Any) -> None:
    batch = prime_batch(0, 9)
    batch["rm_log_probs"].requires_grad_()
    before = {name: x.detach().clone() for name, x in batch.items()}
    assert not any(x.requires_grad for x in advantage(**batch))
    for name, x in batch.items():
        torch.testing.assert_close(x.detach(), before[name], rtol=0, atol=0, equal_nan=True)
