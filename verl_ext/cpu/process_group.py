"""One gloo backend instead of verl's ``cpu:gloo,cpu:gloo``, which torch refuses.

verl builds the backend string from the host's and the device's backends, here the same.
Waits for upstream: leaving the second out when the device is the host.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from verl_ext.patching import on_import, wrap


def _single_backend(original: Callable[..., Any]) -> Callable[..., Any]:
    def initialize_global_process_group_ray(timeout_second: int | None = None, backend: str | None = None) -> Any:
        return original(timeout_second=timeout_second, backend=backend or "cpu:gloo")

    return initialize_global_process_group_ray


def _apply(module: ModuleType) -> None:
    wrap(
        module,
        "initialize_global_process_group_ray",
        _single_backend,
        patch=__name__,
        parameters=("timeout_second", "backend"),
    )


def install() -> None:
    # The modules that bind the name do so after this one's import, so they get the replacement.
    on_import("verl.utils.distributed", _apply)
