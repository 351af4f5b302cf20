"""`reward.reward_kwargs` for the reward manager `spro`: typed and checked; errors name key, value, what is allowed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from omegaconf import OmegaConf

_GROUP = "reward.reward_kwargs"

MANAGER = "spro"


class RewardSettingsError(ValueError):
    """A key or value of `reward.reward_kwargs` that is not allowed."""


@dataclass(frozen=True)
class RewardSettings:
    """The knobs of outcome verification.

    Attributes:
        correct, wrong: scores of these kinds; every other kind scores as wrong.
        partial: for code, score a wrong response between the two by the share of tests that it passes.
        timeout_s, code_timeout_s: deadline of one verification, seconds.
        workers: verifying processes per node; null is one per two cores, at least two.
        max_infra_error_frac: a step with a larger share of infra errors ends the run.
        sources: verifier by data source, for those that are not known or are to be verified otherwise:
            `{my_data: math}`. `user` is the function of `reward.custom_reward_function`.
    """

    correct: float = 1.0
    wrong: float = 0.0
    partial: bool = False
    timeout_s: float = 5.0
    code_timeout_s: float = 10.0
    workers: int | None = None
    max_infra_error_frac: float = 0.1
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("correct", "wrong"):
            _require(_is_number(getattr(self, key)), key, getattr(self, key), "a finite number")
        _require(self.correct > self.wrong, "correct", self.correct, f"greater than {_GROUP}.wrong={self.wrong!r}")
        _require(isinstance(self.partial, bool), "partial", self.partial, "true or false")
        for key in ("timeout_s", "code_timeout_s"):
            value = getattr(self, key)
            _require(_is_number(value) and value > 0, key, value, "a number of seconds > 0")
        whole = isinstance(self.workers, int) and not isinstance(self.workers, bool) and self.workers > 0
        _require(self.workers is None or whole, "workers", self.workers, "null or a whole number > 0")
        share = self.max_infra_error_frac
        _require(_is_number(share) and 0 <= share <= 1, "max_infra_error_frac", share, "a share from 0 to 1")
        _require(isinstance(self.sources, Mapping), "sources", self.sources, "a mapping such as {my_data: math}")

    @classmethod
    def from_config(cls, config: Any) -> RewardSettings:
        """Read `reward.reward_kwargs` of verl's whole config.

        Raises:
            RewardSettingsError: an unknown key or a bad value.
        """
        group = OmegaConf.select(config, _GROUP)
        values = OmegaConf.to_container(group, resolve=True) if OmegaConf.is_config(group) else group
        if values is None:
            return cls()
        if not isinstance(values, Mapping):
            raise RewardSettingsError(f"{_GROUP}={values!r}: must be a group of settings.")
        known = [one.name for one in fields(cls)]
        for key in values:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1)
                hint = f" Did you mean {_GROUP}.{close[0]}?" if close else ""
                raise RewardSettingsError(
                    f"{_GROUP}.{key}={values[key]!r}: there is no such setting.{hint} Allowed: {', '.join(known)}."
                )
        return cls(**{str(key): values[key] for key in values})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _require(fine: bool, key: str, value: object, allowed: str) -> None:
    if not fine:
        raise RewardSettingsError(f"{_GROUP}.{key}={value!r}: must be {allowed}.")
