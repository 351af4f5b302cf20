"""The `cpu` platform: registered, chosen, and with everything that verl asks a platform for."""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path

import pytest
import torch
import verl
from verl.plugin.platform import get_platform
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry
from verl.utils import device as verl_device

from tests.support import on_cpu

pytestmark = on_cpu

# Called by verl only where there is an accelerator: to cap the memory of one that is shared.
ACCELERATORS_ONLY = {"set_per_process_memory_fraction"}


def test_it_is_registered_and_chosen() -> None:
    assert "cpu" in PlatformRegistry.registered_names()
    assert os.environ["VERL_PLATFORM"] == "cpu"
    assert get_platform().device_name == "cpu"
    assert get_platform().is_available()
    assert verl_device.get_device_name() == "cpu"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("current_device", ()),
        ("device_count", ()),
        ("set_device", (0,)),
        ("synchronize", ()),
        ("manual_seed", (1,)),
        ("manual_seed_all", (1,)),
        ("set_allocator_settings", ("expandable_segments:True",)),
        ("empty_cache", ()),
        ("get_device_capability", ()),
        ("profiler_start", ()),
        ("profiler_stop", ()),
        ("apply_model_patches", ("qwen2",)),
        ("ray_resource_options", (1.0,)),
        ("rollout_env_vars", ()),
        ("cudart", ()),
    ],
)
def test_every_method_answers(name: str, arguments: tuple[object, ...]) -> None:
    getattr(get_platform(), name)(*arguments)


def test_nothing_of_the_base_class_is_left_open() -> None:
    assert not inspect.isabstract(type(get_platform()))
    for name in PlatformBase.__abstractmethods__:
        assert name in vars(type(get_platform())), name


def test_the_answers() -> None:
    platform = get_platform()
    assert platform.current_device() == torch.device("cpu")
    assert torch.zeros(1).to(platform.current_device()).device.type == "cpu"
    assert platform.device_count() == 1
    assert platform.communication_backend_name() == "gloo"
    assert platform.ray_resource_name() == "GPU"
    assert not platform.is_ipc_supported()
    with platform.nvtx_range("a range"):
        pass


def test_the_seed_is_torchs() -> None:
    get_platform().manual_seed(7)
    first = torch.rand(3)
    get_platform().manual_seed_all(7)
    assert torch.equal(first, torch.rand(3))


def test_the_device_module_has_what_verl_looks_up() -> None:
    asked: set[str] = set()
    for source in Path(verl.__file__).parent.rglob("*.py"):
        asked |= set(re.findall(r"get_torch_device\(\)\.(\w+)", source.read_text(errors="replace")))
    assert len(asked) > 10
    module = verl_device.get_torch_device()
    assert module is get_platform().device_module
    assert {name for name in asked if not hasattr(module, name)} == ACCELERATORS_ONLY


def test_memory_is_the_hosts() -> None:
    module = get_platform().device_module
    free, total = module.mem_get_info()
    assert 0 < free <= total
    assert 0 < module.memory_allocated() <= total
    assert module.memory_reserved() > 0
    assert 0 < module.max_memory_allocated() <= total
    for nothing in (module.empty_cache, module.ipc_collect, module.reset_peak_memory_stats):
        assert nothing() is None
    assert module.get_device_name() == "cpu"


def test_the_random_state_comes_back() -> None:
    module = get_platform().device_module
    state = module.get_rng_state()
    first = torch.rand(3)
    module.set_rng_state(state)
    assert torch.equal(first, torch.rand(3))
