"""What the tests of the sandbox and of programs share."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest

from verl_ext.rewards.sandbox import SandboxUnavailable
from verl_ext.rewards.sandbox_find import find_sandbox


@functools.cache
def _why_not() -> str:
    try:
        find_sandbox()
    except SandboxUnavailable as error:
        return str(error)
    return ""


needs_sandbox = pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "there is a sandbox")


def fenced(program: str) -> str:
    return f"Here it is.\n```python\n{program}\n```\n"


def sandboxed_processes() -> set[int]:
    """The bubblewraps that are children of this process, and those that lost their parent; zombies included.

    Whatever runs in a namespace dies with its first process, which is such a bubblewrap or the child of one.
    """
    found = set()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            name, parent = _name_and_parent((folder / "stat").read_text())
        except OSError:
            continue
        if name == "bwrap" and parent in (1, os.getpid()):
            found.add(int(folder.name))
    return found


def _name_and_parent(stat: str) -> tuple[str, int]:
    name, _, rest = stat.partition("(")[2].rpartition(")")
    return name, int(rest.split()[1])


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
