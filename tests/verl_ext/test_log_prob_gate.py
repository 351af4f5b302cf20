"""The gate around verl's own steps: who is recomputed, who is taken over, and what is refused before Ray."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import trainer_base

from tests.support import composed, overrides_after
from verl_ext import log_prob_gate
from verl_ext.config_checks import ConfigError
from verl_ext.log_prob_gate import GateSettings, check, sample_size
from verl_ext.patching import PatchError

ON = ["+stack=cpu", "algorithm.log_prob_gate.enable=true"]
ROWS, TOKENS = 16, 5
BYPASS = "algorithm.rollout_correction.bypass_mode"


class Queue:
    """In place of TransferQueue: fields by key, each TOKENS long."""

    def __init__(self) -> None:
        self.fields: dict[str, dict[str, torch.Tensor]] = {}

    def kv_batch_get(self, keys: list[str], partition_id: str, select_fields: list[str]) -> TensorDict:
        return TensorDict(
            {
                field: torch.nested.as_nested_tensor([self.fields[field][key] for key in keys], layout=torch.jagged)
                for field in select_fields
            },
            batch_size=len(keys),
        )


def make_trainer(
    monkeypatch: pytest.MonkeyPatch, mismatch: list[float], *overrides: str, padding: int = 0
) -> tuple[Any, Any]:
    """A trainer of verl's shape without Ray, patched, and its batch; what it does is written down in `calls`.

    Args:
        mismatch: of each step, log p_rollout - log p_actor at every token.
    """
    queue = Queue()
    monkeypatch.setattr("transfer_queue.kv_batch_get", queue.kv_batch_get)
    module = types.ModuleType("fake.trainer_base")
    keys = [f"uid_{row}_0" for row in range(ROWS)]
    tags = [{"is_padding": True} if row < padding else {} for row in range(ROWS)]
    batch = KVBatchMeta(partition_id="train", keys=keys, tags=tags)

    def everywhere(value: float) -> dict[str, torch.Tensor]:
        return {key: torch.full((TOKENS,), value) for key in keys}

    class PPOTrainer:
        def __init__(self) -> None:
            self.config = composed(*ON, "data.train_batch_size=4", *overrides)
            self.actor_rollout_wg = types.SimpleNamespace(_dispatch_info={"actor": [0, 1]})
            self.global_steps = 0
            self.calls: list[Any] = []

        def _bypass(self) -> bool:
            return self.config.algorithm.rollout_correction.bypass_mode

        def _compute_old_log_prob(self, batch: Any, metrics: dict[str, Any]) -> Any:
            source = "rollout" if self._bypass() else "actor"
            self.calls.append((source, len(batch), batch.extra_info.get("micro_batch_size_per_gpu")))
            value = -1.0 + (mismatch[self.global_steps - 1] if self._bypass() else 0.0)
            queue.fields.setdefault("old_log_probs", {}).update(
                {key: torch.full((TOKENS,), value) for key in batch.keys}
            )
            return batch

        def _compute_ref_log_prob(self, batch: Any, metrics: dict[str, Any]) -> Any:
            queue.fields["ref_log_prob"] = everywhere(-1.5 if self.global_steps > 1 else -1.0)
            return batch

        def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
            self.calls.append(("bypass" if self._bypass() else "decoupled", len(batch), None))
            return batch

        def run(self) -> tuple[list[Any], dict[str, float]]:
            """The next step: what was called, and what was logged."""
            self.global_steps += 1
            queue.fields["rollout_log_probs"] = everywhere(-1.0 + mismatch[self.global_steps - 1])
            queue.fields["response_mask"] = everywhere(1.0)
            self.calls = []
            metrics: dict[str, float] = {}
            for stage in (self._compute_old_log_prob, self._compute_ref_log_prob, self._compute_advantage):
                assert stage(batch, metrics) is batch
            assert self._bypass() is False
            return self.calls, metrics

    module.PPOTrainer = PPOTrainer  # type: ignore[attr-defined]
    log_prob_gate._patch(module)
    return PPOTrainer(), batch


RECOMPUTED = [("actor", ROWS, None), ("decoupled", ROWS, None)]
TAKEN_OVER = [("actor", 2, None), ("rollout", ROWS, None), ("bypass", ROWS, None)]
REFUSED = [("actor", 2, None), ("actor", ROWS, None), ("decoupled", ROWS, None)]


def test_each_step_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything at the first step; a sample where the last step agreed; everything again after a refusal."""
    trainer, _ = make_trainer(monkeypatch, [1e-4, 1e-4, 0.5, 0.5, 1e-4, 1e-4])
    steps = [trainer.run() for _ in range(6)]
    assert [calls for calls, _ in steps] == [RECOMPUTED, TAKEN_OVER, REFUSED, RECOMPUTED, RECOMPUTED, TAKEN_OVER]
    assert [metrics["log_prob_gate/used_rollout"] for _, metrics in steps] == [0, 1, 0, 0, 0, 1]
    for (_, metrics), difference in zip(steps, [1e-4, 1e-4, 0.5, 0.5, 1e-4, 1e-4], strict=True):
        assert metrics["log_prob_gate/measured_frac"] == 2 / ROWS
        assert metrics["log_prob_gate/log_prob_diff_max"] == pytest.approx(difference, rel=1e-2)
        assert metrics["log_prob_gate/cumulative_max"] == pytest.approx(TOKENS * difference, rel=1e-2)


def test_what_it_puts_into_a_cumulative_log_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same number whether the rollout's are used or not; none while the policy is the reference."""
    trainer, _ = make_trainer(monkeypatch, [1e-3, 1e-3, 0.5, 1e-3])
    shares = [trainer.run()[1].get("log_prob_gate/cumulative_share") for _ in range(4)]
    assert shares[0] is None
    # The policy is half a nat a token from the reference.
    assert shares[1:] == pytest.approx([2e-3, 1.0, 2e-3], rel=1e-3)


def test_it_changes_nothing_unless_it_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _ = make_trainer(monkeypatch, [0.0, 0.0], "algorithm.log_prob_gate.enable=false")
    assert [trainer.run() for _ in range(2)] == [(RECOMPUTED, {})] * 2


def test_padding_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _ = make_trainer(monkeypatch, [0.0, 0.0], padding=ROWS - 2)
    _, metrics = trainer.run()
    assert metrics["log_prob_gate/measured_frac"] == 2 / ROWS


def test_where_the_sample_would_be_everything_all_are_recomputed(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _ = make_trainer(monkeypatch, [0.0, 0.0], padding=ROWS - 1)
    for _ in range(2):
        calls, metrics = trainer.run()
        assert calls == RECOMPUTED
        assert metrics == {"log_prob_gate/used_rollout": 0.0, "log_prob_gate/measured_frac": 0.0}


def test_the_forward_passes_micro_batch_is_made_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    micro = "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8"
    trainer, _ = make_trainer(monkeypatch, [0.0, 0.0], micro)
    trainer.run()
    assert trainer.run()[0][0] == ("actor", 2, 1)


@pytest.mark.parametrize(
    ("rows", "share", "ranks", "micro", "size"),
    [
        (1024, 0.125, 8, None, 16),
        (1024, 0.01, 8, None, 2),
        (1024, 0.125, 8, 4, 16),
        (1024, 0.125, 8, 12, 24),
        (1024, 0.125, 8, 64, 16),
        (10, 0.5, 8, None, 1),
        (7, 0.5, 8, None, 0),
        (20, 0.9, 1, 16, 16),
    ],
)
def test_sample_size(rows: int, share: float, ranks: int, micro: int | None, size: int) -> None:
    assert sample_size(rows, share, ranks, micro) == size


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        check(composed(*ON, *overrides))
    return str(error.value)


def test_the_recipes_defaults_are_the_dataclasss() -> None:
    check(composed(*ON))
    assert log_prob_gate.settings_of(composed("+stack=cpu").algorithm) == GateSettings()


FAULTS = [
    ("trainer.v1.trainer_mode=colocate_async", "several versions of the policy"),
    (f"{BYPASS}=True", "decides at each step"),
    ("algorithm.rollout_correction.rollout_is=token", "nothing to correct"),
    ("algorithm.rollout_correction.rollout_rs=token_k1", "nothing to correct"),
    ("actor_rollout_ref.rollout.calculate_log_probs=False", "which are not computed"),
    ("actor_rollout_ref.rollout.top_p=0.9", "of the cut distribution"),
    ("actor_rollout_ref.rollout.top_k=50", "of the cut distribution"),
]


@pytest.mark.parametrize(("fault", "why"), FAULTS, ids=[fault for fault, _ in FAULTS])
def test_refused_with_the_override_that_mends_it(fault: str, why: str) -> None:
    message = refused(fault)
    assert message.startswith(f"{fault}: ")
    assert why in message
    check(composed(*ON, fault, *overrides_after("Set ", message)))
    check(composed(*ON, fault, *overrides_after("switch the gate off: ", message)))


@pytest.mark.parametrize(
    ("fault", "mode"),
    [
        ("trainer.use_v1=False", "the old trainer"),
        ("+rollout={}", "one_step_off"),
        ("+async_training={}", "fully_async"),
    ],
)
def test_a_trainer_that_has_no_gate_is_refused(fault: str, mode: str) -> None:
    message = refused(fault)
    wanted = f"algorithm.log_prob_gate.enable=true: the gate acts in verl's V1 trainers, and {mode} is none of them"
    assert message.startswith(wanted)
    check(composed(*ON, fault, *overrides_after("Set ", message)))
    if fault.startswith("trainer."):
        check(composed(*ON, fault, *overrides_after("verl.trainer.main_ppo with ", message)))


def test_raw_log_probs_at_another_temperature_are_refused() -> None:
    rollout = "actor_rollout_ref.rollout"
    check(composed(*ON, f"{rollout}.temperature=0.7"))
    check(composed(*ON, f"{rollout}.logprobs_mode=raw_logprobs", f"{rollout}.top_p=0.9"))
    assert "sampling temperature (0.7)" in refused(
        f"{rollout}.logprobs_mode=raw_logprobs", f"{rollout}.temperature=0.7"
    )


@pytest.mark.parametrize("group", ["sample=0", "sample=1", "max_prob_diff=0", "max_cumulative=-1", "sample=null"])
def test_bad_values_are_named(group: str) -> None:
    key, _, value = group.partition("=")
    value = "None" if value == "null" else value
    assert refused(f"algorithm.log_prob_gate.{group}").startswith(f"algorithm.log_prob_gate.{key}={value}: must be")


def test_a_gate_without_a_limit_is_refused() -> None:
    limits = ["algorithm.log_prob_gate.max_prob_diff=null", "algorithm.log_prob_gate.max_cumulative=null"]
    assert "a gate without a limit" in refused(*limits)


def test_an_unknown_key_is_refused() -> None:
    assert "Did you mean algorithm.log_prob_gate.sample?" in refused("+algorithm.log_prob_gate.samples=0.5")


@pytest.mark.parametrize("name", ["_compute_old_log_prob", "_compute_ref_log_prob", "_compute_advantage"])
def test_it_fails_loudly_when_its_target_has_moved(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(trainer_base.PPOTrainer, name)
    with pytest.raises(PatchError, match=name):
        log_prob_gate._patch(trainer_base)
