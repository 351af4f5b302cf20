"""Advantages on the jagged fields of verl's V1 trainers, without padding them first.

V1 keeps a batch jagged, pads it to its longest response for the advantage, and cuts the result row by row. At large
batches that costs tens of times what the advantage does, in time and in memory. An estimator that takes jagged tensors
says so,

    @takes_jagged
    @register_adv_est("mine")
    def mine(token_level_rewards, response_mask, ...): ...

and gets nested tensors of layout torch.jagged, all with the offsets of the response mask; it returns advantages and
returns alike. Every other estimator takes verl's own path, and so does a run that corrects the rollout's log-probs
(algorithm.rollout_correction.rollout_is or rollout_rs), which verl does in this stage.
Nothing here knows an estimator by name.

Waits for upstream: an advantage stage of V1 that does not pad.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from verl_ext.patching import on_import, target, wrap
from verl_ext.rollout_metrics import rollout_metrics

_TAKES_JAGGED = "__verl_ext_takes_jagged__"

# What V1 fetches for the advantage, but for `values`, which are a critic's.
_FIELDS = ("uid", "response_mask", "rm_scores", "rollout_log_probs", "old_log_probs", "ref_log_prob")


def takes_jagged(estimator: Callable[..., Any]) -> Callable[..., Any]:
    """Mark an estimator that takes and returns jagged tensors."""
    setattr(estimator, _TAKES_JAGGED, True)
    return estimator


def takes_padded(estimator: Callable[..., Any]) -> Callable[..., Any]:
    """Take the mark away again, to compare."""
    setattr(estimator, _TAKES_JAGGED, False)
    return estimator


def _has_jagged_estimator(algorithm: Any) -> bool:
    from verl.trainer.ppo import core_algos

    registry = target(core_algos, "ADV_ESTIMATOR_REGISTRY", __name__)
    return getattr(registry.get(algorithm.adv_estimator), _TAKES_JAGGED, False)


def _correction(algorithm: Any) -> Any:
    """`rollout_correction` where verl applies it in this stage, or None."""
    correction = algorithm.get("rollout_correction", None)
    return None if correction is None or correction.get("bypass_mode", False) else correction


def _corrects_rollout(algorithm: Any) -> bool:
    """Importance weights or rejection are configured, beyond the metrics that verl always computes of the mismatch."""
    correction = _correction(algorithm) or {}
    return any(correction.get(key, None) is not None for key in ("rollout_is", "rollout_rs"))


def _jagged_like(mask: Any, values: Any) -> Any:
    import torch

    lengths = mask.offsets().diff()
    # With the extremes: without them torch pads to the sum of all lengths.
    return torch.nested.nested_tensor_from_jagged(
        values, mask.offsets(), min_seqlen=int(lengths.min()), max_seqlen=int(lengths.max())
    )


def _with_offsets_of(mask: Any, name: str, x: Any) -> Any:
    """The same values as x, a field of the same lengths, with the mask's very offsets: only then torch adds them."""
    import torch

    if not torch.equal(x.offsets().diff(), mask.offsets().diff()):
        raise ValueError(f"the batch's field {name!r} differs from the response mask in its lengths")
    return _jagged_like(mask, x.values())


def _subtract_kl(trainer: Any, data: Any) -> dict[str, float]:
    """verl's `apply_kl_penalty` on jagged fields; returns its metrics."""
    import torch
    from verl.trainer.ppo import core_algos

    fields, control = data.batch, trainer.kl_ctrl_in_reward
    mask = fields["response_mask"]
    inside, lengths = mask.values(), mask.offsets().diff()
    old, ref = fields["old_log_probs"].values(), fields["ref_log_prob"].values()
    divergence = core_algos.kl_penalty(old, ref, kl_penalty=trainer.config.algorithm.kl_penalty)
    divergence = torch.where(inside.bool(), divergence, 0.0)

    def row_sums(x: Any) -> Any:
        return torch.segment_reduce(x, "sum", lengths=lengths, unsafe=True)

    # verl's masked_mean over each response, then the mean over them.
    current = (row_sums(divergence) / (row_sums(inside.to(divergence.dtype)) + 1e-8)).mean().item()
    coefficient = control.value
    scores = fields["token_level_scores"]
    rewards = scores.values() - coefficient * divergence if coefficient else scores.values()
    fields["token_level_rewards"] = _jagged_like(mask, rewards)
    control.update(current_kl=current, n_steps=len(lengths))
    return {"actor/reward_kl_penalty": current, "actor/reward_kl_penalty_coeff": coefficient}


def _as_batch(fetched: Any) -> Any:
    """A `DataProto` of the fetched fields, jagged as they are, as verl's stage makes one of padded fields."""
    import numpy as np
    from tensordict import TensorDict
    from verl.protocol import DataProto

    uids = np.array(fetched.pop("uid").tolist(), dtype=object)
    mask = fetched["response_mask"]
    fields = {name: mask if name == "response_mask" else _with_offsets_of(mask, name, x) for name, x in fetched.items()}
    fields["token_level_scores"] = fields.pop("rm_scores")
    return DataProto(batch=TensorDict(fields, batch_size=len(uids)), non_tensor_batch={"uid": uids})


def _stage(trainer: Any, batch: Any, metrics: dict[str, Any]) -> Any:
    """What verl's `_compute_advantage` does without padding."""
    import transfer_queue
    from tensordict import TensorDict
    from verl.trainer.ppo.v1 import utils

    algorithm, where = trainer.config.algorithm, {"keys": batch.keys, "partition_id": batch.partition_id}
    fetched = transfer_queue.kv_batch_get(**where, select_fields=list(_FIELDS))
    data, written = _as_batch(fetched), ["advantages", "returns"]
    if algorithm.use_kl_in_reward:
        metrics.update(_subtract_kl(trainer, data))
        written.append("token_level_rewards")
    else:
        data.batch["token_level_rewards"] = data.batch["token_level_scores"]
    if "rollout_log_probs" in data.batch.keys() and _correction(algorithm) is not None:  # noqa: SIM118 (a TensorDict)
        names = ("old_log_probs", "rollout_log_probs", "response_mask")
        metrics.update(rollout_metrics(*(data.batch[name] for name in names)))
    data = utils.compute_advantage(
        data,
        adv_estimator=algorithm.adv_estimator,
        norm_adv_by_std_in_grpo=algorithm.get("norm_adv_by_std_in_grpo", True),
        config=algorithm,
    )
    result = TensorDict({name: data.batch[name] for name in written}, batch_size=len(data))
    return transfer_queue.kv_batch_put(**where, fields=result)


def _unpadded(original: Callable[..., Any]) -> Callable[..., Any]:
    def _compute_advantage(self: Any, batch: Any, metrics: dict[str, Any]) -> Any:
        algorithm = self.config.algorithm
        if _has_jagged_estimator(algorithm) and not _corrects_rollout(algorithm):
            return _stage(self, batch, metrics)
        return original(self, batch, metrics)

    return _compute_advantage


def _patch(module: ModuleType) -> None:
    trainer = target(module, "PPOTrainer", __name__)
    wrap(trainer, "_compute_advantage", _unpadded, patch=__name__, parameters=("batch", "metrics"))


def install() -> None:
    on_import("verl.trainer.ppo.v1.trainer_base", _patch)
