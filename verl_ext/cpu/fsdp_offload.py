"""FSDP2's offload policy without pinned memory, which needs an accelerator's runtime.

verl's FSDP engine asks for ``CPUOffloadPolicy(pin_memory=True)`` for the reference policy.
Waits for upstream: ``pin_memory`` following the platform.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from verl_ext.patching import on_import, wrap


def _unpinned(original: Any) -> Any:
    def cpu_offload_policy(pin_memory: bool = False) -> Any:
        del pin_memory
        return original(pin_memory=False)

    return cpu_offload_policy


def _apply(module: ModuleType) -> None:
    wrap(module, "CPUOffloadPolicy", _unpinned, patch=__name__, parameters=("pin_memory",))


def install() -> None:
    on_import("verl.workers.engine.fsdp.transformer_impl", _apply)
