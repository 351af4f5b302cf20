"""Registers the reward manager `spro` with verl, and checks what a run with it needs before Ray starts."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

from verl_ext import config_checks
from verl_ext.config_checks import ConfigError
from verl_ext.notices import warn
from verl_ext.patching import on_import
from verl_ext.trainer_modes import is_v1, mode_of


def check(config: Any) -> None:
    """Raise `ConfigError` for bad settings, a data source that no verifier is known for, or a missing sandbox.

    Runs with other reward managers pass. Files that only the workers' nodes have are left out.
    """
    from verl_ext.rewards.routing import UnknownSource, unknown, verifier_of
    from verl_ext.rewards.settings import RewardSettings, RewardSettingsError, is_ours

    if not is_ours(config):
        return
    try:
        settings = RewardSettings.from_config(config)
    except RewardSettingsError as error:
        raise ConfigError(str(error)) from None
    has_user_function = config.reward.custom_reward_function.path is not None
    needed, nameless = set(), set()
    for source in _data_sources(config):
        try:
            needed.add(verifier_of(source, settings.sources, has_user_function=has_user_function))
        except UnknownSource:
            nameless.add(source)
    if nameless:
        raise ConfigError(unknown(nameless))
    for source, verifier in settings.sources.items():
        _check_choice(source, verifier, has_user_function)
    if "code" in needed:
        _check_sandbox()
    if not is_v1(config):
        warn(
            f"reward.reward_kwargs.max_infra_error_frac={settings.max_infra_error_frac:g} has no effect in "
            f"{mode_of(config)}, which is none of verl's V1 trainers: the run goes on however many responses nobody "
            "could verify, and reward/{kind}_frac is not logged. Use verl.trainer.main_ppo to have it enforced."
        )


def _check_choice(source: str, verifier: str, has_user_function: bool) -> None:
    from verl_ext.rewards.routing import VERIFIERS

    given = f"reward.reward_kwargs.sources.{source}={verifier!r}"
    if verifier not in VERIFIERS:
        raise ConfigError(f"{given}: must be one of {', '.join(VERIFIERS)}.")
    if verifier == "user" and not has_user_function:
        raise ConfigError(f"{given}: there is no such function. Name its file: reward.custom_reward_function.path=FILE")


def _check_sandbox() -> None:
    from verl_ext.rewards.sandbox import SandboxUnavailable
    from verl_ext.rewards.sandbox_find import find_sandbox

    try:
        find_sandbox()
    except SandboxUnavailable as error:
        raise ConfigError(f"the data has code to be run: {error}") from None


def _data_sources(config: Any) -> set[str]:
    """The data sources of the run's local files."""
    from verl_ext.preflight import data_files, read_column

    column = config.data.get("reward_fn_key", "data_source")
    found: set[str] = set()
    for _, path in data_files(config):
        if os.path.isfile(path):
            values, _ = read_column(path, column)
            found.update(value for value in values if value is not None)
    return found


def _register_manager(module: ModuleType) -> None:
    del module
    from verl_ext.rewards import manager  # noqa: F401 (its import registers it)


def install() -> None:
    config_checks.register(check)
    on_import("verl.experimental.reward_loop.reward_manager", _register_manager)
