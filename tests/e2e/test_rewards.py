"""Training with the reward manager `spro` while its verifying processes are killed at random."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer

from tests.e2e.stack import HOLDING, Run, make_run, processes_with
from verl_ext.rewards import verify_math

STEPS, GOLD = 2, "1"

# Not all four tries (`service`) of one response: a dead service costs one, and so do two dead workers.
MOST = {"service": 1, "worker": 3}
CORRECT, WRONG = 2.0, -1.0


def _service_and_workers(marker: str) -> tuple[list[int], list[int]]:
    """Process ids of the run's verifying service, and of the workers that it started."""
    service = [pid for pid, command in processes_with(marker) if "VerifierService" in command]
    children = []
    for pid in service:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            children += [int(child) for child in task.read_text().split()]
    return service, children


def _kill_now_and_then(run: Run, hold: Path, over: threading.Event, killed: list[str]) -> None:
    """Behind the first step the run is held until its service is killed once more: it never ends before."""
    rng = random.Random(0)
    while not over.wait(rng.uniform(2.0, 5.0)):
        try:
            service, workers = _service_and_workers(run.marker)
            held = hold.exists() and len(run.rows) > 0
            who = "service" if held or rng.random() < 0.4 else "worker"
            victims = service if who == "service" else workers
            if victims and (held or killed.count(who) < MOST[who]):
                os.kill(rng.choice(victims), signal.SIGKILL)
                killed.append(who)
                if held:
                    hold.unlink()
        except (FileNotFoundError, ProcessLookupError):
            continue


@pytest.fixture(scope="module")
def killed_run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, list[str]]]:
    """Two steps; the gold answer of every prompt is 1."""
    folder = tmp_path_factory.mktemp("rewards")
    rows = pd.read_parquet(base / "train.parquet")
    rows["data_source"] = "numina_test"
    rows["reward_model"] = [{"style": "rule", "ground_truth": GOLD}] * len(rows)
    rows.to_parquet(folder / "train.parquet")
    run = make_run(
        base,
        folder,
        f"data.train_files={folder}/train.parquet",
        f"data.val_files={folder}/train.parquet",
        "data.train_batch_size=8",
        "actor_rollout_ref.actor.ppo_mini_batch_size=8",
        "actor_rollout_ref.rollout.n=8",
        "reward.custom_reward_function.path=null",
        "reward.reward_manager.name=spro",
        f"++reward.reward_kwargs={{correct:{CORRECT},wrong:{WRONG}}}",
        f"trainer.rollout_data_dir={folder}/dump",
        plugins=HOLDING,
        steps=STEPS,
    )
    hold = folder / "hold"
    hold.write_text("1")
    run.environment["SPRO_TEST_HOLD"] = str(hold)
    over = threading.Event()
    killed: list[str] = []
    killer = threading.Thread(target=_kill_now_and_then, args=(run, hold, over, killed))
    killer.start()
    try:
        status = run.finish()
        assert status == 0, run.log[-6000:]
        yield run, killed
    finally:
        over.set()
        killer.join()
        if run.wait_until_gone():
            run.end_survivors()


def test_the_service_was_killed_before_the_last_step(killed_run: tuple[Run, list[str]]) -> None:
    assert "service" in killed_run[1]


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_every_reward_is_that_of_its_response(step: int, killed_run: tuple[Run, list[str]], base: Path) -> None:
    batch = killed_run[0].batch(step)
    tokenizer = AutoTokenizer.from_pretrained(base / "model")
    texts = [
        tokenizer.decode(ids[: int(mask.sum())], skip_special_tokens=True)
        for ids, mask in zip(batch["responses"], batch["response_mask"], strict=True)
    ]
    expected = [verify_math(text, GOLD, correct=CORRECT, wrong=WRONG).score for text in texts]
    assert torch.equal(batch["rm_scores"].sum(-1), torch.tensor(expected))


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_kinds_are_in_the_metrics_and_the_dump(step: int, killed_run: tuple[Run, list[str]]) -> None:
    run, _ = killed_run
    metrics = run.metrics(step)
    assert metrics["reward/infra_error_frac"] == metrics["reward/grader_error_frac"] == 0
    shares = {kind: metrics[f"reward/{kind}_frac"] for kind in ("correct", "wrong", "unparseable", "timeout")}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["wrong"] > 0
    assert metrics["reward/verify_s/p99"] >= metrics["reward/verify_s/p50"] > 0
    dumped = [json.loads(line) for line in (run.folder / "dump" / f"{step}.jsonl").read_text().splitlines()]
    assert {row["kind"] for row in dumped} == {kind for kind, share in shares.items() if share > 0}
