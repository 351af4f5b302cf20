"""What this stack cannot do, told before Ray starts instead of by a hang."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from verl_ext.config_checks import ConfigError
from verl_ext.cpu.weight_transfer import BACKEND
from verl_ext.trainer_modes import SEPARATE, mode_of


def check(config: Any) -> None:
    """Raise `ConfigError` for a configuration that is known to fail on CPU."""
    _check_unmerged_lora(config)
    _check_weight_transfer(config)
    _check_engine(config)


def _check_weight_transfer(config: Any) -> None:
    key = "actor_rollout_ref.rollout.checkpoint_engine.backend"
    if mode_of(config) in SEPARATE and (backend := OmegaConf.select(config, key)) != BACKEND:
        raise ConfigError(f"{key}={backend} sends weights between accelerators, and there is none. Set {key}={BACKEND}")


def _check_unmerged_lora(config: Any) -> None:
    model = config.actor_rollout_ref.model
    lora = OmegaConf.select(model, "lora") or {}
    rank = max(int(lora.get("rank", 0) or 0), int(model.get("lora_rank", 0) or 0))
    adapter = model.get("lora_adapter_path", None)
    if (rank > 0 or adapter is not None) and not lora.get("merge", False):
        raise ConfigError(
            f"actor_rollout_ref.model.lora_rank={rank}: vLLM on CPU cannot serve a LoRA adapter beside the model (its "
            "worker fails and the run hangs). Merge it for the rollout: actor_rollout_ref.model.lora.merge=True"
        )


def _check_engine(config: Any) -> None:
    """Of a run on this stack; a configuration for a cluster is looked at on such machines too."""
    engine, actor = config.get("model_engine", None), config.actor_rollout_ref.actor
    own = {"dp": "fsdp_config", "megatron": "megatron"}
    if config.trainer.device != "cpu" or engine not in own:
        return
    if others := [group for group in own.values() if group in actor and group != own[engine]]:
        raise ConfigError(
            f"model_engine={engine} has no actor_rollout_ref.actor.{others[0]}: +stack=cpu is for FSDP2 "
            "(model_engine=dp), +stack=cpu_megatron for Megatron. Use model_engine=megatron +stack=cpu_megatron"
        )
    if engine != "megatron":
        return
    for key, value, needed in (
        ("model.use_remove_padding", False, "packed sequences need"),
        ("actor.megatron.vanilla_mbridge", True, "Megatron-Bridge needs"),
    ):
        found = OmegaConf.select(config.actor_rollout_ref, key)
        if found != value:
            raise ConfigError(
                f"actor_rollout_ref.{key}={found}: {needed} Transformer Engine, which is for GPUs. "
                f"Set actor_rollout_ref.{key}={value}"
            )
    if (every := config.trainer.save_freq) > 0:
        raise ConfigError(
            f"trainer.save_freq={every}: on this stack a checkpoint of Megatron's fails as it is written (it waits for "
            "CUDA), and could not be resumed from. Set trainer.save_freq=-1"
        )
