"""What a run of the whole stack must hold, whichever entry, mode and kind of fine-tuning."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from recipe.spro.settings import SproSettings
from scripts.evaluate.results import Evaluation
from tests.e2e.oracle import assert_trained_with, oracle
from tests.e2e.stack import ROOT, STEPS, Run

SPRO_METRICS = (
    "spro/cpr/abs_max",
    "spro/cpr/mean",
    "spro/msa/rms",
    "spro/outcome/rms",
    "spro/process_share",
    "spro/alive_one_frac",
    "spro/degenerate_group_frac",
    "spro/beta",
)


@pytest.fixture(params=["spro_run", "colocated_run", "wheel_run"])
def run(request: pytest.FixtureRequest) -> Run:
    """Each of the shared runs in turn."""
    return request.getfixturevalue(request.param)


def test_metrics_of_every_step(run: Run) -> None:
    assert [row["step"] for row in run.rows] == list(range(1, STEPS + 1))
    for step in range(1, STEPS + 1):
        assert set(SPRO_METRICS) <= set(run.metrics(step))


def test_what_the_run_was_and_what_it_held_is_recorded(run: Run) -> None:
    (start,) = json.loads((run.folder / "metrics.provenance.json").read_text())
    assert "data.train_batch_size=4" in start["overrides"]
    assert start["versions"]["verl"]
    metrics = run.metrics(2)
    # Two moments for each gradient; with LoRA both are of the adapter only.
    assert metrics["memory/actor/optimizer_gib"] > metrics["memory/actor/gradients_gib"] > 0
    assert metrics["memory/actor/weights_gib"] >= metrics["memory/actor/gradients_gib"]
    for kind in ("workers", "rollout"):
        assert 0.1 < metrics[f"memory/{kind}/host_peak_gib"] < 8
    rows = round(metrics["perf/total_num_tokens"] / (metrics["prompt_length/mean"] + metrics["response_length/mean"]))
    assert metrics["training/generated_tokens/sum"] == pytest.approx(rows * metrics["response_length/mean"])


def test_the_reference_is_told_apart_unless_it_is_the_actor(spro_run: Run, wheel_run: Run) -> None:
    metrics = spro_run.metrics(2)
    assert metrics["memory/reference/weights_gib"] == metrics["memory/actor/weights_gib"]
    assert "memory/reference/optimizer_gib" not in metrics
    # LoRA: the reference is the actor without its adapter.
    assert not any(key.startswith("memory/reference/") for key in wheel_run.metrics(2))


def test_cpr_is_exactly_zero_at_step_1_and_not_later(run: Run) -> None:
    assert run.metrics(1)["spro/cpr/abs_max"] == 0.0
    for step in range(2, STEPS + 1):
        assert run.metrics(step)["spro/cpr/abs_max"] > 0.0
    assert "must be exactly 0" not in run.log


def test_nothing_survives_the_driver(run: Run) -> None:
    assert not (run.folder / "survivors.txt").exists(), (run.folder / "survivors.txt").read_text()


@pytest.mark.parametrize("name", ["spro_run", "colocated_run"])
@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_advantages_used_equal_the_oracle(name: str, step: int, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(name)
    batch = run.batch(step)
    # As V1 keeps them: nothing was padded for the advantage.
    assert batch["layout"] == "torch.jagged"
    expected = oracle(batch, beta=SproSettings().beta)
    assert batch["advantages"].dtype == torch.float32
    assert expected.abs().max() > 0.1
    assert_trained_with(batch, expected)


@pytest.mark.parametrize("name", ["spro_run", "colocated_run"])
def test_rollout_weights_follow_the_actor(name: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(name)
    batch = run.batch(STEPS)
    valid = batch["response_mask"].bool()

    def mean_abs_difference(left: str, right: str) -> float:
        return float((batch[left] - batch[right])[valid].abs().mean())

    # vLLM sampled these responses with the actor's weights of this step, which differ from the first ones.
    assert mean_abs_difference("rollout_log_probs", "old_log_probs") < 1e-3
    assert mean_abs_difference("rollout_log_probs", "ref_log_prob") > 1e-2


def test_beta_of_a_plain_verl_launch(wheel_run: Run) -> None:
    assert wheel_run.metrics(1)["spro/beta"] == 0.02


def test_wheel_is_what_ran(wheel_run: Run) -> None:
    # The repository is on no path of this run.
    assert wheel_run.environment["PYTHONPATH"] == str(wheel_run.cwd)
    assert "tests" not in {path.name for path in wheel_run.cwd.iterdir()}


def test_its_checkpoint_is_evaluated_and_exported(spro_run: Run) -> None:
    """As it lies there; the same weights as a model of its own answer the same."""
    data = spro_run.folder / "sums.parquet"
    (base,) = [Path(word.partition("=")[2]).parent for word in spro_run.command if word.startswith("data.val_files=")]
    pd.read_parquet(base / "heldout.parquet").head(4).to_parquet(data)
    model = spro_run.folder / "model"
    command = [sys.executable, "-m", "scripts.evaluate", str(spro_run.folder / "checkpoints"), str(data)]
    command += ["--samples", "0", "--max-tokens", "24", "--export", str(model), "+stack=cpu"]
    environment = {**spro_run.environment, "VERL_USE_EXTERNAL_MODULES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-6000:]
    (path,) = (spro_run.folder / "evaluation").glob("*.json")
    assert path.stem == "global_step_3"
    found = Evaluation.read(path)
    assert found.model["step"] == 3
    assert json.loads((model / "config.json").read_text())["dtype"] == "float32"
    assert found.sets[0].greedy is not None
    assert found.sets[0].greedy.scores.responses == 4
