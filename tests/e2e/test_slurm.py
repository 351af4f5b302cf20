"""The arithmetic example over two nodes of a real Slurm, stopped by its time limit, preempted, and finished.

python -m pytest tests/e2e/test_slurm.py      # Debian: apt-get install slurm-wlm munge
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from examples.arithmetic import make_data, make_model
from tests.e2e.slurm import LocalSlurm, local_slurm, missing_programs
from tests.e2e.stack import MARKER, ROOT, processes_with
from verl_ext.tracking import read_rows, void_path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        bool(missing_programs()), reason=f"no {', '.join(missing_programs())}: apt-get install slurm-wlm munge"
    ),
]

STEPS = 4
SAVE_FREQ = 2
HELDOUT = 32

# The steps after which the first and the second attempt wait for what ends them (hold.py). The second is not one whose
# checkpoint is due: its preemption costs it.
ENDED_AT = 1
PREEMPTED_AT = 3

# Minutes. The signal comes this long before the limit, which the test moves: Slurm knows whole minutes only.
SIGNAL = 200
LIMIT = 400

# A job in one of these does not change any more.
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


@pytest.fixture(scope="module")
def slurm() -> Iterator[LocalSlurm]:
    """One cluster for this file."""
    with local_slurm() as cluster:
        yield cluster


@dataclass
class Job:
    """A job of `train.sbatch` with the example's launcher."""

    slurm: LocalSlurm
    folder: Path
    number: str
    marker: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        path = self.folder / "run" / "metrics.jsonl"
        return read_rows(path)[0] if path.exists() else []

    @property
    def steps(self) -> list[int]:
        return [row["step"] for row in self.rows]

    def attempt(self, number: int) -> Path:
        return self.folder / "logs" / f"{self.number}.{number}"

    @property
    def state(self) -> dict[str, str]:
        return self.slurm.job(self.number)

    def logs(self) -> str:
        """What a failure is to be understood from."""
        files = [*self.folder.glob("logs/*/*.log"), *self.folder.glob("run/train.log"), *self.folder.glob("*.out")]
        return "\n".join(f"== {path}\n{path.read_text(errors='replace')[-3000:]}" for path in sorted(files))

    def wait(self, ready: Callable[[], bool], timeout_s: float = 900) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            # Asked first: what a job did last is seen by `ready`.
            ended = self.state["JobState"] in ENDED
            if ready():
                return
            assert not ended, f"{self.state['JobState']}: {self.logs()}"
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.5)

    def wait_until_gone(self, timeout_s: float = 60) -> list[str]:
        deadline = time.monotonic() + timeout_s
        while (left := processes_with(self.marker)) and time.monotonic() < deadline:
            time.sleep(0.5)
        return [command for _, command in left]


def submit(slurm: LocalSlurm, folder: Path, *arguments: str, **environment: str) -> Job:
    """Submit the launcher on two nodes; small enough for this host."""
    marker = uuid.uuid4().hex
    settings = {
        MARKER: marker,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "ROOT": str(folder / "root"),
        "OUT": str(folder / "run"),
        "LOGS": str(folder / "logs"),
        "STEPS": str(STEPS),
        "SAVE_FREQ": str(SAVE_FREQ),
        "HELDOUT_N": str(HELDOUT),
        "TEST_FREQ": "-1",
        # Logical, as everything without an accelerator
        "RAY_NUM_CPUS": "8",
        "RAY_NUM_GPUS": "1",
        "RAY_START_ARGS": "--object-store-memory=200000000",
        "RAY_TMP": str(slurm.folder / "ray"),
        **environment,
    }
    options = ["--parsable", "--nodes=2", f"--time={LIMIT}", f"--signal=B:USR1@{60 * SIGNAL}"]
    options += [f"--chdir={ROOT}", f"--output={folder}/slurm.out"]
    number = slurm.ask("sbatch", *options, f"{ROOT}/scripts/slurm/train.sbatch", *arguments, **settings)
    return Job(slurm, folder, number, marker)


def write_base(root: Path) -> None:
    """Data and an untrained model in the example's own form, so that the launcher finds them there."""
    make_data.make_data(root / "data", heldout=HELDOUT)
    torch.manual_seed(0)
    tokenizer = make_model.make_tokenizer()
    data = json.loads((root / "data" / "meta.json").read_text())
    meta = {
        "settings": {**make_model.RECIPE, "seed": 0, "data": data},
        **{"dev_exact": 0.0, "heldout_accuracy": 0.0, "heldout_n": HELDOUT, "parameters": 0, "seconds": 0.0},
    }
    make_model.save(make_model.make_model(tokenizer), tokenizer, meta, root / "base-seed0")


@pytest.fixture(scope="module")
def job(slurm: LocalSlurm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """A job that reaches its time limit, is preempted without warning, and ends well at the third attempt."""
    folder = tmp_path_factory.mktemp("slurm")
    write_base(folder / "root")
    hold = folder / "hold"
    hold.write_text(str(ENDED_AT))
    plugins = "tests.e2e.hold,recipe.spro.plugin,recipe.prime_v1.plugin"
    arguments = ("examples/arithmetic/run.sh", "trainer.val_before_train=false")
    job = submit(slurm, folder, *arguments, VERL_USE_EXTERNAL_MODULES=plugins, SPRO_TEST_HOLD=str(hold))
    try:
        job.wait(lambda: ENDED_AT in job.steps)
        # The limit comes nearer than the signal's time: Slurm sends it, and the run has hours to save its step.
        slurm.ask("scontrol", "update", f"JobId={job.number}", f"TimeLimit={SIGNAL - 10}")
        job.wait(lambda: job.state["Restarts"] == "1")
        hold.write_text(str(PREEMPTED_AT))
        slurm.ask("scontrol", "update", f"JobId={job.number}", f"TimeLimit={LIMIT}")

        job.wait(lambda: PREEMPTED_AT in job.steps)
        slurm.ask("scontrol", "requeue", job.number)
        job.wait(lambda: job.state["Restarts"] == "2")
        hold.unlink()
        job.wait(lambda: job.state["JobState"] == "COMPLETED")
        (folder / "survivors.txt").write_text("\n".join(job.wait_until_gone()))
        yield job
    finally:
        if job.state["JobState"] not in ENDED:
            slurm.ask("scancel", job.number)
        job.wait_until_gone()


def test_every_step_is_in_the_history_once(job: Job) -> None:
    assert job.steps == list(range(1, STEPS + 1))
    assert job.state["Restarts"] == "2"


def redone(job: Job) -> list[int]:
    """The steps that were logged and lost, and made again."""
    void = void_path(job.folder / "run" / "metrics.jsonl")
    return [row["step"] for row in read_rows(void)[0]] if void.exists() else []


def test_before_the_limit_the_step_is_saved_and_none_is_lost(job: Job) -> None:
    assert (job.attempt(0) / "stop.saved").read_text().strip().endswith(f"global_step_{ENDED_AT}")
    assert ENDED_AT not in redone(job)


def test_a_preemption_without_warning_costs_the_steps_since_the_checkpoint(job: Job) -> None:
    assert not (job.attempt(1) / "stop.saved").exists()
    assert redone(job) == [PREEMPTED_AT]


def test_two_ranks_trained_on_two_nodes(job: Job) -> None:
    (newest,) = sorted(job.folder.glob(f"run/checkpoints/global_step_{STEPS}/actor"))
    assert {path.name for path in newest.glob("model_world_size_*")} == {
        f"model_world_size_2_rank_{rank}.pt" for rank in (0, 1)
    }
    for number in range(3):
        told = (job.attempt(number) / "cluster.log").read_text()
        assert "2 of 2 nodes in Ray" in told
        # One placement group of one GPU a node: the ranks cannot share one.
        assert all(f"{node}: 8 CPUs, 1 GPUs" in told for node in ("n1", "n2"))


def test_the_plugin_and_the_launchers_environment_reach_every_node(job: Job) -> None:
    # The trainer is an actor of Ray's, on either node: it wrote the metrics where the launcher had said, with ours.
    assert "spro/process_share" in job.rows[-1]["data"]
    assert "VERL_FILE_LOGGER_PATH" in (job.attempt(2) / "cluster.log").read_text()


def test_each_attempt_has_its_logs_and_the_last_a_link(job: Job) -> None:
    for number in range(3):
        names = {path.name for path in job.attempt(number).iterdir()}
        assert {"job.log", "cluster.log", "launcher.log", "node-n1.log", "node-n2.log"} <= names
    assert (job.folder / "logs" / "latest").resolve() == job.attempt(2).resolve()


def test_nothing_is_left_on_the_nodes(job: Job) -> None:
    assert (job.folder / "survivors.txt").read_text() == ""
    assert not list((job.slurm.folder / "ray").glob("*2"))


def test_a_node_that_does_not_come_is_named(slurm: LocalSlurm, tmp_path: Path) -> None:
    write_base(tmp_path / "root")
    broken = tmp_path / "broken.sh"
    broken.write_text('if [[ $SLURMD_NODENAME == n2 ]]; then exit 3; fi\nexec "$@"\n')
    job = submit(slurm, tmp_path, "examples/arithmetic/run.sh", WRAP=f"bash {broken}", JOIN_TIMEOUT="40")
    try:
        deadline = time.monotonic() + 600
        while job.state["JobState"] not in ("FAILED", "COMPLETED"):
            assert time.monotonic() < deadline, job.logs()
            time.sleep(1)
        assert job.state["JobState"] == "FAILED"
        log = (job.attempt(0) / "job.log").read_text()
        assert "node n2 has not joined Ray after" in log
        assert str(job.attempt(0) / "node-n2.log") in log
        assert job.wait_until_gone() == []
    finally:
        if job.state["JobState"] == "RUNNING":
            slurm.ask("scancel", job.number)
