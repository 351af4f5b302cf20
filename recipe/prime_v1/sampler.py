"""PRIME's accuracy band with oversampling, as verl's replay buffer for `trainer.v1.sampler.custom_sampler`.

A batch prefers prompts whose mean outcome lies in the band and none of whose responses were cut off. As long as they
do not fill it, more prompts are generated, up to ``oversample_factor`` times the batch; then the best of the others
fill it up. verl's own group filter (`algorithm.filter_groups`) throws others away at once and goes on until enough
are found, so its loop cannot be reused; its bookkeeping is.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import transfer_queue
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.utils.skip import SkipManager

# Of a mean outcome: means of float32 scores may miss a bound by rounding.
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Band:
    """Which groups a batch prefers; the names are those of `algorithm.prime`."""

    filter_accuracy: bool = True
    accuracy_lower_bound: float = 0.2
    accuracy_upper_bound: float = 0.8
    filter_truncate: bool = True
    oversample_factor: float = 4.0
    max_response_length: int = 0

    @property
    def filters(self) -> bool:
        return self.filter_accuracy or self.filter_truncate

    def rank(self, outcomes: list[float], response_lengths: list[int]) -> tuple[float, bool]:
        """How far a group is from what is preferred; (0.0, False) is what is preferred.

        Args:
            outcomes: of its responses; none at all is the worst group.
            response_lengths: of its responses, in tokens.
        """
        if not outcomes:
            return math.inf, True
        distance = 0.0
        if self.filter_accuracy:
            mean = sum(outcomes) / len(outcomes)
            distance = max(self.accuracy_lower_bound - mean, mean - self.accuracy_upper_bound, 0.0)
        # Upstream's rule, which counts a response that ended one token before the limit.
        truncated = self.filter_truncate and max(response_lengths) >= self.max_response_length - 1
        return (distance if distance > _TOLERANCE else 0.0), truncated


_PREFERRED = (0.0, False)


def prompts_to_add(*, preferred: int, seen: int, in_flight: int, generated: int, batch_size: int, limit: int) -> int:
    """How many prompts to send to the rollout engine now.

    As many as will fill the batch if the share of preferred ones stays what it was, at most a batch at a time and
    ``limit`` in all.

    Args:
        preferred: finished groups that the batch wants.
        seen: finished groups.
        in_flight: groups that are being generated.
        generated: groups of this batch so far, finished or not.
        batch_size: groups that the batch needs.
        limit: groups to generate for it at most.
    """
    missing = batch_size - preferred
    if missing <= 0:
        return 0
    share = max(preferred, 1) / max(seen, 1)
    wanted = min(math.ceil(missing / share), batch_size)
    return max(min(wanted - in_flight, limit - generated), 0)


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
        self._ranks: dict[str, tuple[float, bool]] = {}

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        """A batch of ``batch_size`` groups, the preferred ones first; and what it took."""
        if partition_id == "val" or not self.band.filters:
            return super().sample(global_steps=global_steps, partition_id=partition_id, batch_size=batch_size)
        return self._sample_from_band(global_steps=global_steps, partition_id=partition_id, batch_size=batch_size)

    # As verl decorates its own `sample`.
    @SkipManager.annotate_tq(role="rollout_tq", phase="sample")
    def _sample_from_band(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        limit = max(int(self.band.oversample_factor * batch_size), batch_size)
        last_debug_time, generated = time.time(), 0
        while True:
            self._sync_metadata_from_transfer_queue()
            finished = self.finished_keys[partition_id] | self.failure_keys[partition_id]
            in_flight = len(self.pending_keys[partition_id]) + len(self.running_keys[partition_id])
            generated = max(generated, len(finished) + in_flight)
            self._rank_new(partition_id, finished)
            preferred = sum(self._ranks[uid] == _PREFERRED for uid in finished)
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

        # Ties by uid, which is random: not by the order of completion, which prefers short responses.
        chosen = sorted(finished, key=lambda uid: (self._ranks[uid], uid))[:batch_size]
        metrics = {
            "prime/generated_prompts": generated,
            "prime/preferred_prompts": preferred,
            "prime/filled_prompts": sum(self._ranks[uid] != _PREFERRED for uid in chosen),
        }
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
