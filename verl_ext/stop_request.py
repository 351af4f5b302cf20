"""Ends a run on request, with a checkpoint: for a job whose time is nearly up.

The request is a file, which reaches the trainer on whatever node it runs: ``VERL_EXT_STOP_FILE`` names it, in the
environment of every node. When it is there after a step is logged, that step's checkpoint is saved, ``<file>.saved``
is written with the checkpoint's folder, and the run ends with an error that says so. The same command goes on from
there. The last step of a run is not asked: it ends anyway.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from verl_ext import config_checks, step_watch
from verl_ext.config_checks import ConfigError
from verl_ext.notices import warn
from verl_ext.step_watch import EndRun, StepWatch, save_checkpoint
from verl_ext.trainer_modes import is_v1, mode_of

VARIABLE = "VERL_EXT_STOP_FILE"


class StopRequested(EndRun):
    """The run was asked to end; the message names the checkpoint."""


def saved_mark(stop_file: Path) -> Path:
    """The file that says that the checkpoint of a requested end is written; its text is the checkpoint's folder."""
    return stop_file.with_name(f"{stop_file.name}.saved")


class StopWatch(StepWatch):
    """Looks for the request after each step."""

    name = "stop_request"

    def __init__(self, stop_file: Path) -> None:
        self.stop_file = stop_file

    def watch(self, trainer: Any, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Adds no metrics."""
        return {}

    def act(self, trainer: Any) -> None:
        """Save and end, if asked.

        Raises:
            StopRequested: the request is there, and steps are left.
        """
        if not self.stop_file.exists() or trainer.global_steps >= trainer.total_training_steps:
            return
        folder = save_checkpoint(trainer)
        # Renamed into place: whoever waits for it reads all of it.
        temporary = self.stop_file.with_name(f"{self.stop_file.name}.tmp")
        temporary.write_text(f"{folder}\n")
        os.replace(temporary, saved_mark(self.stop_file))
        raise StopRequested(
            f"asked to end by {self.stop_file} at step {trainer.global_steps}; the checkpoint: {folder}. "
            "The same command goes on from there."
        )


def make_watch(config: Any) -> StopWatch | None:
    """A watch where the environment names a file."""
    del config
    path = os.environ.get(VARIABLE)
    return StopWatch(Path(path)) if path else None


def check(config: Any) -> None:
    """Raise `ConfigError` for a run that could be asked to end, and would start anew afterwards.

    A run that would not answer is warned about: it loses what it did since its last checkpoint, and goes on from there.
    """
    if not os.environ.get(VARIABLE):
        return
    if not is_v1(config):
        warn(
            f"{VARIABLE} is set, and {mode_of(config)} does not look for a request to end (verl's V1 trainers do): the "
            f"run is cut off at the end of its time, after the last checkpoint that trainer.save_freq="
            f"{config.trainer.save_freq} has it write. Unset the variable to go without this message."
        )
    if config.trainer.resume_mode == "disable":
        raise ConfigError(
            f"trainer.resume_mode=disable: this run can be asked to end and to go on later ({VARIABLE} is set), and "
            "would start anew each time. Leave trainer.resume_mode=auto, or unset the variable."
        )


def install() -> None:
    step_watch.register(make_watch)
    config_checks.register(check)
