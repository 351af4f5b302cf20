"""Settings of the reward manager: every refusal names the key, the value and what is allowed."""

from __future__ import annotations

import re
from typing import Any

import pytest
from omegaconf import OmegaConf

from verl_ext.rewards.settings import RewardSettings, RewardSettingsError


def read(**kwargs: Any) -> RewardSettings:
    return RewardSettings.from_config(OmegaConf.create({"reward": {"reward_kwargs": kwargs}}))


def test_defaults() -> None:
    assert RewardSettings.from_config(OmegaConf.create({"reward": {}})) == RewardSettings() == read()
    assert (read().correct, read().wrong, read().partial) == (1.0, 0.0, False)


def test_values_are_read() -> None:
    settings = read(correct=2, wrong=-1, partial=True, timeout_s=3, workers=4, sources={"my_*": "math"})
    assert (settings.correct, settings.wrong, settings.sources["my_*"]) == (2, -1, "math")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"correct": "1"}, "reward.reward_kwargs.correct='1': must be a finite number."),
        ({"wrong": float("nan")}, "reward.reward_kwargs.wrong=nan: must be a finite number."),
        ({"correct": 0.0}, "reward.reward_kwargs.correct=0.0: must be greater than reward.reward_kwargs.wrong=0.0."),
        ({"partial": 1}, "reward.reward_kwargs.partial=1: must be true or false."),
        ({"timeout_s": 0}, "reward.reward_kwargs.timeout_s=0: must be a number of seconds > 0."),
        ({"code_timeout_s": None}, "reward.reward_kwargs.code_timeout_s=None: must be a number of seconds > 0."),
        ({"workers": 0}, "reward.reward_kwargs.workers=0: must be null or a whole number > 0."),
        ({"workers": True}, "reward.reward_kwargs.workers=True: must be null or a whole number > 0."),
        ({"max_infra_error_frac": 2}, "reward.reward_kwargs.max_infra_error_frac=2: must be a share from 0 to 1."),
        ({"sources": "math"}, "reward.reward_kwargs.sources='math': must be a mapping such as {my_data: math}."),
        (
            {"time_out_s": 3},
            "reward.reward_kwargs.time_out_s=3: there is no such setting. Did you mean reward.reward_kwargs.timeout_s?",
        ),
    ],
)
def test_refusals(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RewardSettingsError, match=f"^{re.escape(message)}"):
        read(**values)


def test_not_a_group() -> None:
    with pytest.raises(RewardSettingsError, match=r"^reward\.reward_kwargs=3: must be a group of settings\.$"):
        RewardSettings.from_config(OmegaConf.create({"reward": {"reward_kwargs": 3}}))
