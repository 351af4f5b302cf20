"""Calls the advantage of verl-recipe's PRIME from a copy of its prime_core_algos.py, which is not shipped with us."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch


def load(path: Path) -> ModuleType:
    """Upstream's module; it needs nothing of verl that has gone since.

    Raises:
        ImportError: no such file, or one without compute_rloo_advantage_return.
    """
    spec = importlib.util.spec_from_file_location("upstream_prime_core_algos", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"{path} is no Python file: give the path of verl-recipe's prime/prime_core_algos.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "compute_rloo_advantage_return"):
        raise ImportError(f"{path} has no compute_rloo_advantage_return: is it verl-recipe's prime_core_algos.py?")
    return module


def upstream_call(
    upstream: ModuleType,
    batch: dict[str, Any],
    group_size: int,
    *,
    beta: float = 0.05,
    reward_dpo_coef: float = 5.0,
    reward_gt_coef: float = 5.0,
    prime_norm: str = "batch_norm",
) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
    """Upstream's advantages and returns of a batch of `prime_advantage`, of which it gets what its worker would send.

    The batch is padded, its rows are in contiguous groups of one size and valid up to their ends. The scores are made
    here, outside of the call: the log-ratios times beta, less each row's last one, by their norm.
    """
    mask = batch["response_mask"].long()
    lengths = mask.sum(1)
    before_last = torch.arange(mask.shape[1]) < lengths[:, None] - 1
    scores = beta * (batch["rm_log_probs"] - batch["ref_log_probs"]) * before_last
    if prime_norm == "batch_norm":
        scores = scores / (scores.flip(1).cumsum(1).flip(1).abs().max() + 1e-6)
    prompts = torch.zeros(len(mask), 1, dtype=torch.int64)
    fields = {"rm_scores": scores, "acc": batch["outcome_rewards"], "prompts": prompts}
    data = SimpleNamespace(batch={**fields, "attention_mask": torch.cat([prompts + 1, mask], 1)})
    algorithm = SimpleNamespace(reward_dpo_coef=reward_dpo_coef, reward_gt_coef=reward_gt_coef)
    config = SimpleNamespace(algorithm=algorithm)
    return lambda: upstream.compute_rloo_advantage_return(data, mask, group_size, config)
