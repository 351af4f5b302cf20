"""What a run with `algorithm.adv_estimator=prime` needs of its configuration, told before Ray starts."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from recipe.prime_v1.settings import PrimeSettings, SettingsError
from recipe.spro.requirements_check import FLOAT32_OVERRIDES, REFERENCE_OVERRIDES
from verl_ext.config_checks import ConfigError
from verl_ext.trainer_modes import is_v1, mode_of

LOW_PRECISION = (
    "PRIME's rewards are differences of log-probs, summed over the response, and bfloat16 turns them into quantisation "
    f"noise. Install flash-attn (its cross-entropy returns float32), or compute in float32: {FLOAT32_OVERRIDES}"
)

_SAMPLER = "trainer.v1.sampler.custom_sampler"
_NO_BAND = (
    "algorithm.prime.filter_accuracy=false algorithm.prime.filter_truncate=false "
    f"{_SAMPLER}.path=null {_SAMPLER}.name=null"
)


def check(config: Any) -> None:
    """Raise `ConfigError` unless a run of PRIME can work.

    Args:
        config: verl's whole Hydra config. Runs with other estimators pass.
    """
    if config.algorithm.adv_estimator != "prime":
        return
    try:
        settings = PrimeSettings.from_config(config.algorithm.get("prime", None))
    except SettingsError as error:
        raise ConfigError(str(error)) from None
    _check_trainer(config, settings)
    _check_reference(config, settings)
    _check_reward(config)
    _check_mini_batch(config, settings)
    _check_band(config, settings)


def _check_trainer(config: Any, settings: PrimeSettings) -> None:
    if not config.trainer.get("use_v1", True):
        raise ConfigError(
            "trainer.use_v1=False: PRIME's reward model is a worker of verl's V1 trainers. Set trainer.use_v1=True"
        )
    if not is_v1(config):
        raise ConfigError(
            f"algorithm.adv_estimator=prime: PRIME's reward model is a worker of verl's V1 trainers, and "
            f"{mode_of(config)} is none of them. Use verl.trainer.main_ppo"
        )
    strategy = config.actor_rollout_ref.actor.strategy
    if strategy not in ("fsdp", "fsdp2", "megatron"):
        raise ConfigError(
            f"actor_rollout_ref.actor.strategy={strategy}: PRIME's reward model takes the actor's engine, with the "
            "settings of FSDP's or Megatron's optimiser. Set actor_rollout_ref.actor.strategy=fsdp2"
        )
    if strategy == "megatron" and settings.fsdp_config:
        raise ConfigError(
            f"algorithm.prime.fsdp_config={dict(settings.fsdp_config)}: the reward model is on the actor's engine, "
            "Megatron, and takes its settings as they are (actor_rollout_ref.actor.megatron). Set "
            "algorithm.prime.fsdp_config={}"
        )


def _check_reference(config: Any, settings: PrimeSettings) -> None:
    actor_path = config.actor_rollout_ref.model.path
    if settings.ref_path is not None and settings.ref_path != actor_path:
        raise ConfigError(
            f"algorithm.prime.ref_path={settings.ref_path}: the reference of the implicit reward is verl's reference "
            f"policy, which is the actor's initial model (actor_rollout_ref.model.path={actor_path}), so that no "
            "further model has to be held. Set algorithm.prime.ref_path=null"
        )
    if settings.ref_type == "policy":
        for key in ("algorithm.rollout_correction.bypass_mode", "algorithm.log_prob_gate.enable"):
            if OmegaConf.select(config, key):
                raise ConfigError(
                    f"{key}=True takes old_log_probs from the rollout engine, and with algorithm.prime.ref_type=policy "
                    f"the rewards would hold the mismatch between engines. Set {key}=False, or "
                    "algorithm.prime.ref_type=freeze"
                )
    elif not (config.algorithm.use_kl_in_reward or config.actor_rollout_ref.actor.use_kl_loss):
        raise ConfigError(
            "algorithm.prime.ref_type=freeze compares the reward model with the reference policy, and this run has "
            "none (algorithm.use_kl_in_reward=False, actor_rollout_ref.actor.use_kl_loss=False). "
            f"Switch it on without a KL penalty: {REFERENCE_OVERRIDES}"
        )


def _check_reward(config: Any) -> None:
    coefficient = config.algorithm.kl_ctrl.kl_coef
    if config.algorithm.use_kl_in_reward and coefficient != 0:
        raise ConfigError(
            f"algorithm.kl_ctrl.kl_coef={coefficient}: PRIME's outcome is the verifier's score, and the KL penalty "
            "inside the reward would have no effect. Set algorithm.kl_ctrl.kl_coef=0.0; for a KL penalty in the loss "
            "use actor_rollout_ref.actor.use_kl_loss=True with actor_rollout_ref.actor.kl_loss_coef"
        )


def _check_mini_batch(config: Any, settings: PrimeSettings) -> None:
    size, batch = settings.mini_batch_size, config.data.train_batch_size
    if size is not None and batch % size != 0:
        raise ConfigError(
            f"algorithm.prime.mini_batch_size={size}: must divide data.train_batch_size={batch}, or the batch would be "
            "padded to a multiple of it with rows that teach nothing."
        )


def _check_band(config: Any, settings: PrimeSettings) -> None:
    mode, sampler = config.trainer.v1.trainer_mode, OmegaConf.select(config, f"{_SAMPLER}.path")
    ours = str(sampler or "").endswith("recipe.prime_v1.sampler")
    if mode != "sync" and (settings.filters or ours):
        raise ConfigError(
            f"trainer.v1.trainer_mode={mode}: the accuracy band fills each batch from the responses of the current "
            "policy, which only the mode sync has. Set trainer.v1.trainer_mode=sync, or go without the band: "
            f"{_NO_BAND}"
        )
    if ours and OmegaConf.select(config, "algorithm.filter_groups.enable"):
        raise ConfigError(
            "algorithm.filter_groups.enable=True: verl's group filter and PRIME's accuracy band are two samplers for "
            f"one place. Set algorithm.filter_groups.enable=False, or go without the band: {_NO_BAND}"
        )
    if not settings.filters:
        return
    if not ours:
        raise ConfigError(
            f"{_SAMPLER}.path={sampler}: algorithm.prime.filter_accuracy and filter_truncate act in PRIME's own "
            f"sampler. Leave the one of +method=prime, or switch both off: {_NO_BAND}"
        )
    if config.data.get("gen_batch_size", None) != 1:
        raise ConfigError(
            f"data.gen_batch_size={config.data.get('gen_batch_size', None)}: PRIME's accuracy band adds single prompts "
            "until the batch is full. Set data.gen_batch_size=1"
        )
    model = config.reward.reward_model
    if model.enable and not model.enable_resource_pool:
        raise ConfigError(
            "reward.reward_model.enable_resource_pool=False: a reward model on the actor's GPUs gives its scores after "
            "the batch was chosen, and PRIME's accuracy band chooses by them. Set "
            f"reward.reward_model.enable_resource_pool=True, or go without the band: {_NO_BAND}"
        )
