"""Metric histories that survive a resume: one row per step in the JSONL, one curve in TensorBoard.

verl's file tracker opens its JSONL for writing, so that a resumed run destroys the history; its
TensorBoard writer shows redone steps twice. Here, when the first step of a new process is logged,

- rows that this resume made void (their step is done again) move to ``<name>.void.jsonl``, along
  with a line that a kill left half written; the rest stays, and new rows are appended;
- the validation with which verl opens a resumed run joins the row of the step it was resumed from;
- TensorBoard is told to drop the void events (``purge_step``).

Waits for upstream: trackers that know the step a run resumes from.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import orjson

from verl_ext.patching import on_import, target, wrap

# In every row that a training step wrote, and in none that only an opening validation wrote.
_TRAINING_KEY = "training/global_step"


def read_rows(path: str | os.PathLike[str]) -> tuple[list[dict[str, Any]], bytes]:
    """Read a metrics JSONL written by verl's file tracker.

    Returns:
        rows ``{"step": int, "data": {metric: value}}`` in file order, and what a kill left of the
        last line (empty if the file ends well).

    Raises:
        ValueError: a line other than the last is not a row; the message names file and line.
    """
    lines = Path(path).read_bytes().splitlines(keepends=True)
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = orjson.loads(line)
            fields = row if isinstance(row, dict) else {}
            if not isinstance(fields.get("step"), int) or not isinstance(fields.get("data"), dict):
                raise ValueError("no step or no data")
        except ValueError as error:
            if number == len(lines):
                return rows, line
            raise ValueError(f"{path}, line {number}: not a row of metrics ({error}).") from error
        rows.append(row)
    return rows, b""


def _encode(row: dict[str, Any]) -> bytes:
    return orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n"


def void_path(path: str | os.PathLike[str]) -> Path:
    """Where the rows go that a resume made void: ``metrics.jsonl`` -> ``metrics.void.jsonl``."""
    return Path(path).with_suffix(".void.jsonl")


def last_valid_step(step: int, data: dict[str, Any]) -> int:
    """Up to which step an earlier history stands, told by the first row that a new process logs.

    A training step follows it, an opening validation is of the step resumed from. Nothing is resumed at the very first
    step (-1): what is there belongs to a run of its own.
    """
    opening_validation = _TRAINING_KEY not in data
    if step == 0 or (step == 1 and not opening_validation):
        return -1
    return step if opening_validation else step - 1


class HistoryFile:
    """An append-only metrics JSONL in which each step has one row, across restarts."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file: Any = None

    def log(self, data: dict[str, Any], step: int) -> None:
        """Append the row of ``step``; the first call settles what earlier processes left."""
        if self._file is None:
            joined = self._settle(step, data)
            self._file = self.path.open("ab", buffering=0)
            if joined:
                return
        self._file.write(_encode({"step": step, "data": data}))

    def _settle(self, step: int, data: dict[str, Any]) -> bool:
        """Move void rows aside; True if ``data`` joined the row of the step resumed from."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            return False
        rows, torn = read_rows(self.path)
        last_valid = last_valid_step(step, data)
        kept = [row for row in rows if row["step"] <= last_valid]
        void = [row for row in rows if row["step"] > last_valid]
        joined = False
        for row in kept:
            if row["step"] == step:
                row["data"] = {**data, **row["data"]}
                joined = True
        if void or torn:
            with void_path(self.path).open("ab") as file:
                file.writelines([*map(_encode, void), torn.rstrip(b"\n") + b"\n" if torn else b""])
        # Renamed into place: a kill leaves the old history or the new one, never half of it.
        temporary = self.path.with_suffix(".tmp")
        temporary.write_bytes(b"".join(map(_encode, kept)))
        os.replace(temporary, self.path)
        return joined

    def close(self) -> None:
        """Close the file if it was opened."""
        if self._file is not None:
            self._file.close()


def metrics_path(project_name: str, experiment_name: str) -> str:
    """The JSONL that verl's file tracker writes for this project and experiment."""
    if path := os.getenv("VERL_FILE_LOGGER_PATH"):
        return path
    root = os.path.expanduser(os.getenv("VERL_FILE_LOGGER_ROOT", "."))
    return os.path.join(root, project_name, f"{experiment_name}.jsonl")


def trackers_of(config: Any) -> list[str]:
    """`trainer.logger` of verl's whole config, which may be one name or a list of them."""
    loggers = config.trainer.get("logger", None) or []
    return [loggers] if isinstance(loggers, str) else list(loggers)


def history_of(config: Any) -> Path | None:
    """The metrics JSONL of a run of this config, there or not; None for a run without the file tracker."""
    if "file" not in trackers_of(config):
        return None
    return Path(metrics_path(config.trainer.project_name, config.trainer.experiment_name))


def _file_init(original: Callable[..., None]) -> Callable[..., None]:
    # Not called: it truncates the file.
    del original

    def __init__(self: Any, project_name: str, experiment_name: str) -> None:
        self.project_name = project_name
        self.experiment_name = experiment_name
        self.filepath = metrics_path(project_name, experiment_name)
        print(f"Metrics go to {os.path.abspath(self.filepath)}")
        self.history = HistoryFile(self.filepath)

    return __init__


def _file_log(original: Callable[..., None]) -> Callable[..., None]:
    del original

    def log(self: Any, data: dict[str, Any], step: int) -> None:
        self.history.log(data, step)

    return log


def _file_finish(original: Callable[..., None]) -> Callable[..., None]:
    del original

    def finish(self: Any) -> None:
        self.history.close()

    return finish


def _tensorboard_init(original: Callable[..., None]) -> Callable[..., None]:
    def __init__(self: Any, project_name: str, experiment_name: str) -> None:
        directory = os.environ.get("TENSORBOARD_DIR", f"tensorboard_log/{project_name}/{experiment_name}")
        self.resumes = bool(glob.glob(os.path.join(directory, "events.out.tfevents.*")))
        original(self, project_name, experiment_name)

    return __init__


def _tags_at(directory: str, step: int) -> set[str]:
    """The curves that have a value at ``step`` in the event files of ``directory``."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(directory, size_guidance={"scalars": 0})
    events.Reload()
    return {tag for tag in events.Tags()["scalars"] if any(event.step == step for event in events.Scalars(tag))}


def _tensorboard_log(original: Callable[..., None]) -> Callable[..., None]:
    def log(self: Any, data: dict[str, Any], step: int) -> None:
        if self.resumes:
            from torch.utils.tensorboard import SummaryWriter

            self.resumes = False
            directory = self.writer.log_dir
            self.writer.close()
            last_valid = last_valid_step(step, data)
            if last_valid == step:
                # The values of this step stand, and are only added to.
                shown = _tags_at(directory, step)
                data = {tag: value for tag, value in data.items() if tag not in shown}
            self.writer = SummaryWriter(directory, purge_step=last_valid + 1)
        original(self, data, step)
        # A kill must not take the last minutes of the curve with it.
        self.writer.flush()

    return log


def _apply(module: ModuleType) -> None:
    file_logger = target(module, "FileLogger", __name__)
    wrap(file_logger, "__init__", _file_init, patch=__name__, parameters=("project_name", "experiment_name"))
    wrap(file_logger, "log", _file_log, patch=__name__, parameters=("data", "step"))
    wrap(file_logger, "finish", _file_finish, patch=__name__)
    tensorboard = target(module, "_TensorboardAdapter", __name__)
    wrap(tensorboard, "__init__", _tensorboard_init, patch=__name__, parameters=("project_name", "experiment_name"))
    wrap(tensorboard, "log", _tensorboard_log, patch=__name__, parameters=("data", "step"))


def install() -> None:
    on_import("verl.utils.tracking", _apply)
