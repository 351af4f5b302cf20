"""An evaluation through Ray and vLLM: killed between chunks, and going on where it stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pandas as pd
import pytest

from scripts.evaluate.results import Evaluation
from tests.e2e.stack import ROOT, Run

PROBLEMS, SAMPLES, CHUNK = 8, 4, 2

# The chunk behind which it waits to be killed (hold.py), if it is not before: one of the greedy answers is missing.
HELD_AT = PROBLEMS // CHUNK - 1


def _run(base: Path, folder: Path) -> Run:
    """Of the first problems, with few requests at once: chunks come one after another."""
    path = folder / "sums.parquet"
    rows = pd.read_parquet(base / "heldout.parquet").head(PROBLEMS).to_dict("records")
    for number, row in enumerate(rows):
        row["extra_info"] = {"index": number, "category": "odd" if number % 2 else "even"}
    pd.DataFrame(rows).to_parquet(path)
    command = [sys.executable, "-m", "scripts.evaluate", str(base / "model"), str(path), "--label", "sums"]
    command += ["--samples", str(SAMPLES), "--chunk", str(CHUNK), "--max-tokens", "24", "--out", str(folder / "out")]
    command += ["+stack=cpu", "actor_rollout_ref.rollout.max_num_seqs=2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    return Run(folder=folder, command=command, environment=environment, cwd=ROOT)


def _chunks(run: Run) -> dict[str, bytes]:
    return {
        str(path.relative_to(run.folder)): path.read_bytes() for path in run.folder.glob("out/responses/*/*.jsonl.gz")
    }


@pytest.fixture(scope="module")
def killed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, bytes]]:
    """An evaluation whose driver was killed after its first chunk and started again; the chunks of the first start."""
    run = _run(base, tmp_path_factory.mktemp("evaluate"))
    hold = run.folder / "hold"
    hold.write_text(str(HELD_AT))
    run.environment |= {"VERL_USE_EXTERNAL_MODULES": "tests.e2e.hold", "SPRO_TEST_HOLD": str(hold)}
    driver = run.start()
    try:
        deadline = time.monotonic() + 400
        while not _chunks(run):
            assert driver.poll() is None, run.log[-6000:]
            assert time.monotonic() < deadline, run.log[-6000:]
            time.sleep(0.01)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        left = _chunks(run)
        run.wait_until_gone()
        run.end_survivors()
        run.marker = uuid.uuid4().hex
        hold.unlink()
        assert run.finish() == 0, run.log[-6000:]
        return run, left
    finally:
        run.wait_until_gone()
        run.end_survivors()


def test_it_goes_on_where_it_stopped(killed: tuple[Run, dict[str, bytes]]) -> None:
    run, left = killed
    now = _chunks(run)
    assert 0 < len(left) <= HELD_AT < len(now) == 2 * PROBLEMS // CHUNK
    assert {name: now[name] for name in left} == left
    assert f"sums, greedy: {CHUNK * len(left)} of {PROBLEMS} problems are there already" in run.log


def test_everything_is_counted(killed: tuple[Run, dict[str, bytes]]) -> None:
    run, _ = killed
    (found,) = Evaluation.read(run.folder / "out" / "sums.json").sets
    assert found.greedy is not None
    assert found.sampled is not None
    assert (found.problems, found.greedy.scores.responses, found.sampled.scores.responses) == (8, 8, 32)
    # An untrained model is not right, and does not stop; nothing of that is the verifier's fault.
    assert sum(found.sampled.scores.kinds.values()) == 32
    assert set(found.sampled.scores.kinds) <= {"correct", "wrong", "unparseable"}
    assert found.sampled.scores.lengths.max == 24
    assert found.sampled.scores.truncated > 0.5
    assert set(found.sampled.scores.pass_at) == {1, 2, 4}
    assert {value: one.problems for value, one in found.sampled.categories["category"].items()} == {"even": 4, "odd": 4}
    assert "| sums | 8 |" in (run.folder / "out" / "sums.md").read_text()


def test_a_finished_one_starts_nothing(killed: tuple[Run, dict[str, bytes]]) -> None:
    run, _ = killed
    before = (run.folder / "out" / "sums.json").read_bytes()
    done = subprocess.run(run.command, cwd=run.cwd, env=run.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-6000:]
    assert "starting verl's servers" not in done.stderr
    assert "| sums | 8 |" in done.stdout
    assert (run.folder / "out" / "sums.json").read_bytes() == before
