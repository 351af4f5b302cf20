"""Keeps vLLM's linear weights where they are, so that a trainer can update them.

On CPU vLLM packs each linear layer's weight for its kernels and drops the original; the first
weight update then fails with "'Parameter' object has no attribute 'weight_loader'". Here the
layer keeps its weight and computes with torch's own linear.
Waits for upstream: a packed weight that can be loaded again.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from verl_ext.patching import on_import, wrap


def _keep_weight(original: Callable[..., None]) -> Callable[..., None]:
    del original

    def dispatch_cpu_unquantized_gemm(layer: Any, remove_weight: bool) -> None:
        import torch

        del remove_weight
        layer.cpu_linear = torch.nn.functional.linear

    return dispatch_cpu_unquantized_gemm


def _apply(module: ModuleType) -> None:
    wrap(
        module,
        "dispatch_cpu_unquantized_gemm",
        _keep_weight,
        patch=__name__,
        parameters=("layer", "remove_weight"),
    )


def install() -> None:
    on_import("vllm.model_executor.layers.utils", _apply)
