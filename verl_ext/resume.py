"""Before a run resumes: nobody else writes there, and the checkpoint fits the history.

verl writes ``latest_checkpointed_iteration.txt`` in place, so a kill can leave it empty; and it
saves a step's checkpoint before it logs that step, so a kill between the two would leave a gap in
the metrics. `align` mends both by pointing the tracker file at an earlier checkpoint. `hold` keeps a
new run from reading what the trainer of a killed one is still writing.

Waits for upstream: an atomic tracker file, written after the step's metrics.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from verl_ext.notices import warn
from verl_ext.patching import on_import, target, wrap
from verl_ext.tracking import history_of, read_rows

_TRACKER = "latest_checkpointed_iteration.txt"
_LOCK = ".verl_ext.lock"

# Ray ends the processes of a killed driver within some seconds.
LOCK_TIMEOUT_S = 60.0


def complete_checkpoints(directory: Path) -> list[int]:
    """Steps of the checkpoints in ``directory`` that verl finished writing, ascending.

    ``data.pt`` follows the weights; ``actor`` goes when verl prunes it.
    """
    steps = []
    for folder in directory.glob("global_step_*"):
        match = re.fullmatch(r"global_step_(\d+)", folder.name)
        if match and (folder / "data.pt").exists() and (folder / "actor").is_dir():
            steps.append(int(match.group(1)))
    return sorted(steps)


def align_history(directory: Path, metrics: Path | None) -> int | None:
    """Point verl's tracker file at the checkpoint to resume from.

    Args:
        directory: ``trainer.default_local_dir``.
        metrics: the run's metrics JSONL, or None if it keeps none.

    Returns:
        The step that the run will resume from, None if it starts anew.
    """
    steps = complete_checkpoints(directory)
    tracker = directory / _TRACKER
    if not steps or not tracker.exists():
        return None
    written = tracker.read_text().strip()
    latest = int(written) if written.isdigit() else steps[-1]
    if latest not in steps:
        latest = max((step for step in steps if step <= latest), default=steps[-1])

    if metrics is not None and metrics.exists():
        rows, _ = read_rows(metrics)
        logged = max((row["step"] for row in rows), default=0)
        if logged < latest:
            earlier = [step for step in steps if step <= logged]
            if earlier:
                print(f"step {latest} was saved but not logged; it is done again from step {earlier[-1]}.")
                latest = earlier[-1]
            else:
                warn(
                    f"{metrics} ends at step {logged}, the checkpoint is of step {latest}: the history will have a "
                    "gap. To redo the steps keep more checkpoints (trainer.max_actor_ckpt_to_keep=2)."
                )
    if written != str(latest):
        # Renamed into place, unlike verl's own write: a kill leaves the old step or the new one.
        temporary = tracker.with_suffix(".tmp")
        temporary.write_text(str(latest))
        os.replace(temporary, tracker)
    return latest


def align(config: Any) -> int | None:
    """`align_history` for a run's configuration; only ``trainer.resume_mode=auto`` is touched."""
    if config.trainer.resume_mode != "auto":
        return None
    return align_history(Path(config.trainer.default_local_dir), history_of(config))


def resumed_folder(trainer: Any) -> Path:
    """The checkpoint that a V1 trainer resumed from, absolute."""
    settings = trainer.config.trainer
    if settings.resume_mode == "resume_path":
        return Path(settings.resume_from_path).absolute()
    return Path(settings.default_local_dir, f"global_step_{trainer.global_steps}").absolute()


def hold(directory: Path, timeout_s: float = LOCK_TIMEOUT_S) -> Any:
    """Take the lock of a run's checkpoint folder; the kernel gives it back when this process ends.

    A trainer whose driver was killed may still be writing for some seconds.

    Args:
        directory: ``trainer.default_local_dir``; made if it is not there.
        timeout_s: how long to wait for another process, in seconds.

    Returns:
        The open lock file; keep it as long as the folder is written to.

    Raises:
        RuntimeError: another run still writes there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = (directory / _LOCK).open("w")
    deadline = time.monotonic() + timeout_s
    told = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                lock.close()
                raise RuntimeError(
                    f"trainer.default_local_dir={directory}: another run still writes there after {timeout_s:.0f} s. "
                    "Give this run a folder of its own, or end the other."
                ) from None
            if not told:
                print(f"waiting for another run to leave {directory}", flush=True)
                told = True
            time.sleep(0.2)
        except OSError as error:
            # Some network file systems have no locks.
            warn(f"{directory} cannot be locked ({error}); do not start two runs there.")
            return lock
        else:
            return lock


def _align_first(original: Callable[..., Any]) -> Callable[..., Any]:
    def _load_checkpoint(self: Any) -> Any:
        self.verl_ext_lock = hold(Path(self.config.trainer.default_local_dir))
        align(self.config)
        return original(self)

    return _load_checkpoint


def _apply(module: ModuleType) -> None:
    wrap(target(module, "PPOTrainer", __name__), "_load_checkpoint", _align_first, patch=__name__)


def install() -> None:
    on_import("verl.trainer.ppo.v1.trainer_base", _apply)
