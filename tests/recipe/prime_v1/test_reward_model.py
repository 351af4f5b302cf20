"""What the reward model's worker is given, and the order of its training and its scores."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
import transfer_queue
from tensordict import TensorDict

from recipe.prime_v1.loss import RewardModelLoss
from recipe.prime_v1.reward_model import COMPANION
from tests.support import composed

LENGTHS, PROMPT = [3, 1, 2], 2


def config(model_folder: Path, *overrides: str) -> Any:
    return composed(
        "+stack=cpu",
        "+method=prime",
        f"actor_rollout_ref.model.path={model_folder}",
        "actor_rollout_ref.actor.ppo_mini_batch_size=6",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=3",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=5",
        "actor_rollout_ref.rollout.n=4",
        "actor_rollout_ref.rollout.temperature=0.7",
        *overrides,
    )


def test_its_worker_is_the_actors_with_an_optimiser_of_its_own(model_folder: Path) -> None:
    given = COMPANION.worker_config(
        config(model_folder, "algorithm.prime.optim.lr=3e-6", "actor_rollout_ref.actor.optim.lr=7e-5")
    )
    assert given.model_type == "language_model"
    assert given.model_config.path == str(model_folder)
    optim = given.optimizer_config
    assert (optim.lr, optim.clip_grad, optim.weight_decay, optim.lr_scheduler_type) == (3e-6, 10.0, 0.0, "constant")
    engine = given.engine_config
    assert engine.strategy == "fsdp2"
    assert engine.mixed_precision["param_dtype"] == "fp32"
    assert (engine.micro_batch_size_per_gpu, engine.infer_micro_batch_size_per_gpu) == (3, 5)
    assert not engine.forward_only
    assert not engine.param_offload
    assert given.checkpoint_config.save_contents == ["model", "optimizer", "extra"]


def test_its_worker_with_settings_of_its_own(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").symlink_to(model_folder)
    made = config(
        model_folder,
        f"algorithm.prime.model.path={tmp_path}/other",
        "algorithm.prime.micro_batch_size_per_gpu=9",
        "++algorithm.prime.fsdp_config.param_offload=true",
    )
    given = COMPANION.worker_config(made)
    assert given.model_config.path == f"{tmp_path}/other"
    assert (given.engine_config.micro_batch_size_per_gpu, given.engine_config.infer_micro_batch_size_per_gpu) == (9, 9)
    assert given.engine_config.param_offload
    # The actor's own are as they were.
    assert made.actor_rollout_ref.model.path == str(model_folder)
    assert not made.actor_rollout_ref.actor.fsdp_config.param_offload


@pytest.mark.parametrize(("overrides", "rows"), [([], 24), (["algorithm.prime.mini_batch_size=2"], 8)])
def test_a_batch_is_a_multiple_of_its_mini_batch(model_folder: Path, overrides: list[str], rows: int) -> None:
    assert COMPANION.batch_multiple(config(model_folder, *overrides)) == rows


def test_it_belongs_to_runs_of_prime(model_folder: Path) -> None:
    assert COMPANION.applies(config(model_folder))
    assert not COMPANION.applies(config(model_folder, "algorithm.adv_estimator=grpo"))


def test_its_loss(model_folder: Path) -> None:
    made = config(model_folder, "algorithm.prime.beta_train=0.3", "algorithm.prime.ref_type=policy")
    assert COMPANION.loss(made) == RewardModelLoss(beta=0.3, reference_field="old_log_probs")


class FakeStore:
    """Stands in for the TransferQueue and the workers; ``calls`` is the order of what happened."""

    def __init__(self, outcomes: list[float]) -> None:
        self.calls: list[Any] = []
        # Of the whole sequences, as verl's worker writes them.
        self.log_probs = [torch.arange(PROMPT + length) + 10.0 * row for row, length in enumerate(LENGTHS)]
        scores = [torch.tensor([*[0.0] * (n - 1), outcome]) for n, outcome in zip(LENGTHS, outcomes, strict=True)]
        mask = [torch.ones(length, dtype=torch.int64) for length in LENGTHS]
        self.fields = {"rm_scores": scores, "response_mask": mask, "log_probs": self.log_probs}
        self.put: dict[str, torch.Tensor] = {}

    def kv_batch_get(self, keys: list[str], partition_id: str, select_fields: list[str]) -> TensorDict:
        nested = {name: torch.nested.as_nested_tensor(self.fields[name], layout=torch.jagged) for name in select_fields}
        return TensorDict(nested, len(keys))

    def kv_batch_put(self, keys: list[str], partition_id: str, fields: TensorDict) -> None:
        self.put = dict(fields.items())

    def train_mini_batch(self, batch: Any) -> Any:
        self.calls.append(("train", batch.extra_info))
        output = {"metrics": {"loss": [0.7, 0.5], "grad_norm": [1.0, 3.0], "lr": [1e-6], "mfu": [0.25], "other": [1]}}
        return SimpleNamespace(get=lambda: output)

    def infer_batch(self, batch: Any) -> Any:
        self.calls.append(("score", batch.extra_info))
        return SimpleNamespace(futures=[])


def call(
    monkeypatch: pytest.MonkeyPatch, made: Any, outcomes: tuple[float, ...] = (1.0, 0.0, 0.5)
) -> tuple[FakeStore, dict[str, Any]]:
    store, metrics = FakeStore(list(outcomes)), {"there": 1}
    monkeypatch.setattr(transfer_queue, "kv_batch_get", store.kv_batch_get)
    monkeypatch.setattr(transfer_queue, "kv_batch_put", store.kv_batch_put)
    monkeypatch.setattr(ray, "get", lambda futures: futures)
    keys = [f"u_{row}_0" for row in range(len(LENGTHS))]
    # As verl's stages leave it: with their own information.
    left = {"no_lora_adapter": True, "calculate_entropy": True}
    batch = transfer_queue.KVBatchMeta(keys=keys, tags=[{}] * len(keys), partition_id="train", extra_info=left)
    COMPANION.before_advantage(SimpleNamespace(config=made), store, batch, metrics)
    assert batch.extra_info == left
    return store, metrics


@pytest.mark.parametrize(("update", "order"), [("before", ["train", "score"]), ("after", ["score", "train"])])
def test_update_says_the_order(
    monkeypatch: pytest.MonkeyPatch, model_folder: Path, update: str, order: list[str]
) -> None:
    made = config(model_folder, f"algorithm.prime.update={update}", "actor_rollout_ref.actor.data_loader_seed=3")
    store, metrics = call(monkeypatch, made)
    assert [name for name, _ in store.calls] == order
    told = dict(store.calls)
    assert told["train"] == {
        "global_batch_size": 24,
        "mini_batch_size": 24,
        "epochs": 1,
        "seed": 3,
        "dataloader_kwargs": {"shuffle": False},
        "temperature": 0.7,
    }
    assert told["score"] == {"compute_loss": False, "calculate_entropy": False, "temperature": 0.7}
    assert metrics == {
        "there": 1,
        "reward_model/loss": pytest.approx(0.6),
        "reward_model/grad_norm": 2.0,
        "reward_model/lr": 1e-6,
        "perf/mfu/reward_model": 0.25,
    }
    # The log-prob of a response's first token stands at the last place of the prompt.
    expected = [x[PROMPT - 1 : -1] for x in store.log_probs]
    assert list(store.put) == ["rm_log_probs"]
    for found, row in zip(store.put["rm_log_probs"].unbind(), expected, strict=True):
        assert torch.equal(found, row)


@pytest.mark.parametrize("outcome", [-0.5, 1.5, float("nan")])
def test_an_outcome_that_is_no_probability(monkeypatch: pytest.MonkeyPatch, model_folder: Path, outcome: float) -> None:
    with pytest.raises(ValueError, match=f"the outcome of row 1 is {outcome:g}") as error:
        call(monkeypatch, config(model_folder), (1.0, outcome, 0.5))
    assert "algorithm.prime.loss_type=ce" in str(error.value)
