"""What verl's asynchronous trainers assert after minutes is told before Ray starts, with the override that mends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import verl.experimental
from hydra import compose, initialize_config_dir

from tests.support import composed, overrides_after
from verl_ext.config_checks import ConfigError
from verl_ext.trainer_modes import FULLY_ASYNC, OLD, ONE_STEP_OFF, check, is_v1, mode_of

SEPARATE = [
    "trainer.v1.trainer_mode=separate_async",
    "actor_rollout_ref.rollout.nnodes=1",
    "actor_rollout_ref.rollout.n_gpus_per_node=1",
    "actor_rollout_ref.rollout.checkpoint_engine.backend=nccl",
    "trainer.v1.separate_async.parameter_sync_step=2",
    "data.train_batch_size=8",
    "actor_rollout_ref.actor.ppo_mini_batch_size=4",
]

# The folder under verl.experimental, and the name of the configuration there.
ENTRIES = {
    ONE_STEP_OFF: ("one_step_off_policy", "one_step_off_ppo_trainer"),
    FULLY_ASYNC: ("fully_async_policy", "fully_async_ppo_trainer"),
}

# What each asks for besides its own defaults.
NEEDED = {
    ONE_STEP_OFF: ["actor_rollout_ref.hybrid_engine=False"],
    FULLY_ASYNC: ["actor_rollout_ref.hybrid_engine=False", "data.train_batch_size=0"],
}


def of_entry(mode: str, *overrides: str) -> Any:
    """verl's own configuration of an entry of verl.experimental."""
    folder, name = ENTRIES[mode]
    where = Path(verl.experimental.__path__[0], folder, "config")
    with initialize_config_dir(str(where), version_base=None):
        return compose(name, ["hydra.searchpath=[pkg://verl.trainer.config,pkg://verl_ext.config]", *overrides])


def test_the_trainer_is_told_from_the_configuration() -> None:
    assert mode_of(composed()) == "sync"
    assert mode_of(composed("trainer.v1.trainer_mode=colocate_async")) == "colocate_async"
    assert mode_of(composed("trainer.use_v1=False")) == OLD
    assert [mode_of(of_entry(mode)) for mode in ENTRIES] == list(ENTRIES)
    assert is_v1(composed(*SEPARATE))
    assert not any(is_v1(config) for config in (composed("trainer.use_v1=False"), *map(of_entry, ENTRIES)))


@pytest.mark.parametrize("mode", ENTRIES)
def test_what_an_entry_needs_is_enough(mode: str) -> None:
    check(of_entry(mode, *NEEDED[mode]))


def test_other_modes_are_let_be() -> None:
    for mode in ("sync", "colocate_async"):
        check(composed(f"trainer.v1.trainer_mode={mode}"))
    check(composed(*SEPARATE))


FAULTS = [
    (
        "actor_rollout_ref.rollout.checkpoint_engine.backend=naive",
        "actor_rollout_ref.rollout.checkpoint_engine.backend=nccl",
    ),
    ("actor_rollout_ref.rollout.nnodes=0", "actor_rollout_ref.rollout.nnodes=1"),
    ("actor_rollout_ref.rollout.n_gpus_per_node=0", "actor_rollout_ref.rollout.n_gpus_per_node=1"),
    ("data.train_batch_size=4", "data.train_batch_size=8"),
]


@pytest.mark.parametrize(("fault", "remedy"), FAULTS)
def test_the_override_of_the_message_mends_separate_async(fault: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as error:
        check(composed(*SEPARATE, fault))
    assert str(error.value).startswith(fault)
    assert overrides_after("Set ", str(error.value)) == [remedy]
    check(composed(*SEPARATE, fault, remedy))


@pytest.mark.parametrize(("mode", "missing"), [(mode, key) for mode in ENTRIES for key in NEEDED[mode]])
def test_the_override_of_the_message_mends_the_others(mode: str, missing: str) -> None:
    rest = [override for override in NEEDED[mode] if override != missing]
    with pytest.raises(ConfigError) as error:
        check(of_entry(mode, *rest))
    assert overrides_after("Set ", str(error.value)) == [missing]


def test_fully_async_takes_single_prompts() -> None:
    with pytest.raises(ConfigError, match=r"^data\.gen_batch_size=2: .* Set data\.gen_batch_size=1$"):
        check(of_entry(FULLY_ASYNC, *NEEDED[FULLY_ASYNC], "data.gen_batch_size=2"))


def test_responses_that_would_be_cut_off_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    cut = "async_training.partial_rollout=False"
    check(of_entry(FULLY_ASYNC, *NEEDED[FULLY_ASYNC], cut))
    message = capsys.readouterr().err
    assert message.strip().startswith(f"warning: {cut}: ")
    check(of_entry(FULLY_ASYNC, *NEEDED[FULLY_ASYNC], cut, *overrides_after("Set ", message)))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("mode", ENTRIES)
def test_weights_do_not_travel_by_the_naive_engine(mode: str) -> None:
    with pytest.raises(ConfigError, match="backend=naive hands weights to a rollout in the trainer's own processes"):
        check(of_entry(mode, *NEEDED[mode], "actor_rollout_ref.rollout.checkpoint_engine.backend=naive"))


@pytest.mark.parametrize("adapter", ["model.lora_rank=8", "model.lora.rank=8", "model.lora_adapter_path=/an/adapter"])
def test_an_adapter_that_would_not_be_sent_is_refused(adapter: str) -> None:
    configs = {
        "separate_async": lambda *more: composed(*SEPARATE, *more),
        **{mode: lambda *more, mode=mode: of_entry(mode, *NEEDED[mode], *more) for mode in ENTRIES},
    }
    adapter = f"++actor_rollout_ref.{adapter}"
    for mode, config in configs.items():
        with pytest.raises(ConfigError, match=f"the rollout of {mode} would answer as the first model") as error:
            check(config(adapter))
        remedy = overrides_after("Set ", str(error.value))
        assert remedy == ["actor_rollout_ref.model.lora.merge=True"]
        check(config(adapter, f"++{remedy[0]}"))
        check(config())
    # In the trainer's own processes verl hands over the adapter too.
    check(composed(adapter))


def test_verls_log_message_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    config = composed(*SEPARATE, "actor_rollout_ref.hybrid_engine=False")
    monkeypatch.setenv("VERL_LOGGING_LEVEL", "WARNING")
    check(config)
    monkeypatch.delenv("VERL_LOGGING_LEVEL")
    with pytest.raises(ConfigError, match="Set VERL_LOGGING_LEVEL=WARNING in the environment"):
        check(config)
