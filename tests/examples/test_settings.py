"""What a run is, from the environment of run.sh."""

from __future__ import annotations

import pytest

from examples.arithmetic.settings import beta_of, name, settings

ENVIRONMENT = {"METHOD": "spro", "LR": "1e-4", "SEED": "2", "STEPS": "80", "HELDOUT_N": "1000", "RANKS": "1"}


@pytest.mark.parametrize(
    ("method", "asked", "beta"),
    [
        ("spro", "", 0.01),
        ("spro", "0.03", 0.03),
        ("spro_bounded", "", 0.1),
        ("spro_shuffled", "", 0.01),
        ("frpo", "", 0.01),
        # It has no process term, but a coefficient that depends on beta.
        ("grpo_neg_kl", "0.03", 0.03),
        ("grpo", "", None),
        ("dapo", "", None),
    ],
)
def test_beta_is_the_methods_unless_asked_for(method: str, asked: str, beta: float | None) -> None:
    assert beta_of(method, asked) == beta


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"METHOD": "ppo"}, "METHOD=ppo: must be one of .*grpo_neg_kl"),
        ({"METHOD": "grpo", "BETA": "0.01"}, "BETA=0.01: METHOD=grpo has no beta"),
        ({"RM_LR": "1e-6"}, "RM_LR=1e-6: METHOD=spro has no reward model"),
        ({"LR": "fast"}, "fast"),
    ],
)
def test_what_is_not_allowed_is_named(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(ENVIRONMENT | changes, [])


@pytest.mark.parametrize(
    ("override", "variable"),
    [
        ("algorithm.spro.beta=0.5", "BETA"),
        ("++trainer.total_training_steps=3", "STEPS"),
        ("trainer.nnodes=2", "NNODES"),
    ],
)
def test_an_override_of_what_the_environment_sets_is_refused(override: str, variable: str) -> None:
    with pytest.raises(ValueError, match=f"set {variable}= in the environment"):
        settings(ENVIRONMENT, [override])


def test_names_are_those_of_the_kept_runs() -> None:
    assert name(ENVIRONMENT | {"BETA": "0.10"}, 0.1) == "spro-beta0.10-lr1e-4-seed2"
    assert name(ENVIRONMENT, settings(ENVIRONMENT, [])["beta"]) == "spro-beta0.01-lr1e-4-seed2"
    assert name(ENVIRONMENT | {"METHOD": "grpo"}, None) == "grpo-lr1e-4-seed2"


def test_nodes_are_named_where_there_are_several() -> None:
    assert settings(ENVIRONMENT | {"NNODES": "1"}, []) == settings(ENVIRONMENT, [])
    assert settings(ENVIRONMENT | {"NNODES": "2"}, [])["nodes"] == 2


def test_settings_of_a_sweeps_run_have_not_changed() -> None:
    assert settings(ENVIRONMENT | {"BETA": "0.03"}, ["a=b"]) == {
        "method": "spro",
        "beta": 0.03,
        "lr": 1e-4,
        "seed": 2,
        "steps": 80,
        "heldout_n": 1000,
        "ranks": 1,
        "overrides": ["a=b"],
    }
