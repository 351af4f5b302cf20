"""Extra fields, the tokenizer and the sessions reach an estimator through verl's own trainers' methods."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transfer_queue as tq
from tensordict import NonTensorStack, TensorDict
from verl.experimental.separation.ray_trainer import SeparateRayPPOTrainer
from verl.trainer.ppo import core_algos, ray_trainer
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

from tests.support import composed
from tests.verl_ext.test_estimator_inputs import batch as data_proto
from verl_ext import estimator_context
from verl_ext.estimator_context import extra_fields
from verl_ext.jagged_advantage import takes_jagged
from verl_ext.patching import PatchError

# Rows as verl's V1 keeps them: sessions of one, two and one output, and padding; not in order.
KEYS = ["p_1_0", "q_x_0_1", "p_0_0", "q_x_0_0", "padabc_0_0"]
LENGTHS = [3, 1, 4, 2, 1]
TOKENIZER = object()


def stored() -> dict[str, Any]:
    """The fields of those rows, as nested tensors."""

    def nested(values: Callable[[int], torch.Tensor]) -> torch.Tensor:
        return torch.nested.as_nested_tensor([values(length) for length in LENGTHS], layout=torch.jagged)

    return {
        "uid": NonTensorStack(*[key.rsplit("_", 2)[0] for key in KEYS]),
        "response_mask": nested(lambda length: torch.ones(length, dtype=torch.int64)),
        "rm_scores": nested(torch.ones),
        "old_log_probs": nested(torch.zeros),
        "ref_log_prob": nested(torch.zeros),
        "responses": nested(lambda length: torch.arange(1, length + 1)),
        "prompts": nested(lambda length: torch.ones(2 * length, dtype=torch.int64)),
    }


class Queue:
    """Stands in for the TransferQueue, which needs a running Ray."""

    def __init__(self) -> None:
        self.fetched: list[list[str]] = []
        self.put: dict[str, Any] = {}

    def kv_batch_get(self, keys: list[str], partition_id: str, select_fields: list[str] | None = None) -> TensorDict:
        assert keys == KEYS
        assert select_fields is not None
        self.fetched.append(select_fields)
        everything = stored()
        # As verl's: a field that does not exist is left out.
        return TensorDict({name: everything[name] for name in select_fields if name in everything}, len(KEYS))

    def kv_batch_put(self, keys: list[str], partition_id: str, fields: TensorDict) -> str:
        self.put = dict(fields.items())
        return "stored"


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    queue = Queue()
    fake = estimator_context._fetch_more(queue.kv_batch_get)
    monkeypatch.setattr(tq, "kv_batch_get", fake)
    monkeypatch.setattr(tq, "kv_batch_put", queue.kv_batch_put)
    return queue


@pytest.fixture
def register() -> Iterator[Callable[[Callable[..., Any]], None]]:
    """Registers the estimator `melon` with verl for one test."""

    def add(estimator: Callable[..., Any]) -> None:
        core_algos.register_adv_est("melon")(estimator)

    yield add
    core_algos.ADV_ESTIMATOR_REGISTRY.pop("melon", None)


def trainer(estimator: str = "melon") -> Any:
    config = composed("+stack=cpu", f"algorithm.adv_estimator={estimator}", "algorithm.use_kl_in_reward=False")
    return SimpleNamespace(config=config, tokenizer=TOKENIZER, global_steps=1)


def compute_in_v1(trainer: Any) -> Any:
    """verl's own method, on a trainer that has no more than it looks at."""
    batch = tq.KVBatchMeta(keys=KEYS, tags=[{} for _ in KEYS], partition_id="train")
    return PPOTrainer._compute_advantage(trainer, batch, {})


def grabbing(seen: dict[str, Any]) -> Callable[..., Any]:
    def estimator(
        token_level_rewards: torch.Tensor,
        response_mask: torch.Tensor,
        responses: torch.Tensor | None = None,
        tokenizer: Any = None,
        session_ids: np.ndarray | None = None,
        final_outputs: np.ndarray | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        seen.update(responses=responses, tokenizer=tokenizer, session_ids=session_ids, final_outputs=final_outputs)
        return token_level_rewards, token_level_rewards

    return estimator


def test_v1_gives_the_tokenizer_and_the_sessions(queue: Queue, register: Any) -> None:
    seen: dict[str, Any] = {}
    register(grabbing(seen))
    compute_in_v1(trainer())
    assert seen["tokenizer"] is TOKENIZER
    assert seen["session_ids"].tolist() == ["p_1", "q_x_0", "p_0", "q_x_0", "padabc_0"]
    assert seen["final_outputs"].tolist() == [True, True, True, False, True]
    # Nothing was asked for, so nothing more was fetched.
    assert seen["responses"] is None
    assert len(queue.fetched) == 1
    assert "responses" not in queue.fetched[0]
    assert set(queue.put) == {"advantages", "returns"}


def test_extra_fields_are_fetched_and_padded_like_the_rest(queue: Queue, register: Any) -> None:
    seen: dict[str, Any] = {}
    asked: list[Any] = []

    def choose(algorithm: Any) -> tuple[str, ...]:
        asked.append(algorithm.adv_estimator)
        # One that V1 fetches anyway is not fetched twice.
        return ("responses", "old_log_probs")

    register(extra_fields(choose)(grabbing(seen)))
    compute_in_v1(trainer())
    assert asked == ["melon"]
    assert queue.fetched[0].count("responses") == queue.fetched[0].count("old_log_probs") == 1
    assert seen["responses"].tolist() == [[1, 2, 3, 0], [1, 0, 0, 0], [1, 2, 3, 4], [1, 2, 0, 0], [1, 0, 0, 0]]


def test_a_stage_without_padding_gives_the_same(queue: Queue, register: Any) -> None:
    seen: dict[str, Any] = {}
    register(takes_jagged(extra_fields(lambda algorithm: ("responses",))(grabbing(seen))))
    compute_in_v1(trainer())
    assert len(queue.fetched) == 1
    assert [row.tolist() for row in seen["responses"].unbind()] == [[1, 2, 3], [1], [1, 2, 3, 4], [1, 2], [1]]
    assert seen["tokenizer"] is TOKENIZER
    assert seen["final_outputs"].tolist() == [True, True, True, False, True]


@pytest.mark.parametrize("estimator", ["melon", "grpo"])
def test_an_estimator_that_asks_for_nothing_fetches_what_verl_fetches(
    estimator: str, queue: Queue, register: Any
) -> None:
    register(grabbing({}))
    compute_in_v1(trainer(estimator))
    verls = "uid response_mask rm_scores rollout_log_probs old_log_probs ref_log_prob values"
    assert queue.fetched == [verls.split()]


def test_other_fetches_stay_as_they_are(queue: Queue, register: Any) -> None:
    def fetching(token_level_rewards: Any, response_mask: Any, **kwargs: Any) -> Any:
        tq.kv_batch_get(keys=KEYS, partition_id="train", select_fields=["prompts"])
        return token_level_rewards, token_level_rewards

    register(extra_fields(lambda algorithm: ("responses",))(fetching))
    compute_in_v1(trainer())
    tq.kv_batch_get(keys=KEYS, partition_id="train", select_fields=["response_mask"])
    assert queue.fetched[1:] == [["prompts"], ["response_mask"]]


def test_a_fetch_that_has_moved_is_told(register: Any) -> None:
    register(extra_fields(lambda algorithm: ("responses",))(grabbing({})))

    def moved(self: Any, batch: Any, metrics: Any) -> None:
        raise KeyError("the estimator's own complaint")

    message = "adds responses to what verl's PPOTrainer._compute_advantage fetches with transfer_queue.kv_batch_get"
    with pytest.raises(PatchError, match=re.escape(message)) as error:
        estimator_context._in_v1(moved)(trainer(), SimpleNamespace(keys=KEYS), {})
    assert isinstance(error.value.__context__, KeyError)


@pytest.mark.parametrize("key", ["p", "p_0", "p_0_x", ""])
def test_keys_of_another_form_are_told(key: str) -> None:
    batch = SimpleNamespace(keys=[*KEYS[:-1], key])

    def inner(self: Any, batch: Any, metrics: Any) -> Any:
        return estimator_context._session_ids(KEYS)

    with pytest.raises(PatchError, match=re.escape(f"uid_session_output, and the trainer has {key!r}")):
        estimator_context._in_v1(inner)(trainer("grpo"), batch, {})


def test_a_batch_of_other_rows_is_told() -> None:
    def inner(self: Any, batch: Any, metrics: Any) -> Any:
        return estimator_context._final_outputs(KEYS[:2])

    with pytest.raises(PatchError, match="the batch has 2 rows and the trainer 5 keys"):
        estimator_context._in_v1(inner)(trainer("grpo"), SimpleNamespace(keys=KEYS), {})


@pytest.mark.parametrize(
    ("owner", "name"), [(ray_trainer.RayPPOTrainer, "fit"), (SeparateRayPPOTrainer, "_fit_compute_advantage")]
)
def test_the_old_trainers_give_the_tokenizer(owner: type, name: str, register: Any) -> None:
    assert "verl_ext.estimator_context" in getattr(owner, name).__verl_ext_patch__
    seen: dict[str, Any] = {}
    register(grabbing(seen))
    data = data_proto(responses=torch.full((8, 5), 7))

    def method(self: Any) -> Any:
        return ray_trainer.compute_advantage(data, "melon", config=self.config.algorithm)

    estimator_context._in_trainer(method)(trainer())
    assert seen["tokenizer"] is TOKENIZER
    assert (seen["responses"] == 7).all()
    # Their rows have no keys.
    assert seen["session_ids"] is None
    assert seen["final_outputs"] is None


def test_outside_a_trainer_there_is_nothing(register: Any) -> None:
    def hungry(token_level_rewards: Any, response_mask: Any, tokenizer: Any, **kwargs: Any) -> Any:
        raise AssertionError("must not be called")

    register(hungry)
    with pytest.raises(KeyError, match="advantage estimator 'hungry' asks for 'tokenizer'"):
        ray_trainer.compute_advantage(data_proto(), "melon", config=trainer().config.algorithm)


def test_a_field_of_that_name_wins(register: Any) -> None:
    seen: dict[str, Any] = {}
    register(grabbing(seen))
    data = data_proto(tokenizer=torch.zeros(8, 5))

    def method(self: Any) -> Any:
        return ray_trainer.compute_advantage(data, "melon", config=self.config.algorithm)

    estimator_context._in_trainer(method)(trainer())
    assert isinstance(seen["tokenizer"], torch.Tensor)
