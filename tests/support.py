"""What several test packages need: the composed configuration, and Python in a process of its own."""

from __future__ import annotations

import copy
import functools
import itertools
import os
import random
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from verl_ext.cpu import no_accelerator

ROOT = Path(__file__).resolve().parents[1]

on_cpu = pytest.mark.skipif(not no_accelerator(), reason="the CPU stack does not act beside an accelerator")

# Settings of the plugin; a process of its own starts without those of this one.
_OF_THE_PLUGIN = re.compile(
    r"VERL_|VLLM_TARGET_DEVICE$|VLLM_CPU_KVCACHE_SPACE$|VLLM_PLUGINS$|TQ_NUM_THREADS$|TENSORBOARD_DIR$"
)


@functools.cache
def _composed(overrides: tuple[str, ...]) -> Any:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(ROOT / "recipe" / "spro" / "config"), version_base=None):
        return compose("spro_trainer", list(overrides))


def composed(*overrides: str) -> Any:
    """The configuration that `main_spro` composes from these overrides; the caller's own to change."""
    return copy.deepcopy(_composed(overrides))


def overrides_after(marker: str, message: str) -> list[str]:
    """The overrides that stand right behind ``marker``, as a shell would hand them to the run."""
    words = shlex.split(message.split(marker, 1)[1])
    found = (word.rstrip(",;") for word in words)
    return list(itertools.takewhile(lambda word: re.fullmatch(r"\+{0,2}[\w.]+=\S+", word), found))


def run_python(
    code: str, environment: dict[str, str] | None = None, *, path_first: Path | None = None, cwd: Path = ROOT
) -> str:
    """Run ``code`` in a Python of its own, without this process's settings; returns what it printed."""
    inherited = {name: value for name, value in os.environ.items() if not _OF_THE_PLUGIN.match(name)}
    if path_first is not None:
        inherited["PATH"] = f"{path_first}{os.pathsep}{inherited.get('PATH', '')}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env={**inherited, **(environment or {})}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout


def free_ports(count: int) -> list[int]:
    """Different TCP ports of this machine that nobody uses, nor takes by chance before a test does.

    What asks the system for any port, as all of Ray does, is given one of `ip_local_port_range`: these are below it.
    """
    lowest_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    # Not the seeded numbers: they are the same in tests that run side by side.
    draw = random.SystemRandom()
    found: list[int] = []
    with ExitStack() as stack:
        while len(found) < count:
            probe = stack.enter_context(socket.socket())
            # Ray's workers have those below 20,000.
            wanted = draw.randrange(20_000, lowest_given) if lowest_given > 21_000 else 0
            try:
                probe.bind(("", wanted))
            except OSError:
                continue
            found.append(probe.getsockname()[1])
    return found


def seconds_of(call: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.monotonic()
    call()
    return time.monotonic() - start


def assert_takes_less(bound_s: float, measure: Callable[[], float], tries: int = 3) -> None:
    """The seconds of the best of a few measurements are below a bound: code that is slow is slow each time.

    A machine that stands still for a second, as one that is shared does now and then, is seen in one of them.
    """
    took: list[float] = []
    while len(took) < tries:
        took.append(measure())
        if took[-1] < bound_s:
            return
    raise AssertionError(f"each took {bound_s:g} s or more: {', '.join(f'{seconds:.2f}' for seconds in took)}")
