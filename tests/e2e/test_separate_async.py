"""LoRA in separate_async, stopped by the guard: the rollout has the merged adapter, and what is under way is saved."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipe.spro.dump import step_files
from recipe.spro.staleness import MISMATCH_TOLERANCE
from tests.e2e.stack import Run, make_run
from tests.e2e.test_asynchronous import TWO_DEVICES, mean_distance
from tests.e2e.test_guard import TINY

# The guard's window. Step 3 is the first whose responses the rollout began with an adapter that has been trained.
STOPPED_AT = 3


@pytest.fixture(scope="module")
def stopped_run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """At step 2 the process term has a size; at step 3 the guard has a window, and stops."""
    run = make_run(
        base,
        tmp_path_factory.mktemp("separate_lora"),
        *TWO_DEVICES,
        "trainer.v1.trainer_mode=separate_async",
        "trainer.v1.separate_async.parameter_sync_step=2",
        "actor_rollout_ref.actor.ppo_mini_batch_size=2",
        "actor_rollout_ref.rollout.nnodes=1",
        "actor_rollout_ref.rollout.n_gpus_per_node=1",
        "actor_rollout_ref.model.lora_rank=8",
        "actor_rollout_ref.model.lora_alpha=16",
        "actor_rollout_ref.model.target_modules=all-linear",
        "actor_rollout_ref.model.lora.merge=True",
        "algorithm.spro.dump.every=1",
        *TINY,
        f"algorithm.spro.guard.window={STOPPED_AT}",
        "algorithm.spro.guard.action=stop",
        "trainer.save_freq=-1",
        steps=STOPPED_AT + 2,
    )
    # verl_ext/trainer_modes.py says why.
    run.environment["VERL_LOGGING_LEVEL"] = "WARNING"
    try:
        (run.folder / "status.txt").write_text(str(run.finish()))
        return run
    finally:
        if run.wait_until_gone():
            run.end_survivors()


@pytest.mark.slow
def test_the_guard_stops_it_with_a_checkpoint_that_holds_what_is_under_way(stopped_run: Run) -> None:
    assert (stopped_run.folder / "status.txt").read_text() != "0", stopped_run.log[-6000:]
    assert [row["step"] for row in stopped_run.rows] == list(range(1, STOPPED_AT + 1))
    assert f"is above algorithm.spro.guard.process_share={1e-6:g}" in stopped_run.log
    checkpoints = stopped_run.folder / "checkpoints"
    assert (checkpoints / f"global_step_{STOPPED_AT}" / "actor").is_dir()
    assert (checkpoints / f"global_step_{STOPPED_AT}" / "transfer_queue").is_dir()
    assert (checkpoints / "latest_checkpointed_iteration.txt").read_text() == str(STOPPED_AT)
    assert list(step_files(stopped_run.folder / "dump")) == list(range(1, STOPPED_AT + 1))


@pytest.mark.slow
def test_the_merged_adapter_reaches_the_rollout_and_the_reference_is_without(stopped_run: Run) -> None:
    assert stopped_run.metrics(1)["spro/cpr/abs_max"] == 0
    assert stopped_run.metrics(STOPPED_AT)["spro/cpr/abs_max"] > 0
    # Rollout and reference are the same model at first, but for the rounding of a merged weight.
    at_first, later = (mean_distance(stopped_run, n, "rollout_log_probs", "ref_log_prob") for n in (1, STOPPED_AT))
    assert stopped_run.metrics(1)["spro/staleness/mismatch_fresh"] < MISMATCH_TOLERANCE
    assert later > 5 * at_first
