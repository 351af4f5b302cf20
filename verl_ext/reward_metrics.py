"""What the verifiers said, in the metrics of the step; and the end of a run whose verifiers are out of order.

For runs with `reward.reward_manager.name=spro` on verl's V1 trainers: `reward/{kind}_frac` of the step's responses,
`reward/verify_s/{p50,p99}`, `reward/verify_queue/max`. Taken before the advantage from the field in which V1 keeps
what a reward manager returned. More infra errors than `reward.reward_kwargs.max_infra_error_frac` end the run: to
train on would be to train on zeros.

Waits for upstream: metrics of reward managers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from verl_ext.patching import on_import, target, wrap


class VerifiersOutOfOrder(RuntimeError):
    """Too many responses of a step could not be looked at."""


def verdict_metrics(infos: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The metrics of one step's `reward_extra_info`; empty if no row holds a kind."""
    import numpy as np

    from verl_ext.rewards import Kind

    infos = [info for info in infos if "kind" in info]
    if not infos:
        return {}
    kinds = Counter(info["kind"] for info in infos)
    metrics = {f"reward/{kind}_frac": kinds[str(kind)] / len(infos) for kind in Kind}
    p50, p99 = np.quantile([info["verify_s"] for info in infos], [0.5, 0.99])
    metrics |= {"reward/verify_s/p50": float(p50), "reward/verify_s/p99": float(p99)}
    metrics["reward/verify_queue/max"] = float(max(info["verify_queue"] for info in infos))
    return metrics


def _require_order(infos: Sequence[dict[str, Any]], metrics: dict[str, float], limit: float, step: int) -> None:
    share = metrics.get("reward/infra_error_frac", 0.0)
    if share <= limit:
        return
    reasons = Counter(info.get("detail", "") for info in infos if info.get("kind") == "infra_error")
    raise VerifiersOutOfOrder(
        f"step {step}: {share:.0%} of the responses could not be verified (reward/infra_error_frac), more than "
        f"reward.reward_kwargs.max_infra_error_frac={limit:g}. Most frequent reason: {reasons.most_common(1)[0][0]!r}. "
        "The run ends instead of training on responses that nobody has looked at; mend the verifiers and resume."
    )


def infos_of(batch: Any) -> list[dict[str, Any]]:
    """What the reward manager said of each row of a V1 batch; empty where it said nothing."""
    import transfer_queue

    fetched = transfer_queue.kv_batch_get(
        keys=batch.keys, partition_id=batch.partition_id, select_fields=["extra_fields"]
    )
    fields = [getattr(field, "data", field) for field in fetched["extra_fields"]]
    return [field.get("reward_extra_info", {}) if isinstance(field, dict) else {} for field in fields]


def _before_advantage(original: Callable[..., Any]) -> Callable[..., Any]:
    def _compute_advantage(self: Any, batch: Any, metrics: dict[str, Any]) -> Any:
        from verl_ext.rewards.settings import RewardSettings, is_ours

        if is_ours(self.config):
            infos = infos_of(batch)
            found = verdict_metrics(infos)
            metrics.update(found)
            limit = RewardSettings.from_config(self.config).max_infra_error_frac
            _require_order(infos, found, limit, self.global_steps)
        return original(self, batch, metrics)

    return _compute_advantage


def _patch(module: ModuleType) -> None:
    trainer = target(module, "PPOTrainer", __name__)
    wrap(trainer, "_compute_advantage", _before_advantage, patch=__name__, parameters=("batch", "metrics"))


def install() -> None:
    on_import("verl.trainer.ppo.v1.trainer_base", _patch)
