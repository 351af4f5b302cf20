"""What a run with `algorithm.adv_estimator=spro` needs of its configuration, told before Ray starts."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from omegaconf import OmegaConf

from recipe.spro.guard_settings import GuardSettings, GuardSettingsError
from recipe.spro.settings import SettingsError, SproSettings, asks_for_dumps
from verl_ext import log_prob_gate
from verl_ext.config_checks import ConfigError
from verl_ext.notices import warn
from verl_ext.reference_weights import Schedule
from verl_ext.tracking import trackers_of
from verl_ext.tracking_images import BACKENDS
from verl_ext.trainer_modes import is_v1, mode_of

# Estimators that this recipe registers.
ESTIMATORS = ("spro", "spro_shuffled", "spro_pooled", "spro_process_only")

REFERENCE_OVERRIDES = "algorithm.use_kl_in_reward=True algorithm.kl_ctrl.kl_coef=0.0"

FLOAT32_OVERRIDES = " ".join(
    f"'++actor_rollout_ref.{role}.fsdp_config.mixed_precision={{param_dtype:fp32,reduce_dtype:fp32,buffer_dtype:fp32}}'"
    for role in ("actor", "ref")
)

LOW_PRECISION = (
    "SPRO sums log-ratios over thousands of tokens, and bfloat16 log-probs turn that sum into quantisation noise. "
    f"Install flash-attn (its cross-entropy returns float32), or compute in float32: {FLOAT32_OVERRIDES}"
)


def check(config: Any) -> None:
    """Raise `ConfigError` unless a run with one of our estimators can work.

    Args:
        config: verl's whole Hydra config. Of runs with other estimators only the guard, the dumps and the reference's
            schedule are looked at.
    """
    _check_guard(config)
    _check_dump(config)
    if config.algorithm.adv_estimator not in ESTIMATORS:
        _check_reference_stays(config)
        return
    settings = settings_of(config)
    _check_reference_policy(config)
    _check_reward_kl(config)
    check_bypass_mode(config.algorithm, settings)
    _check_schedule(config, settings)
    _check_precision(config)


def _check_guard(config: Any) -> None:
    """The guard watches runs of any estimator (see `guard_watch.py`)."""
    try:
        settings = GuardSettings.from_config(OmegaConf.select(config, "algorithm.spro.guard"))
    except GuardSettingsError as error:
        raise ConfigError(str(error)) from None
    if settings.action == "bound" and config.algorithm.adv_estimator not in ESTIMATORS:
        raise ConfigError(
            f"algorithm.spro.guard.action=bound bounds SPRO's process term, and "
            f"algorithm.adv_estimator={config.algorithm.adv_estimator} has none. Set algorithm.spro.guard.action=warn "
            "or algorithm.spro.guard.action=stop"
        )
    if is_v1(config):
        return
    if settings.action in ("bound", "stop"):
        raise ConfigError(
            f"algorithm.spro.guard.action={settings.action}: the guard looks at the steps of verl's V1 trainers, and "
            f"{mode_of(config)} is none of them: nobody would act. Set algorithm.spro.guard.action=off"
        )
    if settings.action == "warn" and watches(config):
        warn(
            f"algorithm.spro.guard.action=warn has no effect: the guard looks at the steps of verl's V1 trainers, and "
            f"{mode_of(config)} is none of them. Set ++algorithm.spro.guard.action=off to go without this message."
        )


def watches(config: Any) -> bool:
    """Whether the guard, unless it is off, watches a run: of our estimators, or with a group `algorithm.spro`."""
    return config.algorithm.adv_estimator in ESTIMATORS or OmegaConf.select(config, "algorithm.spro") is not None


def _check_reference_stays(config: Any) -> None:
    """Other estimators' reference is verl's: a schedule for it would have no effect."""
    key = "algorithm.spro.ref_update.mode"
    mode = OmegaConf.select(config, key)
    if mode not in (None, "never"):
        raise ConfigError(
            f"{key}={mode} moves the reference policy of SPRO's estimators ({', '.join(ESTIMATORS)}), and "
            f"algorithm.adv_estimator={config.algorithm.adv_estimator} is none of them: its reference would stay the "
            f"first model. Set {key}=never"
        )


def settings_of(config: Any) -> SproSettings:
    """`algorithm.spro` of verl's whole config; raises `ConfigError` for a bad one."""
    try:
        return SproSettings.from_config(config.algorithm.get("spro", None))
    except SettingsError as error:
        raise ConfigError(str(error)) from None


def reference_schedule(config: Any) -> Schedule | None:
    """When the reference of a run moves (`algorithm.spro.ref_update`); None for never and for other estimators."""
    return settings_of(config).ref_update.schedule if config.algorithm.adv_estimator in ESTIMATORS else None


def _check_reference_policy(config: Any) -> None:
    if config.algorithm.use_kl_in_reward or config.actor_rollout_ref.actor.use_kl_loss:
        return
    raise ConfigError(
        f"algorithm.adv_estimator={config.algorithm.adv_estimator} compares the policy with a reference policy, and "
        "this run has none "
        "(algorithm.use_kl_in_reward=False, actor_rollout_ref.actor.use_kl_loss=False). "
        f"Switch it on without a KL penalty: {REFERENCE_OVERRIDES}"
    )


def _check_dump(config: Any) -> None:
    """A dump compares with a reference policy, whatever the estimator."""
    if not asks_for_dumps(config.algorithm):
        return
    key, dump = "algorithm.spro.dump", settings_of(config).dump
    if not is_v1(config):
        raise ConfigError(
            f"{key}.every={dump.every}: dumps are taken in verl's V1 trainers, and {mode_of(config)} is none of them. "
            f"Set {key}.every=null, or use verl.trainer.main_ppo with trainer.use_v1=True"
        )
    if not (config.algorithm.use_kl_in_reward or config.actor_rollout_ref.actor.use_kl_loss):
        raise ConfigError(
            f"{key}.every={dump.every}: a dump compares the policy with a reference policy, and this run has none. "
            f"Switch it on without a KL penalty: {REFERENCE_OVERRIDES}; or set {key}.every=null"
        )
    tracked = set(BACKENDS) & set(trackers_of(config))
    if dump.images and tracked and importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(
            f"{key}.images=true draws into {', '.join(sorted(tracked))} with matplotlib, which is not installed: "
            f"pip install matplotlib, or ++{key}.images=false"
        )


def _check_reward_kl(config: Any) -> None:
    coefficient = config.algorithm.kl_ctrl.kl_coef
    if config.algorithm.use_kl_in_reward and coefficient != 0:
        raise ConfigError(
            f"algorithm.kl_ctrl.kl_coef={coefficient}: a KL penalty inside the reward is not part of SPRO and would be "
            "counted once per response. Set algorithm.kl_ctrl.kl_coef=0.0; for a KL penalty in the loss use "
            "actor_rollout_ref.actor.use_kl_loss=True with actor_rollout_ref.actor.kl_loss_coef."
        )


def _check_schedule(config: Any, settings: SproSettings) -> None:
    if settings.beta_schedule.kind == "linear" and not config.trainer.use_v1:
        raise ConfigError(
            "algorithm.spro.beta_schedule.kind=linear with trainer.use_v1=False: that trainer does not tell an "
            "estimator its step. Set trainer.use_v1=True, or algorithm.spro.beta_schedule.kind=constant"
        )
    if settings.beta_schedule.kind == "adaptive" and not is_v1(config) and config.trainer.resume_mode != "disable":
        warn(
            f"algorithm.spro.beta_schedule.kind=adaptive: the checkpoints of {mode_of(config)} do not hold the beta "
            "that it has come to (those of verl's V1 trainers do), and a resumed run begins at algorithm.spro.beta="
            f"{settings.beta:g} again. Set trainer.resume_mode=disable to go without this message."
        )


def check_bypass_mode(algorithm: Any, settings: SproSettings) -> None:
    """Raise `ConfigError` for log-probs of the rollout engine that were not allowed, nor measured by the gate.

    Args:
        algorithm: verl's `algorithm` config, or None.
        settings: its group `spro`.
    """
    if not uses_rollout_log_probs(algorithm):
        return
    # The gate sets bypass_mode for the steps that it lets through.
    if not settings.allow_rollout_log_probs and not log_prob_gate.settings_of(algorithm).enable:
        raise ConfigError(
            "algorithm.rollout_correction.bypass_mode=True takes old_log_probs from the rollout engine, so that CPR "
            "would sum the mismatch between engines. Set algorithm.rollout_correction.bypass_mode=False, or accept it "
            "with ++algorithm.spro.allow_rollout_log_probs=true; to take them only at steps where they agree: "
            "++algorithm.log_prob_gate.enable=true algorithm.rollout_correction.bypass_mode=False"
        )


def uses_rollout_log_probs(algorithm: Any) -> bool:
    """Whether `old_log_probs` are the rollout engine's, by verl's `algorithm` config (or None)."""
    correction = algorithm.get("rollout_correction", None) if algorithm is not None else None
    return bool(correction and correction.get("bypass_mode", False))


def _flash_attn_may_be_used(config: Any) -> bool:
    """False only where it is certain: this environment is the workers', and lacks flash-attn or switches it off."""
    if os.environ.get("RAY_ADDRESS") or OmegaConf.select(config, "ray_kwargs.ray_init.address"):
        # The workers' nodes may have what this one has not.
        return True
    if os.environ.get("VERL_DISABLE_FLASH_ATTN_CE", "0") == "1":
        return False
    return importlib.util.find_spec("flash_attn") is not None


def _check_precision(config: Any) -> None:
    # Only verl's FSDP engine without flash-attn computes log-probs in the dtype of the logits; with fused kernels or
    # another engine the first batch decides (see estimator.py).
    if config.actor_rollout_ref.actor.strategy not in ("fsdp", "fsdp2"):
        return
    if OmegaConf.select(config, "actor_rollout_ref.model.use_fused_kernels"):
        return
    if _flash_attn_may_be_used(config):
        return
    for role in ("actor", "ref"):
        key = f"actor_rollout_ref.{role}.fsdp_config.mixed_precision"
        mixed_precision = OmegaConf.select(config, key)
        dtype = mixed_precision.get("param_dtype", "bf16") if mixed_precision is not None else "bf16"
        if str(dtype) not in ("fp32", "float32", "32"):
            raise ConfigError(
                f"{key}.param_dtype is {dtype} and flash-attn is not used, so verl would return {dtype} "
                f"log-probs. {LOW_PRECISION}"
            )
