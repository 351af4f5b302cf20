"""Dumps of a run of verl's V1 trainers, as ``algorithm.spro.dump`` says; with any estimator.

Every ``every`` steps, after the update: the chosen groups are fetched, their process term is computed, one file is
written, its numbers join the step's metrics (``spro/inspect/...``) and its figure the trackers' images. All of it in
the driver's thread, logged as ``timing_s/spro_dump``.

A dump is for looking: training does not end for it. What cannot be dumped (a full disk, log-probs that are not
finite) is logged as an error, and counted in ``spro/inspect/failures``. A verl whose batch we do not know is an error
of its own.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from recipe.spro.dump import figure
from recipe.spro.dump.choose import choose_rows
from recipe.spro.dump.file import read_dump, step_files
from recipe.spro.dump.response import Dump
from recipe.spro.dump.stats import StepStats, Tokens, bins
from recipe.spro.dump.step import FIELDS, count_groups, dump_step
from recipe.spro.settings import SproSettings, asks_for_dumps
from verl_ext.estimator_context import last_outputs, sessions_of
from verl_ext.reward_metrics import infos_of
from verl_ext.run_record import versions
from verl_ext.step_observers import TrainedStep
from verl_ext.tracking import trackers_of
from verl_ext.tracking_images import BACKENDS, record_image

logger = logging.getLogger(__name__)

# Of the whole run's time: above it a dump goes without the figure, which takes longer than all the rest.
MAX_TIME_FRAC = 0.02

# What our estimators log of the step: the factor that `max_process_share` put on the process term, and the weight of
# the log-ratios, which a schedule may have moved.
_SCALE, _BETA = "spro/process_scale", "spro/beta"


def dump_folder(config: Any, settings: SproSettings) -> Path:
    """Where the dumps of a run stand.

    Args:
        config: verl's whole Hydra config.
        settings: its group `algorithm.spro`.
    """
    if settings.dump.folder is not None:
        return Path(settings.dump.folder)
    if metrics := os.environ.get("VERL_FILE_LOGGER_PATH"):
        return Path(metrics).parent / "dump"
    return Path(config.trainer.default_local_dir) / "dump"


class Dumps:
    """The dumps of one run, and what they said so far."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._begin = clock()
        self._spent = 0.0
        self._last: int | None = None
        self._failures = 0
        self._history: dict[int, StepStats] | None = None
        # Looking for them takes longer than a small dump.
        self._versions: dict[str, str] = {}

    def look(self, step: TrainedStep) -> bool:
        """Dump the step if it is one of those; an observer of `verl_ext.step_observers`."""
        if not asks_for_dumps(step.config.algorithm):
            return False
        settings = SproSettings.from_config(step.config.algorithm.spro)
        # Of several updates between two syncs of the weights the first one stands for the step.
        if not settings.dump.wants(step.number) or step.number == self._last:
            return False
        self._last = step.number
        begin = self._clock()
        try:
            self._dump(step, settings)
        except (OSError, ValueError) as error:
            self._failures += 1
            logger.error("step %d was not dumped, training goes on: %s", step.number, error)
        step.metrics["spro/inspect/failures"] = self._failures
        self._spent += self._clock() - begin
        return True

    def _dump(self, step: TrainedStep, settings: SproSettings) -> None:
        folder = dump_folder(step.config, settings)
        data, counts = _chosen(step, settings)
        algorithm = step.config.algorithm
        beta = step.metrics.get(_BETA)
        self._versions = self._versions or versions()
        dump = dump_step(
            data,
            step.number,
            folder=folder,
            settings=settings,
            tokenizer=step.tokenizer,
            estimator=str(algorithm.adv_estimator),
            norm_by_std=bool(algorithm.get("norm_adv_by_std_in_grpo", True)),
            process_scale=float(step.metrics.get(_SCALE, 1.0)),
            beta=None if beta is None else float(beta),
            counts=counts,
            versions=self._versions,
        )
        stats = StepStats.of(dump)
        step.metrics.update(stats.scalars())
        self._draw(step, settings, folder, dump, stats)

    def _draw(self, step: TrainedStep, settings: SproSettings, folder: Path, dump: Dump, stats: StepStats) -> None:
        if not settings.dump.images or not set(BACKENDS) & set(trackers_of(step.config)):
            return
        if self._spent > MAX_TIME_FRAC * (self._clock() - self._begin):
            return
        if self._history is None:
            # Of the run that this one resumes.
            earlier = (path for number, path in step_files(folder).items() if number < step.number)
            self._history = {one.step: one for one in map(StepStats.of, map(read_dump, earlier))}
        self._history[step.number] = stats
        positions = bins(Tokens.of([dump]), lambda tokens: tokens.position)
        record_image("spro/inspect/figure", figure.pixels(figure.draw(list(self._history.values()), positions)))


def _chosen(step: TrainedStep, settings: SproSettings) -> tuple[Any, dict[str, int]]:
    """The rows to be dumped, in the form of a `DataProto`, and counts of the whole batch."""
    outputs = sessions_of(step.keys)
    uids = np.array([session.rpartition("_")[0] for session, _ in outputs], dtype=object)
    scores = step.fetch("rm_scores")["rm_scores"]
    outcome = np.array([float(row.sum()) for row in scores.unbind()])
    rng = np.random.default_rng([settings.dump.seed, step.number])
    chosen = choose_rows(uids, outcome, settings.dump.groups, rng)
    rows = step.of([step.keys[row] for row in chosen])
    infos = infos_of(rows)
    kept = [outputs[row] for row in chosen]
    others = {
        "uid": uids[chosen],
        "session_ids": np.array([session for session, _ in kept], dtype=object),
        "final_outputs": last_outputs(kept),
        "kind": [_text(info.get("kind")) for info in infos],
        "extracted": [_text(info.get("extracted")) for info in infos],
    }
    batch = rows.fetch("prompts", "rm_scores", *FIELDS)
    return SimpleNamespace(batch=batch, non_tensor_batch=others), count_groups(uids, outcome)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
