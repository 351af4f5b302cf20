"""What ``VERL_USE_EXTERNAL_MODULES=recipe.prime_v1.plugin`` and the entry point load.

First everything that is independent of PRIME, then a check of the configuration; the estimator when verl's registry of
estimators is imported, and the reward model when its trainers are.
"""

from __future__ import annotations

from types import ModuleType

import verl_ext.plugin  # noqa: F401 (its import installs the extensions)
from verl_ext import companion_model, config_checks
from verl_ext.patching import on_import


def _register_estimator(core_algos: ModuleType) -> None:
    del core_algos
    from recipe.prime_v1 import estimator  # noqa: F401 (its import registers it)


def _register_reward_model(trainer_base: ModuleType) -> None:
    del trainer_base
    from recipe.prime_v1.reward_model import COMPANION

    companion_model.register(COMPANION)


def _check(config: object) -> None:
    from recipe.prime_v1.requirements_check import check

    check(config)


config_checks.register(_check)
on_import("verl.trainer.ppo.core_algos", _register_estimator)
on_import("verl.trainer.ppo.v1.trainer_base", _register_reward_model)
