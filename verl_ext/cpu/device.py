"""What verl asks of ``torch.cuda``, answered by the host: the platform's device module.

``torch.cpu`` has streams and little else. Memory figures are this process's resident memory.
"""

from __future__ import annotations

import resource
from typing import Any

import psutil
import torch
from torch.cpu import (  # noqa: F401 (re-exported: verl looks them up on the device module)
    Event,
    Stream,
    current_stream,
    device_count,
    is_available,
    set_device,
    stream,
    synchronize,
)

get_rng_state = torch.get_rng_state
set_rng_state = torch.set_rng_state


def current_device() -> torch.device:
    """verl hands this to ``.to(...)``, where an index would mean an accelerator's."""
    return torch.device("cpu")


def memory_allocated(device: Any = None) -> int:
    """Resident memory of this process, bytes."""
    del device
    return psutil.Process().memory_info().rss


memory_reserved = memory_allocated


def max_memory_allocated(device: Any = None) -> int:
    """Peak resident memory of this process, bytes (Linux reports it in KiB)."""
    del device
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


max_memory_reserved = max_memory_allocated


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """Available and total memory of the machine, bytes."""
    del device
    memory = psutil.virtual_memory()
    return memory.available, memory.total


def get_device_name(device: Any = None) -> str:
    """What verl prints in place of a GPU's name."""
    del device
    return "cpu"


def empty_cache() -> None:
    """Nothing is cached."""


def ipc_collect() -> None:
    """Nothing is shared by IPC."""


def reset_peak_memory_stats(device: Any = None) -> None:
    """The kernel's peak cannot be reset."""
    del device


reset_accumulated_memory_stats = reset_peak_memory_stats
