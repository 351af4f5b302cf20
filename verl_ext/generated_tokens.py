"""``training/generated_tokens/sum``: response tokens generated for a step, those that were thrown away included.

Dynamic sampling (DAPO) and accuracy bands generate groups that no update sees, and verl logs only how many. Whoever
compares methods by tokens needs them counted.

Waits for upstream: that count in V1's replay buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from verl_ext.patching import on_import, target, wrap

METRIC = "training/generated_tokens/sum"

_DISCARDED = "__verl_ext_discarded_tokens__"


def _response_tokens(tags: Any) -> int:
    return sum(tag.get("response_len", 0) for tag in tags if not tag.get("is_padding", False))


def _count_discarded(original: Callable[..., None]) -> Callable[..., None]:
    def _clear_groups(self: Any, partition_id: str, uids: set[str]) -> None:
        if partition_id == "train" and uids:
            tags = (tag for key, tag in self.partitions[partition_id].items() if key.split("_")[0] in uids)
            setattr(self, _DISCARDED, getattr(self, _DISCARDED, 0) + _response_tokens(tags))
        original(self, partition_id, uids)

    return _clear_groups


def _log_generated(original: Callable[..., Any]) -> Callable[..., Any]:
    def _step_once(self: Any, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        batch = original(self, metrics, *args, **kwargs)
        discarded = getattr(self.replay_buffer, _DISCARDED, 0)
        setattr(self.replay_buffer, _DISCARDED, 0)
        metrics[METRIC] = _response_tokens(batch.tags) + discarded
        return batch

    return _step_once


def _patch_buffer(module: ModuleType) -> None:
    buffer = target(module, "ReplayBuffer", __name__)
    wrap(buffer, "_clear_groups", _count_discarded, patch=__name__, parameters=("partition_id", "uids"))


def _patch_trainer(module: ModuleType) -> None:
    trainer = target(module, "PPOTrainer", __name__)
    wrap(trainer, "_step_once", _log_generated, patch=__name__, parameters=("metrics", "timing_raw"))


def install() -> None:
    on_import("verl.trainer.ppo.v1.replay_buffer", _patch_buffer)
    on_import("verl.trainer.ppo.v1.trainer_base", _patch_trainer)
