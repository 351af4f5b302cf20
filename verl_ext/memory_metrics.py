"""``memory/<component>/<what>_gib``: what actor, reference, critic, reward model and rollout hold, each by itself.

verl logs the peak of a worker process, in which actor and reference live together, and nothing of the rollout's. Here
the engines are asked for what they hold, in all ranks together:

    memory/{actor,reference,critic,reward_model,...}/{weights,gradients,optimizer}_gib
        bytes of the tensors, wherever they are; gradients as they are during the update
    memory/{workers,rollout}/host_peak_gib
        the largest resident memory of the processes on the driver's node so far, libraries included

Activations are in verl's own ``perf/max_memory_allocated_gb``; the rollout's GPU memory is what
``gpu_memory_utilization`` gives it. Engines of FSDP and FSDP2; others are left out. Measured at steps that double,
since nothing of it changes after the first update but the peaks.

Waits for upstream: memory by component.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from verl_ext.companion_model import groups_of
from verl_ext.patching import on_import, target, wrap

METHOD = "verl_ext_memory"

_GIB = 2**30

# How Ray and vLLM name their processes.
_PROCESSES = {"workers": ("ray::WorkerDict",), "rollout": ("ray::vLLMHttpServer", "VLLM::")}


def held_by(engine: Any) -> dict[str, int]:
    """Bytes of weights, gradients and optimizer state of a torch engine, of this rank.

    Gradients are counted as large as the trainable weights, which is what an update needs of them; without an optimizer
    there are none. Nothing at all of an engine whose optimizer is not torch's: a part would pass for the whole.
    """
    import torch

    def size(tensor: Any) -> int:
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        return local.numel() * local.element_size()

    optimizer = getattr(engine, "optimizer", None)
    if not isinstance(engine.module, torch.nn.Module) or not isinstance(optimizer, torch.optim.Optimizer | None):
        return {}
    weights = list(engine.module.parameters())
    held = {"weights": sum(map(size, weights))}
    if optimizer is not None:
        held["gradients"] = sum(size(weight) for weight in weights if weight.requires_grad)
        states = (tensor for state in optimizer.state.values() for tensor in state.values())
        held["optimizer"] = sum(size(tensor) for tensor in states if isinstance(tensor, torch.Tensor))
    return held


def _of_training_worker(self: Any) -> dict[str, dict[str, int]]:
    return {"": held_by(self.engine)}


def _of_actor_worker(self: Any) -> dict[str, dict[str, int]]:
    workers = {"actor": self.actor, "reference": self.ref}
    return {name: held_by(worker.engine) for name, worker in workers.items() if worker is not None}


def _tree(pid: int) -> Iterator[int]:
    """A process and its descendants."""
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return
    for child in children:
        yield from _tree(int(child))


def host_peaks(raylet: int) -> dict[str, int]:
    """Bytes by kind of process: the sum of the largest resident memory of each so far (VmHWM; Linux).

    Args:
        raylet: the process whose descendants are looked at: another cluster's on the same node are not ours.
    """
    peaks: dict[str, int] = {}
    for pid in _tree(raylet):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            # It has ended meanwhile.
            continue
        for kind, names in _PROCESSES.items():
            if command.startswith(names):
                line = next((line for line in status.splitlines() if line.startswith("VmHWM")), None)
                peaks[kind] = peaks.get(kind, 0) + (int(line.split()[1]) * 1024 if line else 0)
    return peaks


def measure(groups: dict[str, Any]) -> dict[str, float]:
    """The metrics, in GiB.

    Args:
        groups: worker groups by the name of what they hold; of an actor's own group the workers tell.
    """
    metrics: dict[str, float] = {}
    for name, group in groups.items():
        for of_rank in getattr(group, METHOD)():
            for component, held in of_rank.items():
                for what, size in held.items():
                    key = f"memory/{component or name}/{what}_gib"
                    metrics[key] = metrics.get(key, 0.0) + size / _GIB
    # Ray's workers are children of the raylet, and so is the driver's task.
    for kind, size in host_peaks(os.getppid()).items():
        metrics[f"memory/{kind}/host_peak_gib"] = size / _GIB
    return metrics


def worker_groups(trainer: Any) -> dict[str, Any]:
    """The trainer's worker groups that hold an engine, each once."""
    found = {"actor": trainer.actor_rollout_wg}
    reference = getattr(trainer, "ref_policy_wg", None)
    if reference is not None and reference is not trainer.actor_rollout_wg:
        found["reference"] = reference
    if trainer.use_critic:
        found["critic"] = trainer.critic_wg
    return found | {companion.name: group for companion, group in groups_of(trainer)}


def is_due(step: int) -> bool:
    """Steps 1, 2, 4, 8, ..."""
    return step > 0 and step & (step - 1) == 0


def _log_memory(original: Callable[..., Any]) -> Callable[..., Any]:
    def _update_actor(self: Any, batch: Any, metrics: dict[str, Any]) -> Any:
        result = original(self, batch, metrics)
        if is_due(self.global_steps):
            metrics.update(measure(worker_groups(self)))
        return result

    return _update_actor


def _patch_workers(module: ModuleType) -> None:
    from verl.single_controller.base.decorator import Dispatch, register

    for name, method in (("TrainingWorker", _of_training_worker), ("ActorRolloutRefWorker", _of_actor_worker)):
        setattr(target(module, name, __name__), METHOD, register(dispatch_mode=Dispatch.ONE_TO_ALL)(method))


def _patch_trainer(module: ModuleType) -> None:
    trainer = target(module, "PPOTrainer", __name__)
    wrap(trainer, "_update_actor", _log_memory, patch=__name__, parameters=("batch", "metrics"))


def install() -> None:
    on_import("verl.workers.engine_workers", _patch_workers)
    on_import("verl.trainer.ppo.v1.trainer_base", _patch_trainer)
