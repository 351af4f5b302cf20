"""What fails on the host is refused with the override that mends it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support import composed, on_cpu, overrides_after
from verl_ext import config_checks
from verl_ext.config_checks import ConfigError
from verl_ext.cpu.limits import check


@pytest.mark.parametrize(
    "lora",
    [
        ("actor_rollout_ref.model.lora_rank=8",),
        ("++actor_rollout_ref.model.lora.rank=8",),
        ("actor_rollout_ref.model.lora_adapter_path=/some/adapter",),
    ],
)
def test_an_unmerged_adapter_is_refused_and_the_override_mends_it(lora: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="the run hangs") as error:
        check(composed("+stack=cpu", *lora))
    mended = overrides_after("Merge it for the rollout: ", str(error.value))
    assert mended == ["actor_rollout_ref.model.lora.merge=True"]
    check(composed("+stack=cpu", *lora, *mended))


@pytest.mark.parametrize("backend", ["nccl", "nixl", "mooncake"])
def test_weights_travel_through_the_host(backend: str) -> None:
    key = "actor_rollout_ref.rollout.checkpoint_engine.backend"
    separate = ["+stack=cpu", "trainer.v1.trainer_mode=separate_async", f"{key}={backend}"]
    with pytest.raises(ConfigError, match=f"^{key}={backend} sends weights between accelerators") as error:
        check(composed(*separate))
    mended = overrides_after("Set ", str(error.value))
    assert mended == [f"{key}=tcp_store"]
    check(composed(*separate, *mended))
    # In other modes it is not used.
    check(composed("+stack=cpu", f"{key}={backend}"))


def test_no_adapter_is_no_fault() -> None:
    check(composed("+stack=cpu"))
    check(composed())


@pytest.mark.parametrize(
    ("overrides", "marker", "mended"),
    [
        (
            ["+stack=cpu", "model_engine=megatron"],
            "Use ",
            ["model_engine=megatron", "+stack=cpu_megatron"],
        ),
        (["+stack=cpu_megatron"], "Use ", ["model_engine=megatron", "+stack=cpu_megatron"]),
        (
            ["+stack=cpu_megatron", "model_engine=megatron", "actor_rollout_ref.model.use_remove_padding=True"],
            "Set ",
            ["actor_rollout_ref.model.use_remove_padding=False"],
        ),
        (
            ["+stack=cpu_megatron", "model_engine=megatron", "actor_rollout_ref.actor.megatron.vanilla_mbridge=False"],
            "Set ",
            ["actor_rollout_ref.actor.megatron.vanilla_mbridge=True"],
        ),
        (
            ["+stack=cpu_megatron", "model_engine=megatron", "trainer.save_freq=5"],
            "Set ",
            ["trainer.save_freq=-1"],
        ),
    ],
)
def test_an_engine_without_its_own_stack_is_refused(overrides: list[str], marker: str, mended: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        check(composed(*overrides))
    assert overrides_after(marker, str(error.value)) == mended


def test_megatron_with_its_stack_passes_and_so_does_a_cluster() -> None:
    check(composed("+stack=cpu_megatron", "model_engine=megatron"))
    check(composed("model_engine=megatron"))


@on_cpu
def test_the_plugin_checks_it_here() -> None:
    checks: list[Callable[[Any], None]] = config_checks._checks
    assert check in checks
