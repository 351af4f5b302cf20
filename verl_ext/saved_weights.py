"""Weights put aside by verl's asynchronous trainers are copies, also where the model is in the host's memory.

With several updates between two synchronisations (`parameter_sync_step` of separate_async,
`trigger_parameter_sync_step` of fully_async) verl puts the weights of the first aside, and takes them back for the old
log-probs of the others. For FSDP2 it saves them with ``.cpu()``, which on a tensor of the host (no accelerator, or
FSDP2's ``offload_policy``) is the tensor itself: the update then changes what was saved, and the old log-probs are
those of the newest weights. (verl's Megatron engine clones.)

Waits for upstream: a clone in ``fsdp2_sharded_save_to_cpu``.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from verl_ext.patching import on_import, wrap


def _copied(original: Callable[..., Any]) -> Callable[..., Any]:
    def fsdp2_sharded_save_to_cpu(model: Any) -> Any:
        state, spec = original(model)
        live = {getattr(x, "_local_tensor", x).data_ptr() for x in model.parameters()}
        copies = {name: (x.clone() if x.data_ptr() in live else x, of_x) for name, (x, of_x) in state.items()}
        return copies, spec

    return fsdp2_sharded_save_to_cpu


def _apply(module: ModuleType) -> None:
    wrap(module, "fsdp2_sharded_save_to_cpu", _copied, patch=__name__, parameters=("model",))


def install() -> None:
    on_import("verl.utils.fsdp_utils", _apply)
