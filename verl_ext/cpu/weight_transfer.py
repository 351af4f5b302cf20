"""Weights from trainers to rollouts in other processes, through the host: checkpoint engine backend ``tcp_store``.

    actor_rollout_ref.rollout.checkpoint_engine.backend=tcp_store

verl's own backends for modes whose trainer and rollout are separate (``trainer_mode=separate_async``, one_step_off,
fully_async) go through an accelerator's memory or RDMA: nccl and nixl import cupy, hccl torch_npu, mooncake its engine.
This one puts each weight into a ``torch.distributed.TCPStore`` of the trainer's first rank, which holds one copy of all
of them meanwhile: for models of this stack's size.

Waits for upstream: a backend without an accelerator.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from types import ModuleType
from typing import Any

from verl_ext.patching import on_import, target

BACKEND = "tcp_store"

# The number of weights; set last, so that whoever has it can get them all.
_LENGTH = "length"


def _register(base: ModuleType) -> None:
    import asyncio
    import io

    import ray
    import torch
    from torch.distributed import TCPStore

    registry = target(base, "CheckpointEngineRegistry", __name__)
    engine = target(base, "CheckpointEngine", __name__)

    class TCPStoreCheckpointEngine(engine):  # type: ignore[misc, valid-type]
        """Rank 0 of the trainer serves the weights, every rollout worker reads them."""

        def __init__(self, bucket_size: int, is_master: bool = False) -> None:
            del bucket_size
            self.is_master = is_master
            self.store: TCPStore | None = None
            self.sent = 0

        def prepare(self) -> tuple[str, int] | None:
            """The master's address; None elsewhere."""
            if not self.is_master:
                return None
            if self.store is None:
                host = ray.util.get_node_ip_address().strip("[]")
                self.store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
            return self.store.host, self.store.port

        @classmethod
        def build_topology(
            cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[Any]
        ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
            address = metadata[0]
            return {"address": [address] * actor_wg_world_size}, {"address": [address] * rollout_world_size}

        def init_process_group(self, address: tuple[str, int]) -> None:
            if not self.is_master and self.store is None:
                self.store = TCPStore(*address, is_master=False)

        def finalize(self) -> None:
            """Forget the weights: everybody has them."""
            if self.is_master and self.store is not None:
                for key in (_LENGTH, *map(str, range(self.sent))):
                    self.store.delete_key(key)
            self.sent = 0

        async def send_weights(
            self, weights: Generator[tuple[str, torch.Tensor], None, None], global_steps: int | None = None
        ) -> None:
            # Every rank walks through them: to gather a weight is collective.
            for name, weight in weights:
                if not self.is_master or self.store is None:
                    continue
                buffer = io.BytesIO()
                torch.save((name, weight.detach().clone()), buffer)
                self.store.set(str(self.sent), buffer.getvalue())
                self.sent += 1
            if self.is_master and self.store is not None:
                self.store.set(_LENGTH, str(self.sent))

        async def receive_weights(
            self, global_steps: int | None = None
        ) -> AsyncGenerator[tuple[str, torch.Tensor], None]:
            assert self.store is not None, "init_process_group comes first"
            length = int(await asyncio.to_thread(self.store.get, _LENGTH))
            for index in range(length):
                data = await asyncio.to_thread(self.store.get, str(index))
                yield torch.load(io.BytesIO(data), weights_only=True)

    registry.register(BACKEND)(TCPStoreCheckpointEngine)


def install() -> None:
    on_import("verl.checkpoint_engine.base", _register)
