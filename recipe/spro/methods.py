"""The methods of ``+method=NAME``: one Hydra file each, which states only how it differs from spro_trainer.yaml.

A file ``config/method/NAME.yaml`` of this package or of `recipe.prime_v1` is all that a method needs.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

# Packages whose folder config/method holds methods; Hydra's search path has the same.
_PACKAGES = ("recipe.spro", "recipe.prime_v1")

NEG_KL = "spro_neg_kl_coef"


def method_files() -> dict[str, Path]:
    """The file of each method, by name."""
    folders = []
    for package in _PACKAGES:
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            folders.append(Path(spec.origin).parent / "config" / "method")
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def neg_kl_coef(beta: float, n: int) -> float:
    """The coefficient of a KL loss that has SPRO's expected gradient, -beta * (1 - 1/n).

    On the first on-policy update, unclipped, with token weights that do not depend on the response and no response
    that ends early: MSA then adds +beta * (1 - 1/n) * grad KL(pi || pi_ref) at each state.

    Args:
        beta: weight of the log-ratios in CPR.
        n: responses to a prompt.

    Raises:
        ValueError: fewer than two responses, of which MSA is 0.
    """
    if n < 2:
        raise ValueError(f"actor_rollout_ref.rollout.n={n}: a group of one has no process term; set n to 2 or more")
    return -beta * (1 - 1 / n)


def register_resolvers() -> None:
    """Let configuration files say ``${spro_neg_kl_coef:beta,n}``."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver(NEG_KL, neg_kl_coef, replace=True)
