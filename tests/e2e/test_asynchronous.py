"""verl's modes whose rollout has a device of its own: weights travel there, and responses come back stale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipe.spro.dump import read_dump, step_files
from tests.e2e import interrupt
from tests.e2e.conftest import finished
from tests.e2e.oracle import assert_trained_with, oracle
from tests.e2e.stack import STEPS, Run, make_run
from verl_ext.cpu.weight_transfer import BACKEND

BETA = 0.01

# A device for training and one for the rollout.
TWO_DEVICES = [
    "ray_kwargs.ray_init.num_gpus=2",
    "actor_rollout_ref.hybrid_engine=False",
    f"actor_rollout_ref.rollout.checkpoint_engine.backend={BACKEND}",
]

# The entries of verl.experimental have configurations of their own.
OF_EXPERIMENTAL = [
    *TWO_DEVICES,
    "hydra.searchpath=[pkg://verl.trainer.config,pkg://verl_ext.config]",
    # The trainer and the rollouter ask for ten of them each.
    "ray_kwargs.ray_init.num_cpus=48",
    "rollout.nnodes=1",
    "rollout.n_gpus_per_node=1",
    "algorithm.adv_estimator=spro",
    "algorithm.use_kl_in_reward=True",
    "algorithm.kl_ctrl.kl_coef=0.0",
    f"++algorithm.spro.beta={BETA}",
]
RECOMPUTED = "algorithm.rollout_correction.bypass_mode=False"
# The first of the tests' prompts, and those of a mini-batch of separate_async.
FIRST_PROMPT, GROUPS = 100, 2

ONE_STEP_OFF = "verl.experimental.one_step_off_policy.main_ppo"
FULLY_ASYNC = "verl.experimental.fully_async_policy.fully_async_main"

# Nats between the log-probs of a token in rollout and trainer that hold the same weights, in float32.
SAME_WEIGHTS = 1e-4


@pytest.fixture(scope="module")
def separate_run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """trainer_mode=separate_async: two updates between synchronisations, the first of which interrupts the responses.

    With dumps, and with a guard that warns of any drift.
    """
    folder = tmp_path_factory.mktemp("separate")
    run = make_run(
        base,
        folder,
        *interrupt.overrides(folder),
        *TWO_DEVICES,
        "trainer.v1.trainer_mode=separate_async",
        "trainer.v1.separate_async.parameter_sync_step=2",
        "actor_rollout_ref.actor.ppo_mini_batch_size=2",
        "actor_rollout_ref.rollout.nnodes=1",
        "actor_rollout_ref.rollout.n_gpus_per_node=1",
        "algorithm.spro.dump.every=1",
        f"algorithm.spro.dump.groups={GROUPS}",
        "algorithm.spro.guard.window=1",
        "algorithm.spro.guard.early=1",
        "algorithm.spro.guard.process_share=1e-9",
    )
    # verl_ext/trainer_modes.py says why.
    run.environment["VERL_LOGGING_LEVEL"] = "WARNING"
    # Four prompts make step 1; the four of step 2 have been sent out meanwhile.
    return finished(interrupt.prepare(run, late_from=FIRST_PROMPT + 4, expected=16))


@pytest.fixture(scope="module")
def one_step_run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """one_step_off, with recomputed log-probs."""
    folder = tmp_path_factory.mktemp("one_step")
    return finished(make_run(base, folder, *OF_EXPERIMENTAL, RECOMPUTED, entry=ONE_STEP_OFF))


@pytest.fixture(scope="module")
def rollout_log_probs_run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """one_step_off as it comes: the log-probs are the rollout's."""
    allow = "++algorithm.spro.allow_rollout_log_probs=true"
    folder = tmp_path_factory.mktemp("rollout_log_probs")
    return finished(make_run(base, folder, *OF_EXPERIMENTAL, allow, entry=ONE_STEP_OFF))


@pytest.fixture(scope="module")
def fully_async_run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """fully_async: four updates, two between synchronisations, and all prompts under way from the start.

    The synchronisation interrupts those that the first two updates do not need.
    """
    folder = tmp_path_factory.mktemp("fully_async")
    run = make_run(
        base,
        folder,
        *interrupt.overrides(folder),
        *OF_EXPERIMENTAL,
        RECOMPUTED,
        "data.train_batch_size=0",
        "data.gen_batch_size=1",
        "rollout.total_rollout_steps=16",
        "rollout.n=4",
        "async_training.trigger_parameter_sync_step=2",
        "async_training.staleness_threshold=1",
        entry=FULLY_ASYNC,
    )
    return finished(interrupt.prepare(run, late_from=FIRST_PROMPT + 8, expected=32))


@pytest.fixture(scope="module")
def old_run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """verl's old trainer, which is synchronous: here because it shares its code with those of verl.experimental."""
    return finished(make_run(base, tmp_path_factory.mktemp("old"), "trainer.use_v1=False", steps=2))


def assert_oracle(run: Run, step: int) -> None:
    """The advantages that a step's last update used are those of its log-probs."""
    batch = run.batch(step)
    assert_trained_with(batch, oracle(batch, beta=BETA))


def mean_distance(run: Run, step: int, left: str, right: str) -> float:
    batch = run.batch(step)
    return float((batch[left] - batch[right])[batch["response_mask"].bool()].abs().mean())


def assert_interrupted(run: Run, step: int, rows: int) -> None:
    """Version 0, which is the reference, began these responses, and the policy of version 1 ended each of them."""
    batch = run.batch(step)
    assert batch["min_global_steps"].tolist() == [0] * rows
    assert batch["max_global_steps"].tolist() == [1] * rows
    assert batch["response_mask"].sum(-1).tolist() == [interrupt.LENGTH] * rows
    of_reference, of_policy = ((batch["rollout_log_probs"] - batch[x]).abs() for x in ("ref_log_prob", "old_log_probs"))
    for row in range(rows):
        begun = int((of_reference[row] < SAME_WEIGHTS).long().cumprod(0).sum())
        assert interrupt.WRITTEN <= begun < interrupt.LENGTH
        assert of_policy[row, begun:].max() < SAME_WEIGHTS
        assert of_policy[row, :begun].mean() > 1e-2
        assert of_reference[row, begun:].mean() > 1e-2


@pytest.mark.slow
def test_weights_are_replaced_within_responses(separate_run: Run, fully_async_run: Run) -> None:
    assert "replacing the weights of 16 responses of " in separate_run.log
    # The second update of step 2: two prompts.
    assert_interrupted(separate_run, 2, 8)
    assert "replacing the weights of 32 responses of " in fully_async_run.log
    for update in (3, 4):
        assert_interrupted(fully_async_run, update, 16)


@pytest.mark.slow
def test_cpr_is_of_one_policy_along_an_interrupted_response(separate_run: Run, fully_async_run: Run) -> None:
    # By the oracle, and from one log-probs pass over all tokens: not of those that wrote them.
    assert_oracle(separate_run, 2)
    for update in (3, 4):
        assert_oracle(fully_async_run, update)
    metrics = separate_run.metrics(2)
    assert metrics["spro/staleness/moved_frac"] == 1
    assert (metrics["spro/staleness/min"], metrics["spro/staleness/max"]) == (0, 1)
    # Of no response all tokens are the current weights'; its end is.
    assert metrics["spro/staleness/mismatch_fresh"] < 1e-3
    assert metrics["spro/staleness/mismatch_stale"] > 1e-2


@pytest.mark.slow
def test_separate_async_dumps_the_first_update_of_a_step(separate_run: Run) -> None:
    files = step_files(separate_run.folder / "dump")
    assert list(files) == list(range(1, STEPS + 1))
    for step, path in files.items():
        dump = read_dump(path)
        # All prompts of the update.
        assert [len(group) for group in dump.groups().values()] == [4] * GROUPS
        assert separate_run.metrics(step)["spro/inspect/failures"] == 0
        # As of a captured batch, whose outcome is on one token.
        batch: dict[str, Any] = {
            name: torch.from_numpy(np.stack([getattr(response, name) for response in dump.responses]))
            for name in ("old_log_probs", "ref_log_prob", "advantages")
        }
        batch["response_mask"] = torch.ones(batch["advantages"].shape, dtype=torch.int64)
        batch["rm_scores"] = torch.tensor([[response.outcome_reward] for response in dump.responses])
        batch["uid"] = [str(response.session).rpartition("_")[0] for response in dump.responses]
        assert_trained_with(batch, oracle(batch, beta=BETA))
        assert (separate_run.metrics(step)["spro/inspect/msa/rms"] > 0) == (step > 1)


@pytest.mark.slow
def test_the_guard_watches_separate_async(separate_run: Run) -> None:
    assert separate_run.metrics(1)["spro/guard/alarm"] == 0
    assert separate_run.metrics(2)["spro/guard/alarm"] == 1
    assert "warning: spro guard: this run looks like those that destroyed themselves, since step 2" in separate_run.log


@pytest.mark.slow
def test_separate_async_logs_what_the_other_trainers_of_v1_do(separate_run: Run) -> None:
    metrics = separate_run.metrics(2)
    assert metrics["response_length/truncated_frac"] == 1
    assert metrics["training/generated_tokens/sum"] == 16 * interrupt.LENGTH
    assert metrics["memory/actor/weights_gib"] > 0


@pytest.mark.slow
def test_separate_async_takes_old_log_probs_from_before_the_first_update(separate_run: Run) -> None:
    assert [row["step"] for row in separate_run.rows] == list(range(1, STEPS + 1))
    # Of two updates: the second one's log-probs are of the weights that were put aside.
    assert separate_run.metrics(1)["spro/cpr/abs_max"] == 0.0
    assert separate_run.metrics(2)["spro/cpr/abs_max"] > 0.0
    assert "warning: spro/" not in separate_run.log
    assert_oracle(separate_run, STEPS)


@pytest.mark.slow
def test_separate_async_trains_on_stale_responses_and_says_so(separate_run: Run) -> None:
    first, last = separate_run.metrics(1), separate_run.metrics(STEPS)
    # A batch of warm-up is under way when step 1 begins.
    assert first["spro/staleness/max"] == 0
    assert first["spro/staleness/mismatch_fresh"] < 1e-3
    assert last["spro/staleness/max"] >= 1
    # A third of each response of step 2, at least.
    assert separate_run.metrics(2)["spro/staleness/mismatch_stale"] > 1e-2


@pytest.mark.slow
def test_one_step_off_is_one_update_behind(one_step_run: Run) -> None:
    assert [row["step"] for row in one_step_run.rows] == list(range(1, STEPS + 1))
    assert one_step_run.metrics(1)["spro/cpr/abs_max"] == 0.0
    assert "warning: spro/" not in one_step_run.log
    for step, behind in ((1, 0), (2, 1), (3, 1)):
        metrics = one_step_run.metrics(step)
        assert (metrics["spro/staleness/min"], metrics["spro/staleness/max"]) == (behind, behind)
    # The rollout of step 3 had the weights of step 1's update: neither the first model's nor the trainer's.
    assert mean_distance(one_step_run, 3, "rollout_log_probs", "ref_log_prob") > 1e-3
    assert one_step_run.metrics(3)["spro/staleness/mismatch_stale"] > 1e-3
    assert_oracle(one_step_run, STEPS)


@pytest.mark.slow
def test_log_probs_of_the_rollout_are_the_references_on_the_first_models_responses(rollout_log_probs_run: Run) -> None:
    # Steps 1 and 2 train on them.
    for step in (1, 2):
        assert rollout_log_probs_run.metrics(step)["spro/staleness/mismatch_first"] < 1e-3
        assert mean_distance(rollout_log_probs_run, step, "old_log_probs", "rollout_log_probs") == 0
    assert "spro/staleness/mismatch_first" not in rollout_log_probs_run.metrics(3)
    assert rollout_log_probs_run.metrics(3)["spro/cpr/abs_max"] > rollout_log_probs_run.metrics(2)["spro/cpr/abs_max"]
    assert "warning: spro/" not in rollout_log_probs_run.log
    assert_oracle(rollout_log_probs_run, STEPS)


@pytest.mark.slow
def test_fully_async_takes_old_log_probs_from_before_the_first_update(fully_async_run: Run) -> None:
    # Updates 1 and 2 precede the first synchronisation: the second one's log-probs are of the weights put aside.
    for update in (1, 2):
        assert mean_distance(fully_async_run, update, "old_log_probs", "ref_log_prob") == 0
    for update in (3, 4):
        assert mean_distance(fully_async_run, update, "old_log_probs", "ref_log_prob") > 1e-3
        assert_oracle(fully_async_run, update)
    assert "warning: spro/" not in fully_async_run.log


@pytest.mark.slow
def test_fully_async_trains_on_stale_responses_and_says_so(fully_async_run: Run) -> None:
    logged = [row["data"] for row in fully_async_run.rows if "spro/cpr/abs_max" in row["data"]]
    assert logged[0]["spro/cpr/abs_max"] == 0.0
    assert max(metrics["spro/staleness/max"] for metrics in logged) >= 1
    assert logged[0]["spro/staleness/mismatch_fresh"] < 1e-3


@pytest.mark.slow
def test_the_old_trainer_computes_the_advantage_too(old_run: Run) -> None:
    assert [row["step"] for row in old_run.rows] == [1, 2]
    assert old_run.metrics(1)["spro/cpr/abs_max"] == 0.0
    assert old_run.metrics(2)["spro/cpr/abs_max"] > 0.0
    assert_oracle(old_run, 2)
