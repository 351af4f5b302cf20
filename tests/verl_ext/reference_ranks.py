"""verl's own workers on one or two ranks of gloo, without Ray and rollout: each rank writes down what it sees."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

LORA = [
    "actor_rollout_ref.model.lora_rank=4",
    "actor_rollout_ref.model.lora_alpha=8",
    "actor_rollout_ref.model.lora.merge=True",
    "actor_rollout_ref.model.target_modules=all-linear",
]

# Parameters stay gathered after a forward.
GATHERED = [f"actor_rollout_ref.{role}.fsdp_config.reshard_after_forward=false" for role in ("actor", "ref")]

# The kinds of models that are looked at: the overrides of each.
KINDS: dict[str, list[str]] = {
    "full": [],
    "full, gathered": GATHERED,
    "full, offloaded": ["actor_rollout_ref.actor.fsdp_config.param_offload=true"],
    "lora": LORA,
    "lora, gathered": [*LORA, *GATHERED],
}

DECAY = 0.75


def kinds_on(ranks: int) -> list[str]:
    """All on one rank; on two, which is slow, those that differ there."""
    return list(KINDS) if ranks == 1 else ["full, gathered", "lora"]


def worker_overrides(model_folder: Path) -> list[str]:
    """What a worker of this small model needs to hear, whatever engine it is."""
    return [
        f"actor_rollout_ref.model.path={model_folder}",
        "actor_rollout_ref.actor.ppo_mini_batch_size=4",
        "actor_rollout_ref.actor.optim.total_training_steps=10",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1",
        *(f"actor_rollout_ref.{role}.log_prob_micro_batch_size_per_gpu=1" for role in ("rollout", "ref")),
    ]


def make_worker(model_folder: Path, overrides: list[str]) -> Any:
    """verl's worker with actor and reference; the overrides name the stack."""
    from verl.workers.engine_workers import ActorRolloutRefWorker

    from tests.support import composed

    config = composed(*worker_overrides(model_folder), *overrides)
    role = "actor_rollout" if set(LORA) <= set(overrides) else "actor_rollout_ref"
    worker = ActorRolloutRefWorker(config.actor_rollout_ref, role=role)
    # Its rollout would connect to an engine.
    worker.role = role.replace("_rollout", "")
    worker.init_model()
    return worker


def _batch(rank: int, **info: Any) -> Any:
    from verl.utils import tensordict_utils

    def jagged(rows: list[torch.Tensor]) -> torch.Tensor:
        return torch.nested.as_nested_tensor(rows, layout=torch.jagged)

    rows = [torch.arange(3, 9) + 7 * rank, torch.arange(20, 25)]
    fields = {
        "input_ids": jagged(rows),
        "position_ids": jagged([torch.arange(len(row)) for row in rows]),
        "loss_mask": jagged([torch.ones_like(row) for row in rows]),
    }
    return tensordict_utils.get_tensordict(
        fields, {"temperature": 1.0, "calculate_entropy": False, "compute_loss": False, **info}
    )


def _log_probs(worker: Any, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The actor's and the reference's, as verl asks for them."""
    actor = worker.compute_log_prob(_batch(rank))
    if worker.ref is not None:
        reference = worker.compute_ref_log_prob(_batch(rank))
    else:
        reference = worker.compute_log_prob(_batch(rank, no_lora_adapter=True))
    return actor["log_probs"].values().clone(), reference["log_probs"].values().clone()


def _trained(worker: Any) -> dict[str, torch.Tensor]:
    """The actor's own shards of what is trained; changed in place they change the actor."""
    from verl_ext import reference_worker
    from verl_ext.reference_weights import local

    module = worker.actor.engine.module
    weights = reference_worker.sharded(module) if worker.ref is not None else reference_worker.adapter_of(module)
    return {name: local(weight) for name, weight in weights.items()}


def observe(worker: Any, rank: int, folder: Path) -> dict[str, Any]:
    """Two updates, with a change of the actor before each; a save, another update, and a load."""
    from verl_ext import reference_worker
    from verl_ext.reference_worker import LOAD, SAVE, UPDATE

    seen: dict[str, Any] = {}
    generator = torch.Generator().manual_seed(rank)

    def change_actor() -> None:
        for weight in _trained(worker).values():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)

    def look(name: str) -> None:
        reference = reference_worker._weights(worker)
        log_probs = _log_probs(worker, rank)
        seen[name] = {
            "actor": {key: weight.clone() for key, weight in _trained(worker).items()},
            "reference": None if reference is None else {key: weight.clone() for key, weight in reference.items()},
            "actor_log_probs": log_probs[0],
            "reference_log_probs": log_probs[1],
        }

    def sent() -> dict[str, torch.Tensor]:
        """What the rollout engine is given."""
        weights, _ = worker.actor.engine.get_per_tensor_param(base_sync_done=True)
        return {name: weight.clone() for name, weight in weights}

    look("start")
    change_actor()
    look("changed")
    before = sent()
    seen["distance"] = getattr(worker, UPDATE)(DECAY)
    look("averaged")
    after = sent()
    seen["rollout is given the same"] = before.keys() == after.keys() and all(
        torch.equal(before[name], after[name]) for name in before
    )
    change_actor()
    seen["distance to the next"] = getattr(worker, UPDATE)(0.0)
    look("copied")
    getattr(worker, SAVE)(str(folder / "global_step_2" / "reference"), 2)
    change_actor()
    getattr(worker, UPDATE)(0.0)
    look("moved on")
    seen["updates"] = getattr(worker, LOAD)(str(folder / "global_step_2" / "reference"))
    look("loaded")
    seen["optimizer"] = len(worker.actor.engine.optimizer.state)
    return seen


def environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "DIST_INIT_METHOD": f"tcp://127.0.0.1:{port}",
        "VERL_PLATFORM": "cpu",
    }


def rank_main(rank: int, ranks: int, port: int, model_folder: Path, folder: Path) -> None:
    """What each process runs: every kind of model, one after another."""
    os.environ.update(environment(rank, ranks, port))
    torch.set_num_threads(1)

    import verl  # noqa: F401 (loads the plugins)

    import recipe.spro.plugin  # noqa: F401

    seen = {}
    for kind in kinds_on(ranks):
        seen[kind] = observe(make_worker(model_folder, ["+stack=cpu", *KINDS[kind]]), rank, folder / kind)
    torch.save(seen, folder / f"rank-{rank}.pt")
    torch.distributed.destroy_process_group()


Main = Callable[[int, int, int, Path, Path], None]


def run(main: Main, ranks: int, port: int, model_folder: Path, folder: Path) -> None:
    """Start the processes and wait for them; the first exception of one is raised here."""
    torch.multiprocessing.spawn(main, (ranks, port, model_folder, folder), nprocs=ranks)
