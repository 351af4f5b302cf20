"""Memory for large results on the CPU, used again once nobody holds them.

The operating system hands out fresh memory as empty pages, and filling them one fault at a time takes several times as
long as computing what goes into them (128 MiB: 50 ms beside 20). malloc keeps what it gets back up to 32 MiB; this
does the same for one larger buffer, which therefore stays allocated between two steps of a training.
"""

import sys
import threading

import numpy as np
import torch

# From here on malloc returns memory to the system each time (glibc's largest mmap threshold).
_LARGE = (32 << 20) // 4

# Batches differ in length from step to step: this much more is allocated, in parts of the size.
_HEADROOM = 16

_lock = threading.Lock()
_kept: np.ndarray = np.empty(0, np.float32)


def empty(size: int) -> torch.Tensor:
    """(size,) float32 on the CPU, uninitialised. What is large is the last such memory if nobody holds it any more."""
    global _kept
    if size < _LARGE:
        return torch.empty(size)
    with _lock:
        # References here: the name, and the argument of the call. A tensor made of it, or any view, would be one more.
        if sys.getrefcount(_kept) > 2 or not size <= len(_kept) <= 2 * size:
            # numpy asks for huge pages, which torch does only if told so by a variable of the environment.
            _kept = np.empty(size + size // _HEADROOM, np.float32)
        return torch.from_numpy(_kept)[:size]


def release() -> None:
    """Give up the memory that is kept for the next large result."""
    global _kept
    with _lock:
        _kept = np.empty(0, np.float32)
