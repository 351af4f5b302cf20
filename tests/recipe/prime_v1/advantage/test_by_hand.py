"""Tiny batches worked out by hand: they check the oracle of each form, and the fast advantage with it."""

from typing import Any

import pytest
import torch

from recipe.prime_v1.advantage import prime_advantage, prime_advantage_naive

both = pytest.mark.parametrize("advantage", [prime_advantage, prime_advantage_naive])

NAN = float("nan")

# One group, two responses of 3 and 2 tokens, beta = 1/2; the reference's log-probs are 0, so r = rm_log_probs / 2:
#
#   row 0   1 2 3    outcome 1
#   row 1   1/2 3/2  outcome 0
#
# Coefficients 2 (process) and 1 (outcome). n = 2: an outcome less the other one is 1 and -1.
BATCH: dict[str, Any] = dict(
    rm_log_probs=torch.tensor([[2.0, 4, 6], [1, 3, NAN]]),
    ref_log_probs=torch.zeros(2, 3),
    response_mask=torch.tensor([[1, 1, 1], [1, 1, 0]]),
    outcome_rewards=torch.tensor([1.0, 0]),
    group_ids=torch.tensor([4, 4]),
    beta=0.5,
    reward_dpo_coef=2.0,
    reward_gt_coef=1.0,
)


def assert_returns(result: tuple[torch.Tensor, torch.Tensor], expected: list[list[float]]) -> None:
    torch.testing.assert_close(result[1].double(), torch.tensor(expected).double(), rtol=0, atol=3e-6)


@both
def test_upstream_per_token(advantage: Any) -> None:
    # without the last tokens 1 2 0 | 1/2 0; means 1, 1/4; 2x - 5/4 = 3/4 11/4 -5/4 | -1/4 -5/4; times 2, and the
    # outcomes at the end: 3/2 11/2 -3/2 | -1/2 -7/2
    returns = [[5.5, 4, -1.5], [-4, -3.5, 0]]
    result = advantage(**BATCH, prime_norm="none")
    assert_returns(result, returns)
    # mean 1/10; squared deviations 29.16 15.21 2.56 | 16.81 12.96 add up to 76.7, over 4 they are 19.175
    white = torch.tensor([[5.4, 3.9, -1.6], [-4.1, -3.6, 0]]) / (19.175 + 1e-8) ** 0.5
    torch.testing.assert_close(result[0].double(), white.double(), rtol=0, atol=1e-6)


@both
def test_upstream_normed_by_the_batch(advantage: Any) -> None:
    # The reverse cumulative sums 3 2 0 | 1/2 0 are at most 3, so the process term is a third:
    # (4.5 3 -2.5 | -3 -2.5) / 3, and the outcomes.
    assert_returns(advantage(**BATCH), [[2.5, 2, 1 / 6], [-2, -11 / 6, 0]])


@both
def test_upstream_for_the_whole_response(advantage: Any) -> None:
    # 0 0 6 | 0 2; means 2, 1; 2x - 3 = -3 -3 9 | -3 1; times 2, and the outcomes: -6 -6 19 | -6 1
    assert_returns(advantage(**BATCH, prime_granularity="whole", prime_norm="none"), [[7, 13, 19], [-5, 1, 0]])
    # The largest sum is 6.
    assert_returns(advantage(**BATCH, prime_granularity="whole"), [[2, 3, 4], [-5 / 3, -2 / 3, 0]])


@both
def test_the_paper(advantage: Any) -> None:
    # less the other row's mean: 1-1 2-1 3-1 | 1/2-2 3/2-2; from the end: 3 3 2 | -2 -1/2; times 2, and the outcomes
    assert_returns(advantage(**BATCH, form="paper", prime_norm="none"), [[7, 7, 5], [-5, -2, 0]])


@both
def test_alone_there_is_no_baseline(advantage: Any) -> None:
    alone = BATCH | dict(group_ids=torch.tensor([0, 1]), prime_norm="none")
    # times 2: 2 4 0+1 | 1 0+0
    assert_returns(advantage(**alone), [[7, 5, 1], [1, 0, 0]])
    # times 2: 2 4 6+1 | 1 3+0
    assert_returns(advantage(**alone, form="paper"), [[13, 11, 7], [4, 3, 0]])


@both
@pytest.mark.parametrize("form", ["upstream", "paper"])
def test_a_row_without_a_token_is_in_no_group(advantage: Any, form: str) -> None:
    """Neither its outcome of 1 counts nor that there would be three rows."""
    options = dict(form=form, prime_norm="none")
    more = BATCH | dict(
        rm_log_probs=torch.cat([torch.full((1, 3), NAN), BATCH["rm_log_probs"]]),
        ref_log_probs=torch.zeros(3, 3),
        response_mask=torch.cat([torch.zeros(1, 3).long(), BATCH["response_mask"]]),
        outcome_rewards=torch.tensor([1.0, 1, 0]),
        group_ids=torch.tensor([4, 4, 4]),
    )
    for with_it, without in zip(advantage(**more, **options), advantage(**BATCH, **options), strict=True):
        assert (with_it[0] == 0).all()
        assert torch.equal(with_it[1:], without)


@both
@pytest.mark.parametrize("options", [{}, dict(prime_granularity="whole"), dict(form="paper", prime_norm="none")])
def test_what_the_environment_wrote_is_not_there(advantage: Any, options: dict[str, Any]) -> None:
    wider = torch.tensor([0, 2, 3])
    apart = dict(BATCH)
    for name, fill in (("rm_log_probs", float("inf")), ("ref_log_probs", NAN), ("response_mask", 0)):
        apart[name] = torch.full((2, 5), fill, dtype=BATCH[name].dtype)
        apart[name][:, wider] = BATCH[name]
    for between, together in zip(advantage(**apart, **options), advantage(**BATCH, **options), strict=True):
        assert torch.equal(between[:, wider], together)
        assert (between[:, [1, 4]] == 0).all()


@both
def test_fewer_than_two_tokens_have_no_spread(advantage: Any) -> None:
    one = BATCH | dict(response_mask=torch.tensor([[0, 1, 0], [0, 0, 0]]))
    advantages, returns = advantage(**one, form="paper", prime_norm="none")
    assert (advantages == 0).all()
    # 2 * 2 + 1
    assert returns.tolist() == [[0, 5, 0], [0, 0, 0]]
    for x in advantage(**BATCH | dict(response_mask=torch.zeros(2, 3).bool())):
        assert (x == 0).all()
