"""Methods and controls on the real stack: each does what its file says, beyond composing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recipe.spro.advantage.groups import Groups
from recipe.spro.methods import leash_coef, neg_kl_coef
from recipe.spro.shuffled import derangement, shuffle_msa
from tests.e2e.oracle import oracle_with_parts
from tests.e2e.stack import Run, make_run

pytestmark = pytest.mark.slow

STEPS = 2
BETA = 0.5


def run_of(method: str, base: Path, folder: Path) -> Run:
    run = make_run(base, folder, f"+method={method}", f"algorithm.spro.beta={BETA}", steps=STEPS)
    try:
        assert run.finish() == 0, run.log[-6000:]
        assert run.wait_until_gone() == []
        return run
    finally:
        run.end_survivors()


def test_the_shuffled_control(base: Path, tmp_path: Path) -> None:
    run = run_of("spro_shuffled", base, tmp_path)
    batch = run.batch(STEPS)
    uids = np.array(batch["uid"], dtype=object)
    mask = batch["response_mask"].bool()
    _, parts = oracle_with_parts(batch, beta=BETA)
    # The draw of this training step, which a resumed run would repeat.
    donors = derangement(Groups.of(uids), np.random.default_rng([0, STEPS]))
    expected = (parts.outcome[:, None] + shuffle_msa(parts.msa, mask, donors)) * mask
    torch.testing.assert_close(batch["advantages"].double(), expected, atol=1e-5, rtol=1e-4)
    assert run.metrics(STEPS)["spro/process_share"] > 0


def test_the_negative_kl_of_grpo(base: Path, tmp_path: Path) -> None:
    run = run_of("grpo_neg_kl", base, tmp_path)
    for step in range(1, STEPS + 1):
        assert run.metrics(step)["actor/kl_coef"] == pytest.approx(neg_kl_coef(BETA, 4))
    # mse of log-ratios: nothing at the first step, where policy and reference are the same.
    assert run.metrics(1)["actor/kl_loss"] == 0
    assert run.metrics(STEPS)["actor/kl_loss"] > 0


def test_the_leash_of_spro(base: Path, tmp_path: Path) -> None:
    run = run_of("spro_leash", base, tmp_path)
    for step in range(1, STEPS + 1):
        assert run.metrics(step)["actor/kl_coef"] == pytest.approx(leash_coef(BETA, 4, "group"))
    assert run.metrics(STEPS)["actor/kl_loss"] > 0
    assert run.metrics(STEPS)["spro/process_share"] > 0


def test_dynamic_sampling_counts_what_it_throws_away(base: Path, tmp_path: Path) -> None:
    run = run_of("dapo", base, tmp_path)
    metrics = run.metrics(1)
    names = ("evicted", "discarded_surplus")
    thrown_away = sum(metrics.get(f"training/filter_groups/{name}_samples", 0) for name in names)
    kept = metrics["perf/total_num_tokens"] - 16 * metrics["prompt_length/mean"]
    generated = metrics["training/generated_tokens/sum"]
    assert generated > kept if thrown_away else generated == kept


@pytest.mark.parametrize("method", ["rloo", "reinforce_plus_plus", "frpo", "token", "spro_pooled"])
def test_the_others_train(method: str, base: Path, tmp_path: Path) -> None:
    run = run_of(method, base, tmp_path)
    for step in range(1, STEPS + 1):
        metrics = run.metrics(step)
        assert np.isfinite(metrics["actor/pg_loss"])
        assert metrics["actor/grad_norm"] > 0
        # Only what compares with a reference policy has one.
        assert (
            ("spro/process_share" in metrics)
            == ("timing_s/ref" in metrics)
            == (method in ("frpo", "token", "spro_pooled"))
        )
