"""What this stack cannot do, told before Ray starts instead of by a hang."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from verl_ext.config_checks import ConfigError


def check(config: Any) -> None:
    """Raise `ConfigError` for a configuration that is known to fail on CPU."""
    _check_unmerged_lora(config)


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
