"""The rollout engine's log-probs in place of recomputed ones, at the steps where the two agree.

verl recomputes the log-probs of every sampled token with the actor before an update. The rollout engine has computed
them already; how far the two are apart depends on precision, kernels and lengths, and is not known beforehand.
``algorithm.rollout_correction.bypass_mode`` takes the engine's for the whole run and looks at nothing. With
``algorithm.log_prob_gate.enable=true`` each step decides by measurement:

    the first step of a start, and the one after a step that was refused: everything is recomputed, as without the gate
    every other step: the log-probs of a random sample of the responses are recomputed and compared with the rollout's;
    within the limits the rollout's are used for the whole batch, by verl's own bypass path, else all are recomputed

so that a run whose engines never agree costs what it costs without the gate. Logged at each step:

    log_prob_gate/used_rollout          1: the rollout's were used, 0: recomputed
    log_prob_gate/measured_frac         share of the responses that were compared
    log_prob_gate/prob_diff_mean, ...   how far they are apart (`log_prob_mismatch.Mismatch`)
    log_prob_gate/cumulative_share      with a reference policy: rms of the running sum of the mismatch over rms of the
                                        running sum of the log-ratio to the reference: what of SPRO's CPR, whatever beta
                                        is, would be mismatch if the rollout's were used; absent where the policy is the
                                        reference still
    actor/entropy, training/rollout_*   verl's own, of the compared responses where the rollout's are used

Where the rollout's are used, PPO's ratio is actor over rollout: 1 plus the mismatch at the first update instead of 1.
It corrects for the mismatch as far as the clip lets it, and tokens whose mismatch is beyond the clip get no gradient;
the limits keep it far from there. The loss stays the configured one (verl's V1 trainers change it in bypass mode
neither).

Synchronous training only: in the other modes a response may be written by several versions of the policy, so that its
log-probs differ by more than the engine. Waits for upstream: a bypass mode that looks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf, open_dict

from verl_ext import config_checks
from verl_ext.config_checks import ConfigError
from verl_ext.patching import on_import, target, wrap
from verl_ext.settings_group import SettingsGroup, is_number
from verl_ext.trainer_modes import is_v1, mode_of

if TYPE_CHECKING:
    import torch

GROUP = "algorithm.log_prob_gate"
PREFIX = "log_prob_gate/"
OFF = f"{GROUP}.enable=false"

_SETTINGS = SettingsGroup(GROUP, ConfigError, example="enable=true")

_GATE = "verl_ext_log_prob_gate"


@dataclass(frozen=True)
class GateSettings:
    """When the rollout's log-probs are used.

    Attributes:
        enable: false is verl's own way: what `rollout_correction.bypass_mode` says, for the whole run.
        sample: share of a step's responses that are compared, between 0 and 1.
        max_prob_diff: on the mean of |p_rollout - p_actor|; None: any.
        max_cumulative: on the rms of the mismatch's running sum over a response, nats; None: any.
    """

    enable: bool = False
    sample: float = 0.125
    max_prob_diff: float | None = 0.005
    max_cumulative: float | None = 0.01

    def __post_init__(self) -> None:
        _SETTINGS.require(isinstance(self.enable, bool), "enable", self.enable, "true or false")
        fine = is_number(self.sample) and 0 < self.sample < 1
        _SETTINGS.require(fine, "sample", self.sample, "a number between 0 and 1, such as 0.125")
        limits = {key: getattr(self, key) for key in ("max_prob_diff", "max_cumulative")}
        for key, limit in limits.items():
            fine = limit is None or (is_number(limit) and limit > 0)
            _SETTINGS.require(fine, key, limit, "null (any) or a finite number > 0")
        if self.enable and not any(limits.values()):
            raise ConfigError(
                f"{GROUP}.max_prob_diff=null and {GROUP}.max_cumulative=null: a gate without a limit. Set one of them, "
                f"or take the rollout's log-probs unseen: algorithm.rollout_correction.bypass_mode=True {OFF}"
            )


def settings_of(algorithm: Any) -> GateSettings:
    """`log_prob_gate` of verl's `algorithm` config; raises `ConfigError` for a bad one."""
    return _SETTINGS.read(algorithm.get("log_prob_gate", None), GateSettings)


def check(config: Any) -> None:
    """Raise `ConfigError` where the gate is on and has nothing to compare, or cannot act.

    Args:
        config: verl's whole Hydra config. Runs without the gate pass.
    """
    if not settings_of(config.algorithm).enable:
        return

    def refuse(key: str, why: str, fix: str) -> None:
        value = OmegaConf.select(config, key)
        raise ConfigError(f"{key}={value}: {GROUP} {why}. Set {fix}, or switch the gate off: {OFF}")

    if not is_v1(config):
        raise ConfigError(
            f"{GROUP}.enable=true: the gate acts in verl's V1 trainers, and {mode_of(config)} is none of them. "
            f"Set {OFF}, or use verl.trainer.main_ppo with trainer.use_v1=True"
        )
    if config.trainer.v1.trainer_mode != "sync":
        why = "compares engines, and a response of this mode may be written by several versions of the policy"
        refuse("trainer.v1.trainer_mode", why, "trainer.v1.trainer_mode=sync")
    correction = "algorithm.rollout_correction"
    if OmegaConf.select(config, f"{correction}.bypass_mode"):
        why = "decides at each step what this has decided for the run"
        refuse(f"{correction}.bypass_mode", why, f"{correction}.bypass_mode=False")
    for key in ("rollout_is", "rollout_rs"):
        if OmegaConf.select(config, f"{correction}.{key}") is not None:
            why = "leaves nothing to correct where it uses the rollout's log-probs"
            refuse(f"{correction}.{key}", why, f"{correction}.{key}=null")
    for engine in ("megatron", "veomni"):
        key = f"actor_rollout_ref.actor.{engine}.router_replay.mode"
        if OmegaConf.select(config, key) == "R2":
            refuse(key, "leaves out the forward pass that records routes", f"{key}=disabled")
    _check_comparable(config.actor_rollout_ref.rollout, refuse)


def _check_comparable(rollout: Any, refuse: Callable[[str, str, str], None]) -> None:
    """verl's actor computes log-probs of the whole distribution at the rollout's temperature."""
    key = "actor_rollout_ref.rollout"
    if not rollout.calculate_log_probs:
        why = "compares the actor's log-probs with the rollout's, which are not computed"
        refuse(f"{key}.calculate_log_probs", why, f"{key}.calculate_log_probs=True")
    processed = rollout.get("logprobs_mode", "processed_logprobs") == "processed_logprobs"
    if not processed and rollout.temperature != 1:
        why = f"needs log-probs at the sampling temperature ({rollout.temperature}), which the actor's are at"
        refuse(f"{key}.logprobs_mode", why, f"{key}.logprobs_mode=processed_logprobs")
    if processed and rollout.top_p != 1:
        why = "cannot compare: the rollout's log-probs are of the cut distribution, the actor's of the whole one"
        refuse(f"{key}.top_p", why, f"{key}.top_p=1.0")
    if processed and rollout.top_k not in (-1, 0):
        why = "cannot compare: the rollout's log-probs are of the cut distribution, the actor's of the whole one"
        refuse(f"{key}.top_k", why, f"{key}.top_k=-1")


def sample_size(rows: int, share: float, ranks: int, micro_batch: int | None) -> int:
    """How many responses each rank recomputes: at least the share, in whole micro-batches beyond the first.

    Args:
        rows: responses of the step.
        share: of them, wanted.
        ranks: data-parallel ranks, which take equally many.
        micro_batch: of the forward pass, per rank; None: it fits what it is given.

    Returns:
        0 where there are not enough of them.
    """
    most = rows // ranks
    size = min(math.ceil(share * rows / ranks), most)
    if micro_batch is not None and size > micro_batch:
        size = min(math.ceil(size / micro_batch), most // micro_batch) * micro_batch
    return size


@dataclass
class _Gate:
    """What a trainer's gate knows."""

    open: bool = False
    """the last measurement was within the limits"""
    used_rollout: bool = False
    """of the present step"""
    compared: Any = None
    """the responses that were compared, a KVBatchMeta"""
    drift: torch.Tensor | None = None
    """the running sum of their mismatch"""


def _gate_of(trainer: Any) -> _Gate:
    gate = getattr(trainer, _GATE, None)
    if gate is None:
        gate = _Gate()
        setattr(trainer, _GATE, gate)
    return gate


def _sample_of(trainer: Any, batch: Any, share: float) -> Any:
    """Some responses of the batch, drawn by the step; None where there are not enough to take fewer than all."""
    import numpy as np

    workers, rollout = trainer.actor_rollout_wg, trainer.config.actor_rollout_ref.rollout
    # As verl's `_balance_batch` has asked before.
    ranks = max(target(workers, "_dispatch_info", __name__)["actor"]) + 1
    micro_batch = None if rollout.log_prob_use_dynamic_bsz else rollout.log_prob_micro_batch_size_per_gpu
    keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
    size = sample_size(len(keys), share, ranks, micro_batch)
    if not 0 < size * ranks < len(batch):
        return None
    chosen = np.random.default_rng(trainer.global_steps).choice(len(keys), size * ranks, replace=False)
    sample = batch.select_keys([keys[index] for index in chosen])
    if micro_batch is not None:
        # The workers' own setting may be more than they are given.
        sample.extra_info["micro_batch_size_per_gpu"] = min(micro_batch, size)
    return sample


def _fetch(batch: Any, *fields: str) -> list[torch.Tensor]:
    import transfer_queue

    data = transfer_queue.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=list(fields))
    return [data[field] for field in fields]


def _measure(gate: _Gate, sample: Any, settings: GateSettings) -> dict[str, float]:
    """Compare the sample's recomputed log-probs with the rollout's, and open or shut the gate; returns metrics."""
    from verl_ext.log_prob_mismatch import measure

    mismatch, gate.drift = measure(*_fetch(sample, "rollout_log_probs", "old_log_probs", "response_mask"))
    gate.open = mismatch.within(settings.max_prob_diff, settings.max_cumulative)
    return mismatch.as_metrics(PREFIX)


def _decide(original: Callable[..., Any]) -> Callable[..., Any]:
    def _compute_old_log_prob(self: Any, batch: Any, metrics: dict[str, Any]) -> Any:
        gate, settings = _gate_of(self), settings_of(self.config.algorithm)
        gate.used_rollout, gate.compared = False, None
        if not settings.enable:
            return original(self, batch, metrics)
        sample = _sample_of(self, batch, settings.sample)
        if sample is not None and gate.open:
            original(self, sample, metrics)
            measured = _measure(gate, sample, settings)
            gate.used_rollout = gate.open
        if gate.used_rollout:
            with _bypassing(self.config.algorithm):
                result = original(self, batch, metrics)
        else:
            result = original(self, batch, metrics)
            measured = _measure(gate, sample, settings) if sample is not None else {}
        gate.compared = sample
        metrics[f"{PREFIX}used_rollout"] = float(gate.used_rollout)
        metrics[f"{PREFIX}measured_frac"] = len(sample or ()) / len(batch)
        metrics.update(measured)
        return result

    return _compute_old_log_prob


@contextmanager
def _bypassing(algorithm: Any) -> Iterator[None]:
    """Let verl see `rollout_correction.bypass_mode`."""
    before = algorithm.get("rollout_correction", None)
    with open_dict(algorithm):
        algorithm.rollout_correction = OmegaConf.merge(before or {}, {"bypass_mode": True})
        try:
            yield
        finally:
            algorithm.rollout_correction = before


def _compare_with_reference(original: Callable[..., Any]) -> Callable[..., Any]:
    def _compute_ref_log_prob(self: Any, batch: Any, metrics: dict[str, Any]) -> Any:
        result = original(self, batch, metrics)
        gate = _gate_of(self)
        if gate.compared is not None:
            from verl_ext.log_prob_mismatch import running_sums, share

            # Of what is used: where it is the rollout's, the actor's are it less the drift.
            sums = running_sums(*_fetch(gate.compared, "old_log_probs", "ref_log_prob", "response_mask"))
            part = share(gate.drift, sums - gate.drift if gate.used_rollout else sums)
            if math.isfinite(part):
                metrics[f"{PREFIX}cumulative_share"] = part
        return result

    return _compute_ref_log_prob


def _bypass_too(original: Callable[..., Any]) -> Callable[..., Any]:
    def _compute_advantage(self: Any, batch: Any, metrics: dict[str, Any]) -> Any:
        if not _gate_of(self).used_rollout:
            return original(self, batch, metrics)
        # Else verl would compare the rollout's log-probs with themselves.
        with _bypassing(self.config.algorithm):
            return original(self, batch, metrics)

    return _compute_advantage


def _patch(module: ModuleType) -> None:
    trainer, parameters = target(module, "PPOTrainer", __name__), ("batch", "metrics")
    wrap(trainer, "_compute_old_log_prob", _decide, patch=__name__, parameters=parameters)
    wrap(trainer, "_compute_ref_log_prob", _compare_with_reference, patch=__name__, parameters=parameters)
    wrap(trainer, "_compute_advantage", _bypass_too, patch=__name__, parameters=parameters)


def install() -> None:
    config_checks.register(check)
    on_import("verl.trainer.ppo.v1.trainer_base", _patch)
