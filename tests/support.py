"""What several test packages need: the composed configuration, and Python in a process of its own."""

from __future__ import annotations

import copy
import functools
import itertools
import os
import re
import shlex
import subprocess
import sys
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
