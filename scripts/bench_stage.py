"""Times V1's whole advantage stage on a large batch: from jagged fields to jagged advantages, padding included.

    python -m scripts.bench_stage [--rows 16384] [--width 32768] [--limit-gib 16] [--csv docs/bench/stage_cpu.csv]

The batch is generated (lognormal lengths, 35 % of the width on average, groups of 16) and handed to verl's own
`PPOTrainer._compute_advantage` by a queue in memory in place of TransferQueue, whose cost is not in here. `spro` takes
the fields as they are, `spro, padded` as verl pads them for every estimator of its own, such as `grpo`. What pads is
measured at the largest number of rows of 512, 1024, ... whose peak stays under the limit, and at the others on the
way. Each row is a process of its own: the first call, after one on a tiny batch.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tensordict import NonTensorStack, TensorDict

from scripts.bench_advantage import Shape, row_lengths
from scripts.measure import in_new_process, peak_extra_bytes, provenance

METHODS = ("spro", "spro, padded", "grpo")
_FILL, _GROUP = 0.35, 16


class InMemoryQueueInPlaceOfTransferQueue:
    """What `transfer_queue.kv_batch_get` and `kv_batch_put` do, in this process; keeps what was asked of it."""

    def __init__(self, fields: dict[str, torch.Tensor], uids: list[str]) -> None:
        self.fields, self.uids = fields, uids
        self.fetched: list[list[str]] = []
        self.written: dict[str, Any] = {}

    def kv_batch_get(self, keys: Any, partition_id: str, select_fields: Any = None) -> TensorDict:
        self.fetched.append(list(select_fields))
        # Each field comes with offsets of its own.
        held = {
            name: _jagged(x.values(), x.offsets().clone()) for name, x in self.fields.items() if name in select_fields
        }
        return TensorDict({**held, "uid": NonTensorStack(*self.uids)}, batch_size=len(self.uids))

    def kv_batch_put(self, keys: Any, partition_id: str, fields: TensorDict) -> Any:
        self.written = dict(fields.items())
        return SimpleNamespace(keys=keys, partition_id=partition_id)


def make_fields(rows: int, width: int) -> dict[str, torch.Tensor]:
    """What V1 holds after the reference's forward pass: jagged, the mask int64."""
    lengths = row_lengths(Shape(rows, width, _GROUP, _FILL), seed=0)
    # The longest response is as long as it may be.
    lengths[0] = width
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    total = int(offsets[-1])
    log_probs, scores = -torch.rand(total), torch.zeros(total)
    scores[offsets[1:] - 1] = (torch.rand(rows) < 0.5).float()
    values = {
        "response_mask": torch.ones(total, dtype=torch.int64),
        "rm_scores": scores,
        "old_log_probs": log_probs,
        "ref_log_prob": log_probs + 0.03 * torch.randn(total),
        "rollout_log_probs": log_probs + 0.01 * torch.randn(total),
    }
    return {name: _jagged(x, offsets) for name, x in values.items()}


def _jagged(values: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    lengths = offsets.diff()
    # As TransferQueue's tensors know them; torch pads the others to the sum of all lengths.
    extremes = {"min_seqlen": int(lengths.min()), "max_seqlen": int(lengths.max())}
    return torch.nested.nested_tensor_from_jagged(values, offsets, **extremes)


def compute_stage(queue: InMemoryQueueInPlaceOfTransferQueue, algorithm: dict[str, Any]) -> dict[str, float]:
    """Run verl's `PPOTrainer._compute_advantage`, with our patches around it, on the queue's fields.

    Args:
        queue: gets the result.
        algorithm: of the `algorithm` config; the rest of it as in SPRO's configuration.

    Returns:
        The stage's metrics.
    """
    import transfer_queue
    from omegaconf import OmegaConf
    from verl.trainer.ppo import core_algos
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

    import recipe.spro.plugin  # noqa: F401 (its import installs the extensions)

    defaults = {
        "gamma": 1.0,
        "lam": 1.0,
        "use_kl_in_reward": True,
        "kl_penalty": "kl",
        "kl_coef": 0.0,
        "norm_adv_by_std_in_grpo": True,
        "rollout_correction": {"bypass_mode": False},
    }
    config = OmegaConf.create({"algorithm": {**defaults, **algorithm}, "actor_rollout_ref": {"rollout": {"n": _GROUP}}})
    control = core_algos.FixedKLController(config.algorithm.kl_coef)
    trainer = SimpleNamespace(config=config, kl_ctrl_in_reward=control, global_steps=1, tokenizer=None)
    keys = [f"{uid}_{row}_0" for row, uid in enumerate(queue.uids)]
    batch = transfer_queue.KVBatchMeta(partition_id="train", keys=keys, tags=[{} for _ in keys])
    originals = transfer_queue.kv_batch_get, transfer_queue.kv_batch_put
    transfer_queue.kv_batch_get, transfer_queue.kv_batch_put = queue.kv_batch_get, queue.kv_batch_put
    metrics: dict[str, float] = {}
    try:
        PPOTrainer._compute_advantage(trainer, batch, metrics)
    finally:
        transfer_queue.kv_batch_get, transfer_queue.kv_batch_put = originals
    return metrics


def _measure(method: str, rows: int, width: int) -> dict[str, float]:
    algorithm = {"adv_estimator": method.split(",")[0], "spro": {"beta": 0.01}}

    def stage(rows: int, width: int) -> tuple[InMemoryQueueInPlaceOfTransferQueue, float, int]:
        uids = [f"uid-{row // _GROUP}" for row in torch.randperm(rows).tolist()]
        queue = InMemoryQueueInPlaceOfTransferQueue(make_fields(rows, width), uids)
        start = time.perf_counter()
        _, extra = peak_extra_bytes(lambda: compute_stage(queue, algorithm))
        return queue, time.perf_counter() - start, extra

    if method == "spro, padded":
        from recipe.spro.estimator import compute_spro_advantage
        from verl_ext.jagged_advantage import takes_padded

        takes_padded(compute_spro_advantage)
    stage(32, 64)
    queue, seconds, extra = stage(rows, width)
    tokens = len(queue.fields["response_mask"].values())
    fields = sum(x.values().nbytes for x in queue.fields.values())
    written = {x.values().data_ptr(): x.values().nbytes for x in queue.written.values()}
    return {
        "tokens": tokens,
        "seconds": seconds,
        "ns_per_token": seconds / tokens * 1e9,
        "fields_gib": fields / 2**30,
        "written_gib": sum(written.values()) / 2**30,
        "peak_extra_gib": extra / 2**30,
    }


def measure_all(rows: int, width: int, limit_gib: float) -> list[dict[str, Any]]:
    """Every method: those that pad in growing sizes, up to the limit of memory with the fields included."""
    results = []
    for method in METHODS:
        size = rows if method == "spro" else min(512, rows)
        while size <= rows:
            found = in_new_process("scripts.bench_stage", "--measure", method, f"--rows={size}", f"--width={width}")
            results.append({"method": method, "rows": size, "width": width, **found})
            print(_line(results[-1]), flush=True)
            # The next size takes about twice as much.
            if 2 * (found["fields_gib"] + found["peak_extra_gib"]) > limit_gib:
                break
            size *= 2
    return results


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['method']:14}{row['rows']:>7} x {row['width']}  {row['tokens'] / 1e6:7.1f} M tokens  "
        f"{row['seconds']:8.3f} s  {row['ns_per_token']:7.2f} ns/token  "
        f"{row['peak_extra_gib']:6.2f} GiB beyond the fields' {row['fields_gib']:.2f}"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16_384)
    parser.add_argument("--width", type=int, default=32_768)
    parser.add_argument("--limit-gib", type=float, default=16.0)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--measure", choices=METHODS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.measure:
        print(json.dumps(_measure(given.measure, given.rows, given.width)))
        return 0
    where = provenance()
    print(", ".join(f"{key} {value}" for key, value in where.items()))
    results = measure_all(given.rows, given.width, given.limit_gib)
    if given.csv:
        given.csv.parent.mkdir(parents=True, exist_ok=True)
        with given.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=[*results[0], *where])
            writer.writeheader()
            writer.writerows(row | where for row in results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
