"""Megatron's random states, kept for the host's generator.

Megatron-core draws weights, and dropout, from states that differ or agree among ranks by purpose; it keeps them for
CUDA's generator only.
Waits for upstream: a tracker for the device that Megatron runs on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from verl_ext.patching import on_import, target


def _apply(module: ModuleType) -> None:
    import torch

    base = target(module, "CudaRNGStatesTracker", __name__)
    for name in ("_get_cuda_rng_state", "_set_cuda_rng_state", "initialize_rng_tracker"):
        target(module, name, __name__)

    class HostRNGStatesTracker(base):  # type: ignore[misc, valid-type]
        """States of the host's generator by name."""

        def add(self, name: str, seed: int) -> None:
            if name in self.states_ or seed in self.seeds_:
                raise ValueError(f"there is a random state of the name {name!r} or the seed {seed} already")
            self._is_initialized = True
            self.seeds_.add(seed)
            self.states_[name] = torch.Generator().manual_seed(seed).get_state()

        @contextmanager
        def fork(self, name: str = module._MODEL_PARALLEL_RNG_TRACKER_NAME) -> Iterator[None]:
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(self.states_[name])
                try:
                    yield
                finally:
                    self.states_[name] = torch.get_rng_state()

    def get_state(*args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        return torch.get_rng_state()

    def set_state(new_state: Any, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        torch.set_rng_state(new_state)

    module.CudaRNGStatesTracker = HostRNGStatesTracker  # type: ignore[attr-defined]
    # Of recomputed layers, which draw the same twice.
    module._get_cuda_rng_state = get_state  # type: ignore[attr-defined]
    module._set_cuda_rng_state = set_state  # type: ignore[attr-defined]


def install() -> None:
    on_import("megatron.core.tensor_parallel.random", _apply)
