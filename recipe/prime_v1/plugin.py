"""What ``VERL_USE_EXTERNAL_MODULES=recipe.prime_v1.plugin`` and the entry point load.

First everything that is independent of PRIME, then a check of the configuration, the reward model, and the estimator
when verl's registry of estimators is imported.
"""

from __future__ import annotations

from types import ModuleType

import verl_ext.plugin  # noqa: F401 (its import installs the extensions)
from recipe.prime_v1.reward_model import COMPANION
from verl_ext import companion_model, config_checks
from verl_ext.patching import on_import


def _register_estimator(core_algos: ModuleType) -> None:
    del core_algos
    from recipe.prime_v1 import estimator  # noqa: F401 (its import registers it)


def _check(config: object) -> None:
    from recipe.prime_v1.requirements_check import check

    check(config)


config_checks.register(_check)
companion_model.register(COMPANION)
on_import("verl.trainer.ppo.core_algos", _register_estimator)
