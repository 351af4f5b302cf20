"""The accuracy band: what it prefers, how much it generates, and that it always ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from verl.trainer.ppo.v1 import replay_buffer

from recipe.prime_v1 import sampler
from recipe.prime_v1.band import Band, prompts_to_add
from recipe.prime_v1.sampler import AccuracyBandBuffer

N, MAX_LENGTH = 4, 10


class FakeTransferQueue:
    """Stands in for the TransferQueue and for the rollout engine, which finishes a prompt per look at it.

    The groups' outcomes come from ``outcomes``, in the order of the prompts; its last is that of all further ones.
    """

    def __init__(self, outcomes: list[list[float]], length: Callable[[int], int] = lambda number: 5) -> None:
        self.outcomes, self.length = outcomes, length
        self.tags: dict[str, dict[str, Any]] = {}
        self.scores: dict[str, torch.Tensor] = {}
        self.submitted = 0
        self.at_once = 0

    def submit(self, count: int) -> None:
        for _ in range(count):
            self.tags[f"u{self.submitted}"] = {"is_prompt": True, "status": "pending", "global_steps": 1}
            self.submitted += 1
        self.at_once = max(self.at_once, len(self.unfinished()))

    def unfinished(self) -> list[str]:
        return [key for key, tag in self.tags.items() if tag.get("status") in ("pending", "running")]

    def kv_list(self) -> dict[str, dict[str, dict[str, Any]]]:
        for uid in self.unfinished()[:1]:
            number = int(uid[1:])
            outcomes = self.outcomes[min(number, len(self.outcomes) - 1)]
            for session, outcome in enumerate(outcomes):
                key, length = f"{uid}_{session}_0", self.length(number)
                self.tags[key] = {"status": "success", "response_len": length}
                self.scores[key] = torch.cat([torch.zeros(length - 1), torch.tensor([outcome])])
            self.tags[uid]["status"] = "finished" if len(outcomes) == N else "failure"
        return {"train": {key: dict(tag) for key, tag in self.tags.items()}}

    def kv_batch_get(self, keys: list[str], partition_id: str, select_fields: list[str]) -> TensorDict:
        assert (partition_id, select_fields) == ("train", ["rm_scores"])
        nested = torch.nested.as_nested_tensor([self.scores[key] for key in keys], layout=torch.jagged)
        return TensorDict({"rm_scores": nested}, len(keys))

    def kv_clear(self, partition_id: str, keys: list[str]) -> None:
        for key in keys:
            del self.tags[key]


def outcomes_of(mean: float) -> list[float]:
    return [mean] * N


def sample(
    monkeypatch: pytest.MonkeyPatch, queue: FakeTransferQueue, batch_size: int, **band: Any
) -> tuple[set[int], dict[str, Any]]:
    """Numbers of the prompts in a batch, and its metrics."""
    monkeypatch.setattr(replay_buffer, "tq", queue)
    monkeypatch.setattr(sampler, "transfer_queue", queue)
    buffer = AccuracyBandBuffer(
        trainer_mode="sync",
        trainer_config={},
        max_off_policy_threshold=8,
        max_off_policy_strategy="drop",
        sampler_kwargs={"max_response_length": MAX_LENGTH, **band},
        poll_interval=0.0,
        refill_fn=queue.submit,
    )
    queue.submit(batch_size)
    batch, metrics = buffer.sample(global_steps=1, partition_id="train", batch_size=batch_size)
    # What was not chosen is gone, and so are the chosen prompts' own entries.
    assert set(queue.tags) == set(batch.keys)
    return {int(key.split("_")[0][1:]) for key in batch.keys}, metrics


def test_a_batch_inside_the_band_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = FakeTransferQueue([outcomes_of(0.5)])
    assert sample(monkeypatch, queue, 3) == (
        {0, 1, 2},
        {"prime/generated_prompts": 3, "prime/preferred_prompts": 3, "prime/filled_prompts": 0},
    )


def test_prompts_outside_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = FakeTransferQueue([outcomes_of(x) for x in (1.0, 0.5, 0.0, 0.5)])
    chosen, metrics = sample(monkeypatch, queue, 3)
    assert chosen.isdisjoint({0, 2})
    assert len(chosen) == 3
    assert metrics["prime/filled_prompts"] == 0
    assert metrics["prime/preferred_prompts"] == metrics["prime/generated_prompts"] - 2


def test_a_band_that_never_fills_ends_and_takes_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    means = [0.0, 0.5, 1.0, 0.1, 0.95, 0.0, 0.9]
    queue = FakeTransferQueue([outcomes_of(x) for x in [*means, 1.0]])
    chosen, metrics = sample(monkeypatch, queue, 3, oversample_factor=4)
    # 0.5 is inside; 0.1 and 0.9 are 0.1 away.
    assert chosen == {1, 3, 6}
    assert metrics == {"prime/generated_prompts": 12, "prime/preferred_prompts": 1, "prime/filled_prompts": 2}
    assert queue.submitted == 12
    # Never more than a batch at a time.
    assert queue.at_once <= 3


def test_no_oversampling(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = FakeTransferQueue([outcomes_of(1.0)])
    chosen, metrics = sample(monkeypatch, queue, 3, oversample_factor=1)
    assert chosen == {0, 1, 2}
    assert metrics == {"prime/generated_prompts": 3, "prime/preferred_prompts": 0, "prime/filled_prompts": 3}


def test_cut_off_responses_are_avoided(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = FakeTransferQueue([outcomes_of(0.5)], length=lambda number: MAX_LENGTH if number < 2 else 3)
    chosen, metrics = sample(monkeypatch, queue, 2)
    assert chosen.isdisjoint({0, 1})
    assert metrics["prime/filled_prompts"] == 0


def test_cut_off_responses_count_where_they_are_not_filtered(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = FakeTransferQueue([outcomes_of(0.5)], length=lambda number: MAX_LENGTH)
    assert sample(monkeypatch, queue, 2, filter_truncate=False)[0] == {0, 1}


def test_without_filters_it_is_verls(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = FakeTransferQueue([outcomes_of(1.0)], length=lambda number: MAX_LENGTH)
    chosen, metrics = sample(monkeypatch, queue, 2, filter_accuracy=False, filter_truncate=False)
    assert (chosen, metrics) == ({0, 1}, {})


def test_a_prompt_without_responses_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = FakeTransferQueue([[], outcomes_of(0.0), [0.5], outcomes_of(1.0)])
    chosen, metrics = sample(monkeypatch, queue, 2, oversample_factor=2)
    # The group of one is a failed one, whose response is inside.
    assert 2 in chosen
    assert 0 not in chosen
    assert metrics["prime/generated_prompts"] == 4


def test_no_response_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = FakeTransferQueue([[]])
    with pytest.raises(RuntimeError, match="step 1: none of 6 prompts has a finished response"):
        sample(monkeypatch, queue, 3, oversample_factor=2)


@pytest.mark.parametrize(
    ("outcomes", "lengths", "rank"),
    [
        ([0.0, 1.0], [5, 5], (0.0, False)),
        # Both bounds are inside, however the mean is rounded.
        ([0.0, 0.0, 0.0, 0.0, 1.0], [5] * 5, (0.0, False)),
        ([0.2 - 1e-8], [5], (0.0, False)),
        ([0.8 + 1e-8], [5], (0.0, False)),
        ([0.0], [5], (0.2, False)),
        ([1.0], [5], (pytest.approx(0.2), False)),
        # Upstream's limit is one token below the longest response.
        ([0.5, 0.5], [8, 5], (0.0, False)),
        ([0.5, 0.5], [9, 5], (0.0, True)),
        ([], [], (math.inf, True)),
    ],
)
def test_rank(outcomes: list[float], lengths: list[int], rank: Any) -> None:
    assert Band(max_response_length=MAX_LENGTH).rank(outcomes, lengths) == rank


@pytest.mark.parametrize(
    ("preferred", "seen", "in_flight", "generated", "added"),
    [
        # Nothing is known yet, and the batch is on its way.
        (0, 0, 8, 8, 0),
        # The batch is full; nothing more, whatever is in flight.
        (8, 10, 0, 10, 0),
        (9, 10, 3, 13, 0),
        # Half of them are preferred: 4 are missing, so 8, of which 2 are on their way.
        (4, 8, 2, 10, 6),
        # At most a batch at a time, and the limit.
        (1, 8, 0, 8, 8),
        (1, 28, 0, 28, 4),
        (0, 32, 0, 32, 0),
    ],
)
def test_prompts_to_add(preferred: int, seen: int, in_flight: int, generated: int, added: int) -> None:
    assert added == prompts_to_add(
        preferred=preferred, seen=seen, in_flight=in_flight, generated=generated, batch_size=8, limit=32
    )
