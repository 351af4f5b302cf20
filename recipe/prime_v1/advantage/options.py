"""The options of a PRIME advantage, shared by the oracle and the fast one."""

import math
from dataclasses import dataclass
from numbers import Real

FORMS = ("upstream", "paper")
GRANULARITIES = ("token", "whole")
NORMS = ("batch_norm", "none")

# What whitening adds to the variance, as verl's masked_whiten; and what batch_norm adds to the maximum, as upstream.
VARIANCE_EPS = 1e-8
NORM_EPS = 1e-6


@dataclass(frozen=True)
class Options:
    """The options of `prime_advantage`, checked.

    Raises:
        ValueError: naming the option, its value and what is allowed.
    """

    beta: float = 0.05
    reward_dpo_coef: float = 5.0
    reward_gt_coef: float = 5.0
    form: str = "upstream"
    prime_granularity: str = "token"
    prime_norm: str = "batch_norm"

    def __post_init__(self) -> None:
        for name in ("beta", "reward_dpo_coef", "reward_gt_coef"):
            value = getattr(self, name)
            if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
                raise ValueError(f"{name}={value!r} is not allowed: it must be a finite number >= 0")
        choices = {"form": FORMS, "prime_granularity": GRANULARITIES, "prime_norm": NORMS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(map(repr, allowed))}")
        if self.reward_dpo_coef == 0 and self.reward_gt_coef == 0:
            raise ValueError("reward_dpo_coef=0 and reward_gt_coef=0 leave no reward: set one of them above 0")
        for name, needed in (("prime_norm", "none"), ("prime_granularity", "token")):
            if self.form == "paper" and getattr(self, name) != needed:
                raise ValueError(
                    f"form='paper' has no {name}={getattr(self, name)!r}, which is upstream's alone: "
                    f"set {name}={needed!r}, or form='upstream'"
                )
