"""Print the settings of a run as JSON, from the environment of `run.sh` and its Hydra overrides."""

from __future__ import annotations

import json
import os
import sys


def settings(environment: dict[str, str], overrides: list[str]) -> dict[str, object]:
    """What tells one run from another.

    Raises:
        ValueError: a number that is none.
    """
    beta = environment["BETA"]
    return {
        "method": environment["METHOD"],
        "beta": None if beta == "null" else float(beta),
        "lr": float(environment["LR"]),
        "seed": int(environment["SEED"]),
        "steps": int(environment["STEPS"]),
        "heldout_n": int(environment["HELDOUT_N"]),
        "ranks": int(environment["RANKS"]),
        "overrides": overrides,
    }


if __name__ == "__main__":
    print(json.dumps(settings(dict(os.environ), sys.argv[1:])))
