"""Memory for large results on the CPU, used again once nobody holds them.

The operating system hands out fresh memory as empty pages, and the faults that fill them take longer than computing
what goes into them (128 MiB: 50 ms beside 20). malloc keeps some of what it gets back, depending on what else the
process does; this keeps one buffer for certain, which therefore stays allocated between two steps of a training.
"""

import sys
import threading

import numpy as np
import torch

# Of fewer values (1 MiB) the faults do not matter.
_LARGE = (1 << 20) // 4

# Batches differ in length from step to step: this much more is allocated, in parts of the size, and a buffer up to this
# many times too large is used as it is.
_HEADROOM, _TOO_LARGE = 16, 4

# Values in a cache line: a vector that is stored across two of them costs twice, and numpy starts in the middle of one.
_LINE = 16

_lock = threading.Lock()
_kept: np.ndarray = np.empty(0, np.float32)


def empty(size: int) -> torch.Tensor:
    """(size,) float32 on the CPU, uninitialised. What is large is the last such memory if nobody holds it any more."""
    global _kept
    if size < _LARGE:
        return torch.empty(size)
    with _lock:
        # References here: the name, and the argument of the call. A tensor made of it, or any view, would be one more.
        if sys.getrefcount(_kept) > 2 or not size + _LINE <= len(_kept) <= _TOO_LARGE * size:
            # numpy asks for huge pages, which torch does only if told so by a variable of the environment.
            _kept = np.empty(size + size // _HEADROOM + _LINE, np.float32)
        skip = -(_kept.ctypes.data // _kept.itemsize) % _LINE
        return torch.from_numpy(_kept)[skip : skip + size]


def release() -> None:
    """Give up the memory that is kept for the next large result."""
    global _kept
    with _lock:
        _kept = np.empty(0, np.float32)
