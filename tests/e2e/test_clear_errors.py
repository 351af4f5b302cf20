"""Faults that end a run before Ray starts, with one message: through the real entries."""

from __future__ import annotations

import socket
from pathlib import Path

import pandas as pd
import pytest

from tests.e2e.stack import make_run
from tests.e2e.test_asynchronous import FULLY_ASYNC, OF_EXPERIMENTAL, ONE_STEP_OFF

CASES = {
    "no reference policy": (
        ["algorithm.use_kl_in_reward=False"],
        ["algorithm.use_kl_in_reward=True algorithm.kl_ctrl.kl_coef=0.0"],
    ),
    "unknown key": (["+algorithm.spro.betta=0.1"], ["algorithm.spro.betta=0.1", "algorithm.spro.beta"]),
    "missing data": (["data.train_files=nowhere.parquet"], ["data.train_files=nowhere.parquet"]),
    "missing model": (["actor_rollout_ref.model.path=/nowhere/model"], ["actor_rollout_ref.model.path=/nowhere/model"]),
    "empty data": (["data.val_files={empty}"], ["data.val_files=", "the file has no rows"]),
    "prompt too long": (
        ["data.max_prompt_length=5"],
        ["data.max_prompt_length=5: row 31 of", "a prompt of 8 tokens", "data.filter_overlong_prompts=True"],
    ),
    "KL in the reward": (["algorithm.kl_ctrl.kl_coef=0.01"], ["Set algorithm.kl_ctrl.kl_coef=0.0"]),
    "bypass mode": (
        ["algorithm.rollout_correction.bypass_mode=True"],
        ["Set algorithm.rollout_correction.bypass_mode=False"],
    ),
    "low precision": (
        ["actor_rollout_ref.ref.fsdp_config.mixed_precision.param_dtype=bf16"],
        ["++actor_rollout_ref.ref.fsdp_config.mixed_precision={{param_dtype:fp32"],
    ),
    "unmerged LoRA": (["actor_rollout_ref.model.lora_rank=8"], ["actor_rollout_ref.model.lora.merge=True"]),
    "port in use": (["+ray_kwargs.ray_init.dashboard_port={port}"], ["ray_kwargs.ray_init.dashboard_port={port}"]),
}


@pytest.mark.parametrize("case", CASES)
def test_one_message_before_ray_starts(case: str, base: Path, tmp_path: Path) -> None:
    overrides, expected = CASES[case]
    empty = tmp_path / "empty.parquet"
    pd.read_parquet(base / "heldout.parquet").head(0).to_parquet(empty)
    with socket.socket() as occupied:
        occupied.bind(("", 0))
        occupied.listen()
        port = occupied.getsockname()[1]
        run = make_run(base, tmp_path, *(override.format(port=port, empty=empty) for override in overrides))
        assert run.finish() == 1
    for text in expected:
        assert text.format(port=port) in run.log
    assert run.log.count("configuration error:") == 1
    assert "Traceback" not in run.log
    assert "Started a local Ray instance" not in run.log


@pytest.mark.parametrize("entry", [ONE_STEP_OFF, FULLY_ASYNC])
def test_entries_that_take_the_rollouts_log_probs_say_so(entry: str, base: Path, tmp_path: Path) -> None:
    """They do by default, and validate their configuration in a worker or never."""
    single_prompts = ["data.train_batch_size=0", "data.gen_batch_size=1"] if entry == FULLY_ASYNC else []
    run = make_run(base, tmp_path, *OF_EXPERIMENTAL, *single_prompts, entry=entry)
    assert run.finish() == 1
    assert "Set algorithm.rollout_correction.bypass_mode=False" in run.log
    assert run.log.count("configuration error:") == 1
    assert "Traceback" not in run.log
    assert "Started a local Ray instance" not in run.log


def test_plain_verl_entry_says_the_same(base: Path, tmp_path: Path) -> None:
    run = make_run(
        base,
        tmp_path,
        "hydra.searchpath=[pkg://verl_ext.config]",
        "algorithm.adv_estimator=spro",
        "++algorithm.spro.beta=-1",
        entry="verl.trainer.main_ppo",
    )
    assert run.finish() == 1
    assert "algorithm.spro.beta=-1" in run.log
    assert "Traceback" not in run.log
    assert "Started a local Ray instance" not in run.log
