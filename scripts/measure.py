"""What benchmarks share: where they ran, their memory at its peak, and processes of their own (Linux)."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from verl_ext.run_record import cpu_name

ROOT = Path(__file__).resolve().parents[1]


def peak_extra_bytes(call: Callable[[], Any]) -> tuple[Any, int]:
    """What a call returns, and how much resident memory it needed at its peak beyond what was there before."""
    before = _status_kib("VmRSS")
    # 5 resets the peak (proc(5)).
    Path("/proc/self/clear_refs").write_text("5")
    result = call()
    return result, (_status_kib("VmHWM") - before) * 1024


def _status_kib(key: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key))
    return int(line.split()[1])


def in_new_process(module: str, *arguments: str) -> dict[str, Any]:
    """Run a module of ours and read the JSON of its last line."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def provenance() -> dict[str, str]:
    """Where and with what something was measured."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip() or "unknown",
        "cpu": cpu_name(),
        "cores": str(os.cpu_count()),
        "memory_gib": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "numba", "verl")},
    }
