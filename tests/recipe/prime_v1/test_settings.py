"""Every error of `algorithm.prime` names the key, the value and what is allowed; the YAML agrees with the types."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import pytest
from omegaconf import OmegaConf

from recipe.prime_v1.advantage.options import Options
from recipe.prime_v1.band import Band
from recipe.prime_v1.settings import OptimSettings, PrimeSettings, SettingsError
from tests.support import composed, overrides_after

NOT_NEGATIVE = "must be a finite number >= 0."
POSITIVE = "must be a finite number > 0."
OWN_OR_ACTORS = "must be null (the actor's) or a whole number above 0."
SHARE = "must be a number from 0 to 1."

BAD = [
    ("form", "verl", "must be one of upstream, paper."),
    ("form", None, "must be one of upstream, paper."),
    ("update", "none", "must be one of before, after."),
    ("update", "reverse", "must be one of before, after."),
    ("ref_type", "actor", "must be one of freeze, policy."),
    ("loss_type", "dpo", "must be one of ce."),
    ("prime_granularity", "line", "must be one of token, whole."),
    ("prime_norm", "group", "must be one of batch_norm, none, or null."),
    ("prime_norm", True, "must be one of batch_norm, none, or null."),
    ("beta_train", 0, POSITIVE),
    ("beta_train", math.nan, POSITIVE),
    ("beta_train", True, POSITIVE),
    ("reward_dpo_coef", -1, NOT_NEGATIVE),
    ("reward_gt_coef", "5", NOT_NEGATIVE),
    ("mini_batch_size", 0, OWN_OR_ACTORS),
    ("mini_batch_size", 2.5, OWN_OR_ACTORS),
    ("micro_batch_size_per_gpu", True, OWN_OR_ACTORS),
    ("fsdp_config", "offload", "must be a group, such as ++algorithm.prime.fsdp_config.param_offload=true."),
    ("filter_accuracy", 1, "must be true or false."),
    ("filter_truncate", None, "must be true or false."),
    ("accuracy_lower_bound", -0.1, SHARE),
    ("accuracy_upper_bound", 1.1, SHARE),
    ("accuracy_lower_bound", 0.9, "must be at most accuracy_upper_bound=0.8."),
    ("oversample_factor", 0.5, "must be a finite number >= 1."),
    ("oversample_factor", math.inf, "must be a finite number >= 1."),
]


@pytest.mark.parametrize(("key", "value", "allowed"), BAD)
def test_a_bad_value(key: str, value: Any, allowed: str) -> None:
    with pytest.raises(SettingsError, match=f"^{re.escape(f'algorithm.prime.{key}={value!r}: {allowed}')}$"):
        PrimeSettings.from_config({key: value})


@pytest.mark.parametrize(
    ("group", "key", "value", "allowed"),
    [
        ("optim", "lr", -1.0, NOT_NEGATIVE),
        ("optim", "weight_decay", None, NOT_NEGATIVE),
        ("optim", "grad_clip", 0, POSITIVE),
        ("optim", "lr_warmup_steps", 0.5, "must be an integer."),
        ("optim", "lr_scheduler_type", "linear", "must be one of constant, cosine."),
        ("model", "path", "", "must be null (the actor's) or a path."),
    ],
)
def test_a_bad_value_of_an_inner_group(group: str, key: str, value: Any, allowed: str) -> None:
    expected = f"algorithm.prime.{group}.{key}={value!r}: {allowed}"
    with pytest.raises(SettingsError, match=f"^{re.escape(expected)}$"):
        PrimeSettings.from_config({group: {key: value}})


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"beta_trian": 0.1}, "beta_train"),
        ({"optim": {"learning_rate": 1}}, None),
        ({"optim": {"weigth_decay": 1}}, "optim.weight_decay"),
        ({"model": {"pth": "x"}}, "model.path"),
    ],
)
def test_an_unknown_key(given: dict[str, Any], meant: str | None) -> None:
    with pytest.raises(SettingsError, match="there is no such setting") as error:
        PrimeSettings.from_config(given)
    if meant is not None:
        assert f"Did you mean algorithm.prime.{meant}?" in str(error.value)


def test_an_inner_group_that_is_none() -> None:
    with pytest.raises(SettingsError, match=re.escape("algorithm.prime.optim=1e-06: must be a group of settings")):
        PrimeSettings.from_config({"optim": 1e-6})


@pytest.mark.parametrize(("key", "value"), [("prime_norm", "batch_norm"), ("prime_granularity", "whole")])
def test_the_papers_form_has_neither_norm_nor_granularity(key: str, value: str) -> None:
    with pytest.raises(SettingsError) as error:
        PrimeSettings.from_config({"form": "paper", key: value})
    (mend, *_) = overrides_after("Set ", str(error.value))
    PrimeSettings.from_config(composed("+method=prime", "algorithm.prime.form=paper", mend).algorithm.prime)


def test_no_reward_at_all() -> None:
    with pytest.raises(
        SettingsError, match=r"reward_dpo_coef=0 and algorithm\.prime\.reward_gt_coef=0 leave no reward"
    ):
        PrimeSettings.from_config({"reward_dpo_coef": 0, "reward_gt_coef": 0})


def test_the_norm_follows_the_form() -> None:
    assert [PrimeSettings(form=form).norm for form in ("upstream", "paper")] == ["batch_norm", "none"]
    assert PrimeSettings(prime_norm="none").norm == "none"


def test_every_form_is_one_of_the_advantage() -> None:
    for form in ("upstream", "paper"):
        settings = PrimeSettings(form=form)
        Options(form=settings.form, prime_norm=settings.norm, prime_granularity=settings.prime_granularity)


def test_the_reference_is_a_field_of_the_batch() -> None:
    assert PrimeSettings().reference_field == "ref_log_prob"
    assert PrimeSettings(ref_type="policy").reference_field == "old_log_probs"


def test_the_yaml_has_the_defaults_of_the_types() -> None:
    group = composed("+method=prime").algorithm.prime
    assert PrimeSettings.from_config(group) == PrimeSettings()
    written = OmegaConf.to_container(group)
    assert isinstance(written, dict)
    assert set(written) == {field.name for field in dataclasses.fields(PrimeSettings)}
    assert set(written["optim"]) == {field.name for field in dataclasses.fields(OptimSettings)}


def test_the_defaults_are_upstreams() -> None:
    """As in verl-recipe's prime_trainer.yaml."""
    settings = PrimeSettings()
    assert (settings.beta_train, settings.loss_type, settings.update, settings.ref_type) == (
        0.05,
        "ce",
        "before",
        "freeze",
    )
    assert (settings.prime_granularity, settings.norm) == ("token", "batch_norm")
    assert (settings.reward_gt_coef, settings.reward_dpo_coef) == (5, 5)
    assert (settings.optim.lr, settings.optim.weight_decay, settings.optim.grad_clip) == (1e-6, 0.0, 10.0)
    assert (settings.optim.lr_warmup_steps, settings.optim.lr_scheduler_type) == (-1, "constant")
    assert (settings.filter_accuracy, settings.filter_truncate, settings.oversample_factor) == (True, True, 4.0)
    assert (settings.accuracy_lower_bound, settings.accuracy_upper_bound) == (0.2, 0.8)


def test_the_sampler_gets_the_settings() -> None:
    config = composed("+method=prime", "algorithm.prime.oversample_factor=2", "data.max_response_length=77")
    band = Band(**dict(config.trainer.v1.sampler.sampler_kwargs))
    assert band == Band(oversample_factor=2, max_response_length=77)


def test_all_defaults_without_the_group() -> None:
    assert PrimeSettings.from_config(None) == PrimeSettings.from_config({}) == PrimeSettings()
