"""Which of verl's trainers a configuration is for, and what the asynchronous ones ask of it, before Ray starts.

verl asserts the same minutes later, in a Ray worker. The entries of verl.experimental have configurations of their own,
by whose groups they are told:

    verl.trainer.main_ppo                                       sync, colocate_async, separate_async, or the old trainer
    verl.experimental.one_step_off_policy.main_ppo              a group `rollout`
    verl.experimental.fully_async_policy.fully_async_main       a group `async_training` too
"""

from __future__ import annotations

import os
from typing import Any

from omegaconf import OmegaConf

from verl_ext import config_checks
from verl_ext.config_checks import ConfigError
from verl_ext.notices import warn

OLD, ONE_STEP_OFF, FULLY_ASYNC = "the old trainer", "one_step_off", "fully_async"

SEPARATE = ("separate_async", ONE_STEP_OFF, FULLY_ASYNC)
"""Modes whose rollout has devices of its own, and gets the weights by a checkpoint engine."""

_BACKEND = "actor_rollout_ref.rollout.checkpoint_engine.backend"
_HYBRID = "actor_rollout_ref.hybrid_engine"


def mode_of(config: Any) -> str:
    """`trainer.v1.trainer_mode`, or `OLD`, `ONE_STEP_OFF`, `FULLY_ASYNC`, of verl's whole config."""
    if "async_training" in config:
        return FULLY_ASYNC
    if "rollout" in config:
        return ONE_STEP_OFF
    if not config.trainer.get("use_v1", True):
        return OLD
    return str(config.trainer.v1.trainer_mode)


def is_v1(config: Any) -> bool:
    """Whether one of verl's V1 trainers runs."""
    return mode_of(config) not in (OLD, ONE_STEP_OFF, FULLY_ASYNC)


def has_adapter(config: Any) -> bool:
    """Whether LoRA trains, and the reference is the actor without its adapter: as verl decides it."""
    model = config.actor_rollout_ref.model
    ranks = OmegaConf.select(model, "lora.rank") or 0, model.get("lora_rank", 0) or 0
    return max(ranks) > 0 or model.get("lora_adapter_path", None) is not None


def check(config: Any) -> None:
    """Raise `ConfigError` for what would end the run in one of the modes `SEPARATE`, or undo it in silence."""
    mode = mode_of(config)
    if mode not in SEPARATE:
        return
    _check_backend(config, mode)
    _check_adapter(config, mode)
    if mode == "separate_async":
        _check_sizes(config)
        _check_log_level(config)
    elif OmegaConf.select(config, _HYBRID):
        raise ConfigError(f"{_HYBRID}=True: {mode} has no rollout on the trainer's devices. Set {_HYBRID}=False")
    if mode == FULLY_ASYNC:
        for key, wanted in (("data.train_batch_size", 0), ("data.gen_batch_size", 1)):
            if (value := OmegaConf.select(config, key)) != wanted:
                raise ConfigError(
                    f"{key}={value}: fully_async takes single prompts, and its batch is "
                    f"actor_rollout_ref.actor.ppo_mini_batch_size x async_training.require_batches. Set {key}={wanted}"
                )
        _tell_of_cut_responses(config)


def _tell_of_cut_responses(config: Any) -> None:
    """verl 0.9.1 says that it drops them, and nobody does: who reads `stop_reason` is not there."""
    key = "async_training.partial_rollout"
    if not OmegaConf.select(config, key):
        warn(
            f"{key}=False: responses that are under way when the rollout's weights are replaced are cut off there, and "
            f"trained on as if they had ended. Set {key}=True, by which they are continued with the new weights."
        )


def _check_backend(config: Any, mode: str) -> None:
    if OmegaConf.select(config, _BACKEND) == "naive":
        raise ConfigError(
            f"{_BACKEND}=naive hands weights to a rollout in the trainer's own processes, and that of {mode} is in "
            f"others. Set {_BACKEND}=nccl"
        )


def _check_adapter(config: Any, mode: str) -> None:
    """verl 0.9.1 asks the engine for the base model's weights, and throws the adapter's configuration away."""
    key = "actor_rollout_ref.model.lora.merge"
    if has_adapter(config) and not (value := OmegaConf.select(config, key)):
        raise ConfigError(
            f"{key}={value}: a checkpoint engine sends the model without its adapter, so that the rollout of {mode} "
            f"would answer as the first model to the end of the run. Set {key}=True"
        )


def _check_sizes(config: Any) -> None:
    for name in ("nnodes", "n_gpus_per_node"):
        key = f"actor_rollout_ref.rollout.{name}"
        if not (value := OmegaConf.select(config, key)):
            raise ConfigError(
                f"{key}={value}: the rollout of separate_async has devices of its own. Set {key}=1 or more"
            )
    step_key, mini_key = "trainer.v1.separate_async.parameter_sync_step", "actor_rollout_ref.actor.ppo_mini_batch_size"
    batch, steps, mini = (OmegaConf.select(config, key) for key in ("data.train_batch_size", step_key, mini_key))
    if batch != steps * mini:
        raise ConfigError(
            f"data.train_batch_size={batch}: separate_async makes {step_key}={steps} updates of {mini_key}={mini} "
            f"prompts between two synchronisations. Set data.train_batch_size={steps * mini}"
        )


def _check_log_level(config: Any) -> None:
    """verl 0.9.1 says at level INFO that there are no hybrid replicas, by a call that Python's logging refuses."""
    if OmegaConf.select(config, _HYBRID) or os.environ.get("VERL_LOGGING_LEVEL", "INFO") not in ("DEBUG", "INFO"):
        return
    raise ConfigError(
        f"{_HYBRID}=False with trainer.v1.trainer_mode=separate_async ends in verl's own log message (unexpected "
        f"keyword argument 'flush'). Set VERL_LOGGING_LEVEL=WARNING in the environment of every node, or {_HYBRID}=True"
    )


def install() -> None:
    config_checks.register(check)
