"""verl's FSDP and Megatron engines, registered for `cpu` too: FSDP's runs there unchanged under FSDP2.

What Megatron's needs beyond it is in the files ``megatron_*.py``.
Waits for upstream: "cpu" in the `device` lists of ``EngineRegistry.register``.
"""

from __future__ import annotations

from types import ModuleType

from verl_ext.patching import PatchError, on_import, target


def _register(module: ModuleType, *backends: str) -> None:
    registry = target(module, "EngineRegistry", __name__)
    engines = target(registry, "_engines", __name__)
    for model_type in ("language_model", "value_model"):
        for backend in backends:
            by_device = engines.get(model_type, {}).get(backend, {})
            if "cpu" in by_device:
                continue
            if "cuda" not in by_device:
                raise PatchError(f"{__name__}: no engine is registered for {model_type}, {backend}, cuda.")
            by_device["cpu"] = by_device["cuda"]


def _register_fsdp(module: ModuleType) -> None:
    _register(module, "fsdp", "fsdp2")


def _register_megatron(module: ModuleType) -> None:
    _register(module, "megatron")


def install() -> None:
    on_import("verl.workers.engine.fsdp.transformer_impl", _register_fsdp)
    on_import("verl.workers.engine.megatron.transformer_impl", _register_megatron)
