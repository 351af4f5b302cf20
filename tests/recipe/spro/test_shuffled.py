"""The control: the same amount of process term, given to another response of the group."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recipe.spro.advantage import spro_advantage_naive
from recipe.spro.advantage.groups import Groups
from recipe.spro.shuffled import derangement, shuffle_msa
from tests.recipe.spro.test_estimator import batch, compute
from verl_ext import estimator_metrics

SHUFFLED = ("+method=spro_shuffled", "algorithm.spro.beta=0.5")


@pytest.mark.parametrize("seed", range(5))
def test_every_row_gets_the_term_of_another_of_its_group(seed: int) -> None:
    uids = np.array(["a", "b", "a", "c", "b", "a", "b", "b", "d", "d"], dtype=object)
    donors = derangement(Groups.of(uids), np.random.default_rng(seed))
    assert sorted(donors) == list(range(len(uids)))
    assert (uids[donors] == uids).all()
    alone = uids == "c"
    assert (donors[alone] == np.flatnonzero(alone)).all()
    assert (donors[~alone] != np.flatnonzero(~alone)).all()


def test_each_of_the_others_is_equally_likely() -> None:
    groups = Groups.of(np.zeros(4, np.int64))
    rng = np.random.default_rng(0)
    counts = np.zeros((4, 4))
    draws = 3000
    for _ in range(draws):
        counts[np.arange(4), derangement(groups, rng)] += 1
    expected = draws / 3
    assert (np.diag(counts) == 0).all()
    # Five standard deviations of a binomial.
    off_diagonal = counts[~np.eye(4, dtype=bool)]
    assert (abs(off_diagonal - expected) < 5 * np.sqrt(expected * 2 / 3)).all()


def test_by_hand() -> None:
    msa = torch.tensor([[3.0, 4.0, 0.0], [1.0, 2.0, 5.0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    got = shuffle_msa(msa, mask, np.array([1, 0]))
    # The second row has no living donor at the last place; the whole is scaled from 1 + 4 + 9 + 16 to 55.
    scale = (55 / 30) ** 0.5
    torch.testing.assert_close(got, scale * torch.tensor([[1.0, 2.0, 0.0], [3.0, 4.0, 0.0]]))


def test_nothing_to_hand_on_stays_nothing() -> None:
    msa = torch.tensor([[0.0, 0.0], [0.0, 5.0]])
    mask = torch.tensor([[1, 0], [1, 1]])
    # Alive only where the other has ended: no size can be kept, and none is made up.
    assert (shuffle_msa(msa, mask, np.array([1, 0])) == 0).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_estimator_changes_only_whose_term_it_is(seed: int) -> None:
    data = batch(seed)
    mask = data.batch["response_mask"].bool()
    _, parts = spro_advantage_naive(
        data.batch["old_log_probs"],
        data.batch["ref_log_prob"],
        mask,
        data.batch["token_level_scores"].sum(-1),
        data.non_tensor_batch["uid"],
        beta=0.5,
        return_parts=True,
    )
    estimator_metrics.drain()
    got = compute(data, *SHUFFLED).batch["advantages"].double()
    share = estimator_metrics.drain()["spro/process_share"]
    msa = (got - parts.outcome[:, None]) * mask
    assert (got[~mask] == 0).all()
    assert (msa - parts.msa).abs().max() > 0.1
    torch.testing.assert_close(msa.square().sum(), parts.msa.square().sum(), rtol=1e-4, atol=0)
    outcome = (parts.outcome[:, None] * mask).square().sum()
    assert share == pytest.approx(float((msa.square().sum() / outcome).sqrt()), rel=1e-4)
    donors = derangement(Groups.of(data.non_tensor_batch["uid"]), np.random.default_rng([0, 0]))
    torch.testing.assert_close(msa, shuffle_msa(parts.msa, mask, donors), atol=1e-5, rtol=1e-4)


def test_the_draw_depends_on_the_seed_and_nothing_else() -> None:
    first, again = compute(batch(0), *SHUFFLED), compute(batch(0), *SHUFFLED)
    other = compute(batch(0), *SHUFFLED, "algorithm.spro.shuffle_seed=1")
    assert torch.equal(first.batch["advantages"], again.batch["advantages"])
    assert not torch.equal(first.batch["advantages"], other.batch["advantages"])
