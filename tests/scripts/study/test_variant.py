"""A kept run is a variant's when its settings say so, and never otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scripts.study.variant import Variant

SETTINGS = {"method": "spro", "beta": 0.03, "lr": 0.0001, "seed": 1, "steps": 80, "overrides": []}
VARIANT = Variant("spro", "0.03")


def test_numbers_are_compared_by_value() -> None:
    assert VARIANT.fits(SETTINGS)
    assert replace(VARIANT, beta="3e-2", lr="0.0001").fits(SETTINGS)


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "grpo"},
        {"beta": 0.01},
        {"beta": None},
        {"lr": 2e-4},
        {"overrides": ["a.b=c"]},
        {"ranks": 2},
        {"heldout_n": 100},
    ],
)
def test_another_setting_is_another_run(changed: dict[str, object]) -> None:
    assert not VARIANT.fits({**SETTINGS, **changed})


def test_overrides_are_compared_whatever_their_order() -> None:
    variant = replace(VARIANT, tag="two", overrides=("x=1", "y=2"))
    assert variant.fits({**SETTINGS, "overrides": ["y=2", "x=1"]})
    assert not variant.fits(SETTINGS)


def test_a_method_without_beta_is_not_asked_for_one() -> None:
    assert Variant("grpo").fits({**SETTINGS, "method": "grpo", "beta": None})


def test_prime_is_told_by_its_second_learning_rate_where_that_is_named() -> None:
    settings = {**SETTINGS, "method": "prime", "beta": None, "rm_lr": 2e-4}
    variant = Variant("prime", rm_lr="2e-4")
    assert variant.fits(settings)
    assert not variant.fits({**settings, "rm_lr": 2e-5})
    assert variant.key == "prime-rm2e-4-lr1e-4"
    assert variant.environment(3, 80)["RM_LR"] == "2e-4"
    assert "RM_LR" not in VARIANT.environment(3, 80)


def test_overrides_need_a_name_for_their_files() -> None:
    with pytest.raises(ValueError, match="come together"):
        Variant("spro", "0.03", overrides=("x=1",))
    assert Variant("spro", "0.03", tag="two", overrides=("x=1",)).key == "spro-beta0.03-two-lr1e-4"
