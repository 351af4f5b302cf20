"""Holds a run back after a step, until it is asked to end: what a test does meanwhile cannot come too late.

Loaded by verl as a plugin. The file that ``SPRO_TEST_HOLD`` names holds the first step to wait after; without it, and
once the run is asked to end, nothing waits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from verl_ext import step_watch, stop_request
from verl_ext.step_watch import StepWatch


class Hold(StepWatch):
    """Waits in the driver, between a step's log and the next step."""

    name = "hold"

    def watch(self, trainer: Any, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        return {}

    def act(self, trainer: Any) -> None:
        hold, stop = Path(os.environ["SPRO_TEST_HOLD"]), Path(os.environ[stop_request.VARIABLE])
        while hold.exists() and trainer.global_steps >= int(hold.read_text()) and not stop.exists():
            time.sleep(0.2)


# Loaded before the product's plugin: it acts before what answers the request to end.
step_watch.register(lambda config: Hold())
