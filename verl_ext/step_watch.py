"""Watches over the metrics of each training step, in verl's V1 trainers.

A recipe registers a function that makes a watch for the runs that are to have one,

    step_watch.register(lambda config: MyWatch(config) if ... else None)

and the watch sees each step's metrics when they are complete, may add to them, and may act once they are logged: it
may raise `EndRun`, which ends the run with that message and without a gap in its history. What it needs of earlier
steps is kept in each checkpoint (``global_step_N/{name}.json``), so that a resumed run watches on as if nothing had
been.
Nothing here knows a recipe by name.

Waits for upstream: a callback for the metrics of a step.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from verl_ext.notices import warn
from verl_ext.patching import on_import, target, wrap
from verl_ext.resume import resumed_folder
from verl_ext.tracking import history_of, read_rows

Rows = list[tuple[int, dict[str, float]]]


class EndRun(RuntimeError):
    """Raised by a watch to end the run; what verl is still dumping is written first."""


_WATCHES = "verl_ext_step_watches"

_AFTER_LOG = "verl_ext_after_log"

# The last step whose checkpoint this trainer has saved. The disk does not tell: after a resume from an earlier step the
# folders of the later ones may be there still, with other weights.
_SAVED = "verl_ext_saved_step"


class StepWatch:
    """One watch over one run; the methods are called in the driver, with verl's trainer."""

    name: str
    """of its file in a checkpoint"""
    reads: tuple[str, ...] = ()
    """the metrics that it needs, which are kept for a resumed run; it is given what of them is a finite number

    Of a watch that reads none nothing is kept, and its `resume` is not called.
    """

    def resume(self, trainer: Any, rows: Rows) -> None:
        """Take in the steps that came before, ascending; not called where nothing is resumed."""
        raise NotImplementedError

    def watch(self, trainer: Any, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """See one step; returns metrics to be logged with it."""
        raise NotImplementedError

    def act(self, trainer: Any) -> None:
        """Called when the step that `watch` saw is logged and its checkpoint, if it is due, is written."""


_makers: list[Callable[[Any], StepWatch | None]] = []


def register(make: Callable[[Any], StepWatch | None]) -> None:
    """Add a function of verl's whole config that returns a watch for its run, or None."""
    if make not in _makers:
        _makers.append(make)


def save_checkpoint(trainer: Any) -> Path:
    """Save a checkpoint of the step that was just logged, the way verl does; returns its folder.

    A checkpoint that this trainer has saved at this step already is left as it is.
    """
    if not _has_saved(trainer):
        # verl saves between the update and the rollout's waking up: the rollout's memory is free then.
        trainer.on_sample_end()
        trainer._save_checkpoint()
    _keep_rows(trainer)
    return _folder(trainer)


def _has_saved(trainer: Any) -> bool:
    """Whether this trainer has saved the checkpoint of its present step."""
    return getattr(trainer, _SAVED, None) == trainer.global_steps


def _folder(trainer: Any) -> Path:
    """Of the checkpoint of the present step."""
    return Path(trainer.config.trainer.default_local_dir, f"global_step_{trainer.global_steps}")


def _watches_of(trainer: Any) -> dict[StepWatch, Rows]:
    """The trainer's watches, each with the steps that it has seen."""
    watches = getattr(trainer, _WATCHES, None)
    if watches is None:
        watches = {watch: [] for make in _makers if (watch := make(trainer.config)) is not None}
        setattr(trainer, _WATCHES, watches)
    return watches


def _numbers(watch: StepWatch, data: Mapping[str, Any]) -> dict[str, float]:
    """What of a step's metrics the watch reads."""
    # A NaN is null in a metrics file.
    found = {name: float(data[name]) for name in watch.reads if data.get(name) is not None}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _keep_rows(trainer: Any) -> None:
    """Write what the watches have seen into the checkpoint of this step, if it has been saved."""
    if not _has_saved(trainer):
        return
    for watch, rows in _watches_of(trainer).items():
        if not watch.reads:
            continue
        path = _folder(trainer) / f"{watch.name}.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(rows))
        os.replace(temporary, path)


def _rows_before(trainer: Any, watch: StepWatch) -> Rows:
    """What the watch had seen when the checkpoint was written: as kept beside it, else of the metrics file."""
    kept = resumed_folder(trainer) / f"{watch.name}.json"
    if kept.exists():
        return [(step, row) for step, row in json.loads(kept.read_text())]
    history = history_of(trainer.config)
    if history is not None and history.exists():
        found = {row["step"]: _numbers(watch, row["data"]) for row in read_rows(history)[0]}
        return [(step, found[step]) for step in sorted(found) if 0 < step <= trainer.global_steps]
    warn(f"{kept} is not there, and no metrics file: {watch.name} starts anew at this step.")
    return []


def _resume_too(original: Callable[..., Any]) -> Callable[..., Any]:
    def _load_checkpoint(self: Any) -> Any:
        result = original(self)
        if self.global_steps > 0:
            for watch, rows in _watches_of(self).items():
                if not watch.reads:
                    continue
                rows[:] = _rows_before(self, watch)
                watch.resume(self, rows)
        return result

    return _load_checkpoint


def _note_saved(original: Callable[..., Any]) -> Callable[..., Any]:
    def _save_checkpoint(self: Any) -> Any:
        result = original(self)
        setattr(self, _SAVED, self.global_steps)
        return result

    return _save_checkpoint


def _watch_metrics(original: Callable[..., Any]) -> Callable[..., Any]:
    def _compute_metrics(self: Any, batch: Any, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        result = original(self, batch, metrics, *args, **kwargs)
        watches = _watches_of(self)
        for watch, rows in watches.items():
            row = _numbers(watch, metrics)
            rows.append((self.global_steps, row))
            metrics.update(watch.watch(self, self.global_steps, row))

        def after() -> None:
            _keep_rows(self)
            try:
                for watch in watches:
                    watch.act(self)
            except EndRun:
                self._shutdown_dump_executor()
                raise

        if watches:
            setattr(self.logger, _AFTER_LOG, after)
        return result

    return _compute_metrics


def _act_when_logged(original: Callable[..., Any]) -> Callable[..., Any]:
    def log(self: Any, *args: Any, **kwargs: Any) -> Any:
        # Of this row only: what acts may log too.
        after = self.__dict__.pop(_AFTER_LOG, None)
        result = original(self, *args, **kwargs)
        if after is not None:
            after()
        return result

    return log


def _patch_trainer(module: ModuleType) -> None:
    trainer = target(module, "PPOTrainer", __name__)
    for name in ("on_sample_end", "_shutdown_dump_executor"):
        target(trainer, name, __name__)
    wrap(trainer, "_load_checkpoint", _resume_too, patch=__name__)
    wrap(trainer, "_save_checkpoint", _note_saved, patch=__name__)
    wrap(trainer, "_compute_metrics", _watch_metrics, patch=__name__, parameters=("batch", "metrics"))


def _patch_tracking(module: ModuleType) -> None:
    wrap(target(module, "Tracking", __name__), "log", _act_when_logged, patch=__name__, parameters=("data", "step"))


def install() -> None:
    on_import("verl.trainer.ppo.v1.trainer_base", _patch_trainer)
    on_import("verl.utils.tracking", _patch_tracking)
