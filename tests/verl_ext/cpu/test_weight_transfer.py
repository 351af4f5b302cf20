"""The checkpoint engine of the host: what a trainer's rank 0 sends, every rollout worker receives, again and again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import ray
import torch
from verl.checkpoint_engine import CheckpointEngineRegistry

from tests.support import on_cpu
from verl_ext.cpu.weight_transfer import BACKEND

pytestmark = on_cpu


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Two ranks of a trainer, then two rollout workers."""
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    engine = CheckpointEngineRegistry.get(BACKEND)
    return [engine(bucket_size=1, is_master=rank == 0) for rank in range(2)] + [engine(bucket_size=1) for _ in range(2)]


def sync(engines: list[Any], weights: dict[str, torch.Tensor]) -> tuple[list[dict[str, torch.Tensor]], list[list[str]]]:
    """One synchronisation, as verl's manager makes it; what was received, and what each trainer rank walked through."""
    addresses = [engine.prepare() for engine in engines]
    actors, rollouts = type(engines[0]).build_topology(2, 2, addresses)
    for engine, address in zip(engines, actors["address"] + rollouts["address"], strict=True):
        engine.init_process_group(address)
    walked: list[list[str]] = [[], []]

    async def everybody() -> list[Any]:
        def walk(rank: int) -> Any:
            for name, weight in weights.items():
                walked[rank].append(name)
                yield name, weight

        async def receive(engine: Any) -> dict[str, torch.Tensor]:
            return {name: weight async for name, weight in engine.receive_weights(global_steps=1)}

        # Whoever receives may ask before anything is sent.
        receiving = [asyncio.create_task(receive(engine)) for engine in engines[2:]]
        await asyncio.sleep(0.05)
        await asyncio.gather(*(engine.send_weights(walk(rank)) for rank, engine in enumerate(engines[:2])))
        return list(await asyncio.gather(*receiving))

    received = asyncio.run(everybody())
    for engine in engines:
        engine.finalize()
    return received, walked


def test_weights_arrive_as_they_are_in_each_synchronisation(engines: list[Any]) -> None:
    large = torch.randn(300, 70)
    # A view, a scalar, another dtype; then fewer and others.
    first = {"a": large[:, 3:5], "b": torch.tensor(3), "c": torch.ones(2, 3, dtype=torch.bfloat16)}
    for weights in (first, {"a": large}):
        received, walked = sync(engines, weights)
        for one in received:
            assert list(one) == list(weights)
            for name, weight in weights.items():
                assert one[name].dtype == weight.dtype
                assert torch.equal(one[name], weight)
        # To gather a weight is collective: each rank of the trainer takes part.
        assert walked == [list(weights)] * 2


def test_only_the_weights_of_a_view_travel(engines: list[Any]) -> None:
    row = torch.zeros(1000, 1000)[:1]
    engines[0].prepare()
    asyncio.run(engines[0].send_weights(iter([("row", row)])))
    assert len(engines[0].store.get("0")) < 2 * row.nbytes
