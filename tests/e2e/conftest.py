"""The runs that the end-to-end tests share: each fixture is one run of the real stack."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import Qwen2Tokenizer

from examples.arithmetic import make_model, task
from tests.e2e.stack import HOLDING, ROOT, Run, make_run
from verl_ext.cpu import no_accelerator

# Killed once two steps are logged, wherever it is by then: but not beyond the step at which it is held (hold.py).
RESUMED_STEPS, HELD_AT = 6, 4

# At the first one policy and reference are the same, and there is nothing to see.
STEPS_OF_WIDE_STEPS = 2

# Turns of the model in an output, at most.
TURNS = 3


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is end to end, and runs on the stack without an accelerator."""
    for item in items:
        if "tests/e2e" in str(item.path):
            item.add_marker(pytest.mark.e2e)
            if not no_accelerator():
                item.add_marker(pytest.mark.skip(reason="there is an accelerator; these drive the CPU stack"))


def _write_base(folder: Path, tokenizer: Any) -> Path:
    torch.manual_seed(0)
    make_model.make_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for split, start in (("train", 100), ("heldout", 600)):
        rows = [
            {
                "data_source": task.DATA_SOURCE,
                "prompt": [{"role": "user", "content": task.prompt(a, a + 7)}],
                "ability": "math",
                "reward_model": {"style": "rule", "ground_truth": str(2 * a + 7)},
                "extra_info": {"split": split, "index": a},
            }
            for a in range(start, start + 32)
        ]
        pd.DataFrame(rows).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model and a few problems, in the forms that verl reads."""
    return _write_base(tmp_path_factory.mktemp("base"), make_model.make_tokenizer())


@pytest.fixture(scope="session")
def base_of_lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with a vocabulary of which every fourth token ends in a newline: an untrained model writes lines."""
    plain = make_model.make_tokenizer()
    newline = plain.convert_ids_to_tokens(plain.encode("\n"))[0]
    merges = [(chr(code), newline) for code in range(33, 127)]
    symbols = [*plain.get_vocab(), *(left + right for left, right in merges)]
    tokenizer = Qwen2Tokenizer(
        vocab={symbol: index for index, symbol in enumerate(symbols)},
        merges=merges,
        unk_token=None,
        eos_token=plain.eos_token,
        pad_token=plain.pad_token,
        additional_special_tokens=plain.all_special_tokens,
        model_max_length=plain.model_max_length,
    )
    tokenizer.chat_template = plain.chat_template
    return _write_base(tmp_path_factory.mktemp("base_of_lines"), tokenizer)


def finished(run: Run) -> Run:
    """Run it to its end, which must be a good one, and note what it leaves behind."""
    try:
        status = run.finish()
        assert status == 0, run.log[-6000:]
        return run
    finally:
        if left := run.wait_until_gone():
            run.end_survivors()
            (run.folder / "survivors.txt").write_text("\n".join(left))


@pytest.fixture(scope="session")
def spro_run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Full fine-tuning, one rank, synchronous, through our own entry."""
    return finished(make_run(base, tmp_path_factory.mktemp("spro")))


@pytest.fixture(scope="session")
def colocated_run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Full fine-tuning, two data-parallel ranks, trainer mode colocate_async."""
    return finished(
        make_run(
            base,
            tmp_path_factory.mktemp("colocated"),
            "trainer.v1.trainer_mode=colocate_async",
            "trainer.n_gpus_per_node=2",
            "ray_kwargs.ray_init.num_gpus=2",
        )
    )


@pytest.fixture(scope="session")
def line_run(base_of_lines: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A step is a line."""
    extra = ["algorithm.spro.step=line", "algorithm.spro.beta=0.5"]
    return finished(make_run(base_of_lines, tmp_path_factory.mktemp("line"), *extra, steps=STEPS_OF_WIDE_STEPS))


@pytest.fixture(scope="session")
def tool_run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A step is a turn; verl's tool agent calls a tool between the turns, and every other session has two outputs."""
    folder = tmp_path_factory.mktemp("tool")
    loops = folder / "agent_loops.yaml"
    loops.write_text("- name: of_two_outputs\n  _target_: tests.e2e.agent_loops.ToolAgentOfTwoOutputs\n")
    rollout = "actor_rollout_ref.rollout"
    extra = [
        "algorithm.spro.step=turn",
        "algorithm.spro.beta=0.5",
        f"{rollout}.agent.agent_loop_config_path={loops}",
        f"{rollout}.agent.default_agent_loop=of_two_outputs",
        f"{rollout}.multi_turn.enable=True",
        f"{rollout}.multi_turn.format=everything_is_a_call",
        f"{rollout}.multi_turn.max_assistant_turns={TURNS}",
        f"{rollout}.multi_turn.function_tool_path={ROOT}/tests/e2e/tool.py",
    ]
    return finished(make_run(base, folder, *extra, steps=STEPS_OF_WIDE_STEPS))


@pytest.fixture(scope="session")
def wheel_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A verl environment of somebody else's, into which our wheel is installed; returns its Python."""
    folder = tmp_path_factory.mktemp("wheel")
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps"]
    pip = [sys.executable, "-m", "pip"]
    # From a copy: setuptools writes build/ and *.egg-info beside the sources.
    source = folder / "source"
    for name in ("recipe", "verl_ext", "scripts", "tests", "examples"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "outputs"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    subprocess.run(
        [*pip, "wheel", *quiet, "--no-build-isolation", "-w", str(folder), str(source)], check=True, cwd=folder
    )
    environment = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    site = environment / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", *quiet, "--target", str(site), str(wheel)], check=True)
    # verl, vLLM and the rest come from the environment of the tests. A path in a .pth file is not searched for further
    # .pth files, so our editable installation there stays out.
    (site / "verl_environment.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return environment / "bin" / "python"


@pytest.fixture(scope="session")
def wheel_run(base: Path, wheel_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """LoRA, verl's own entry, our wheel in somebody's verl environment, another directory."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    run = make_run(
        base,
        tmp_path_factory.mktemp("wheel_run"),
        "hydra.searchpath=[pkg://verl_ext.config]",
        "algorithm.adv_estimator=spro",
        "algorithm.use_kl_in_reward=True",
        "algorithm.kl_ctrl.kl_coef=0.0",
        "++algorithm.spro.beta=0.02",
        "actor_rollout_ref.model.lora_rank=8",
        "actor_rollout_ref.model.lora_alpha=16",
        "actor_rollout_ref.model.target_modules=all-linear",
        "actor_rollout_ref.model.lora.merge=True",
        entry="verl.trainer.main_ppo",
        python=str(wheel_environment),
        cwd=elsewhere,
        python_path=elsewhere,
        plugins="recipe.spro.plugin",
    )
    return finished(run)


@pytest.fixture(scope="session")
def killed_and_resumed_run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run whose driver is killed after its second step, and that is started again with the same command."""
    folder = tmp_path_factory.mktemp("resumed")
    (folder / "hold").write_text(str(HELD_AT))
    run = make_run(base, folder, plugins=HOLDING, steps=RESUMED_STEPS)
    run.environment["SPRO_TEST_HOLD"] = str(folder / "hold")
    driver = run.start()
    try:
        deadline = time.monotonic() + 300
        while len(run.rows) < 2:
            assert driver.poll() is None, run.log[-6000:]
            assert time.monotonic() < deadline, run.log[-6000:]
            time.sleep(0.05)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        rows_at_kill = run.rows
        (run.folder / "steps_at_kill.txt").write_text(" ".join(str(row["step"]) for row in rows_at_kill))
        (run.folder / "log.txt").rename(run.folder / "log-before-kill.txt")
        del run.environment["SPRO_TEST_HOLD"]
        # At once, while processes of the killed run may still be there.
        killed, run.marker = run.marker, uuid.uuid4().hex
        status = run.finish()
        assert status == 0, run.log[-6000:]
        left = [*run.survivors_of(killed), *run.wait_until_gone()]
        (run.folder / "survivors.txt").write_text("\n".join(left))
        yield run
    finally:
        run.wait_until_gone()
        run.end_survivors()
