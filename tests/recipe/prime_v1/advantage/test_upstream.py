"""Against verl-recipe's own PRIME, whose code is not shipped: set PRIME_UPSTREAM to its prime_core_algos.py."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from recipe.prime_v1.advantage import ordering_accuracy, prime_advantage, prime_advantage_naive
from scripts.prime_upstream import load, upstream_call

PATH = os.environ.get("PRIME_UPSTREAM")
pytestmark = pytest.mark.skipif(PATH is None, reason="PRIME_UPSTREAM is not set to upstream's prime_core_algos.py")

GROUP = 4


@pytest.fixture(scope="module")
def upstream() -> Any:
    assert PATH is not None
    return load(Path(PATH))


def contiguous_batch(seed: int, B: int = 16, T: int = 57) -> dict[str, Any]:
    """What upstream can do: equal groups side by side, masks without holes, a valid token in each row."""
    rng = torch.Generator().manual_seed(seed)
    log_probs = -3 * torch.rand(B, T, generator=rng)
    lengths = torch.randint(1, T + 1, (B,), generator=rng)
    return dict(
        rm_log_probs=log_probs,
        ref_log_probs=log_probs + 0.3 * torch.randn(B, T, generator=rng),
        response_mask=torch.arange(T) < lengths[:, None],
        outcome_rewards=(torch.rand(B, generator=rng) < 0.5).float(),
        group_ids=torch.arange(B) // GROUP,
    )


@pytest.mark.parametrize("advantage", [prime_advantage, prime_advantage_naive])
@pytest.mark.parametrize("prime_norm", ["batch_norm", "none"])
@pytest.mark.parametrize("coefs", [(5.0, 5.0), (0.5, 2.0), (0.0, 5.0), (5.0, 0.0)])
def test_advantages_and_returns(upstream: Any, advantage: Any, prime_norm: str, coefs: tuple[float, float]) -> None:
    for seed in range(5):
        batch = contiguous_batch(seed)
        options: dict[str, Any] = dict(
            beta=0.05, reward_dpo_coef=coefs[0], reward_gt_coef=coefs[1], prime_norm=prime_norm
        )
        theirs = upstream_call(upstream, batch, GROUP, **options)()
        for one, other in zip(advantage(**batch, **options), theirs, strict=True):
            inside = batch["response_mask"]
            torch.testing.assert_close(one[inside].float(), other[inside], rtol=1e-5, atol=1e-5)


def test_accuracy_where_the_definitions_meet(upstream: Any) -> None:
    """Outcomes of 0 and 1, as many pairs in each group, no equal scores: then the mean over groups is over pairs."""
    for seed in range(5):
        batch = contiguous_batch(seed)
        outcomes = torch.tensor([1.0, 0, 0, 0]).repeat(4)
        q, mask = batch["rm_log_probs"] - batch["ref_log_probs"], batch["response_mask"]
        theirs = upstream.compute_dpo_accuracy(q, outcomes, mask, GROUP)
        ours = ordering_accuracy((q * mask).sum(1), outcomes, batch["group_ids"])
        assert ours == pytest.approx(float(theirs), abs=1e-6)
