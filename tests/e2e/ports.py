"""A port for the ranks of a trainer that no run beside it can take. Loaded by verl as a plugin.

verl asks the system for a free one and lets it go; seconds later, when its ranks meet there, one of the ports that the
Ray of another run has been given since may be the same.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from verl_ext.patching import on_import, wrap


def _below_the_systems(original: Callable[..., Any]) -> Callable[..., Any]:
    def _get_master_addr_port(self: Any, *args: Any, master_port_range: Any = None, **kwargs: Any) -> Any:
        # Late: every process of a run loads this file, and one of them asks.
        from tests.support import free_ports

        (port,) = free_ports(1)
        return original(self, *args, master_port_range=master_port_range or [port, port + 1000], **kwargs)

    return _get_master_addr_port


def _apply(module: ModuleType) -> None:
    patch = (module.RayWorkerGroup, "_get_master_addr_port", _below_the_systems)
    wrap(*patch, patch=__name__, parameters=("master_port_range",))


on_import("verl.single_controller.ray.base", _apply)
