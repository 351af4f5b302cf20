"""A reference policy that moves: every K steps it becomes the policy, or it follows it as a moving average.

A recipe registers where it reads this,

    reference_update.register(Source(key="algorithm.mine.ref_update", off="algorithm.mine...", schedule=...))

and in verl's V1 trainers the reference then moves right after a step's updates, before the step's checkpoint:

    ref_update/updates      how often it has moved in this run
    ref_update/distance     root mean squared difference of a weight of reference and policy before it moved
    timing_s/ref_update     the time that took

A checkpoint holds the reference in ``global_step_N/reference``, which is written before the actor, and so before
``data.pt`` and the tracker file, by which `resume` and verl know a finished one: a resumed run goes on with the
reference that it had. Without an update nothing is written, and the reference is verl's: the first model.

What happens in the workers is in `reference_worker`, the arithmetic in `reference_weights`.

Waits for upstream: a reference policy that is not fixed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from verl_ext import config_checks
from verl_ext.config_checks import ConfigError
from verl_ext.patching import on_import, target, wrap
from verl_ext.resume import resumed_folder
from verl_ext.trainer_modes import FULLY_ASYNC, OLD, ONE_STEP_OFF, has_adapter, mode_of

if TYPE_CHECKING:
    from verl_ext.reference_weights import Schedule

# Of a checkpoint.
FOLDER = "reference"

# Modes of the V1 trainers in which actor and reference share their processes.
MODES = ("sync", "colocate_async")

_UPDATES = "verl_ext_reference_updates"


@dataclass(frozen=True)
class Source:
    """Where a recipe's configuration says when the reference moves."""

    key: str
    """the group of settings, for messages"""
    off: str
    """the override by which it stays, for messages"""
    schedule: Callable[[Any], Schedule | None]
    """verl's whole config -> when it moves, None for never"""


_sources: list[Source] = []


def register(source: Source) -> None:
    """Ask ``source`` in every run; the first that has a schedule is followed."""
    if source not in _sources:
        _sources.append(source)


def asked_by(config: Any) -> tuple[Source, Schedule] | None:
    """The source that wants the reference of this run to move, and when; None where it stays."""
    for source in _sources:
        if (schedule := source.schedule(config)) is not None:
            return source, schedule
    return None


def check(config: Any) -> None:
    """Raise `ConfigError` where the reference is to move and cannot.

    Args:
        config: verl's whole Hydra config. Runs whose reference stays pass.
    """
    asked = asked_by(config)
    if asked is None:
        return
    source, schedule = asked

    def refuse(key: str, value: object, why: str, fix: str) -> None:
        raise ConfigError(f"{key}={value}: {source.key} {why}. Set {fix}, or leave the reference alone: {source.off}")

    mode = mode_of(config)
    if mode == OLD:
        refuse("trainer.use_v1", False, "acts in verl's V1 trainers", "trainer.use_v1=True")
    if mode in (ONE_STEP_OFF, FULLY_ASYNC):
        raise ConfigError(
            f"{source.key} moves the reference policy in verl's V1 trainers, and {mode} is none of them. "
            f"Use verl.trainer.main_ppo, or leave the reference alone: {source.off}"
        )
    if mode not in MODES:
        why = "copies weights inside the processes that actor and reference share"
        refuse("trainer.v1.trainer_mode", mode, why, " or ".join(f"trainer.v1.trainer_mode={one}" for one in MODES))
    model = "actor_rollout_ref"
    # With LoRA the reference is the actor, and the settings of a reference have no effect.
    roles = ("actor",) if has_adapter(config) else ("actor", "ref")
    for role in roles:
        strategy = OmegaConf.select(config, f"{model}.{role}.strategy")
        if strategy != "fsdp2":
            key = f"{model}.{role}.strategy"
            refuse(key, strategy, "changes weights that are sharded by FSDP2", f"{key}=fsdp2")
    if roles == ("actor",):
        return
    sizes = [OmegaConf.select(config, f"{model}.{role}.fsdp_config.fsdp_size") for role in roles]
    if sizes[0] != sizes[1]:
        key = f"{model}.ref.fsdp_config.fsdp_size"
        refuse(key, sizes[1], "needs the reference in the actor's shards", f"{key}={sizes[0]}")
    dtype = str(OmegaConf.select(config, f"{model}.ref.fsdp_config.model_dtype"))
    if schedule.decay > 0 and dtype not in ("fp32", "float32", "32"):
        key = f"{model}.ref.fsdp_config.model_dtype"
        refuse(key, dtype, "averages weights, and the small steps of an average are lost in it", f"{key}=fp32")


def _update_after(original: Callable[..., Any]) -> Callable[..., Any]:
    def step(self: Any, metrics: dict[str, Any], timing_raw: dict[str, float]) -> Any:
        batch = original(self, metrics, timing_raw)
        asked = asked_by(self.config)
        if asked is not None:
            update(self, asked[1], metrics, timing_raw)
        return batch

    return step


def update(trainer: Any, schedule: Schedule, metrics: dict[str, Any], timing_raw: dict[str, float]) -> None:
    """Move a V1 trainer's reference if it is due, and say so in the step's metrics and times."""
    from verl_ext.reference_weights import Distance, is_due
    from verl_ext.reference_worker import UPDATE

    updates = getattr(trainer, _UPDATES)
    if is_due(schedule, trainer.global_steps):
        start = time.perf_counter()
        of_ranks = getattr(trainer.actor_rollout_wg, UPDATE)(schedule.decay)
        timing_raw["ref_update"] = time.perf_counter() - start
        metrics["ref_update/distance"] = sum(of_ranks, Distance()).rms
        updates += 1
        setattr(trainer, _UPDATES, updates)
    metrics["ref_update/updates"] = updates


def _save_first(original: Callable[..., Any]) -> Callable[..., Any]:
    def _save_checkpoint(self: Any) -> Any:
        if asked_by(self.config) is not None:
            from verl_ext.reference_worker import SAVE

            folder = os.path.join(self.config.trainer.default_local_dir, f"global_step_{self.global_steps}", FOLDER)
            getattr(self.actor_rollout_wg, SAVE)(folder, getattr(self, _UPDATES))
        return original(self)

    return _save_checkpoint


def _load_too(original: Callable[..., Any]) -> Callable[..., Any]:
    def _load_checkpoint(self: Any) -> Any:
        result = original(self)
        setattr(self, _UPDATES, 0)
        if self.global_steps == 0:
            return result
        asked, folder = asked_by(self.config), resumed_folder(self) / FOLDER
        anew = "or start anew with another trainer.default_local_dir or trainer.resume_mode=disable."
        if asked is None:
            if folder.is_dir() and self.use_reference_policy:
                raise RuntimeError(
                    f"the checkpoint {folder.parent} holds a reference policy that moves, and this run would compare "
                    f"with the first model. Resume with the settings of the run that saved it, {anew}"
                )
            return result
        if not folder.is_dir():
            source = asked[0]
            raise FileNotFoundError(
                f"the checkpoint {folder.parent} has no folder {FOLDER!r}: it is of a run whose reference policy "
                f"stayed the first model, and {source.key} moves it. Resume with {source.off}, {anew}"
            )
        from verl_ext.reference_worker import LOAD

        updates, *_ = getattr(self.actor_rollout_wg, LOAD)(str(folder))
        setattr(self, _UPDATES, updates)
        return result

    return _load_checkpoint


def _refuse(original: Callable[..., Any]) -> Callable[..., Any]:
    def _compute_ref_log_prob(self: Any, *args: Any, **kwargs: Any) -> Any:
        if (asked := asked_by(self.config)) is not None:
            raise ConfigError(
                f"{asked[0].key} moves the reference policy in verl's V1 trainers, and {type(self).__name__} is none "
                f"of them: its reference would stay. Use verl.trainer.main_ppo, or {asked[0].off}"
            )
        return original(self, *args, **kwargs)

    return _compute_ref_log_prob


def _patch_trainer(module: ModuleType) -> None:
    trainer = target(module, "PPOTrainer", __name__)
    wrap(trainer, "step", _update_after, patch=__name__, parameters=("metrics", "timing_raw"))
    wrap(trainer, "_save_checkpoint", _save_first, patch=__name__)
    wrap(trainer, "_load_checkpoint", _load_too, patch=__name__)


def _patch_other_trainers(module: ModuleType) -> None:
    # Of the old trainer and of those that do not check their configuration: what has no patch must not run without.
    wrap(target(module, "RayPPOTrainer", __name__), "_compute_ref_log_prob", _refuse, patch=__name__)


def _patch_engine(module: ModuleType) -> None:
    from verl_ext import reference_worker

    reference_worker.patch_engine(module)


def _patch_workers(module: ModuleType) -> None:
    from verl_ext import reference_worker

    reference_worker.patch_workers(module)


def install() -> None:
    config_checks.register(check)
    on_import("verl.trainer.ppo.v1.trainer_base", _patch_trainer)
    on_import("verl.trainer.ppo.ray_trainer", _patch_other_trainers)
    on_import("verl.workers.engine.fsdp.transformer_impl", _patch_engine)
    on_import("verl.workers.engine_workers", _patch_workers)
