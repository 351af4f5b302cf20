"""What a run of `run.sh` is: its name and its settings, from the environment and the Hydra overrides.

Prints two lines: the name of the run's folder, and the settings as JSON.
"""

from __future__ import annotations

import json
import os
import sys

from omegaconf import OmegaConf

from recipe.spro.methods import method_files
from recipe.spro.requirements_check import ESTIMATORS
from recipe.spro.settings import SproSettings

# Upstream's script trains the reward model at 1e-6 beside a policy at 5e-7.
_RM_LR_RATIO = 2


# Overrides that the environment sets: the run's name and settings would say another value.
_OF_THE_ENVIRONMENT = {
    "algorithm.spro.beta": "BETA",
    "algorithm.prime.optim.lr": "RM_LR",
    "actor_rollout_ref.actor.optim.lr": "LR",
    "trainer.total_training_steps": "STEPS",
    "trainer.n_gpus_per_node": "RANKS",
    "trainer.nnodes": "NNODES",
}


def beta_of(method: str, asked: str) -> float | None:
    """The beta of a method: the one asked for, else the method's file's, else the default; None where it has none.

    Args:
        method: a name of `method_files`.
        asked: a number, or nothing.

    Raises:
        ValueError: no such method; a beta for a method without one.
    """
    files = method_files()
    if method not in files:
        raise ValueError(f"METHOD={method}: must be one of {', '.join(files)}")
    # Not resolved: where a method's file only mentions beta, it depends on it.
    config = OmegaConf.load(files[method])
    has_beta = OmegaConf.select(config, "algorithm.adv_estimator") in ESTIMATORS or (
        "algorithm.spro.beta" in files[method].read_text()
    )
    if not has_beta:
        if asked:
            raise ValueError(f"BETA={asked}: METHOD={method} has no beta; leave BETA empty")
        return None
    return float(asked or OmegaConf.select(config, "algorithm.spro.beta", default=SproSettings().beta))


def reward_model_lr(environment: dict[str, str]) -> float | None:
    """The learning rate of PRIME's reward model: RM_LR, else upstream's ratio to LR; None for other methods.

    Raises:
        ValueError: RM_LR for a method without a reward model, or that is no number.
    """
    method, asked = environment["METHOD"], environment.get("RM_LR", "")
    if method == "prime":
        return float(asked or _RM_LR_RATIO * float(environment["LR"]))
    if asked:
        raise ValueError(f"RM_LR={asked}: METHOD={method} has no reward model; leave RM_LR empty")
    return None


def settings(environment: dict[str, str], overrides: list[str]) -> dict[str, object]:
    """What tells one run from another.

    Raises:
        ValueError: a number that is none; an override of what the environment sets; see `beta_of`.
    """
    for override in overrides:
        if variable := _OF_THE_ENVIRONMENT.get(override.lstrip("+").partition("=")[0]):
            raise ValueError(f"{override}: set {variable}= in the environment instead, which the run is told by")
    method, rm_lr = environment["METHOD"], reward_model_lr(environment)
    found: dict[str, object] = {
        "method": method,
        "beta": beta_of(method, environment.get("BETA", "")),
        "lr": float(environment["LR"]),
        "seed": int(environment["SEED"]),
        "steps": int(environment["STEPS"]),
        "heldout_n": int(environment["HELDOUT_N"]),
        "ranks": int(environment["RANKS"]),
        "overrides": overrides,
    }
    if rm_lr is not None:
        found["rm_lr"] = rm_lr
    if (nodes := int(environment.get("NNODES", "1"))) != 1:
        found["nodes"] = nodes
    return found


def name(environment: dict[str, str], beta: object) -> str:
    """The run's name: the method, its beta if it has one, learning rate and seed."""
    strength = "" if beta is None else f"-beta{environment.get('BETA') or beta}"
    return f"{environment['METHOD']}{strength}-lr{environment['LR']}-seed{environment['SEED']}"


def main() -> None:
    """Print name and settings; one line on stderr and status 2 for what is not allowed."""
    environment = dict(os.environ)
    try:
        found = settings(environment, sys.argv[1:])
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print(name(environment, found["beta"]))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
