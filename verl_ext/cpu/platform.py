"""A `cpu` platform for verl, which otherwise falls back to CUDA on a machine without one.

Waits for upstream: a CPU platform of verl's own beside `PlatformCUDA`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from verl_ext.patching import on_import, target


def _register(manager: ModuleType) -> None:
    import torch

    from verl_ext.cpu import device

    base = target(manager, "PlatformBase", __name__)
    registry = target(manager, "PlatformRegistry", __name__)

    class PlatformCPU(base):  # type: ignore[misc, valid-type]
        """Runs everything on the host's cores; Ray's "GPU" is then a logical resource."""

        device_name = "cpu"
        vendor_name = "cpu"
        device_module = device

        def is_available(self) -> bool:
            return True

        def current_device(self) -> Any:
            return device.current_device()

        def device_count(self) -> int:
            return 1

        def set_device(self, device_index: int) -> None:
            del device_index

        def synchronize(self, device_index: int | None = None) -> None:
            del device_index

        def manual_seed(self, seed: int) -> None:
            torch.manual_seed(seed)

        def manual_seed_all(self, seed: int) -> None:
            torch.manual_seed(seed)

        def set_allocator_settings(self, settings: str) -> None:
            del settings

        def empty_cache(self) -> None:
            pass

        def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
            del device_index
            return None, None

        def communication_backend_name(self) -> str:
            return "gloo"

        def visible_devices_envvar(self) -> str:
            return "CUDA_VISIBLE_DEVICES"

        @contextmanager
        def nvtx_range(self, msg: str) -> Iterator[None]:
            del msg
            yield

        def profiler_start(self) -> None:
            pass

        def profiler_stop(self) -> None:
            pass

        def ray_resource_name(self) -> str:
            return "GPU"

        def ray_noset_envvars(self) -> list[str]:
            return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

        def is_ipc_supported(self) -> bool:
            # No CUDA IPC: weights go to vLLM through shared memory.
            return False

        def cudart(self) -> Any:
            return None

    registry.register(platform="cpu")(PlatformCPU)


def install() -> None:
    on_import("verl.plugin.platform.platform_manager", _register)
