"""Holds a run back until the test has done what it came for: what it does meanwhile cannot come too late.

Loaded by verl as a plugin. The file that ``SPRO_TEST_HOLD`` names holds a number: of the first training step to wait
after, or of the first chunk of an evaluation. Without it, and once a training is asked to end, nothing waits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from verl_ext import step_watch, stop_request
from verl_ext.patching import on_import, wrap
from verl_ext.step_watch import StepWatch


def _held_from() -> float:
    """The number in the file; without a file that of nothing that ever comes."""
    try:
        return int(Path(os.environ["SPRO_TEST_HOLD"]).read_text())
    except (KeyError, FileNotFoundError):
        return float("inf")


def _wait_behind(number: int) -> None:
    stop = os.environ.get(stop_request.VARIABLE)
    while number >= _held_from() and not (stop and Path(stop).exists()):
        time.sleep(0.2)


class Hold(StepWatch):
    """Waits in the driver, between a step's log and the next step."""

    name = "hold"

    def watch(self, trainer: Any, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        return {}

    def act(self, trainer: Any) -> None:
        _wait_behind(trainer.global_steps)


def _wait_behind_a_chunk(original: Callable[..., Any]) -> Callable[..., Any]:
    def add(self: Any, responses: Any) -> None:
        original(self, responses)
        _wait_behind(len(self.chunks))

    return add


def _hold_evaluations(module: ModuleType) -> None:
    wrap(module.Store, "add", _wait_behind_a_chunk, patch=__name__)


# Loaded before the product's plugin: it acts before what answers the request to end.
step_watch.register(lambda config: Hold())
on_import("scripts.evaluate.store", _hold_evaluations)
