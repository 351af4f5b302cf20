"""Wider steps and sessions of several outputs through the registered estimator and verl's own functions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from verl import DataProto
from verl.trainer.ppo.v1 import utils as v1

from examples.arithmetic.make_model import make_tokenizer
from recipe.spro.advantage.steps import STEPS, make_step_ids
from recipe.spro.advantage.vocabulary import TokenTable, tokenize_delimiters
from recipe.spro.estimator import compute_spro_advantage
from tests.recipe.spro.test_estimator import N, T, batch, oracle
from tests.support import composed
from verl_ext import estimator_context, estimator_metrics

TOKENIZER = make_tokenizer()
DELIMITERS = 'algorithm.spro.step_delimiters=["3","ab"]'


@pytest.fixture(autouse=True)
def _nothing_left_recorded() -> Any:
    yield
    estimator_metrics.drain()


def with_responses(seed: int) -> DataProto:
    """`batch`, with texts of few characters."""
    data = batch(seed)
    characters = torch.tensor(TOKENIZER.encode("ab3. \n"))
    rng = torch.Generator().manual_seed(seed)
    chosen = torch.randint(0, len(characters), data.batch["response_mask"].shape, generator=rng)
    data.batch["responses"] = characters[chosen]
    return data


def compute(data: DataProto, *overrides: str, keys: list[str] | None = None, tokenizer: Any = TOKENIZER) -> Any:
    """verl's V1 call within a trainer that has a tokenizer and, if given, keys."""
    config = composed("+stack=cpu", *overrides).algorithm
    trainer = SimpleNamespace(tokenizer=tokenizer)
    with estimator_context._computing(estimator_context._Advantage(trainer, keys)):
        return v1.compute_advantage_for_multi_trajectories(
            data,
            batch_keys=keys or [],
            adv_estimator=config.adv_estimator,
            num_repeat=N,
            norm_adv_by_std_in_grpo=config.norm_adv_by_std_in_grpo,
            config=config,
        ).batch["advantages"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_is_the_oracle_with_these_steps(seed: int, step: str) -> None:
    data = with_responses(seed)
    mask, ids = data.batch["response_mask"], data.batch["responses"]
    delimiters = tokenize_delimiters(TOKENIZER, ["3", "ab"]) if step == "delimiter" else None
    step_ids = make_step_ids(step, mask, ids, table=TokenTable.of(TOKENIZER), delimiters=delimiters)
    expected = oracle(data, beta=0.5, step_ids=step_ids).float()
    overrides = ["algorithm.spro.beta=0.5", f"algorithm.spro.step={step}", *([DELIMITERS] if delimiters else [])]
    torch.testing.assert_close(compute(data, *overrides), expected, rtol=0, atol=1e-5)
    if step != "token":
        assert (expected - oracle(data, beta=0.5)).abs().max() > 1e-2


@pytest.mark.parametrize("step", ["token", "turn"])
def test_steps_without_text_need_neither_ids_nor_tokenizer(step: str) -> None:
    compute(batch(0), f"algorithm.spro.step={step}", tokenizer=None)


@pytest.mark.parametrize(
    ("without", "named"), [("responses", r"token ids \('responses'\)"), ("tokenizer", "tokenizer")]
)
def test_what_a_trainer_lacks_is_named(without: str, named: str) -> None:
    data = with_responses(0)
    if without == "responses":
        data.batch.pop("responses")
    with pytest.raises(ValueError, match=rf"^algorithm\.spro\.step=line .* gives the estimator no {named}\. Use "):
        compute(data, "algorithm.spro.step=line", tokenizer=None if without == "tokenizer" else TOKENIZER)


@pytest.mark.parametrize("step", STEPS)
def test_only_steps_of_text_fetch_more(step: str) -> None:
    overrides = [f"algorithm.spro.step={step}", *([DELIMITERS] if step == "delimiter" else [])]
    config = composed("+stack=cpu", *overrides).algorithm
    expected = () if step in ("token", "turn") else ("responses",)
    assert getattr(compute_spro_advantage, estimator_context._EXTRA_FIELDS)(config) == expected
    assert estimator_context._chosen_fields(config) == expected


def of_sessions(seed: int) -> tuple[DataProto, list[str]]:
    """`batch` with some responses in two or three rows, as V1 stores them: one reward, keys in any order."""
    data = batch(seed)
    rng = np.random.default_rng(seed)
    uids, keys = data.non_tensor_batch["uid"], []
    outputs: dict[str, int] = {}
    for row, uid in enumerate(uids):
        session = f"{uid}_{row if uid.startswith('pad') else rng.integers(0, 3)}"
        keys.append(f"{session}_{outputs.get(session, 0)}")
        outputs[session] = outputs.get(session, 0) + 1
    scores = data.batch["token_level_scores"]
    reward_of = {key.rsplit("_", 1)[0]: float(row.sum()) for key, row in zip(keys, scores, strict=True)}
    rewards = torch.tensor([reward_of[key.rsplit("_", 1)[0]] for key in keys])
    data.batch["token_level_scores"] = torch.zeros_like(scores)
    data.batch["token_level_scores"][:, -1] = rewards
    data.batch["token_level_rewards"] = data.batch["token_level_scores"].clone()
    assert max(outputs.values()) > 1
    return data, keys


@pytest.mark.parametrize("norm_by_std", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_with_beta_zero_sessions_are_verls_grpo(seed: int, norm_by_std: bool) -> None:
    """verl's own treatment of sessions, which it gives to no estimator but its GRPO."""
    data, keys = of_sessions(seed)
    norm = f"algorithm.norm_adv_by_std_in_grpo={norm_by_std}"
    expected = compute(data, "algorithm.adv_estimator=grpo", norm, keys=keys).clone()
    result = compute(data, "algorithm.spro.beta=0", norm, keys=keys)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
    # A session counted once per row is something else.
    assert (compute(data, "algorithm.spro.beta=0", norm) - expected).abs().max() > 1e-3


def test_the_process_term_of_sessions_is_that_of_their_rows() -> None:
    data, keys = of_sessions(0)
    outcome = compute(data, "algorithm.spro.beta=0", keys=keys).clone()
    result = compute(data, "algorithm.spro.beta=0.5", keys=keys).clone()
    expected = oracle(data, beta=0.5) - oracle(data, beta=0)
    torch.testing.assert_close((result - outcome).double(), expected, rtol=0, atol=1e-5)


def test_the_metrics_of_sessions_are_of_what_is_used() -> None:
    data, keys = of_sessions(0)
    estimator_metrics.drain()
    advantages = compute(data, "algorithm.spro.beta=0", keys=keys)
    valid = data.batch["response_mask"].bool()
    assert valid.shape[1] == T
    recorded = estimator_metrics.drain()
    assert recorded["spro/outcome/rms"] == pytest.approx(float(advantages[valid].square().mean().sqrt()), rel=1e-5)
    # A row that does not speak for its session has no outcome of its own.
    sessions = [key.rpartition("_")[0] for key in keys]
    last = {session: row for row, session in enumerate(sessions)}
    for row, session in enumerate(sessions):
        if row == last[session]:
            data.batch["token_level_scores"][row] = 0
        else:
            data.batch["token_level_scores"][row, -1] = row
    compute(data, "algorithm.spro.beta=0", keys=keys)
    assert estimator_metrics.drain()["spro/degenerate_group_frac"] == 1
