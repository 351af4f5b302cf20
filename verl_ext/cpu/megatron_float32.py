"""float32 for verl's Megatron engine, which computes in it and whose settings refuse it.

bfloat16 is for GPUs, and SPRO's log-ratios want more than its three digits.
Waits for upstream: "float32" among the dtypes that ``McoreEngineConfig`` accepts.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from verl_ext.patching import on_import, target, wrap


def _accept_float32(original: Callable[..., Any]) -> Callable[..., Any]:
    def __post_init__(self: Any) -> None:
        if self.dtype != "float32":
            return original(self)
        # Fields of verl's settings are frozen once set; the other checks are to see an accepted one.
        self.__dict__["dtype"] = "bfloat16"
        try:
            return original(self)
        finally:
            self.__dict__["dtype"] = "float32"

    return __post_init__


def _apply(module: ModuleType) -> None:
    wrap(target(module, "McoreEngineConfig", __name__), "__post_init__", _accept_float32, patch=__name__)


def install() -> None:
    on_import("verl.workers.config.engine", _apply)
