"""PRIME's accuracy band (see `band`) as verl's replay buffer for `trainer.v1.sampler.custom_sampler`.

verl's own group filter (`algorithm.filter_groups`) throws others away at once and goes on until enough are found, so
its loop cannot be reused; its bookkeeping is.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import transfer_queue
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.utils.skip import SkipManager

from recipe.prime_v1.band import PREFERRED, Band, Rank, band_metrics, choose, prompts_to_add


class AccuracyBandBuffer(ReplayBuffer):
    """verl's replay buffer of synchronous training, with PRIME's band.

    Args:
        sampler_kwargs: fields of `Band`.
        kwargs: verl's.
    """

    def __init__(self, *, sampler_kwargs: Any = None, **kwargs: Any) -> None:
        super().__init__(sampler_kwargs=sampler_kwargs, **kwargs)
        self.band = Band(**dict(sampler_kwargs or {}))
        # uid -> rank: a finished group does not change.
        self._ranks: dict[str, Rank] = {}

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        """A batch of ``batch_size`` groups, the preferred ones first; and what it took."""
        if partition_id == "val" or not self.band.filters:
            return super().sample(global_steps=global_steps, partition_id=partition_id, batch_size=batch_size)
        return self._sample_from_band(global_steps=global_steps, partition_id=partition_id, batch_size=batch_size)

    # As verl decorates its own `sample`.
    @SkipManager.annotate_tq(role="rollout_tq", phase="sample")
    def _sample_from_band(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        limit = self.band.limit(batch_size)
        last_debug_time, generated = time.time(), 0
        while True:
            self._sync_metadata_from_transfer_queue()
            finished = self.finished_keys[partition_id] | self.failure_keys[partition_id]
            in_flight = len(self.pending_keys[partition_id]) + len(self.running_keys[partition_id])
            generated = max(generated, len(finished) + in_flight)
            self._rank_new(partition_id, finished)
            preferred = sum(self._ranks[uid] == PREFERRED for uid in finished)
            add = prompts_to_add(
                preferred=preferred,
                seen=len(finished),
                in_flight=in_flight,
                generated=generated,
                batch_size=batch_size,
                limit=limit,
            )
            if add:
                self.refill_fn(add)
                generated += add
            elif in_flight == 0:
                break
            else:
                last_debug_time = self._wait_for_next_poll(partition_id, last_debug_time)

        ranks = {uid: self._ranks[uid] for uid in finished}
        chosen = choose(ranks, batch_size)
        metrics = band_metrics(ranks, chosen, generated)
        self._ranks.clear()
        snapshot = dict(self.partitions[partition_id])
        self._clear_groups(partition_id, finished - set(chosen))
        if not any(key.split("_")[0] in set(chosen) for key in snapshot):
            raise RuntimeError(
                f"step {global_steps}: none of {generated} prompts has a finished response; the log of the rollout "
                "says why."
            )
        return self._materialize_batch(partition_id, chosen, snapshot), metrics

    def _rank_new(self, partition_id: str, finished: set[str]) -> None:
        """Rank the finished groups that have no rank yet."""
        new = finished - self._ranks.keys()
        if not new:
            return
        tags = {key: tag for key, tag in self.partitions[partition_id].items() if key.split("_")[0] in new}
        outcomes: dict[str, list[float]] = defaultdict(list)
        lengths: dict[str, list[int]] = defaultdict(list)
        if tags:
            data = transfer_queue.kv_batch_get(keys=list(tags), partition_id=partition_id, select_fields=["rm_scores"])
            for (key, tag), scores in zip(tags.items(), data["rm_scores"], strict=True):
                uid = key.split("_")[0]
                outcomes[uid].append(float(scores.sum()))
                lengths[uid].append(int(tag["response_len"]))
        for uid in new:
            self._ranks[uid] = self.band.rank(outcomes[uid], lengths[uid])
