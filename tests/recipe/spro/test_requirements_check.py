"""What SPRO needs of a run: each refusal ends in an override, and exactly that override mends it."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from recipe.spro import requirements_check
from recipe.spro.requirements_check import check
from tests.support import composed, overrides_after
from verl_ext import reference_update
from verl_ext.config_checks import ConfigError
from verl_ext.reference_weights import Schedule


@pytest.fixture(autouse=True)
def _without_flash_attn(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without it, wherever the tests run."""
    found = importlib.util.find_spec

    def fake_find_spec(name: str, package: str | None = None) -> Any:
        return None if name == "flash_attn" else found(name, package)

    monkeypatch.setattr(requirements_check.importlib.util, "find_spec", fake_find_spec)


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        check(composed(*overrides))
    return str(error.value)


def test_the_recipes_own_configuration_passes() -> None:
    check(composed("+stack=cpu"))


DUMPS = ["+stack=cpu", "+method=grpo", "algorithm.spro.dump.every=10"]


# (overrides with a fault, what the message says first, what stands before the remedy, the remedy)
FAULTS = [
    pytest.param(
        DUMPS,
        "algorithm.spro.dump.every=10: a dump compares the policy with a reference policy, and this run has none",
        "without a KL penalty: ",
        ["algorithm.use_kl_in_reward=True", "algorithm.kl_ctrl.kl_coef=0.0"],
        id="dumps without a reference policy",
    ),
    pytest.param(
        DUMPS,
        "algorithm.spro.dump.every=10: a dump compares the policy with a reference policy, and this run has none",
        "or set ",
        ["algorithm.spro.dump.every=null"],
        id="no reference policy, so no dumps",
    ),
    pytest.param(
        [*DUMPS, "algorithm.use_kl_in_reward=True", "trainer.use_v1=False"],
        "algorithm.spro.dump.every=10: dumps are taken in verl's V1 trainers, and the old trainer is none of them",
        "or use verl.trainer.main_ppo with ",
        ["trainer.use_v1=True"],
        id="dumps in the old trainer",
    ),
    *(
        pytest.param(
            [*DUMPS, "algorithm.use_kl_in_reward=True", fault],
            f"algorithm.spro.dump.every=10: dumps are taken in verl's V1 trainers, and {mode} is none of them",
            "Set ",
            ["algorithm.spro.dump.every=null"],
            id=f"no dumps in {mode}",
        )
        for fault, mode in (
            ("trainer.use_v1=False", "the old trainer"),
            ("+rollout={}", "one_step_off"),
            ("+async_training={}", "fully_async"),
        )
    ),
    *(
        pytest.param(
            ["+stack=cpu", f"algorithm.spro.guard.action={action}", "+rollout={}"],
            f"algorithm.spro.guard.action={action}: the guard looks at the steps of verl's V1 trainers, and "
            "one_step_off is none of them",
            "Set ",
            ["algorithm.spro.guard.action=off"],
            id=f"guard.action={action} in one_step_off",
        )
        for action in ("bound", "stop")
    ),
    pytest.param(
        ["+stack=cpu", "algorithm.use_kl_in_reward=False"],
        "algorithm.adv_estimator=spro compares the policy with a reference policy, and this run has none",
        "without a KL penalty: ",
        ["algorithm.use_kl_in_reward=True", "algorithm.kl_ctrl.kl_coef=0.0"],
        id="no reference policy",
    ),
    pytest.param(
        ["+stack=cpu", "algorithm.use_kl_in_reward=False", "algorithm.kl_ctrl.kl_coef=0.001"],
        "algorithm.adv_estimator=spro compares the policy with a reference policy, and this run has none",
        "without a KL penalty: ",
        ["algorithm.use_kl_in_reward=True", "algorithm.kl_ctrl.kl_coef=0.0"],
        id="no reference policy, verl's own kl_coef",
    ),
    pytest.param(
        ["+stack=cpu", "algorithm.kl_ctrl.kl_coef=0.001"],
        "algorithm.kl_ctrl.kl_coef=0.001: a KL penalty inside the reward is not part of SPRO",
        "Set ",
        ["algorithm.kl_ctrl.kl_coef=0.0"],
        id="KL inside the reward",
    ),
    pytest.param(
        ["+stack=cpu", "algorithm.spro.beta_schedule={kind:linear,steps:80}", "trainer.use_v1=False"],
        "algorithm.spro.beta_schedule.kind=linear with trainer.use_v1=False: that trainer does not tell",
        "Set ",
        ["trainer.use_v1=True"],
        id="a schedule by steps without steps",
    ),
    pytest.param(
        ["+stack=cpu", "algorithm.rollout_correction.bypass_mode=True"],
        "algorithm.rollout_correction.bypass_mode=True takes old_log_probs from the rollout engine",
        "Set ",
        ["algorithm.rollout_correction.bypass_mode=False"],
        id="bypass_mode, switched off",
    ),
    pytest.param(
        ["+stack=cpu", "algorithm.rollout_correction.bypass_mode=True"],
        "algorithm.rollout_correction.bypass_mode=True takes old_log_probs from the rollout engine",
        "or accept it with ",
        ["++algorithm.spro.allow_rollout_log_probs=true"],
        id="bypass_mode, accepted",
    ),
    pytest.param(
        [],
        "actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype is bf16 and flash-attn is not used",
        "or compute in float32: ",
        [
            f"++actor_rollout_ref.{role}.fsdp_config.mixed_precision="
            "{param_dtype:fp32,reduce_dtype:fp32,buffer_dtype:fp32}"
            for role in ("actor", "ref")
        ],
        id="bf16 by default",
    ),
    pytest.param(
        ["+stack=cpu", "actor_rollout_ref.ref.fsdp_config.mixed_precision={param_dtype:bf16}"],
        "actor_rollout_ref.ref.fsdp_config.mixed_precision.param_dtype is bf16 and flash-attn is not used",
        "or compute in float32: ",
        [
            f"++actor_rollout_ref.{role}.fsdp_config.mixed_precision="
            "{param_dtype:fp32,reduce_dtype:fp32,buffer_dtype:fp32}"
            for role in ("actor", "ref")
        ],
        id="bf16 of the reference",
    ),
]


@pytest.mark.parametrize(("overrides", "says", "marker", "remedy"), FAULTS)
def test_the_override_of_the_message_mends_it(overrides: list[str], says: str, marker: str, remedy: list[str]) -> None:
    message = refused(*overrides)
    assert message.startswith(says)
    assert overrides_after(marker, message) == remedy
    check(composed(*overrides, *remedy))


OTHER_TRAINERS = ["trainer.use_v1=False", "+rollout={}", "+async_training={}"]


@pytest.mark.parametrize("other", OTHER_TRAINERS)
def test_a_guard_that_would_watch_nothing_is_told(other: str, capsys: pytest.CaptureFixture[str]) -> None:
    check(composed("+stack=cpu", other))
    message = capsys.readouterr().err
    assert message.strip().startswith("warning: algorithm.spro.guard.action=warn has no effect")
    assert message.count("warning: ") == 1
    check(composed("+stack=cpu", other, *overrides_after("Set ", message)))
    check(composed("+stack=cpu", "trainer.v1.trainer_mode=separate_async"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("other", OTHER_TRAINERS)
def test_a_beta_that_is_not_kept_is_told(other: str, capsys: pytest.CaptureFixture[str]) -> None:
    adaptive = ["+stack=cpu", "algorithm.spro.beta_schedule={kind:adaptive,target_share:0.03}"]
    off = "++algorithm.spro.guard.action=off"
    check(composed(*adaptive, other, off))
    message = capsys.readouterr().err
    assert "beta_schedule.kind=adaptive" in message
    check(composed(*adaptive, other, off, *overrides_after("Set ", message)))
    check(composed(*adaptive))
    assert capsys.readouterr().err == ""


def test_a_kl_loss_brings_the_reference_too() -> None:
    kl_loss = ["actor_rollout_ref.actor.use_kl_loss=True", "actor_rollout_ref.actor.kl_loss_coef=0.0"]
    # The coefficient of the reward's penalty has no effect then.
    check(
        composed("+stack=cpu", "algorithm.use_kl_in_reward=False", "algorithm.kl_ctrl.kl_coef=0.001", *kl_loss),
    )


@pytest.mark.parametrize(
    ("stack", "mixed"),
    [(["+stack=cpu"], "null"), (["+stack=cpu"], "{param_dtype:float16}"), ([], "{reduce_dtype:fp32}"), ([], "{}")],
)
def test_a_precision_that_is_not_float32_is_refused(stack: list[str], mixed: str) -> None:
    message = refused(*stack, f"++actor_rollout_ref.actor.fsdp_config.mixed_precision={mixed}")
    assert "bfloat16 log-probs turn that sum into quantisation noise" in message


def test_another_machines_flash_attn_is_left_to_the_first_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    check(composed("+ray_kwargs.ray_init.address=auto"))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    check(composed())


def test_bf16_is_accepted_where_the_log_probs_are_float32_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    check(composed("actor_rollout_ref.model.use_fused_kernels=True"))
    check(composed("actor_rollout_ref.actor.strategy=veomni"))
    with monkeypatch.context() as patch:

        def fake_find_spec(name: str) -> object:
            return object()

        patch.setattr(requirements_check.importlib.util, "find_spec", fake_find_spec)
        check(composed())
    with pytest.raises(ConfigError):
        check(composed())


@pytest.mark.parametrize(
    "override",
    [
        "algorithm.spro.beta=-1",
        "+algorithm.spro.bta=0.1",
        "algorithm.spro=3",
        "algorithm.spro.step=word",
        "algorithm.spro.step_delimiters=[a]",
        "algorithm.spro.ref_update.mode=always",
        "+algorithm.spro.ref_update.evry=2",
    ],
)
def test_bad_settings_are_told_here(override: str) -> None:
    message = refused("+stack=cpu", override)
    assert message.startswith(override.removeprefix("+").split("=")[0])


UPDATED = ["++algorithm.spro.ref_update.mode=ema", "++algorithm.spro.ref_update.decay=0.9"]


@pytest.mark.parametrize("group", [[], ["~algorithm.spro"]], ids=["main_spro", "verl's own entry"])
def test_a_reference_that_moves_is_asked_for_by_the_settings(group: list[str]) -> None:
    import recipe.spro.plugin  # noqa: F401 (its import registers the source)

    config = composed("+stack=cpu", *group, *UPDATED)
    check(config)
    reference_update.check(config)
    source, schedule = reference_update.asked_by(config) or (None, None)
    assert schedule == Schedule(every=1, decay=0.9)
    assert source is not None
    assert source.key == "algorithm.spro.ref_update"
    off = composed("+stack=cpu", *group, *UPDATED, *source.off.split())
    check(off)
    assert reference_update.asked_by(off) is None
    assert reference_update.asked_by(composed("+stack=cpu", *group, *UPDATED, "algorithm.adv_estimator=grpo")) is None


@pytest.mark.parametrize("method", ["grpo", "grpo_kl"])
@pytest.mark.parametrize("mode", [["mode=ema", "decay=0.9"], ["mode=every", "every=40"]], ids=str)
def test_a_reference_that_would_not_move_is_told(method: str, mode: list[str]) -> None:
    asked = ["+stack=cpu", f"+method={method}", *(f"algorithm.spro.ref_update.{setting}" for setting in mode)]
    message = refused(*asked)
    assert message.startswith(f"algorithm.spro.ref_update.{mode[0]} moves the reference policy of SPRO's estimators")
    assert "algorithm.adv_estimator=grpo is none of them" in message
    check(composed(*asked, *overrides_after("Set ", message)))


@pytest.mark.parametrize("estimator", requirements_check.ESTIMATORS)
def test_the_reference_moves_for_each_of_our_estimators(estimator: str) -> None:
    config = composed("+stack=cpu", *UPDATED, f"algorithm.adv_estimator={estimator}")
    check(config)
    assert requirements_check.reference_schedule(config) == Schedule(every=1, decay=0.9)


def test_without_the_group_of_settings() -> None:
    """verl's own entry composes verl's own configuration, which has no `algorithm.spro`."""
    check(composed("+stack=cpu", "~algorithm.spro"))
    check(composed("+stack=cpu", "~algorithm.spro", "++algorithm.spro.beta=0.1"))


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["algorithm.use_kl_in_reward=False"],
        ["algorithm.kl_ctrl.kl_coef=0.1"],
        ["algorithm.rollout_correction.bypass_mode=True"],
        ["+algorithm.spro.bta=3"],
    ],
)
def test_a_run_with_another_estimator_passes_untouched(overrides: list[str]) -> None:
    config = composed("algorithm.adv_estimator=grpo", *overrides)
    before = str(config)
    check(config)
    assert str(config) == before


def test_spro_passes_untouched_too() -> None:
    config = composed("+stack=cpu")
    before = str(config)
    check(config)
    assert str(config) == before


def test_dumps_are_for_any_estimator() -> None:
    check(composed(*DUMPS, "algorithm.use_kl_in_reward=True"))
    # Their settings are read then, and only then.
    message = refused(*DUMPS, "algorithm.use_kl_in_reward=True", "algorithm.spro.dump.groups=0")
    assert message == "algorithm.spro.dump.groups=0: must be a whole number > 0."
    check(composed("+stack=cpu", "+method=grpo", "algorithm.spro.dump.groups=0"))


def test_figures_need_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        requirements_check.importlib.util,
        "find_spec",
        lambda name, package=None: None if name in ("matplotlib", "flash_attn") else found(name, package),
    )
    shown = ["+stack=cpu", "algorithm.spro.dump.every=10", "trainer.logger=[tensorboard]"]
    message = refused(*shown)
    assert message.startswith("algorithm.spro.dump.images=true draws into tensorboard with matplotlib")
    check(composed(*shown, message.split(", or ")[1]))
    check(composed(*shown[:2], "trainer.logger=[console]"))
