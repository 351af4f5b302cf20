"""Loading the plugin is cheap, and every way to load it leaves verl patched, once."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
from typing import Any

import pytest

import verl_ext.plugin
from tests.support import on_cpu, run_python
from verl_ext import config_checks

# Where each extension can be seen, and the name by which it marks its replacement.
PATCHED: dict[str, list[str]] = {
    "verl.utils.config:validate_config": ["verl_ext.config_checks", "verl_ext.run_record"],
    "verl.trainer.ppo.core_algos:get_adv_estimator_fn": ["verl_ext.estimator_inputs"],
    "verl.trainer.ppo.ray_trainer:compute_advantage": ["verl_ext.estimator_inputs"],
    "verl.trainer.ppo.ray_trainer:compute_data_metrics": ["verl_ext.estimator_metrics"],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._compute_advantage": [
        "verl_ext.jagged_advantage",
        "verl_ext.estimator_context",
        "verl_ext.estimator_metrics",
        "verl_ext.companion_model",
        "verl_ext.log_prob_gate",
        "verl_ext.reward_metrics",
        "verl_ext.weight_versions",
    ],
    "verl.experimental.separation.ray_trainer:SeparateRayPPOTrainer._fit_compute_advantage": [
        "verl_ext.estimator_context",
        "verl_ext.estimator_metrics",
        "verl_ext.weight_versions",
    ],
    "verl.trainer.main_ppo:run_ppo": ["verl_ext.config_checks"],
    "verl.utils.fsdp_utils:fsdp2_sharded_save_to_cpu": ["verl_ext.saved_weights"],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._compute_old_log_prob": ["verl_ext.log_prob_gate"],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._compute_ref_log_prob": ["verl_ext.log_prob_gate"],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._step_once": [
        "verl_ext.generated_tokens",
        "verl_ext.step_observers",
        "verl_ext.truncated_responses",
    ],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._update_actor": ["verl_ext.memory_metrics"],
    "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer._clear_groups": ["verl_ext.generated_tokens"],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._setup": ["verl_ext.companion_model"],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer.step": ["verl_ext.reference_update"],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._save_checkpoint": [
        "verl_ext.estimator_state",
        "verl_ext.companion_model",
        "verl_ext.reference_update",
        "verl_ext.step_watch",
    ],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._load_checkpoint": [
        "verl_ext.estimator_state",
        "verl_ext.companion_model",
        "verl_ext.reference_update",
        "verl_ext.resume",
        "verl_ext.step_watch",
    ],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._compute_metrics": ["verl_ext.step_watch"],
    "verl.trainer.ppo.ray_trainer:RayPPOTrainer._compute_ref_log_prob": ["verl_ext.reference_update"],
    "verl.workers.engine.fsdp.transformer_impl:FSDPEngine.disable_adapter": ["verl_ext.reference_worker"],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._log_rollout_data": ["verl_ext.reward_dumps"],
    "verl.trainer.ppo.ray_trainer:RayPPOTrainer.fit": ["verl_ext.estimator_context"],
    "transfer_queue:kv_batch_get": ["verl_ext.estimator_context"],
    "verl.trainer.ppo.v1.trainer_base:PPOTrainer._build_replay_buffer": ["verl_ext.poll_interval"],
    "verl.utils.tracking:FileLogger.__init__": ["verl_ext.tracking"],
    "verl.utils.tracking:Tracking.log": ["verl_ext.tracking_images", "verl_ext.step_watch"],
    "verl.utils.tracking:_TensorboardAdapter.log": ["verl_ext.tracking"],
}
PATCHED_ON_CPU = {
    "verl.utils.distributed:initialize_global_process_group_ray": "verl_ext.cpu.process_group",
    "verl.workers.engine.fsdp.transformer_impl:CPUOffloadPolicy": "verl_ext.cpu.fsdp_offload",
}

MARKS_OF = """
import importlib, json
def marks_of(places):
    marks = {}
    for place in places:
        module, names = place.split(":")
        found = importlib.import_module(module)
        for name in names.split("."):
            found = getattr(found, name)
        marks[place] = list(getattr(found, "__verl_ext_patch__", ()))
    return marks
"""


def marks_of(places: list[str]) -> dict[str, list[str]]:
    namespace: dict[str, Any] = {}
    exec(MARKS_OF, namespace)
    return namespace["marks_of"](places)


@pytest.mark.alone
def test_loading_imports_nothing_heavy() -> None:
    code = """
import sys, time
start = time.process_time()
import verl_ext.plugin, recipe.spro.plugin, recipe.prime_v1.plugin
seconds = time.process_time() - start
heavy = [name for name in ("torch", "verl", "ray", "vllm", "transformers", "numpy", "pyarrow") if name in sys.modules]
assert not heavy, heavy
# Of the processor. Measured 0.1; the bound leaves room for a slow machine, not for an import of torch.
assert seconds < 3, seconds
"""
    run_python(code, {"VERL_USE_EXTERNAL_PLUGINS": "none"})


def test_the_entry_point_patches_verl_here() -> None:
    """This process imported verl with nothing but the entry point or the plugin's own import."""
    assert marks_of([*PATCHED]) == PATCHED


@on_cpu
def test_the_entry_point_patches_the_cpu_stack_here() -> None:
    expected = {place: [patch] for place, patch in PATCHED_ON_CPU.items()}
    assert marks_of([*PATCHED_ON_CPU]) == expected


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({}, id="entry point"),
        pytest.param(
            {"VERL_USE_EXTERNAL_MODULES": "recipe.spro.plugin", "VERL_USE_EXTERNAL_PLUGINS": "none"}, id="variable"
        ),
    ],
)
def test_import_verl_alone_patches_it(environment: dict[str, str]) -> None:
    code = MARKS_OF + f"import verl\nprint('MARKS' + json.dumps(marks_of({[*PATCHED]!r})))\n"
    code += "from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY as known\nassert 'spro' in known\n"
    printed = run_python(code, environment)
    (line,) = [line for line in printed.splitlines() if line.startswith("MARKS")]
    assert json.loads(line.removeprefix("MARKS")) == PATCHED


def test_loading_again_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    marks_of([*PATCHED])
    checks = list(config_checks._checks)
    monkeypatch.setattr(config_checks, "_checks", checks)
    before = [importlib.import_module("verl.trainer.ppo.ray_trainer").compute_advantage, len(checks)]
    importlib.reload(verl_ext.plugin)
    after = [importlib.import_module("verl.trainer.ppo.ray_trainer").compute_advantage, len(checks)]
    assert before == after
    assert marks_of([*PATCHED]) == PATCHED


def test_a_failure_is_told_even_where_verl_swallows_it() -> None:
    code = """
import contextlib, io, sys
import verl_ext.cpu
def fake_failure(): raise RuntimeError("a patch has moved")
verl_ext.cpu.install = fake_failure
told = io.StringIO()
with contextlib.redirect_stderr(told):
    try:
        import verl_ext.plugin
    except RuntimeError:
        pass
    else:
        raise AssertionError("nothing was raised")
assert "verl_ext.plugin could not be loaded:" in told.getvalue()
assert "a patch has moved" in told.getvalue()
"""
    run_python(code)


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("verl.plugins", "spro", "recipe.spro.plugin"),
        ("vllm.general_plugins", "verl_ext", "verl_ext.plugin:load_in_vllm"),
    ],
)
def test_the_entry_points_are_declared_and_load(group: str, name: str, value: str) -> None:
    points = [point for point in importlib.metadata.entry_points(group=group) if point.value == value]
    # An editable installation may be listed beside a wheel's.
    assert {point.name for point in points} == {name}
    assert points[0].load() is not None
