"""What PRIME needs of a run: each refusal ends in an override, and exactly that override mends it."""

from __future__ import annotations

import pytest

from recipe.prime_v1.requirements_check import check
from tests.support import composed, overrides_after
from verl_ext.config_checks import ConfigError

PRIME = ["+stack=cpu", "+method=prime"]
NO_SAMPLER = ["trainer.v1.sampler.custom_sampler.path=null", "trainer.v1.sampler.custom_sampler.name=null"]


def refused(overrides: list[str]) -> str:
    with pytest.raises(ConfigError) as error:
        check(composed(*overrides))
    return str(error.value)


def test_the_methods_own_configuration_passes() -> None:
    check(composed(*PRIME))


def test_other_estimators_pass_whatever_they_set() -> None:
    check(composed(*PRIME, "algorithm.adv_estimator=spro", "algorithm.prime.beta_train=-1"))


# (overrides with a fault, what the message says first, what stands before the remedy)
FAULTS = [
    pytest.param(["trainer.use_v1=False"], "trainer.use_v1=False: PRIME's reward model is a worker", "Set "),
    pytest.param(
        ["+async_training={}"],
        "algorithm.adv_estimator=prime: PRIME's reward model is a worker of verl's V1 trainers, and fully_async is",
        None,
    ),
    pytest.param(
        ["actor_rollout_ref.actor.strategy=torchtitan"],
        "actor_rollout_ref.actor.strategy=torchtitan: PRIME's reward model takes the actor's engine",
        "Set ",
    ),
    pytest.param(
        ["algorithm.prime.ref_path=/elsewhere"],
        "algorithm.prime.ref_path=/elsewhere: the reference of the implicit reward is verl's reference policy",
        "Set ",
    ),
    pytest.param(
        ["algorithm.use_kl_in_reward=False"],
        "algorithm.prime.ref_type=freeze compares the reward model with the reference policy, and this run has none",
        "without a KL penalty: ",
    ),
    pytest.param(
        ["algorithm.prime.ref_type=policy", "algorithm.rollout_correction.bypass_mode=True"],
        "algorithm.rollout_correction.bypass_mode=True takes old_log_probs from the rollout engine",
        "Set ",
    ),
    pytest.param(
        ["algorithm.prime.ref_type=policy", "algorithm.log_prob_gate.enable=True"],
        "algorithm.log_prob_gate.enable=True takes old_log_probs from the rollout engine",
        "Set ",
    ),
    pytest.param(
        ["algorithm.kl_ctrl.kl_coef=0.001"],
        "algorithm.kl_ctrl.kl_coef=0.001: PRIME's outcome is the verifier's score",
        "Set ",
    ),
    pytest.param(
        ["data.train_batch_size=16", "algorithm.prime.mini_batch_size=16", "data.train_batch_size=24"],
        "algorithm.prime.mini_batch_size=16: must divide data.train_batch_size=24",
        None,
    ),
    pytest.param(
        ["trainer.v1.trainer_mode=separate_async"],
        "trainer.v1.trainer_mode=separate_async: the accuracy band fills each batch",
        "Set ",
    ),
    pytest.param(
        ["trainer.v1.trainer_mode=colocate_async"],
        "trainer.v1.trainer_mode=colocate_async: the accuracy band fills each batch",
        "go without the band: ",
    ),
    pytest.param(
        ["algorithm.filter_groups.enable=True"],
        "algorithm.filter_groups.enable=True: verl's group filter and PRIME's accuracy band are two samplers",
        "go without the band: ",
    ),
    pytest.param(
        NO_SAMPLER,
        "trainer.v1.sampler.custom_sampler.path=None: algorithm.prime.filter_accuracy and filter_truncate act in",
        "switch both off: ",
    ),
    pytest.param(["data.gen_batch_size=null"], "data.gen_batch_size=None: PRIME's accuracy band adds single", "Set "),
    pytest.param(
        ["reward.reward_model.enable=True"],
        "reward.reward_model.enable_resource_pool=False: a reward model on the actor's GPUs gives its scores after",
        "Set ",
    ),
]


@pytest.mark.parametrize(("fault", "says", "before_remedy"), FAULTS)
def test_each_fault_is_told_and_its_override_mends_it(fault: list[str], says: str, before_remedy: str | None) -> None:
    message = refused([*PRIME, *fault])
    assert message.startswith(says)
    if before_remedy is not None:
        remedy = overrides_after(before_remedy, message)
        assert remedy
        check(composed(*PRIME, *fault, *remedy))


def test_the_settings_own_errors_are_told() -> None:
    message = refused([*PRIME, "algorithm.prime.oversample_factor=0.5"])
    assert message.startswith("algorithm.prime.oversample_factor=0.5: must be a finite number >= 1")


@pytest.mark.parametrize(
    "overrides",
    [
        ["algorithm.prime.ref_type=policy", "algorithm.use_kl_in_reward=False"],
        ["algorithm.use_kl_in_reward=False", "actor_rollout_ref.actor.use_kl_loss=True"],
        ["algorithm.rollout_correction.bypass_mode=True"],
        ["actor_rollout_ref.model.path=/a", "algorithm.prime.ref_path=/a"],
        ["algorithm.prime.filter_accuracy=false"],
        ["data.train_batch_size=24", "algorithm.prime.mini_batch_size=12"],
        ["reward.reward_model.enable=True", "reward.reward_model.enable_resource_pool=True"],
    ],
)
def test_what_is_fine(overrides: list[str]) -> None:
    check(composed(*PRIME, *overrides))
