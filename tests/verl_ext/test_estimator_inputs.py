"""Any estimator gets what its signature names, through verl's own `compute_advantage`."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from verl import DataProto
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.core_algos import AdvantageEstimator

from tests.support import composed
from verl_ext.estimator_inputs import COMPUTE_ADVANTAGE_IN

B, T = 8, 5


def batch(**tensors: torch.Tensor) -> DataProto:
    """Two groups of four, ragged, with everything that one of verl's own estimators asks for."""
    rng = torch.Generator().manual_seed(3)
    lengths = torch.tensor([5, 3, 4, 1, 2, 5, 5, 4])
    mask = (torch.arange(T) < lengths[:, None]).long()
    rewards = torch.zeros(B, T)
    rewards[torch.arange(B), lengths - 1] = torch.tensor([1.0, 0, 0.5, 0, 1, 1, 0, 0.25])
    fields = {
        "token_level_rewards": rewards,
        "response_mask": mask,
        "old_log_probs": -torch.rand(B, T, generator=rng),
        "ref_log_prob": -torch.rand(B, T, generator=rng),
        "values": torch.randn(B, T, generator=rng),
        "reward_baselines": torch.rand(B, generator=rng),
        "sum_pi_squared": torch.rand(B, T, generator=rng),
        **tensors,
    }
    uids = np.array(["a", "b", "a", "b", "b", "a", "a", "b"], dtype=object)
    notes = np.array([f"note {row}" for row in range(B)], dtype=object)
    return DataProto.from_dict(tensors=fields, non_tensors={"uid": uids, "notes": notes})


@pytest.fixture
def register() -> Iterator[Callable[[str, Callable[..., Any]], None]]:
    """Registers an estimator with verl for one test."""
    names = []

    def add(name: str, estimator: Callable[..., Any]) -> None:
        core_algos.register_adv_est(name)(estimator)
        names.append(name)

    yield add
    for name in names:
        del core_algos.ADV_ESTIMATOR_REGISTRY[name]


def compute(data: DataProto, name: Any, module: str = COMPUTE_ADVANTAGE_IN[0]) -> DataProto:
    return importlib.import_module(module).compute_advantage(data, name, config=composed("+stack=cpu").algorithm)


@pytest.mark.parametrize("module", COMPUTE_ADVANTAGE_IN)
def test_tensors_and_arrays_by_signature(module: str, register: Any) -> None:
    got: dict[str, Any] = {}

    def of_an_unrelated_name(
        token_level_rewards: torch.Tensor,
        response_mask: torch.Tensor,
        old_log_probs: torch.Tensor,
        notes: np.ndarray,
        ref_log_prob: torch.Tensor | None = None,
        temperature: float = 0.7,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        got.update(old=old_log_probs, ref=ref_log_prob, notes=notes, temperature=temperature, rest=kwargs)
        return old_log_probs - ref_log_prob, token_level_rewards * response_mask

    register("melon", of_an_unrelated_name)
    data = batch()
    result = compute(data, "melon", module)
    assert torch.equal(got["old"], data.batch["old_log_probs"])
    assert torch.equal(got["ref"], data.batch["ref_log_prob"])
    assert got["notes"].tolist() == [f"note {row}" for row in range(B)]
    # Not in the batch, so the default stands; and nothing that is not named is handed over.
    assert got["temperature"] == 0.7
    assert set(got["rest"]) == {"config", "index", "reward_baselines"}
    assert torch.equal(result.batch["advantages"], data.batch["old_log_probs"] - data.batch["ref_log_prob"])


def test_a_missing_field_is_named_with_what_the_batch_holds(register: Any) -> None:
    def hungry(token_level_rewards: Any, response_mask: Any, entropies: Any, **kwargs: Any) -> Any:
        raise AssertionError("must not be called")

    register("hungry", hungry)
    data = batch()
    message = (
        "advantage estimator 'hungry' asks for 'entropies', which this batch does not hold. It holds: notes, "
        "old_log_probs, ref_log_prob, response_mask, reward_baselines, sum_pi_squared, token_level_rewards, "
        "uid, values."
    )
    with pytest.raises(KeyError, match=re.escape(message)):
        compute(data, "hungry")


def test_a_missing_reference_is_told_with_the_remedy(register: Any) -> None:
    def wants_reference(token_level_rewards: Any, response_mask: Any, ref_log_prob: Any, **kwargs: Any) -> Any:
        raise AssertionError("must not be called")

    register("wants_reference", wants_reference)
    data = batch()
    data.batch.pop("ref_log_prob")
    with pytest.raises(KeyError, match=r"'ref_log_prob'.*use_kl_in_reward=True algorithm\.kl_ctrl\.kl_coef=0\.0"):
        compute(data, "wants_reference")


def test_an_optional_field_that_is_missing_is_left_out(register: Any) -> None:
    def modest(token_level_rewards: Any, response_mask: Any, entropies: Any = "default", **kwargs: Any) -> Any:
        assert entropies == "default"
        return token_level_rewards, token_level_rewards

    register("modest", modest)
    assert "advantages" in compute(batch(), "modest").batch.keys()  # noqa: SIM118 (a TensorDict)


def test_what_verl_passes_wins(register: Any) -> None:
    """`index` is verl's array of uids, also where a field of the batch has that name."""
    got = {}

    def inner(old_log_probs: torch.Tensor, response_mask: torch.Tensor) -> torch.Tensor:
        got["passed"] = old_log_probs
        return old_log_probs

    def outer(token_level_rewards: Any, response_mask: Any, index: Any, config: Any, **kwargs: Any) -> Any:
        got["index"] = index
        # As a verl that passes log-probs itself would.
        core_algos.get_adv_estimator_fn("inner")(old_log_probs=torch.full((B, T), 7.0), response_mask=response_mask)
        return token_level_rewards, token_level_rewards

    register("inner", inner)
    register("outer", outer)
    compute(batch(index=torch.arange(B)), "outer")
    assert got["index"].tolist() == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert (got["passed"] == 7).all()


def _outcome_of(call: Callable[[], DataProto]) -> Any:
    try:
        result = call()
    except Exception as error:  # noqa: BLE001 (that verl's own estimator fails in the same way is what is compared)
        return repr(error)
    return result.batch["advantages"], result.batch["returns"]


@pytest.mark.parametrize("name", [estimator.value for estimator in AdvantageEstimator])
def test_verls_own_estimators_are_unchanged(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_ours = _outcome_of(lambda: compute(batch(), name))
    monkeypatch.setattr(core_algos, "get_adv_estimator_fn", inspect.unwrap(core_algos.get_adv_estimator_fn))
    unpatched = inspect.unwrap(importlib.import_module(COMPUTE_ADVANTAGE_IN[0]).compute_advantage)
    monkeypatch.setattr(importlib.import_module(COMPUTE_ADVANTAGE_IN[0]), "compute_advantage", unpatched)
    without = _outcome_of(lambda: compute(batch(), name))
    if isinstance(without, str):
        assert with_ours == without
        return
    for ours, theirs in zip(with_ours, without, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def test_the_common_estimators_do_run_here() -> None:
    """So that the comparison above is not one of errors."""
    for name in ("grpo", "rloo", "opo", "gae", "reinforce_plus_plus", "remax", "optimal_token_baseline"):
        assert torch.isfinite(compute(batch(), name).batch["advantages"]).all(), name


def test_no_batch_is_in_hand_afterwards(register: Any) -> None:
    def failing(token_level_rewards: Any, response_mask: Any, old_log_probs: Any, **kwargs: Any) -> Any:
        raise RuntimeError("estimator failed")

    register("failing", failing)
    with pytest.raises(RuntimeError, match="estimator failed"):
        compute(batch(), "failing")
    assert core_algos.get_adv_estimator_fn("failing") is failing


@pytest.mark.parametrize("module", COMPUTE_ADVANTAGE_IN)
def test_the_name_is_bound_and_patched_in(module: str) -> None:
    bound = importlib.import_module(module).compute_advantage
    assert bound.__verl_ext_patch__ == ("verl_ext.estimator_inputs",)
    assert inspect.unwrap(bound).__module__ == COMPUTE_ADVANTAGE_IN[0]
