"""Two Ray clusters on one machine: each gets its own socket for the weights on their way to vLLM.

verl names the socket by Ray's job id, which is 01000000 for the first job of every cluster, so that
two runs on one machine send each other's weights to the wrong engine, or wait for each other for
ever. The raylet's process id, which Ray gives to all its workers, tells the clusters apart.

Waits for upstream: a socket name that holds the cluster.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

from verl_ext.patching import PatchError, on_import, target, wrap

_PREFIX = "ipc:///tmp/rl-colocate-zmq-"


def of_this_cluster(handle: str) -> str:
    """verl's socket name with this cluster's raylet in it; unchanged outside Ray's workers.

    Raises:
        PatchError: verl names its sockets otherwise now.
    """
    if not handle.startswith(_PREFIX):
        raise PatchError(f"{__name__} expects a socket named {_PREFIX}..., verl now names it {handle}.")
    raylet = os.environ.get("RAY_RAYLET_PID")
    return f"{_PREFIX}{raylet}-{handle.removeprefix(_PREFIX)}" if raylet else handle


def _sender(original: Callable[..., None]) -> Callable[..., None]:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.zmq_handle = of_this_cluster(target(self, "zmq_handle", __name__))

    return __init__


def _receiver(original: Callable[..., str]) -> Callable[..., str]:
    def _get_zmq_handle(self: Any) -> str:
        return of_this_cluster(original(self))

    return _get_zmq_handle


def _patch_sender(module: ModuleType) -> None:
    wrap(target(module, "ServerAdapter", __name__), "__init__", _sender, patch=__name__)


def _patch_receiver(module: ModuleType) -> None:
    wrap(target(module, "vLLMColocateWorkerExtension", __name__), "_get_zmq_handle", _receiver, patch=__name__)


def install() -> None:
    on_import("verl.workers.rollout.vllm_rollout.vllm_rollout", _patch_sender)
    on_import("verl.workers.rollout.vllm_rollout.utils", _patch_receiver)
