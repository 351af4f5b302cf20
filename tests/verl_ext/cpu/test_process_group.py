"""A process group on the host, through verl's own function."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed
from verl.checkpoint_engine import base as checkpoint_engine
from verl.utils import distributed as verl_distributed
from verl.workers import engine_workers

from tests.support import free_ports, on_cpu

pytestmark = on_cpu


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (port,) = free_ports(1)
    settings = {"RANK": "0", "WORLD_SIZE": "1", "DIST_INIT_METHOD": f"tcp://127.0.0.1:{port}"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def test_verl_gets_one_gloo_backend(address: None) -> None:
    verl_distributed.initialize_global_process_group_ray(timeout_second=60)
    assert torch.distributed.get_backend() == "cpu:gloo"
    numbers = torch.tensor([1.0, 2.0])
    torch.distributed.all_reduce(numbers)
    assert numbers.tolist() == [1.0, 2.0]


def test_torch_still_refuses_what_verl_would_ask_for(address: None) -> None:
    """When it does not any more, the patch can go."""
    with pytest.raises(ValueError, match="Duplicate device type"):
        verl_distributed.initialize_global_process_group_ray.__wrapped__(timeout_second=60)


def test_a_backend_that_is_asked_for_is_kept(address: None) -> None:
    with pytest.raises(AssertionError, match="NO-SUCH-BACKEND"):
        verl_distributed.initialize_global_process_group_ray(backend="cpu:no-such-backend")


@pytest.mark.parametrize("module", [verl_distributed, engine_workers, checkpoint_engine])
def test_every_module_that_binds_the_name_has_the_patched_one(module: object) -> None:
    function = module.initialize_global_process_group_ray  # type: ignore[attr-defined]
    assert function.__verl_ext_patch__ == ("verl_ext.cpu.process_group",)
