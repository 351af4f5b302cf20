"""Keeps the batch that each update used, for comparison with the oracle. Loaded by verl as a plugin."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from verl_ext.patching import on_import, wrap

FIELDS = (
    "uid",
    "prompts",
    "responses",
    "response_mask",
    "old_log_probs",
    "ref_log_prob",
    "rm_log_probs",
    "rollout_log_probs",
    "rm_scores",
    "advantages",
)

# Of the weights that began and that ended a response, where verl stamps it.
VERSIONS = ("min_global_steps", "max_global_steps")

# Of the log-probs that the last advantage was computed from.
_layout = ""


def _note_layout(original: Callable[..., Any]) -> Callable[..., Any]:
    def compute_advantage(data: Any, *args: Any, **kwargs: Any) -> Any:
        global _layout
        _layout = str(data.batch["old_log_probs"].layout)
        return original(data, *args, **kwargs)

    return compute_advantage


def _keep_batch(original: Callable[..., Any]) -> Callable[..., Any]:
    def _update_actor(self: Any, batch: Any, metrics: dict[str, Any]) -> Any:
        import torch
        import transfer_queue as tq

        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=list(FIELDS))
        kept: dict[str, Any] = {"uid": data.pop("uid").tolist(), "keys": list(batch.keys), "layout": _layout}
        kept.update(data.to_padded_tensor().items())
        kept |= {name: torch.tensor([tag.get(name, -1) for tag in batch.tags]) for name in VERSIONS}
        folder = Path(os.environ["SPRO_TEST_CAPTURE"])
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(kept, folder / f"step-{self.global_steps}.pt")
        return original(self, batch, metrics)

    return _update_actor


def _keep_padded_batch(original: Callable[..., Any]) -> Callable[..., Any]:
    def _update_actor(self: Any, batch: Any) -> Any:
        import torch

        kept: dict[str, Any] = {name: batch.batch[name] for name in FIELDS if name in batch.batch.keys()}  # noqa: SIM118
        kept |= {"uid": batch.non_tensor_batch["uid"].tolist(), "layout": _layout}
        fields = batch.non_tensor_batch
        kept |= {name: torch.tensor(fields[name].astype(int)) for name in VERSIONS if name in fields}
        folder = Path(os.environ["SPRO_TEST_CAPTURE"])
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(kept, folder / f"step-{self.global_steps}.pt")
        return original(self, batch)

    return _update_actor


def _apply_to_old_trainer(module: ModuleType) -> None:
    # Those of one_step_off and fully_async inherit it.
    wrap(module.RayPPOTrainer, "_update_actor", _keep_padded_batch, patch=__name__)


def _apply(module: ModuleType) -> None:
    wrap(module.PPOTrainer, "_update_actor", _keep_batch, patch=__name__)


def _apply_to_utils(module: ModuleType) -> None:
    wrap(module, "compute_advantage", _note_layout, patch=__name__)


on_import("verl.trainer.ppo.v1.trainer_base", _apply)
on_import("verl.trainer.ppo.v1.utils", _apply_to_utils)
on_import("verl.trainer.ppo.ray_trainer", _apply_to_old_trainer)
