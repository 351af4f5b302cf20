"""What a run with our reward manager needs is told before Ray starts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from omegaconf import OmegaConf

from verl_ext import reward_checks
from verl_ext.config_checks import ConfigError


def config(folder: Path, sources: list[str], **reward: Any) -> Any:
    path = folder / "train.parquet"
    pd.DataFrame({"data_source": sources}).to_parquet(path)
    return OmegaConf.create(
        {
            "data": {"train_files": [str(path)], "val_files": str(folder / "elsewhere.parquet")},
            "trainer": {"use_v1": True, "v1": {"trainer_mode": "sync"}},
            "reward": {"reward_manager": {"name": "spro"}, "custom_reward_function": {"path": None}, **reward},
        }
    )


def test_known_sources_pass(tmp_path: Path) -> None:
    reward_checks.check(config(tmp_path, ["openai/gsm8k", "numina_olympiads", "arithmetic"]))


def test_trainers_that_do_not_look_at_verdicts_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of_v1 = config(tmp_path, ["openai/gsm8k"])
    reward_checks.check(of_v1)
    assert capsys.readouterr().err == ""
    others: list[dict[str, Any]] = [{"trainer": {"use_v1": False}}, {"async_training": {}}]
    for other in others:
        reward_checks.check(OmegaConf.merge(of_v1, other))
        assert "max_infra_error_frac=0.1 has no effect in " in capsys.readouterr().err


def test_unknown_sources_are_named_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data_source 'mine', 'other'\. Known: openai/gsm8k.*custom_reward_function"):
        reward_checks.check(config(tmp_path, ["other", "openai/gsm8k", "mine"]))


def test_they_pass_with_a_choice_or_a_function(tmp_path: Path) -> None:
    reward_checks.check(config(tmp_path, ["mine"], reward_kwargs={"sources": {"mine": "math"}}))
    reward_checks.check(config(tmp_path, ["mine"], custom_reward_function={"path": "own.py"}))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"sources": {"mine": "maths"}}, "reward.reward_kwargs.sources.mine='maths': must be one of math, gsm8k"),
        ({"sources": {"mine": "user"}}, "reward.reward_kwargs.sources.mine='user': there is no such function"),
        ({"timeout": 3}, "reward.reward_kwargs.timeout=3: there is no such setting"),
    ],
)
def test_bad_settings(tmp_path: Path, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        reward_checks.check(config(tmp_path, ["mine"], reward_kwargs=kwargs))


def test_other_managers_pass(tmp_path: Path) -> None:
    other = config(tmp_path, ["mine"])
    other.reward.reward_manager.name = "naive"
    reward_checks.check(other)
