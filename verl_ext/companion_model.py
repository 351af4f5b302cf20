"""Another model that is trained beside the actor in verl's V1 trainers, such as a reward model that learns online.

A recipe describes it and registers it,

    companion_model.register(Companion(name="reward_model", applies=..., worker_config=..., loss=..., ...))

and in runs to which it applies it is one more ``TrainingWorker`` on the actor's resource pool, as verl's critic is on
its own: with a loss function of the recipe's, a call of the recipe's right before each advantage (in
``timing_s/{name}``, which ``timing_s/adv`` then leaves out), and its state in ``global_step_N/{name}`` of every
checkpoint. Nothing here knows a recipe by name.

A checkpoint without the companion is never resumed from: it is saved before the actor, and so before ``data.pt`` and
the tracker file, by which `resume` and verl know a finished one.

Waits for upstream: workers that a recipe can add to the V1 trainers.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from verl_ext.patching import PatchError, on_import, target, wrap
from verl_ext.resume import resumed_folder

# Keys of verl's worker classes, one of which holds the actor.
_ACTORS = ("actor", "actor_rollout", "actor_rollout_ref")

_GROUPS = "verl_ext_companion_groups"


@dataclass(frozen=True)
class Companion:
    """What a recipe says of its model; ``config`` is verl's whole one."""

    name: str
    """of the worker, its folder in a checkpoint and its time"""
    applies: Callable[[Any], bool]
    """whether the run of this config has it"""
    worker_config: Callable[[Any], Any]
    """config -> verl's TrainingWorkerConfig"""
    loss: Callable[[Any], Callable[..., Any]]
    """config -> the picklable loss function of the worker"""
    before_advantage: Callable[[Any, Any, Any, dict[str, Any]], None]
    """(trainer, worker group, batch, metrics), called right before the advantage of each local step"""
    batch_multiple: Callable[[Any], int] = field(default=lambda config: 1)
    """config -> what the number of rows of a batch has to be a multiple of"""


@dataclass
class _Setup:
    """A trainer that is setting up its workers."""

    trainer: Any
    waiting: list[Companion]


_companions: list[Companion] = []

_setting_up: ContextVar[_Setup | None] = ContextVar("verl_ext_companion_setup", default=None)


def register(companion: Companion) -> None:
    """Add a companion to the runs to which it applies.

    Raises:
        ValueError: another one has that name.
    """
    if any(other.name == companion.name and other != companion for other in _companions):
        raise ValueError(f"there is a companion model of the name {companion.name!r} already")
    if companion not in _companions:
        _companions.append(companion)


def companions_of(config: Any) -> list[Companion]:
    """The registered companions that a run of this config has."""
    return [companion for companion in _companions if companion.applies(config)]


def groups_of(trainer: Any) -> list[tuple[Companion, Any]]:
    """The trainer's companions with their worker groups."""
    chosen, groups = companions_of(trainer.config), getattr(trainer, _GROUPS, {})
    for companion in chosen:
        if companion.name not in groups:
            raise PatchError(
                f"{__name__} adds the worker {companion.name!r} to the classes that verl's PPOTrainer._setup hands to "
                "create_colocated_worker_cls beside the actor, and takes it from RayWorkerGroup.spawn; it was not "
                "there. Install the versions of requirements.txt, or update the patch."
            )
    return [(companion, groups[companion.name]) for companion in chosen]


def _with_setup(original: Callable[..., Any]) -> Callable[..., Any]:
    def _setup(self: Any) -> Any:
        setattr(self, _GROUPS, {})
        token = _setting_up.set(_Setup(self, companions_of(self.config)))
        try:
            return original(self)
        finally:
            _setting_up.reset(token)

    return _setup


def _add_classes(original: Callable[..., Any]) -> Callable[..., Any]:
    def create_colocated_worker_cls(class_dict: dict[str, Any]) -> Any:
        setup = _setting_up.get()
        if setup is not None and any(key in class_dict for key in _ACTORS):
            import ray
            from verl.single_controller.ray import RayClassWithInitArgs
            from verl.workers.engine_workers import TrainingWorker

            for companion in setup.waiting:
                if companion.name in class_dict:
                    raise ValueError(f"verl has a worker of the name {companion.name!r} itself")
                # In place: verl spawns a group for each key of the same dict.
                class_dict[companion.name] = RayClassWithInitArgs(
                    cls=ray.remote(TrainingWorker), config=companion.worker_config(setup.trainer.config)
                )
        return original(class_dict=class_dict)

    return create_colocated_worker_cls


def _take_groups(original: Callable[..., Any]) -> Callable[..., Any]:
    def spawn(self: Any, prefix_set: Any) -> Any:
        groups = original(self, prefix_set)
        setup = _setting_up.get()
        if setup is None:
            return groups
        for companion in list(setup.waiting):
            if companion.name in groups:
                group = groups[companion.name]
                # Here, as verl's critic: before the rollout engine looks how much memory is left.
                group.reset()
                group.set_loss_fn(companion.loss(setup.trainer.config))
                getattr(setup.trainer, _GROUPS)[companion.name] = group
                setup.waiting.remove(companion)
        return groups

    return spawn


def _call_before(original: Callable[..., Any]) -> Callable[..., Any]:
    def _compute_advantage(self: Any, batch: Any, metrics: dict[str, Any]) -> Any:
        for companion, group in groups_of(self):
            start = time.perf_counter()
            companion.before_advantage(self, group, batch, metrics)
            seconds = time.perf_counter() - start
            # verl adds the time of its whole stage to "adv".
            for name, signed in ((companion.name, seconds), ("adv", -seconds)):
                self.timing_raw[name] = self.timing_raw.get(name, 0.0) + signed
        return original(self, batch, metrics)

    return _compute_advantage


def _align_rows(original: Callable[..., int]) -> Callable[..., int]:
    def _get_required_batch_multiple(self: Any, dp_size: int) -> int:
        return math.lcm(
            original(self, dp_size),
            *(companion.batch_multiple(self.config) for companion in companions_of(self.config)),
        )

    return _get_required_batch_multiple


def _kept(trainer_config: Any) -> int | None:
    """How many of a companion's checkpoints to keep: the actor's number, but two at least.

    It is saved before the actor: with one, a kill between the two would leave no checkpoint that holds both.
    """
    if trainer_config.get("remove_previous_ckpt_in_save", False):
        return 2
    keep = trainer_config.get("max_actor_ckpt_to_keep", None)
    return max(keep, 2) if keep else keep


def _save_first(original: Callable[..., Any]) -> Callable[..., Any]:
    def _save_checkpoint(self: Any) -> Any:
        settings, step = self.config.trainer, f"global_step_{self.global_steps}"
        for companion, group in groups_of(self):
            remote = settings.default_hdfs_dir
            group.save_checkpoint(
                os.path.join(settings.default_local_dir, step, companion.name),
                None if remote is None else os.path.join(remote, step, companion.name),
                self.global_steps,
                max_ckpt_to_keep=_kept(settings),
            )
        return original(self)

    return _save_checkpoint


def _load_too(original: Callable[..., Any]) -> Callable[..., Any]:
    def _load_checkpoint(self: Any) -> Any:
        result = original(self)
        groups = groups_of(self)
        if self.global_steps == 0:
            return result
        folder, delete = resumed_folder(self), self.config.trainer.del_local_ckpt_after_load
        for companion, group in groups:
            if not (folder / companion.name).is_dir():
                raise FileNotFoundError(
                    f"the checkpoint {folder} has no folder {companion.name!r}: it is of a run without that model, "
                    "which this run trains beside the actor. Resume a run of the same method, or start anew with "
                    "another trainer.default_local_dir or trainer.resume_mode=disable."
                )
            group.load_checkpoint(str(folder / companion.name), del_local_after_load=delete)
        return result

    return _load_checkpoint


def _patch(module: ModuleType) -> None:
    trainer = target(module, "PPOTrainer", __name__)
    wrap(trainer, "_setup", _with_setup, patch=__name__)
    wrap(module, "create_colocated_worker_cls", _add_classes, patch=__name__, parameters=("class_dict",))
    wrap(target(module, "RayWorkerGroup", __name__), "spawn", _take_groups, patch=__name__, parameters=("prefix_set",))
    wrap(trainer, "_compute_advantage", _call_before, patch=__name__, parameters=("batch", "metrics"))
    wrap(trainer, "_get_required_batch_multiple", _align_rows, patch=__name__, parameters=("dp_size",))
    wrap(trainer, "_save_checkpoint", _save_first, patch=__name__)
    wrap(trainer, "_load_checkpoint", _load_too, patch=__name__)


def install() -> None:
    on_import("verl.trainer.ppo.v1.trainer_base", _patch)
