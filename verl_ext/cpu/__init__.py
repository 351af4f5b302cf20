"""The whole stack (Ray, FSDP2, vLLM) without an accelerator: one file per obstacle.

Nothing here acts where an accelerator is: `no_accelerator` decides, in every process alike.
What can be said by a setting is not a patch: see ``verl_ext/config/stack/cpu.yaml``.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterable

# Tools and device files of the accelerators that verl knows.
_ACCELERATOR_TOOLS = ("nvidia-smi", "rocm-smi", "amd-smi", "npu-smi")
_ACCELERATOR_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/davinci_manager")


# Defaults for this process and every one that it starts, Ray's workers among them.
_ENVIRONMENT = {
    "VERL_PLATFORM": "cpu",
    # vLLM tells its CPU build by the version of a distribution called "vllm"; its spawned processes ask before a
    # plugin can answer, and this variable is asked first.
    "VLLM_TARGET_DEVICE": "cpu",
    # GiB; vLLM would take half of the memory.
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # TransferQueue wants 8 and warns at every call where there are fewer cores.
    "TQ_NUM_THREADS": str(min(8, os.cpu_count() or 1)),
}

# Files of this folder, in the order in which they are installed.
PATCHES = (
    "vllm_version",
    "platform",
    "process_group",
    "engines",
    "fsdp_offload",
    "log_probs",
    "weight_transfer",
    "megatron_float32",
    "megatron_device",
    "megatron_random",
    "megatron_layers",
    "megatron_mask",
)
PATCHES_OF_VLLM = ("vllm_version", "vllm_weights")

# What asks for this stack on the command line, with FSDP2 and with Megatron.
STACKS = ("+stack=cpu", "+stack=cpu_megatron")


def is_asked_for(overrides: Iterable[str]) -> bool:
    """Whether Hydra overrides ask for the stack without an accelerator."""
    return not set(STACKS).isdisjoint(overrides)


def accelerator() -> str | None:
    """The first sign of an accelerator on this machine (a tool or a device file), or None."""
    for tool in _ACCELERATOR_TOOLS:
        if path := shutil.which(tool):
            return path
    return next((path for path in _ACCELERATOR_DEVICES if os.path.exists(path)), None)


def _torch_is_cpu_build() -> bool:
    """Told without importing torch; a cluster's head node has no GPU, but a CUDA build of torch."""
    try:
        return importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        return False


@functools.cache
def no_accelerator() -> bool:
    """True where this stack may act.

    That is where the machine shows no accelerator and either torch is a CPU build or
    ``VERL_PLATFORM=cpu`` asks for it. Another value of ``VERL_PLATFORM`` says no.
    """
    asked = os.environ.get("VERL_PLATFORM", "").strip().lower()
    if asked not in ("", "cpu"):
        return False
    if sign := accelerator():
        if asked:
            print(
                f"VERL_PLATFORM=cpu is ignored by verl_ext: there is an accelerator ({sign}). "
                "Unset it, or verl will ask for a platform that nobody registers.",
                file=sys.stderr,
            )
        return False
    return bool(asked) or _torch_is_cpu_build()


def _install(patches: Iterable[str]) -> None:
    for name in patches:
        importlib.import_module(f"{__name__}.{name}").install()


def install() -> None:
    """Register the patches of the training processes; does nothing beside an accelerator."""
    if not no_accelerator():
        return
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)

    from verl_ext import config_checks
    from verl_ext.cpu import limits

    _install(PATCHES)
    config_checks.register(limits.check)


def install_in_vllm() -> None:
    """Register the patches of vLLM's own processes; does nothing beside an accelerator."""
    if not no_accelerator():
        return
    _install(PATCHES_OF_VLLM)
