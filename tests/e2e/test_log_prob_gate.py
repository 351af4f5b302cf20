"""The gate on the real stack: the rollout's log-probs are used where they agree, and the advantages barely move."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from recipe.spro.settings import SproSettings
from tests.e2e.conftest import finished
from tests.e2e.oracle import oracle
from tests.e2e.stack import STEPS, Run, make_run

BETA = SproSettings().beta
ROWS, COMPARED = 16, 2


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    extra = ["algorithm.log_prob_gate.enable=true", "trainer.max_actor_ckpt_to_keep=null"]
    return finished(make_run(base, tmp_path_factory.mktemp("gated"), *extra))


def test_each_step_logs_its_decision(run: Run) -> None:
    assert [run.metrics(step)["log_prob_gate/used_rollout"] for step in range(1, STEPS + 1)] == [0, 1, 1]
    for step in range(1, STEPS + 1):
        metrics = run.metrics(step)
        assert metrics["log_prob_gate/measured_frac"] == COMPARED / ROWS
        assert 0 < metrics["log_prob_gate/prob_diff_mean"] < 1e-4
        assert 0 < metrics["log_prob_gate/cumulative_rms"] <= metrics["log_prob_gate/cumulative_max"] < 1e-2
        # The guard reads it.
        assert 0 < metrics["actor/entropy"] < 10
        # What verl says of recomputed log-probs would be said of the rollout's against themselves.
        assert ("rollout_corr/kl" in metrics) == (step == 1)


def test_cpr_is_exactly_zero_at_step_1_and_finite_later(run: Run) -> None:
    assert run.metrics(1)["spro/cpr/abs_max"] == 0.0
    assert "log_prob_gate/cumulative_share" not in run.metrics(1)
    for step in range(2, STEPS + 1):
        assert 0 < run.metrics(step)["spro/cpr/abs_max"] < 1
        assert 0 < run.metrics(step)["log_prob_gate/cumulative_share"] < 0.1


def test_the_update_gets_the_rollouts(run: Run) -> None:
    for step in range(1, STEPS + 1):
        batch = run.batch(step)
        valid = batch["response_mask"].bool()
        same = torch.equal(batch["old_log_probs"][valid], batch["rollout_log_probs"][valid])
        assert same == (step > 1)


@pytest.mark.parametrize("step", range(2, STEPS + 1))
def test_advantages_differ_from_those_of_recomputed_log_probs_by_the_mismatch(run: Run, base: Path, step: int) -> None:
    """The same batch with the log-probs that the actor would have recomputed, from its checkpoint."""
    batch = run.batch(step)
    prompts, responses, valid = batch["prompts"], batch["responses"], batch["response_mask"].bool()
    name = f"global_step_{step - 1}/actor/model_world_size_1_rank_0.pt"
    state = torch.load(run.folder / "checkpoints" / name, weights_only=False)
    model = AutoModelForCausalLM.from_pretrained(base / "model", dtype=torch.float32, attn_implementation="sdpa")
    model.load_state_dict({key: x.to_local() if hasattr(x, "to_local") else x for key, x in state.items()})
    with torch.no_grad():
        logits = model(torch.cat([prompts, responses], dim=1)).logits[:, prompts.shape[1] - 1 : -1]
    recomputed = logits.log_softmax(-1).gather(-1, responses[..., None]).squeeze(-1)

    expected = oracle({**batch, "old_log_probs": recomputed}, beta=BETA)
    used = batch["advantages"].double()
    drift = torch.where(valid, batch["old_log_probs"] - recomputed, 0.0).double().cumsum(-1)[valid].abs().max()
    # M is CPR less a mean of CPRs: each is off by the drift at most.
    assert (used - expected)[valid].abs().max() <= 2 * BETA * drift + 1e-6
    assert 0 < drift < 1e-2
    # The process term is there, and larger than what it is off by.
    assert run.metrics(step)["spro/msa/rms"] > 10 * BETA * drift
    assert math.isfinite(run.metrics(step)["actor/pg_loss"])
