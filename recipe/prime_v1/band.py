"""PRIME's accuracy band with oversampling, as plain functions: which groups a batch takes, and how many to generate.

A batch prefers prompts whose mean outcome lies in the band and none of whose responses were cut off. As long as they
do not fill it, more prompts are generated, up to ``oversample_factor`` times the batch; then the best of the others
fill it up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

# Of a mean outcome: means of float32 scores may miss a bound by rounding.
_TOLERANCE = 1e-6


Rank = tuple[float, bool]
"""How far a group's mean outcome is from the band, and whether a response of it was cut off: smaller is better."""

PREFERRED: Rank = (0.0, False)


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

    def limit(self, batch_size: int) -> int:
        """How many groups to generate at most for a batch of so many."""
        return max(int(self.oversample_factor * batch_size), batch_size)

    def rank(self, outcomes: list[float], response_lengths: list[int]) -> Rank:
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


def choose(ranks: Mapping[str, Rank], batch_size: int) -> list[str]:
    """The groups of a batch: the best by rank.

    Args:
        ranks: by uid, of the finished groups.
        batch_size: groups that the batch takes, if there are so many.
    """
    # Ties by uid, which is random: not by the order of completion, which prefers short responses.
    return sorted(ranks, key=lambda uid: (ranks[uid], uid))[:batch_size]


def band_metrics(ranks: Mapping[str, Rank], chosen: list[str], generated: int) -> dict[str, int]:
    """What a batch took, in prompts.

    Args:
        ranks: by uid, of the finished groups.
        chosen: of them, those in the batch.
        generated: groups generated for it.
    """
    return {
        "prime/generated_prompts": generated,
        "prime/preferred_prompts": sum(rank == PREFERRED for rank in ranks.values()),
        "prime/filled_prompts": sum(ranks[uid] != PREFERRED for uid in chosen),
    }
