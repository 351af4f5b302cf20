"""PRIME through the whole stack: what was trained on, the reward model's own training, its checkpoint and resume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from recipe.prime_v1.advantage import prime_advantage_naive
from recipe.prime_v1.loss import outcome_cross_entropy
from recipe.prime_v1.settings import PrimeSettings
from tests.e2e.conftest import finished
from tests.e2e.stack import STEPS, Run, make_run

PROMPTS, N = 4, 4
BETA = PrimeSettings().beta_train

# Narrower than the outcomes of an untrained model, so that some prompts are in it and some are not.
BAND = (0.08, 0.8)
OVERSAMPLE = 3

METHOD = [
    "+method=prime",
    "algorithm.prime.optim.lr=1e-3",
    f"algorithm.prime.accuracy_lower_bound={BAND[0]}",
    f"algorithm.prime.accuracy_upper_bound={BAND[1]}",
    f"algorithm.prime.oversample_factor={OVERSAMPLE}",
    # An untrained model hardly ever ends a response.
    "algorithm.prime.filter_truncate=false",
]

METRICS = (
    "reward_model/loss",
    "reward_model/lr",
    "reward_model/grad_norm",
    "reward_model/reward",
    "reward_model/accuracy",
    "reward_model/ordering_accuracy",
    "reward_model/outcome_correlation",
    "prime/process_share",
    "prime/generated_prompts",
    "timing_s/reward_model",
)


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three steps that train the reward model first, then one of a resumed run that scores first."""
    folder = tmp_path_factory.mktemp("prime")
    finished(make_run(base, folder, *METHOD))
    return finished(make_run(base, folder, *METHOD, "algorithm.prime.update=after", steps=STEPS + 1))


def state_of(run: Run, step: int, part: str, kind: str = "model") -> dict[str, Any]:
    """What one step's checkpoint holds of a model or its optimiser, as plain tensors."""
    path = run.folder / "checkpoints" / f"global_step_{step}" / part / f"{kind}_world_size_1_rank_0.pt"
    state = torch.load(path, weights_only=False)
    return {name: x.to_local() if hasattr(x, "to_local") else x for name, x in state.items()}


def outcomes_of(batch: dict[str, Any]) -> torch.Tensor:
    return batch["rm_scores"].sum(-1)


def test_metrics_of_every_step(run: Run) -> None:
    assert [row["step"] for row in run.rows] == list(range(1, STEPS + 2))
    for row in run.rows:
        assert {name for name in METRICS if not math.isfinite(row["data"].get(name, math.nan))} == set()


def test_nothing_survives_the_driver(run: Run) -> None:
    assert not (run.folder / "survivors.txt").exists(), (run.folder / "survivors.txt").read_text()


@pytest.mark.parametrize("step", range(1, STEPS + 2))
def test_advantages_used_equal_the_oracle(run: Run, step: int) -> None:
    batch = run.batch(step)
    assert batch["layout"] == "torch.jagged"
    expected, _ = prime_advantage_naive(
        batch["rm_log_probs"],
        batch["ref_log_prob"],
        batch["response_mask"],
        outcomes_of(batch),
        np.array(batch["uid"], dtype=object),
    )
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(batch["advantages"].double(), expected, atol=1e-5, rtol=1e-5)


def test_the_reward_model_is_trained_before_it_scores(run: Run) -> None:
    # It started as the reference, so that its first rewards show the update that came before them.
    batch = run.batch(1)
    assert (batch["rm_log_probs"] - batch["ref_log_prob"])[batch["response_mask"].bool()].abs().max() > 1e-3
    assert run.metrics(1)["reward_model/loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_the_reward_model_learns_by_itself(run: Run) -> None:
    first, last = state_of(run, STEPS, "reward_model"), state_of(run, STEPS + 1, "reward_model")
    actor = state_of(run, STEPS, "actor")
    assert first.keys() == actor.keys()
    for other in (last, actor):
        assert max(float((first[name] - other[name]).abs().max()) for name in first) > 1e-4


def test_a_resumed_run_scores_with_the_saved_reward_model(run: Run, base: Path) -> None:
    assert "Resuming from" in run.log
    batch = run.batch(STEPS + 1)
    model = AutoModelForCausalLM.from_pretrained(base / "model", dtype=torch.float32, attn_implementation="sdpa")
    # The step of the resumed run scored before it trained: with the weights that the first run saved.
    model.load_state_dict(state_of(run, STEPS, "reward_model"))
    prompts, responses = batch["prompts"], batch["responses"]
    # All problems have three-digit operands, so no prompt is padded.
    with torch.no_grad():
        logits = model(torch.cat([prompts, responses], dim=1)).logits[:, prompts.shape[1] - 1 : -1]
    expected = logits.log_softmax(-1).gather(-1, responses[..., None]).squeeze(-1)
    valid = batch["response_mask"].bool()
    assert (expected - batch["ref_log_prob"])[valid].abs().max() > 1e-2
    torch.testing.assert_close(batch["rm_log_probs"][valid], expected[valid], atol=2e-5, rtol=1e-5)


def test_a_resumed_run_goes_on_with_the_saved_optimiser(run: Run) -> None:
    # One update of the reward model per step.
    for step in (STEPS, STEPS + 1):
        (group,) = state_of(run, step, "reward_model", "optim")["param_groups"]
        assert group["lr"] == 1e-3
        moments = state_of(run, step, "reward_model", "optim")["state"].values()
        assert {int(moment["step"]) for moment in moments} == {step}


def test_the_loss_is_the_mean_over_the_batch(run: Run) -> None:
    # Two micro-batches of 8 rows. Scored before the update, as the loss is.
    batch = run.batch(STEPS + 1)
    losses = outcome_cross_entropy(
        batch["rm_log_probs"], batch["ref_log_prob"], batch["response_mask"], outcomes_of(batch), beta=BETA
    )
    assert len(losses) == PROMPTS * N
    assert abs(float(losses.mean()) - math.log(2)) > 1e-4
    assert run.metrics(STEPS + 1)["reward_model/loss"] == pytest.approx(float(losses.mean()), rel=1e-4)


@pytest.mark.parametrize("step", range(1, STEPS + 2))
def test_the_band_is_preferred(run: Run, step: int) -> None:
    batch, metrics = run.batch(step), run.metrics(step)
    outcomes: dict[str, list[float]] = {}
    for uid, outcome in zip(batch["uid"], outcomes_of(batch).tolist(), strict=True):
        outcomes.setdefault(uid, []).append(outcome)
    assert {len(values) for values in outcomes.values()} == {N}
    inside = [BAND[0] <= sum(values) / N <= BAND[1] for values in outcomes.values()]
    assert len(inside) == PROMPTS
    assert metrics["prime/filled_prompts"] == inside.count(False)
    assert metrics["prime/preferred_prompts"] >= inside.count(True)
    assert PROMPTS <= metrics["prime/generated_prompts"] <= OVERSAMPLE * PROMPTS
    if not all(inside):
        assert metrics["prime/preferred_prompts"] == inside.count(True)
        assert metrics["prime/generated_prompts"] == OVERSAMPLE * PROMPTS


def test_a_checkpoint_without_a_reward_model_is_not_resumed(
    run: Run, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("without")
    checkpoint = folder / "checkpoints" / "global_step_4"
    checkpoint.parent.mkdir()
    source = run.folder / "checkpoints" / "global_step_4"
    checkpoint.mkdir()
    (checkpoint / "actor").symlink_to(source / "actor")
    (checkpoint / "data.pt").symlink_to(source / "data.pt")
    (checkpoint.parent / "latest_checkpointed_iteration.txt").write_text("4")
    other = make_run(base, folder, *METHOD, steps=STEPS + 2)
    try:
        assert other.finish() != 0
        assert f"the checkpoint {checkpoint} has no folder 'reward_model'" in other.log
    finally:
        other.wait_until_gone()
        other.end_survivors()


@pytest.mark.slow
def test_two_data_parallel_ranks(base: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each rank trains on half of the batch; the loss and the gradient are those of the whole."""
    run = finished(
        make_run(
            base,
            tmp_path_factory.mktemp("prime_of_two"),
            *METHOD,
            "algorithm.prime.update=after",
            "trainer.n_gpus_per_node=2",
            "ray_kwargs.ray_init.num_gpus=2",
            steps=2,
        )
    )
    # At the first step it is still the reference.
    first, batch = run.batch(1), run.batch(2)
    torch.testing.assert_close(first["rm_log_probs"], first["ref_log_prob"], atol=0, rtol=0)
    losses = outcome_cross_entropy(
        batch["rm_log_probs"], batch["ref_log_prob"], batch["response_mask"], outcomes_of(batch), beta=BETA
    )
    assert run.metrics(2)["reward_model/loss"] == pytest.approx(float(losses.mean()), rel=1e-4)
    assert abs(float(losses.mean()) - math.log(2)) > 1e-4
