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


def test_no_adapter_is_no_fault() -> None:
    check(composed("+stack=cpu"))
    check(composed())


@on_cpu
def test_the_plugin_checks_it_here() -> None:
    checks: list[Callable[[Any], None]] = config_checks._checks
    assert check in checks
