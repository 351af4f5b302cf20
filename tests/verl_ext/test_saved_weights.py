"""Weights that verl puts aside stay what they were when the model is trained on, in the host's memory too."""

from __future__ import annotations

import tempfile

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from verl.utils import fsdp_utils


def test_what_was_saved_is_not_changed_by_an_update() -> None:
    with tempfile.NamedTemporaryFile() as file:
        dist.init_process_group("gloo", init_method=f"file://{file.name}", rank=0, world_size=1)
        try:
            model = torch.nn.Linear(3, 2)
            fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
            before = model.weight.full_tensor().detach().clone()
            saved, spec = fsdp_utils.fsdp2_sharded_save_to_cpu(model)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(1.0)
            assert not torch.equal(model.weight.full_tensor(), before)
            fsdp_utils.fsdp2_sharded_load_from_cpu(model, saved, spec)
            assert torch.equal(model.weight.full_tensor(), before)
        finally:
            dist.destroy_process_group()
