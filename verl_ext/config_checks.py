"""Checks of a run's configuration that end it before Ray starts, with one message.

`register` adds a check, a function of the whole Hydra config that raises `ConfigError`. They run
where verl validates its own configuration, before its checks, whichever entry was used; and for the
entries that validate later or never (one_step_off, fully_async) where Ray is about to be started.

Waits for upstream: a validation hook for plugins.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from verl_ext.patching import check_modules_exist, on_import, wrap

# Modules that bind the name `validate_config`; the first one defines it.
VALIDATE_CONFIG_IN = ("verl.utils.config", "verl.trainer.main_ppo", "verl.trainer.main_ppo_v0")


class ConfigError(ValueError):
    """A setting that cannot work; the message names key, value and the override that mends it."""


_checks: list[Callable[[Any], None]] = []

# What passed last in this process, so that an entry that validates and then starts Ray is not asked twice.
_passed: Any = None


def register(check: Callable[[Any], None]) -> Callable[[Any], None]:
    """Add ``check(config)`` to those that every run passes; usable as a decorator."""
    if check not in _checks:
        _checks.append(check)
    return check


def registered() -> tuple[Callable[[Any], None], ...]:
    """Every registered check, for who wants all that is wrong and not only the first."""
    return tuple(_checks)


def run_checks(config: Any) -> None:
    """Run every registered check on the whole config.

    Raises:
        ConfigError: from the first check that fails.
        PatchError: a module that a patch waits for is not there.
    """
    check_modules_exist()
    for check in _checks:
        check(config)


def _check_or_exit(config: Any) -> None:
    import ray

    global _passed
    if config is _passed:
        return
    try:
        run_checks(config)
    except ConfigError as error:
        # In a worker the traceback is needed to reach the driver; on the command line it only hides the message.
        if ray.is_initialized():
            raise
        raise SystemExit(f"\nconfiguration error: {error}\n") from None
    _passed = config


def _check_first(original: Callable[..., None]) -> Callable[..., None]:
    def checked(config: Any, *args: Any, **kwargs: Any) -> None:
        _check_or_exit(config)
        original(config, *args, **kwargs)

    return checked


def _apply(module: ModuleType) -> None:
    wrap(module, "validate_config", _check_first, patch=__name__, parameters=("config",))


def _apply_to_start(module: ModuleType) -> None:
    wrap(module, "run_ppo", _check_first, patch=__name__, parameters=("config",))


def install() -> None:
    for module in VALIDATE_CONFIG_IN:
        on_import(module, _apply)
    # The mains of verl.experimental call it by this name; verl.trainer.main_ppo as __main__ validates before.
    on_import("verl.trainer.main_ppo", _apply_to_start)
