"""Launches runs of the real stack and finds what they leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from verl_ext.tracking import read_rows

ROOT = Path(__file__).resolve().parents[2]

# In the environment of every process that a run starts, so that survivors can be told from others' processes.
MARKER = "SPRO_TEST_RUN"

STEPS = 3

PLUGINS = "recipe.spro.plugin,tests.e2e.capture,tests.e2e.ports"
# Of a run that waits for its test; `hold` says why it comes first.
HOLDING = f"tests.e2e.hold,{PLUGINS}"


@dataclass
class Run:
    """One run of the stack: its folder, and what is needed to start it again."""

    folder: Path
    command: list[str]
    environment: dict[str, str]
    cwd: Path
    marker: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def log(self) -> str:
        """Standard output and error of every start so far."""
        return (self.folder / "log.txt").read_text(errors="replace")

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of the metrics file; empty before the first."""
        path = self.folder / "metrics.jsonl"
        return read_rows(path)[0] if path.exists() else []

    def metrics(self, step: int) -> dict[str, Any]:
        """The metrics of one step."""
        (row,) = [row for row in self.rows if row["step"] == step]
        return row["data"]

    def batch(self, step: int) -> dict[str, Any]:
        """The batch that the update of one step used (see `capture`)."""
        return torch.load(self.folder / "batches" / f"step-{step}.pt", weights_only=True)

    def start(self) -> subprocess.Popen[bytes]:
        """Start the driver; its output goes to `log`."""
        with (self.folder / "log.txt").open("ab") as log:
            return subprocess.Popen(
                self.command,
                cwd=self.cwd,
                env={**self.environment, MARKER: self.marker},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self, timeout_s: float = 400) -> int:
        """Start the driver and wait for its end; returns its exit status."""
        driver = self.start()
        try:
            return driver.wait(timeout_s)
        finally:
            if driver.poll() is None:
                driver.kill()
                driver.wait()

    def survivors(self) -> list[str]:
        """Command lines of this run's processes that are alive."""
        return self.survivors_of(self.marker)

    def survivors_of(self, marker: str) -> list[str]:
        """Command lines of the processes of a start, told by its marker."""
        return [command for _, command in processes_with(marker)]

    def wait_until_gone(self, timeout_s: float = 60) -> list[str]:
        """Wait for this run's processes to end; returns those that did not."""
        deadline = time.monotonic() + timeout_s
        while (left := self.survivors()) and time.monotonic() < deadline:
            time.sleep(0.5)
        return left

    def end_survivors(self) -> None:
        """End what a failed test left, by process id."""
        for pid, _ in processes_with(self.marker):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def processes_with(marker: str) -> list[tuple[int, str]]:
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            if f"{MARKER}={marker}".encode() not in (folder / "environ").read_bytes():
                continue
            # A zombie has ended; only its parent has not looked yet.
            if (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
                continue
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
        found.append((int(folder.name), command))
    return found


def overrides(base: Path, folder: Path, *, steps: int = STEPS) -> list[str]:
    """A run of ``steps`` steps on the untrained model under ``base``: 4 prompts x 4 responses."""
    return [
        "+stack=cpu",
        f"data.train_files={base}/train.parquet",
        f"data.val_files={base}/heldout.parquet",
        "data.train_batch_size=4",
        "data.max_prompt_length=8",
        "data.max_response_length=24",
        "data.dataloader_num_workers=0",
        f"actor_rollout_ref.model.path={base}/model",
        "actor_rollout_ref.actor.optim.lr=1e-3",
        "actor_rollout_ref.actor.ppo_mini_batch_size=4",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8",
        "actor_rollout_ref.rollout.n=4",
        "actor_rollout_ref.rollout.max_model_len=32",
        "actor_rollout_ref.rollout.max_num_seqs=64",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8",
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=8",
        f"reward.custom_reward_function.path={ROOT}/tests/e2e/reward.py",
        "reward.custom_reward_function.name=compute_score",
        "trainer.project_name=tests",
        "trainer.experiment_name=e2e",
        "trainer.logger=[console,file,tensorboard]",
        f"trainer.default_local_dir={folder}/checkpoints",
        f"trainer.total_training_steps={steps}",
        "trainer.total_epochs=100",
        "trainer.save_freq=1",
        "trainer.max_actor_ckpt_to_keep=2",
        "trainer.test_freq=-1",
        "trainer.val_before_train=false",
    ]


def make_run(
    base: Path,
    folder: Path,
    *extra: str,
    entry: str = "recipe.spro.main_spro",
    python: str = sys.executable,
    cwd: Path = ROOT,
    python_path: Path = ROOT,
    plugins: str = PLUGINS,
    steps: int = STEPS,
) -> Run:
    """Describe a run; nothing is started yet."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(python_path),
        "VERL_USE_EXTERNAL_MODULES": plugins,
        "VERL_FILE_LOGGER_PATH": str(folder / "metrics.jsonl"),
        "TENSORBOARD_DIR": str(folder / "tensorboard"),
        "SPRO_TEST_CAPTURE": str(folder / "batches"),
        "OMP_NUM_THREADS": "1",
    }
    # A cluster that happens to run here is somebody else's.
    environment.pop("RAY_ADDRESS", None)
    command = [python, "-m", entry, *overrides(base, folder, steps=steps), *extra]
    return Run(folder=folder, command=command, environment=environment, cwd=cwd)
