"""A plugin of verl's, for the measurement only: one run whose steps take turns between methods.

SPRO and GRPO of two runs differ by whatever else the machine did meanwhile. Here steps of one run, with one model, one
rollout engine and one set of processes, are GRPO's and SPRO's in blocks: each arm once a block, in an order drawn anew
for each. What the arms change is what their configurations would differ by.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
from omegaconf import open_dict

from verl_ext.patching import on_import, target, wrap

ARMS: Mapping[str, tuple[str, bool]] = {
    "grpo": ("grpo", False),
    "spro": ("spro", False),
    "grpo, gated": ("grpo", True),
    "spro, gated": ("spro", True),
}
"""Of each arm: the estimator, and whether the gate of `verl_ext.log_prob_gate` is on."""

# Of the order in the blocks; the parts of a measurement have one each.
SEED_VARIABLE = "SPRO_ALTERNATE_SEED"


def arm_of(step: int, seed: int) -> tuple[int, str]:
    """Block and arm of a training step, which count from 0 and 1."""
    block, place = divmod(step - 1, len(ARMS))
    order = np.random.default_rng([seed, block]).permutation(len(ARMS))
    return block, list(ARMS)[order[place]]


def _take_turns(original: Callable[..., Any]) -> Callable[..., Any]:
    def on_step_begin(self: Any) -> Any:
        _, arm = arm_of(self.global_steps, int(os.environ[SEED_VARIABLE]))
        estimator, gated = ARMS[arm]
        algorithm = self.config.algorithm
        with open_dict(algorithm):
            algorithm.adv_estimator = estimator
            # GRPO without a KL has no reference policy.
            algorithm.use_kl_in_reward = self.use_reference_policy = estimator == "spro"
            algorithm.log_prob_gate.enable = gated
        return original(self)

    return on_step_begin


def _patch(module: ModuleType) -> None:
    wrap(target(module, "PPOTrainer", __name__), "on_step_begin", _take_turns, patch=__name__)


if SEED_VARIABLE in os.environ:
    on_import("verl.trainer.ppo.v1.trainer_base", _patch)
