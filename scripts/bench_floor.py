"""The memory floor of an advantage: read two float32 and a mask, write one float32, into memory that is there already.

The faster of a numba loop and a C++ loop (g++ or clang++, if there is one), compiled for this machine.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
from numba import njit

_SOURCE = """
#include <cstdint>
#include <cstddef>
template <typename M>
static void stream(const float* __restrict a, const float* __restrict b, const M* __restrict m, float* __restrict out,
                   size_t n) {
    for (size_t i = 0; i < n; ++i) out[i] = (a[i] - b[i]) * static_cast<float>(m[i]);
}
extern "C" void stream_u1(const float* a, const float* b, const uint8_t* m, float* out, size_t n) {
    stream(a, b, m, out, n);
}
extern "C" void stream_i8(const float* a, const float* b, const int64_t* m, float* out, size_t n) {
    stream(a, b, m, out, n);
}
"""

Loop = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], None]


@njit(nogil=True, fastmath=True)
def numba_loop(a, b, mask, out):
    """out = (a - b) * mask, all of one length."""
    for i in range(len(out)):
        out[i] = (a[i] - b[i]) * np.float32(mask[i])


def cpp_loop() -> Loop | None:
    """The same from a C++ compiler, or None where there is none."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "floor.cpp"), Path(folder, "floor.so")
        source.write_text(_SOURCE)
        options = ["-O3", "-march=native", "-shared", "-fPIC"]
        subprocess.run([compiler, *options, str(source), "-o", str(library)], check=True)
        loaded = ctypes.CDLL(str(library))

    def loop(a: np.ndarray, b: np.ndarray, mask: np.ndarray, out: np.ndarray) -> None:
        function = loaded.stream_u1 if mask.itemsize == 1 else loaded.stream_i8
        function(*(ctypes.c_void_p(x.ctypes.data) for x in (a, b, mask, out)), ctypes.c_size_t(len(out)))

    return loop


def in_threads(loop: Loop, threads: int) -> Loop:
    """The loop over equal parts of the arrays, at once."""
    if threads == 1:
        return loop
    pool = ThreadPoolExecutor(threads)

    def together(a: np.ndarray, b: np.ndarray, mask: np.ndarray, out: np.ndarray) -> None:
        parts = [slice(start, end) for start, end in pairwise(np.linspace(0, len(out), threads + 1).astype(int))]
        list(pool.map(lambda part: loop(a[part], b[part], mask[part], out[part]), parts))

    return together
