"""`reward.reward_kwargs` for the reward manager `spro`: typed and checked; errors name key, value, what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf

from verl_ext.settings_group import SettingsGroup, is_number

_GROUP = "reward.reward_kwargs"

MANAGER = "spro"


class RewardSettingsError(ValueError):
    """A key or value of `reward.reward_kwargs` that is not allowed."""


_SETTINGS = SettingsGroup(_GROUP, RewardSettingsError)


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
            _SETTINGS.require(is_number(getattr(self, key)), key, getattr(self, key), "a finite number")
        _SETTINGS.require(
            self.correct > self.wrong, "correct", self.correct, f"greater than {_GROUP}.wrong={self.wrong!r}"
        )
        _SETTINGS.require(isinstance(self.partial, bool), "partial", self.partial, "true or false")
        for key in ("timeout_s", "code_timeout_s"):
            value = getattr(self, key)
            _SETTINGS.require(is_number(value) and value > 0, key, value, "a number of seconds > 0")
        whole = isinstance(self.workers, int) and not isinstance(self.workers, bool) and self.workers > 0
        _SETTINGS.require(self.workers is None or whole, "workers", self.workers, "null or a whole number > 0")
        share = self.max_infra_error_frac
        _SETTINGS.require(is_number(share) and 0 <= share <= 1, "max_infra_error_frac", share, "a share from 0 to 1")
        _SETTINGS.require(
            isinstance(self.sources, Mapping), "sources", self.sources, "a mapping such as {my_data: math}"
        )

    @classmethod
    def from_config(cls, config: Any) -> RewardSettings:
        """Read `reward.reward_kwargs` of verl's whole config.

        Raises:
            RewardSettingsError: an unknown key or a bad value.
        """
        return _SETTINGS.read(OmegaConf.select(config, _GROUP), cls)


def is_ours(config: Any) -> bool:
    """Whether a run with this whole config of verl's uses our reward manager."""
    return OmegaConf.select(config, "reward.reward_manager.name") == MANAGER
