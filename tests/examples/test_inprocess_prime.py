"""PRIME in the in-process loop: its steps against a recomputation, and what its settings do."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from verl import DataProto

from examples.arithmetic import inprocess
from examples.arithmetic.inprocess import DEFAULTS, Loop, composed, overrides_of
from examples.arithmetic.make_data import make_data
from examples.arithmetic.make_model import make_base
from examples.arithmetic.sampling import Responses, Rollout
from recipe.prime_v1.advantage import ordering_accuracy, prime_advantage_naive
from verl_ext import estimator_metrics

SIZE, N = 16, 8
MakeLoop = Callable[..., Loop]

# An untrained model never ends its responses: with the band's usual limit four times as many are made for nothing.
ONE_WAVE = "algorithm.prime.oversample_factor=1"


@pytest.fixture
def make_loop(example: dict[str, str]) -> MakeLoop:
    """Loops of PRIME whose responses are right or wrong by chance: a model that has learned nothing is never right."""

    def make(*overrides: str, **environment: str) -> Loop:
        told = {**DEFAULTS, **example, "METHOD": "prime", **environment}
        make_data(Path(told["ROOT"]) / "data", heldout=int(told["HELDOUT_N"]))
        make_base(Path(told["ROOT"]) / "data", Path(told["ROOT"]) / "base-seed0", 0)
        estimator_metrics.drain()
        loop = Loop(composed([*overrides_of(told), *overrides]))
        chance = torch.Generator().manual_seed(5)
        loop.score = lambda row, text: (float(torch.rand((), generator=chance) < 0.5), {})
        return loop

    return make


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[DataProto]:
    """What the loop hands to verl's advantage, step by step."""
    seen: list[DataProto] = []
    original = inprocess.compute_advantage

    def watched(batch: DataProto, **kwargs: Any) -> DataProto:
        seen.append(batch)
        return original(batch, **kwargs)

    monkeypatch.setattr(inprocess, "compute_advantage", watched)
    return seen


def _log_probs(model: Any, batch: DataProto) -> torch.Tensor:
    ids = torch.cat([batch.batch["prompts"], batch.batch["responses"]], dim=1)
    width = batch.batch["responses"].shape[1]
    logits = model(input_ids=ids[:, :-1]).logits[:, -width:]
    return logits.log_softmax(-1).gather(-1, batch.batch["responses"][..., None])[..., 0]


def _loss(log_probs: torch.Tensor, batch: DataProto, beta: float) -> torch.Tensor:
    """Cross-entropy as the paper writes it: y log sigma(r) + (1 - y) log (1 - sigma(r))."""
    mask = batch.batch["response_mask"]
    chance = torch.sigmoid(beta * ((log_probs - batch.batch["ref_log_prob"]) * mask).sum(-1))
    outcome = batch.batch["token_level_scores"].sum(-1)
    return -(outcome * chance.log() + (1 - outcome) * (1 - chance).log()).mean()


@pytest.mark.parametrize("form", ["upstream", "paper"])
def test_two_steps_are_those_of_a_recomputation(form: str, make_loop: MakeLoop, batches: list[DataProto]) -> None:
    loop = make_loop(ONE_WAVE, f"algorithm.prime.form={form}", RM_LR="1e-3")
    assert loop.prime is not None
    twin = deepcopy(loop.prime.model)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0)
    for step in (1, 2):
        metrics = loop.step(step)
        batch = batches[-1]
        loss = _loss(_log_probs(twin, batch), batch, beta=0.05)
        assert metrics["reward_model/loss"] == pytest.approx(loss.item(), abs=1e-6)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), 10.0)
        assert metrics["reward_model/grad_norm"] == pytest.approx(norm.item(), rel=1e-3)
        optimizer.step()
        mask = batch.batch["response_mask"].bool()
        # Trained before it scores; small against what the update moved.
        with torch.no_grad():
            expected = _log_probs(twin, batch)
        moved = (batch.batch["rm_log_probs"] - batch.batch["ref_log_prob"])[mask]
        assert (batch.batch["rm_log_probs"] - expected)[mask].abs().max() < 1e-3 < 0.1 < moved.abs().max()
        outcomes = batch.batch["token_level_scores"].sum(-1)
        rows = (batch.batch["rm_log_probs"], batch.batch["ref_log_prob"], mask, outcomes, batch.non_tensor_batch["uid"])
        norm_of_form = "batch_norm" if form == "upstream" else "none"
        advantages, _ = prime_advantage_naive(*rows, form=form, prime_norm=norm_of_form)
        assert torch.allclose(batch.batch["advantages"].double(), advantages, atol=1e-4)
        scores = ((rows[0] - rows[1]) * mask).sum(-1)
        assert metrics["reward_model/ordering_accuracy"] == ordering_accuracy(scores, outcomes, rows[4])
        assert metrics["prime/process_share"] > 0
    # From the policy's weights at first, where every outcome is a coin.
    assert metrics["reward_model/loss"] != pytest.approx(0.693147, abs=1e-5)


def test_scored_before_it_is_trained_the_first_reward_is_nothing(make_loop: MakeLoop, batches: list[DataProto]) -> None:
    loop = make_loop(ONE_WAVE, "algorithm.prime.update=after", RM_LR="1e-3")
    assert loop.prime is not None
    metrics = [loop.step(step) for step in (1, 2)]
    first, second = (batch.batch["rm_log_probs"] - batch.batch["ref_log_prob"] for batch in batches)
    assert first.abs().max() == 0 < second.abs().max()
    assert [row["reward_model/reward"] == 0 for row in metrics] == [True, False]
    assert metrics[0]["reward_model/loss"] == pytest.approx(0.693147, abs=1e-6)


@pytest.mark.parametrize("lr", ["1e-5", "1e-3"])
def test_the_reward_models_learning_rate_is_its_own(lr: str, make_loop: MakeLoop) -> None:
    loop = make_loop(ONE_WAVE, RM_LR=lr, LR="1e-4")
    assert loop.prime is not None
    before = deepcopy(loop.prime.model.state_dict()), deepcopy(loop.policy.state_dict())
    assert loop.step(1)["reward_model/lr"] == float(lr)
    after = loop.prime.model.state_dict(), loop.policy.state_dict()
    # Adam's first step moves each weight by the learning rate.
    for models, expected in zip(zip(before, after, strict=True), (float(lr), 1e-4), strict=True):
        moved = max((models[1][name] - models[0][name]).abs().max().item() for name in models[0])
        # What is lost to the rounding of weights of size 1, and to the policy's weight decay.
        assert moved == pytest.approx(expected, rel=0.05)


def _rollout(means: list[float], length: int = 5) -> Rollout:
    """A group a mean, with responses of one length; its prompt is the mean in hundredths."""
    prompts = torch.tensor([round(100 * mean) for mean in means]).repeat_interleave(N)[:, None]
    ids = torch.cat([prompts, torch.full((len(means) * N, length), 7)], dim=1)
    scored = [(float(index < round(mean * N)), {"extra": 1.0}) for mean in means for index in range(N)]
    return Rollout(Responses(ids, 1, torch.ones(len(scored), length, dtype=torch.long)), scored, N, pad=9)


def _prompts(rollout: Rollout) -> list[int]:
    return [int(group.responses.ids[0, 0]) for group in rollout.groups()]


def test_the_band_goes_on_until_it_is_full(make_loop: MakeLoop) -> None:
    prime = make_loop().prime
    assert prime is not None
    asked: list[int] = []

    def half_of_them(prompts: int) -> Rollout:
        asked.append(prompts)
        # Of other lengths from one wave to the next.
        return _rollout([(0.0, 0.5, 1.0, 0.25)[index % 4] for index in range(prompts)], length=4 + len(asked))

    rollout, metrics = prime.rollout(half_of_them)
    # 8 of the first 16 are missing, of which every other is preferred; then what is left of that.
    assert asked == [16, 16]
    assert sorted(set(_prompts(rollout))) == [25, 50]
    assert len(rollout.scored) == SIZE * N
    assert metrics == {
        "prime/generated_prompts": 32,
        "prime/preferred_prompts": 16,
        "prime/filled_prompts": 0,
        "training/generated_tokens/sum": 16 * N * (5 + 6),
    }
    responses = rollout.responses
    assert responses.mask.shape == (SIZE * N, 6)
    assert set(responses.mask.sum(-1).tolist()) == {5, 6}
    assert ((responses.tokens == 9) == (responses.mask == 0)).all()


def test_the_band_ends_at_its_limit_and_takes_the_nearest(make_loop: MakeLoop) -> None:
    prime = make_loop().prime
    assert prime is not None
    given: list[float] = []

    def none_of_them(prompts: int) -> Rollout:
        means = [0.125 if (len(given) + index) % 5 == 0 else 0.0 for index in range(prompts)]
        given.extend(means)
        return _rollout(means)

    rollout, metrics = prime.rollout(none_of_them)
    assert len(given) == metrics["prime/generated_prompts"] == 4 * SIZE
    assert (metrics["prime/preferred_prompts"], metrics["prime/filled_prompts"]) == (0, SIZE)
    nearest = sum(mean > 0 for mean in given)
    assert sorted(_prompts(rollout)) == [0] * (SIZE - nearest) + [12] * nearest


def test_a_group_with_a_response_that_was_cut_off_is_not_preferred(make_loop: MakeLoop) -> None:
    prime = make_loop().prime
    assert prime is not None
    lengths = iter([40, 5, 40])
    rollout, metrics = prime.rollout(lambda prompts: _rollout([0.5] * prompts, length=next(lengths)))
    assert metrics["prime/generated_prompts"] == 2 * SIZE
    assert rollout.responses.mask.shape[1] == 5


def test_without_the_band_a_batch_is_what_was_generated(make_loop: MakeLoop) -> None:
    off = [f"algorithm.prime.{name}=false" for name in ("filter_accuracy", "filter_truncate")]
    prime = make_loop(*off, *(f"trainer.v1.sampler.custom_sampler.{key}=null" for key in ("path", "name"))).prime
    assert prime is not None
    rollout, metrics = prime.rollout(lambda prompts: _rollout([0.0] * prompts))
    assert (_prompts(rollout), metrics) == ([0] * SIZE, {})


def test_an_outcome_that_is_no_probability_is_refused(make_loop: MakeLoop) -> None:
    loop = make_loop(ONE_WAVE)
    loop.score = lambda row, text: (-1.0, {})
    with pytest.raises(ValueError, match="the outcome of row 0 is -1"):
        loop.step(1)


def test_a_run_says_what_its_reward_model_learned_at(example: dict[str, str]) -> None:
    told = {**example, "METHOD": "prime", "RM_LR": "3e-5"}
    learned = ("reward_model/loss", "reward_model/grad_norm", "actor/grad_norm", "actor/entropy")
    first, again = (
        [
            json.loads(line)["data"]
            for line in (inprocess.run(of, [ONE_WAVE]) / "metrics.jsonl").read_text().splitlines()
        ]
        for of in (told, {**told, "OUT": f"{told['OUT']}-again"})
    )
    assert [first[2][key] for key in learned] == [again[2][key] for key in learned]
    assert first[2]["reward_model/lr"] == 3e-5
    assert "timing_s/reward_model" in first[2]
    assert json.loads((Path(told["OUT"]) / "run.json").read_text())["rm_lr"] == 3e-5
