"""A patch is applied once, at the import of its target, and raises where the target has moved."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import run_python
from verl_ext import (
    config_checks,
    cpu,
    estimator_inputs,
    estimator_metrics,
    patching,
    poll_interval,
    tracking,
    weight_socket,
)
from verl_ext.cpu import engines, fsdp_offload, log_probs, megatron_layers, process_group, vllm_weights
from verl_ext.patching import PatchError


def owner() -> types.ModuleType:
    """A module with one function, `double`, to patch."""
    module = types.ModuleType("somebodys.module")

    def double(number: int) -> int:
        """Twice the number."""
        return 2 * number

    module.double = double  # type: ignore[attr-defined]
    return module


def plus(amount: int) -> Callable[[Callable[..., int]], Callable[..., int]]:
    def make(original: Callable[..., int]) -> Callable[..., int]:
        return lambda number: original(number) + amount

    return make


def test_wrap_replaces_once_and_keeps_the_name() -> None:
    module = owner()
    for _ in range(3):
        patching.wrap(module, "double", plus(1), patch="first", parameters=("number",))
    assert module.double(5) == 11
    assert module.double.__name__ == "double"
    assert module.double.__doc__ == "Twice the number."


def test_two_patches_of_one_function_both_act_once() -> None:
    module = owner()
    for _ in range(2):
        patching.wrap(module, "double", plus(1), patch="first")
        patching.wrap(module, "double", plus(100), patch="second")
    assert module.double(5) == 111


def test_a_wrapper_bound_by_name_elsewhere_is_not_wrapped_again() -> None:
    module, importer = owner(), types.ModuleType("importer")
    patching.wrap(module, "double", plus(1), patch="first")
    importer.double = module.double  # type: ignore[attr-defined]
    patching.wrap(importer, "double", plus(1), patch="first")
    assert importer.double is module.double


def test_a_moved_target_is_named() -> None:
    with pytest.raises(PatchError, match=r"^my\.patch patches somebodys\.module\.triple, which is not there any more"):
        patching.wrap(owner(), "triple", plus(1), patch="my.patch")


def test_a_moved_parameter_is_named_with_what_is_there() -> None:
    module = owner()
    with pytest.raises(PatchError, match=r"my\.patch patches .*double, which no longer takes factor \(it takes number"):
        patching.wrap(module, "double", plus(1), patch="my.patch", parameters=("number", "factor"))
    assert module.double(5) == 10


@pytest.fixture
def unloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name of a module that can be imported and has not been."""
    name = "spro_test_unloaded_module"
    (tmp_path / f"{name}.py").write_text("def double(number):\n    return 2 * number\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_on_import_waits_for_the_import(unloaded: str) -> None:
    def apply(module: types.ModuleType) -> None:
        patching.wrap(module, "double", plus(1), patch="first")

    patching.on_import(unloaded, apply)
    assert unloaded not in sys.modules
    namespace: dict[str, Any] = {}
    # The form that binds the function itself gets the replacement too.
    exec(f"from {unloaded} import double", namespace)
    assert namespace["double"](5) == 11


def test_on_import_acts_now_on_a_loaded_module(unloaded: str) -> None:
    module = __import__(unloaded)
    patching.on_import(unloaded, lambda loaded: patching.wrap(loaded, "double", plus(1), patch="first"))
    assert module.double(5) == 11


def test_a_failure_ends_the_import(unloaded: str) -> None:
    patching.on_import(unloaded, lambda module: patching.wrap(module, "triple", plus(1), patch="first"))
    with pytest.raises(PatchError, match="triple"):
        __import__(unloaded)


# Patches, and the names that each needs in the module that it patches.
PATCHES = [
    (config_checks._apply, "validate_config"),
    (estimator_inputs._patch_compute_advantage, "compute_advantage"),
    (estimator_inputs._patch_registry, "get_adv_estimator_fn"),
    (estimator_metrics._patch_data_metrics, "compute_data_metrics"),
    (estimator_metrics._patch_trainer, "PPOTrainer"),
    (poll_interval._apply, "PPOTrainer"),
    (tracking._apply, "FileLogger"),
    (weight_socket._patch_sender, "ServerAdapter"),
    (weight_socket._patch_receiver, "vLLMColocateWorkerExtension"),
]
IDS = [f"{apply.__module__}.{apply.__name__}" for apply, _ in PATCHES]


@pytest.mark.parametrize(("apply", "name"), PATCHES, ids=IDS)
def test_every_patch_raises_where_its_target_has_moved(apply: Callable[[Any], None], name: str) -> None:
    with pytest.raises(PatchError, match=name):
        apply(types.ModuleType("fake_newer_library"))


def hooks_of(name: str) -> list[tuple[str, Callable[[Any], None]]]:
    """The modules that a patch of the CPU stack waits for, and what it does at the import of each."""
    patch = importlib.import_module(f"verl_ext.cpu.{name}")
    hooks: list[tuple[str, Callable[[Any], None]]] = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(patch, "on_import", lambda module, apply: hooks.append((module, apply)))
        patch.install()
    return hooks


# It patches Python's own importlib, at once.
WITHOUT_A_HOOK = {"vllm_version"}
CPU_PATCHES = sorted({*cpu.PATCHES, *cpu.PATCHES_OF_VLLM})
CPU_HOOKS = [(module, apply) for name in CPU_PATCHES if name not in WITHOUT_A_HOOK for module, apply in hooks_of(name)]
CPU_IDS = [f"{apply.__module__}.{apply.__name__}" for _, apply in CPU_HOOKS]


@pytest.mark.parametrize(("module", "apply"), CPU_HOOKS, ids=CPU_IDS)
def test_every_patch_of_the_cpu_stack_raises_where_its_target_has_moved(
    module: str, apply: Callable[[Any], None]
) -> None:
    with pytest.raises(PatchError) as error:
        apply(types.ModuleType("fake_newer_library"))
    said = re.match(rf"{apply.__module__} patches fake_newer_library\.(\w+), which is not there", str(error.value))
    assert said is not None, error.value
    # What it misses in the fake one is something that the module it waits for does have.
    package, *inner = module.split(".")
    if spec := importlib.util.find_spec(package):
        assert spec.submodule_search_locations is not None
        source = Path(spec.submodule_search_locations[0], *inner).with_suffix(".py").read_text()
        assert re.search(rf"\b{said[1]}\b", source)


def test_every_file_of_the_cpu_stack_is_installed() -> None:
    files = {path.stem for path in Path(cpu.__file__).parent.glob("*.py")} - {"__init__"}
    # What verl asks of a device, and a check of the configuration: no patches.
    assert files - {"device", "limits"} == set(CPU_PATCHES)


def test_a_module_that_is_gone_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patching, "_awaited", {"json.decoder", "not_installed_at_all.x"})
    patching.check_modules_exist()
    monkeypatch.setattr(patching, "_awaited", {"json.decoder", "json.renamed"})
    with pytest.raises(PatchError, match=r"waits for the module json\.renamed"):
        patching.check_modules_exist()


def test_every_awaited_module_is_in_the_installed_versions() -> None:
    # Fresh, so that no other test's module is awaited; the patches of vLLM's own processes too.
    run_python(
        "import verl_ext.plugin; from verl_ext import cpu, patching\n"
        "cpu.install_in_vllm(); patching.check_modules_exist()\n"
        "assert 'verl.trainer.ppo.v1.trainer_base' in patching._awaited\n",
        {},
    )


PARAMETERS = [
    (config_checks._apply, "validate_config", "config"),
    (estimator_inputs._patch_compute_advantage, "compute_advantage", "data, adv_estimator, config"),
    (fsdp_offload._apply, "CPUOffloadPolicy", "pin_memory"),
    (log_probs._apply, "logprobs_from_logits_v2", "logits, labels"),
    (megatron_layers._ask, "get_gpt_decoder_block_spec", "use_transformer_engine"),
    (process_group._apply, "initialize_global_process_group_ray", "timeout_second, backend"),
    (vllm_weights._apply, "dispatch_cpu_unquantized_gemm", "layer, remove_weight"),
]


@pytest.mark.parametrize(("apply", "name", "missing"), PARAMETERS)
def test_every_patch_raises_where_a_parameter_has_moved(apply: Callable[[Any], None], name: str, missing: str) -> None:
    fake = types.ModuleType("fake_newer_library")

    def of_another_form(something_else: int) -> None:
        raise AssertionError(something_else)

    setattr(fake, name, of_another_form)
    with pytest.raises(PatchError, match=rf"which no longer takes {missing} \(it takes something_else\)"):
        apply(fake)


def test_the_engine_patch_raises_where_the_registry_is_kept_otherwise() -> None:
    fake = types.ModuleType("fake_newer_library")
    fake.EngineRegistry = types.SimpleNamespace(_engines={"language_model": {}})  # type: ignore[attr-defined]
    with pytest.raises(PatchError, match="no engine is registered for language_model, fsdp, cuda"):
        engines._register_fsdp(fake)
    fake.EngineRegistry = types.SimpleNamespace()  # type: ignore[attr-defined]
    with pytest.raises(PatchError, match="_engines"):
        engines._register_fsdp(fake)
