"""Verdicts in the dumps of training (`trainer.rollout_data_dir`), beside each response's score.

For runs with `reward.reward_manager.name=spro` on verl's V1 trainers, whose dumps of validation hold what a reward
manager returned, and whose dumps of training do not.

Waits for upstream: the same for both.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from verl_ext.patching import on_import, target, wrap
from verl_ext.reward_metrics import infos_of

_SHOWN = ("kind", "extracted", "detail", "verify_s")


def _with_verdicts(original: Callable[..., Any]) -> Callable[..., Any]:
    def _log_rollout_data(self: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        from verl_ext.rewards.settings import is_ours

        if not is_ours(self.config):
            return original(self, batch, *args, **kwargs)
        info_of = dict(zip(batch.keys, infos_of(batch), strict=True))
        dump = self._dump_generations

        def dump_with_verdicts(*, reward_extra_infos_dict: dict[str, list[Any]], **rest: Any) -> None:
            # verl names each row by its key.
            infos = [info_of[key] for key in reward_extra_infos_dict["uid"]]
            more = {name: [info.get(name) for info in infos] for name in _SHOWN}
            dump(reward_extra_infos_dict={**reward_extra_infos_dict, **more}, **rest)

        self._dump_generations = dump_with_verdicts
        try:
            return original(self, batch, *args, **kwargs)
        finally:
            del self._dump_generations

    return _log_rollout_data


def _patch(module: ModuleType) -> None:
    trainer = target(module, "PPOTrainer", __name__)
    target(trainer, "_dump_generations", __name__)
    wrap(trainer, "_log_rollout_data", _with_verdicts, patch=__name__, parameters=("batch", "rollout_data_dir"))


def install() -> None:
    on_import("verl.trainer.ppo.v1.trainer_base", _patch)
