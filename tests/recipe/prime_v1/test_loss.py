"""The reward model's loss: by hand, against float64, and the same however the batch is split."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
from tensordict import NonTensorData, TensorDict

from recipe.prime_v1.loss import RewardModelLoss, outcome_cross_entropy

BETA = 0.3
LENGTHS = [5, 1, 3, 2, 4, 1]
PROMPTS = [2, 3, 1, 2, 2, 4]
VOCABULARY = 7


def test_by_hand() -> None:
    log_probs = torch.tensor([[-1.0, -2.0, -9.0], [-1.0, -1.0, -1.0]])
    ref = torch.tensor([[-2.0, -4.0, -1.0], [-1.0, -1.0, -1.0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    found = outcome_cross_entropy(log_probs, ref, mask, torch.tensor([1.0, 0.25]), beta=0.5)
    # The first logit is 0.5 * (1 + 2), the second 0.
    expected = torch.tensor([-math.log(1 / (1 + math.exp(-1.5))), math.log(2)])
    torch.testing.assert_close(found, expected)


def test_what_stands_at_masked_places_has_no_effect_on_loss_and_gradient() -> None:
    rng = torch.Generator().manual_seed(0)
    log_probs, ref = torch.randn(3, 4, generator=rng), torch.randn(3, 4, generator=rng)
    mask = torch.tensor([[1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    results = []
    for junk in (0.0, math.nan, math.inf):
        poisoned = torch.where(mask.bool(), log_probs, junk).requires_grad_()
        losses = outcome_cross_entropy(
            poisoned, torch.where(mask.bool(), ref, junk), mask, torch.tensor([1.0, 0.0, 1.0]), beta=BETA
        )
        losses.sum().backward()
        assert poisoned.grad is not None
        results.append((losses.detach(), poisoned.grad))
    for losses, gradient in results[1:]:
        torch.testing.assert_close(losses, results[0][0], atol=0, rtol=0)
        torch.testing.assert_close(gradient, results[0][1], atol=0, rtol=0)
    # A row without a valid token says nothing.
    assert results[0][0][2] == 0
    assert results[0][1][0, 0] != 0
    assert not results[0][1][2].any()


def test_long_responses_do_not_overflow() -> None:
    far = torch.full((1, 4), 1e5)
    for sign, outcome in ((1, 1.0), (-1, 0.0)):
        losses = outcome_cross_entropy(
            sign * far, torch.zeros(1, 4), torch.ones(1, 4), torch.tensor([outcome]), beta=1.0
        )
        assert losses.item() == 0.0


def rows(picked: list[int], *, dp_size: int, global_batch_size: int) -> TensorDict:
    """Some of the rows as verl's worker has them; the third is padding, whose outcome must not count."""
    rng = torch.Generator().manual_seed(1)
    fields: dict[str, list[torch.Tensor]] = {
        name: [] for name in ("prompts", "responses", "response_mask", "ref_log_prob", "rm_scores")
    }
    for row, (prompt, length) in enumerate(zip(PROMPTS, LENGTHS, strict=True)):
        fields["prompts"].append(torch.randint(VOCABULARY, (prompt,), generator=rng))
        fields["responses"].append(torch.randint(VOCABULARY, (length,), generator=rng))
        mask = torch.full((length,), int(row != 2))
        if length > 3:
            mask[1] = 0
        fields["response_mask"].append(mask)
        fields["ref_log_prob"].append(-torch.rand(length, generator=rng))
        scores = torch.zeros(length)
        scores[-1] = torch.rand((), generator=rng)
        fields["rm_scores"].append(scores)
    data = TensorDict(
        {
            name: torch.nested.as_nested_tensor([values[row] for row in picked], layout=torch.jagged)
            for name, values in fields.items()
        },
        len(picked),
    )
    data["dp_size"] = NonTensorData(dp_size)
    data["global_batch_size"] = NonTensorData(global_batch_size)
    return data


def step(weight: torch.Tensor, picked: list[int], *, dp_size: int = 1) -> float:
    """Backward of one micro-batch of a bigram model, whose row of ``weight`` is the token before."""
    data = rows(picked, dp_size=dp_size, global_batch_size=len(LENGTHS))
    log_probs = []
    for prompt, response in zip(data["prompts"].unbind(), data["responses"].unbind(), strict=True):
        tokens = torch.cat([prompt, response])
        # As verl's engine: place t holds the log-prob of token t + 1, and the last place nothing.
        following = weight.log_softmax(-1)[tokens[:-1]].gather(-1, tokens[1:, None])[:, 0]
        log_probs.append(torch.cat([following, torch.full((1,), math.nan)]))
    output = {"log_probs": torch.nested.as_nested_tensor(log_probs, layout=torch.jagged)}
    loss, metrics = RewardModelLoss(beta=BETA, reference_field="ref_log_prob")(output, data)
    assert metrics == {}
    loss.backward()
    return float(loss.detach())


def gradient_of(micro_batches: list[list[int]], *, dp_size: int = 1) -> tuple[float, torch.Tensor]:
    """Loss and gradient of an update: micro-batches add up, data-parallel ranks are averaged by FSDP."""
    weight = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(2)).requires_grad_()
    total = sum(step(weight, picked, dp_size=dp_size) for picked in micro_batches)
    assert weight.grad is not None
    return total / dp_size, weight.grad / dp_size


@pytest.mark.parametrize(
    ("micro_batches", "dp_size"),
    [
        ([[0, 1, 2], [3, 4, 5]], 1),
        ([[0], [1, 2, 3, 4], [5]], 1),
        # Two ranks, one of which has two micro-batches.
        ([[0, 1, 2], [3], [4, 5]], 2),
    ],
)
def test_neither_micro_batches_nor_ranks_change_the_update(micro_batches: list[list[int]], dp_size: int) -> None:
    whole_loss, whole = gradient_of([[0, 1, 2, 3, 4, 5]])
    loss, gradient = gradient_of(micro_batches, dp_size=dp_size)
    assert whole.abs().max() > 1e-4
    assert loss == pytest.approx(whole_loss, rel=1e-6)
    torch.testing.assert_close(gradient, whole, atol=1e-7, rtol=1e-5)


def test_the_reference_is_the_field_that_is_named() -> None:
    data = rows([0, 1], dp_size=1, global_batch_size=2)
    data["old_log_probs"] = data["ref_log_prob"] * 3
    sequences = [p + r for p, r in zip(PROMPTS[:2], LENGTHS[:2], strict=True)]
    output = {"log_probs": torch.nested.as_nested_tensor([torch.zeros(n) for n in sequences], layout=torch.jagged)}
    losses: list[Any] = [
        float(RewardModelLoss(beta=BETA, reference_field=name)(output, data)[0])
        for name in ("ref_log_prob", "old_log_probs")
    ]
    assert losses[0] != losses[1]


def test_it_travels_to_the_worker() -> None:
    loss = RewardModelLoss(beta=BETA, reference_field="old_log_probs")
    assert pickle.loads(pickle.dumps(loss)) == loss
