"""Before a run resumes: the latest checkpoint must be whole, and no older than its history says.

verl writes ``latest_checkpointed_iteration.txt`` in place, so a kill can leave it empty; and it
saves a step's checkpoint before it logs that step, so a kill between the two would leave a gap in
the metrics. `align` mends both by pointing the tracker file at an earlier checkpoint.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from verl_ext.tracking import metrics_path, read_rows

_TRACKER = "latest_checkpointed_iteration.txt"


def complete_checkpoints(directory: Path) -> list[int]:
    """Steps of the checkpoints in ``directory`` that verl finished writing, ascending.

    ``data.pt`` is the last file of a checkpoint; ``actor`` goes when verl prunes it.
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
                print(
                    f"warning: {metrics} ends at step {logged}, the checkpoint is of step {latest}: "
                    "the history will have a gap. To redo the steps keep more checkpoints "
                    "(trainer.max_actor_ckpt_to_keep=2).",
                    file=sys.stderr,
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
    loggers = config.trainer.logger
    keeps_file = "file" in ([loggers] if isinstance(loggers, str) else list(loggers))
    metrics = Path(metrics_path(config.trainer.project_name, config.trainer.experiment_name)) if keeps_file else None
    return align_history(Path(config.trainer.default_local_dir), metrics)
