"""verl's FSDP engine on the host: registered, and with unpinned offloading."""

from __future__ import annotations

import pytest
import torch.distributed.fsdp
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp import transformer_impl

from tests.support import on_cpu

pytestmark = on_cpu


@pytest.mark.parametrize("backend", ["fsdp", "fsdp2"])
@pytest.mark.parametrize("model_type", ["language_model", "value_model"])
def test_the_engine_of_cuda_serves_the_cpu(model_type: str, backend: str) -> None:
    by_device = EngineRegistry._engines[model_type][backend]
    assert by_device["cpu"] is by_device["cuda"]
    # As verl looks it up, by its own device.
    assert EngineRegistry.get_engine_cls(model_type, backend) is by_device["cuda"]


def test_the_engines_are_the_fsdp_ones() -> None:
    engines = EngineRegistry._engines
    assert engines["language_model"]["fsdp2"]["cpu"] is transformer_impl.FSDPEngineWithLMHead
    assert engines["value_model"]["fsdp2"]["cpu"] is transformer_impl.FSDPEngineWithValueHead


@pytest.mark.parametrize("arguments", [{}, {"pin_memory": True}, {"pin_memory": False}])
def test_the_offload_policy_is_never_pinned(arguments: dict[str, bool]) -> None:
    policy = transformer_impl.CPUOffloadPolicy(**arguments)
    assert type(policy) is torch.distributed.fsdp.CPUOffloadPolicy
    assert policy.pin_memory is False


def test_torchs_own_policy_is_left_alone() -> None:
    assert torch.distributed.fsdp.CPUOffloadPolicy(pin_memory=True).pin_memory is True
