"""The plugin alone brings the estimator and the reward model into verl; `main_spro` loads it beside SPRO's."""

from __future__ import annotations

import pytest

from recipe.spro.main_spro import PLUGINS, _with_plugins
from tests.support import composed, run_python


def test_import_verl_with_the_variable_is_enough() -> None:
    code = """
import verl
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY
from verl.trainer.ppo.v1 import trainer_base
from verl_ext import companion_model, config_checks
assert "prime" in ADV_ESTIMATOR_REGISTRY
assert [companion.name for companion in companion_model._companions] == ["reward_model"]
assert "recipe.prime_v1.plugin" in {check.__module__ for check in config_checks._checks}
print("loaded")
"""
    environment = {"VERL_USE_EXTERNAL_MODULES": "recipe.prime_v1.plugin", "VERL_USE_EXTERNAL_PLUGINS": "none"}
    assert run_python(code, environment).endswith("loaded\n")


@pytest.mark.parametrize(
    ("asked", "loaded"),
    [
        ("", ",".join(PLUGINS)),
        ("mine", ",".join(["mine", *PLUGINS])),
        ("recipe.prime_v1.plugin,mine", "recipe.prime_v1.plugin,mine,recipe.spro.plugin"),
    ],
)
def test_main_spro_loads_both_plugins_once(asked: str, loaded: str) -> None:
    assert _with_plugins(asked) == loaded


def test_the_method_is_chosen_by_one_override() -> None:
    config = composed("+stack=cpu", "+method=prime")
    assert config.algorithm.adv_estimator == "prime"
    assert config.trainer.v1.sampler.custom_sampler.path == "pkg://recipe.prime_v1.sampler"
    assert composed("+stack=cpu").algorithm.adv_estimator == "spro"
