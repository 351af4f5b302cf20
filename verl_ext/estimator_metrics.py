"""A metrics channel for advantage estimators, which verl 0.9 does not give them.

An estimator calls `record({"spro/msa/rms": 0.1})`; the values join the metrics of that step. In
verl's V1 trainers they are taken right after the advantage, so that verl's own aggregation over
local updates applies; elsewhere where the data metrics are computed, merged here: the maximum
where the name says "max", the mean otherwise. `current_step` tells the trainer's step.

Waits for upstream: estimators that can return metrics.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from verl_ext.patching import on_import, target, wrap

# Modules that bind the name `compute_data_metrics`; the first one defines it.
COMPUTE_DATA_METRICS_IN = (
    "verl.trainer.ppo.metric_utils",
    "verl.trainer.ppo.ray_trainer",
    "verl.trainer.ppo.v1.trainer_base",
    "verl.experimental.separation.ray_trainer",
)

# Only the driver computes advantages, in one thread; its records wait here for the end of the step.
_recorded: defaultdict[str, list[float]] = defaultdict(list)

_step: ContextVar[int | None] = ContextVar("verl_ext_step", default=None)


def current_step() -> int | None:
    """The training step whose advantage is being computed; None in verl's old trainer, which does not tell."""
    return _step.get()


@contextmanager
def at_step(step: int | None) -> Iterator[None]:
    """Let `current_step` be this one: for a loop of one's own that computes advantages. None: outside of any step."""
    token = _step.set(step)
    try:
        yield
    finally:
        _step.reset(token)


def record(metrics: Mapping[str, float]) -> None:
    """Add ``metrics`` to those that this process logs for the current step."""
    for name, value in metrics.items():
        _recorded[name].append(float(value))


def drain() -> dict[str, float]:
    """Return what was recorded since the last call, merged, and forget it."""
    merged = {name: max(values) if "max" in name else sum(values) / len(values) for name, values in _recorded.items()}
    _recorded.clear()
    return merged


def _add_recorded(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    def compute_data_metrics(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**original(*args, **kwargs), **drain()}

    return compute_data_metrics


def _take_after_advantage(original: Callable[..., Any]) -> Callable[..., Any]:
    def _compute_advantage(self: Any, batch: Any, metrics: dict[str, Any]) -> Any:
        with at_step(self.global_steps):
            result = original(self, batch, metrics)
        metrics.update(drain())
        return result

    return _compute_advantage


def _tell_step(original: Callable[..., Any]) -> Callable[..., Any]:
    def _fit_compute_advantage(self: Any, batch: Any) -> Any:
        with at_step(self.global_steps):
            return original(self, batch)

    return _fit_compute_advantage


def _patch_data_metrics(module: ModuleType) -> None:
    wrap(module, "compute_data_metrics", _add_recorded, patch=__name__)


def _patch_trainer(module: ModuleType) -> None:
    wrap(
        target(module, "PPOTrainer", __name__),
        "_compute_advantage",
        _take_after_advantage,
        patch=__name__,
        parameters=("batch", "metrics"),
    )


def _patch_separation(module: ModuleType) -> None:
    trainer = target(module, "SeparateRayPPOTrainer", __name__)
    wrap(trainer, "_fit_compute_advantage", _tell_step, patch=__name__, parameters=("batch",))


def install() -> None:
    on_import("verl.trainer.ppo.v1.trainer_base", _patch_trainer)
    on_import("verl.experimental.separation.ray_trainer", _patch_separation)
    for module in COMPUTE_DATA_METRICS_IN:
        on_import(module, _patch_data_metrics)
