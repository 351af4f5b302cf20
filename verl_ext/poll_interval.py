"""``trainer.v1.sampler.poll_interval``: how often the trainer looks for finished responses, in seconds.

verl's replay buffer has the parameter (default 2.0) but no setting, so that a step of a small model
cannot take less than two seconds. Waits for upstream: that setting.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from omegaconf import OmegaConf

from verl_ext import config_checks
from verl_ext.config_checks import ConfigError
from verl_ext.patching import on_import, target, wrap


def check(config: Any) -> None:
    """Raise `ConfigError` for an interval that is not a number of seconds above 0."""
    interval = OmegaConf.select(config, "trainer.v1.sampler.poll_interval")
    if interval is None:
        return
    if not isinstance(interval, int | float) or isinstance(interval, bool) or not interval > 0:
        raise ConfigError(f"trainer.v1.sampler.poll_interval={interval!r}: must be a number of seconds above 0.")


def _set_interval(original: Callable[..., Any]) -> Callable[..., Any]:
    def _build_replay_buffer(self: Any) -> Any:
        buffer = original(self)
        interval = self.config.trainer.v1.sampler.get("poll_interval", None)
        if interval is not None:
            target(buffer, "poll_interval", __name__)
            buffer.poll_interval = float(interval)
        return buffer

    return _build_replay_buffer


def _apply(module: ModuleType) -> None:
    wrap(target(module, "PPOTrainer", __name__), "_build_replay_buffer", _set_interval, patch=__name__)


def install() -> None:
    config_checks.register(check)
    on_import("verl.trainer.ppo.v1.trainer_base", _apply)
