"""Registered checks run before verl's own, and end a run with one message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import ray
from verl.trainer import main_ppo
from verl.utils import config as verl_config

from tests.support import composed
from verl_ext import config_checks
from verl_ext.config_checks import ConfigError

SIZES = (
    "+stack=cpu",
    "data.train_batch_size=4",
    "actor_rollout_ref.actor.ppo_mini_batch_size=4",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=4",
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=4",
)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[Any], None]]:
    """The registered checks, none to begin with."""
    fresh: list[Callable[[Any], None]] = []
    monkeypatch.setattr(config_checks, "_checks", fresh)
    return fresh


def refuse(config: Any) -> None:
    raise ConfigError(f"trainer.nnodes={config.trainer.nnodes}: refused. Set trainer.nnodes=2")


def validate(config: Any) -> None:
    verl_config.validate_config(config=config, use_reference_policy=True, use_critic=False)


def test_a_check_is_registered_once_in_order(checks: list[Any]) -> None:
    seen = []

    @config_checks.register
    def first(config: Any) -> None:
        seen.append(("first", config))

    @config_checks.register
    def second(config: Any) -> None:
        seen.append(("second", config))

    config_checks.register(first)
    config_checks.run_checks("the config")
    assert seen == [("first", "the config"), ("second", "the config")]


def test_the_first_failure_ends_them(checks: list[Any]) -> None:
    def never(config: Any) -> None:
        raise AssertionError("not reached")

    checks += [refuse, never]
    with pytest.raises(ConfigError, match=r"^trainer\.nnodes=1: refused"):
        config_checks.run_checks(composed(*SIZES))


def test_a_config_without_faults_reaches_verls_own_checks(
    checks: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []
    checks.append(seen.append)
    config = composed(*SIZES)
    validate(config)
    assert seen == [config]
    assert "All configuration checks passed successfully!" in capsys.readouterr().out


def test_verls_own_errors_are_still_raised(checks: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"set at least one of 'actor_rollout_ref\.ref\.log_prob_micro_batch_size'"):
        validate(composed(*SIZES[:-1]))


def test_ours_come_first(checks: list[Any]) -> None:
    checks.append(refuse)
    with pytest.raises(SystemExit, match="refused"):
        validate(composed(*SIZES[:-1]))


def test_on_the_command_line_it_is_one_message(checks: list[Any]) -> None:
    checks.append(refuse)
    with pytest.raises(SystemExit) as error:
        validate(composed(*SIZES))
    # Python prints the text and exits with 1; no traceback hides it.
    assert error.value.code == "\nconfiguration error: trainer.nnodes=1: refused. Set trainer.nnodes=2\n"
    assert error.value.__suppress_context__


def test_inside_ray_the_error_itself_is_raised(checks: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fake_is_initialized() -> bool:
        return True

    monkeypatch.setattr(ray, "is_initialized", fake_is_initialized)
    checks.append(refuse)
    with pytest.raises(ConfigError, match="refused"):
        validate(composed(*SIZES))


def test_a_fault_of_a_check_is_not_taken_for_the_users(checks: list[Any]) -> None:
    def broken(config: Any) -> None:
        config.no_such_method()

    checks.append(broken)
    with pytest.raises(Exception, match="no_such_method") as error:
        validate(composed(*SIZES))
    assert not isinstance(error.value, ConfigError | SystemExit)


def test_entries_that_do_not_validate_are_checked_where_ray_starts(
    checks: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    checks.append(seen.append)
    started = []
    start = config_checks._check_first(lambda config, task_runner_class: started.append(config))
    assert "verl_ext.config_checks" in main_ppo.run_ppo.__verl_ext_patch__
    config = composed(*SIZES)
    start(config, task_runner_class=None)
    assert seen == started == [config]
    # Who has validated it before is not asked again.
    validate(config)
    start(config, task_runner_class=None)
    assert len(seen) == 1
    checks.append(refuse)
    with pytest.raises(SystemExit, match="refused"):
        start(composed(*SIZES), task_runner_class=None)
    assert len(started) == 2


def test_verls_entry_runs_them() -> None:
    assert main_ppo.validate_config is verl_config.validate_config
    assert "verl_ext.config_checks" in main_ppo.validate_config.__verl_ext_patch__


def test_the_plugin_registers_its_checks() -> None:
    import recipe.spro.plugin as spro_plugin
    from verl_ext import preflight

    assert preflight.check in config_checks._checks
    assert spro_plugin._check in config_checks._checks
