"""verl's FSDP engine, registered for `cpu` too: it runs there unchanged under FSDP2.

Waits for upstream: "cpu" in the `device` lists of ``EngineRegistry.register``.
"""

from __future__ import annotations

from types import ModuleType

from verl_ext.patching import PatchError, on_import, target


def _register(module: ModuleType) -> None:
    registry = target(module, "EngineRegistry", __name__)
    engines = target(registry, "_engines", __name__)
    for model_type in ("language_model", "value_model"):
        for backend in ("fsdp", "fsdp2"):
            by_device = engines.get(model_type, {}).get(backend, {})
            if "cpu" in by_device:
                continue
            if "cuda" not in by_device:
                raise PatchError(f"{__name__}: no engine is registered for {model_type}, {backend}, cuda.")
            by_device["cpu"] = by_device["cuda"]


def install() -> None:
    on_import("verl.workers.engine.fsdp.transformer_impl", _register)
