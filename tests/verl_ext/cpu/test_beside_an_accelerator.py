"""Beside an accelerator nothing of this acts, whatever else is asked for; without one the settings are defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import on_cpu, run_python
from verl_ext import cpu


@pytest.fixture(scope="module")
def fake_tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an `nvidia-smi` that answers, to be found first."""
    folder = tmp_path_factory.mktemp("bin")
    tool = folder / "fake-of-a-driver"
    tool.write_text("#!/bin/sh\nexit 0\n")
    tool.chmod(0o755)
    (folder / "nvidia-smi").symlink_to(tool)
    return folder


NOTHING_ACTED = """
import importlib.metadata, os
before = dict(os.environ)
version = importlib.metadata.version
import verl_ext.plugin
from verl_ext.plugin import load_in_vllm
load_in_vllm()
assert dict(os.environ) == before, set(os.environ) ^ set(before)
assert importlib.metadata.version is version
from verl_ext import config_checks
from verl_ext.cpu import limits
assert limits.check not in config_checks._checks
"""

VERL_IS_UNPATCHED = """
import verl
from verl.plugin.platform.platform_manager import PlatformRegistry, get_platform
assert "cpu" not in PlatformRegistry.registered_names(), PlatformRegistry.registered_names()
from verl.utils import config, distributed
assert not hasattr(distributed.initialize_global_process_group_ray, "__verl_ext_patch__")
# The extensions that have nothing to do with the device are there.
assert "verl_ext.config_checks" in config.validate_config.__verl_ext_patch__
"""


def test_nothing_acts_beside_an_accelerator(fake_tools: Path) -> None:
    chosen = 'assert get_platform().device_name == "cuda", get_platform().device_name\n'
    run_python(NOTHING_ACTED + VERL_IS_UNPATCHED + chosen, path_first=fake_tools)


def test_nor_where_the_cpu_is_asked_for(fake_tools: Path) -> None:
    told = """
import contextlib, io
text = io.StringIO()
with contextlib.redirect_stderr(text):
    import verl_ext.plugin
assert "VERL_PLATFORM=cpu is ignored by verl_ext: there is an accelerator" in text.getvalue()
"""
    code = told.join(NOTHING_ACTED.split("import verl_ext.plugin\n", 1)) + VERL_IS_UNPATCHED
    run_python(code, {"VERL_PLATFORM": "cpu"}, path_first=fake_tools)


@on_cpu
def test_another_platform_that_is_asked_for_is_respected() -> None:
    run_python(NOTHING_ACTED, {"VERL_PLATFORM": "nvidia"})


@on_cpu
def test_settings_of_the_user_win_over_the_defaults() -> None:
    code = """
import os
import verl_ext.plugin
assert os.environ["VERL_PLATFORM"] == "cpu"
assert os.environ["VLLM_CPU_KVCACHE_SPACE"] == "7"
assert os.environ["VLLM_TARGET_DEVICE"] == "cpu"
"""
    run_python(code, {"VLLM_CPU_KVCACHE_SPACE": "7"})


@on_cpu
def test_a_cuda_build_of_torch_is_left_alone_unless_the_cpu_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster's head node: no accelerator of its own, but the workers' environment."""

    def fake_cuda_build() -> bool:
        return False

    monkeypatch.setattr(cpu, "_torch_is_cpu_build", fake_cuda_build)
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    assert not cpu.no_accelerator.__wrapped__()
    monkeypatch.setenv("VERL_PLATFORM", " CPU ")
    assert cpu.no_accelerator.__wrapped__()


@pytest.mark.parametrize("tool", ["nvidia-smi", "rocm-smi", "amd-smi", "npu-smi"])
def test_each_tool_is_a_sign(tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / tool).write_text("#!/bin/sh\n")
    (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    assert cpu.accelerator() == str(tmp_path / tool)
    assert not cpu.no_accelerator.__wrapped__()
