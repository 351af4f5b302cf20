"""verl's own actor on ranks of gloo: moved away from its start, then saved as verl saves a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from tests.verl_ext import reference_ranks
from tests.verl_ext.reference_ranks import LORA

SAVE_LORA_ONLY = "+actor_rollout_ref.actor.checkpoint.save_lora_only=true"

# What is saved: the overrides of each.
KINDS: dict[str, list[str]] = {"full": [], "lora": LORA, "adapter": [*LORA, SAVE_LORA_ONLY]}


def rank_main(rank: int, ranks: int, port: int, model_folder: Path, folder: Path) -> None:
    """What each process runs: a checkpoint of every kind, and beside it what the actor says and sends."""
    os.environ.update(reference_ranks.environment(rank, ranks, port))
    torch.set_num_threads(1)

    import verl  # noqa: F401 (loads the plugins)

    import recipe.spro.plugin  # noqa: F401

    for kind, overrides in KINDS.items():
        worker = reference_ranks.make_worker(model_folder, ["+stack=cpu", *overrides])
        generator = torch.Generator().manual_seed(rank)
        for weight in reference_ranks._trained(worker).values():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
        worker.actor.save_checkpoint(str(folder / kind / "checkpoints" / "global_step_3" / "actor"), global_step=3)
        batch = reference_ranks._batch(rank)
        log_probs = worker.compute_log_prob(batch)["log_probs"]
        # As the rollout engine is given them: whole tensors, LoRA merged.
        sent, _ = worker.actor.engine.get_per_tensor_param(base_sync_done=True)
        seen = {
            "input_ids": list(batch["input_ids"].unbind()),
            "log_probs": [row.clone() for row in log_probs.unbind()],
            "sent": {name: weight.clone() for name, weight in sent},
        }
        torch.save(seen, folder / kind / f"rank-{rank}.pt")
    torch.distributed.destroy_process_group()
