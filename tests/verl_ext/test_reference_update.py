"""The trainer's side of a reference that moves: when, what is logged and saved, and what is refused before Ray."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from verl.trainer.ppo import ray_trainer
from verl.trainer.ppo.v1 import trainer_base

from tests.support import composed, overrides_after
from verl_ext import reference_update
from verl_ext.config_checks import ConfigError
from verl_ext.patching import PatchError
from verl_ext.reference_update import Source, check
from verl_ext.reference_weights import Distance, Schedule

OFF = "++algorithm.mine.move=0"


def schedule_of(config: Any) -> Schedule | None:
    every = OmegaConf.select(config, "algorithm.mine.move") or 0
    return Schedule(every, OmegaConf.select(config, "algorithm.mine.decay") or 0.0) if every else None


@pytest.fixture(autouse=True)
def _one_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_update, "_sources", [])
    reference_update.register(Source(key="algorithm.mine", off=OFF, schedule=schedule_of))


class FakeGroup:
    """Stands in for a group of Ray workers: it writes down what it is told."""

    def __init__(self, calls: list[Any]) -> None:
        self.calls = calls

    def verl_ext_update_reference(self, decay: float) -> list[Distance]:
        self.calls.append(("update", decay))
        return [Distance(3.0, 1), Distance(13.0, 3)]

    def verl_ext_save_reference(self, folder: str, updates: int) -> None:
        Path(folder).mkdir(parents=True)
        self.calls.append(("save", folder, updates))

    def verl_ext_load_reference(self, folder: str) -> list[int]:
        self.calls.append(("load", folder))
        return [7, 7]


def make_trainer(calls: list[Any], folder: Path, *, saved_step: int = 0, move: int = 2, **trainer: Any) -> Any:
    """A trainer of verl's shape without Ray, patched."""
    module = types.ModuleType("fake.trainer_base")

    class PPOTrainer:
        use_reference_policy = True

        def __init__(self) -> None:
            settings = {"default_local_dir": str(folder), "resume_mode": "auto", **trainer}
            self.config = OmegaConf.create({"algorithm": {"mine": {"move": move}}, "trainer": settings})
            self.actor_rollout_wg = FakeGroup(calls)
            self.global_steps = 0

        def step(self, metrics: dict[str, Any], timing_raw: dict[str, float]) -> str:
            calls.append("step")
            return "batch"

        def _save_checkpoint(self) -> None:
            calls.append("save actor")

        def _load_checkpoint(self) -> None:
            self.global_steps = saved_step
            calls.append("load actor")

    module.PPOTrainer = PPOTrainer  # type: ignore[attr-defined]
    reference_update._patch_trainer(module)
    return PPOTrainer()


def test_it_moves_after_the_steps_updates_and_says_so(tmp_path: Path) -> None:
    calls: list[Any] = []
    trainer = make_trainer(calls, tmp_path)
    trainer._load_checkpoint()
    logged = []
    for trainer.global_steps in range(1, 5):
        metrics: dict[str, Any] = {}
        times: dict[str, float] = {}
        assert trainer.step(metrics, times) == "batch"
        logged.append(metrics)
        assert ("ref_update" in times) == (trainer.global_steps % 2 == 0)
    assert calls == ["load actor", "step", "step", ("update", 0.0), "step", "step", ("update", 0.0)]
    assert [metrics["ref_update/updates"] for metrics in logged] == [0, 1, 1, 2]
    assert [metrics.get("ref_update/distance") for metrics in logged] == [None, 2.0, None, 2.0]


def test_it_is_saved_before_the_actor_with_its_number_of_updates(tmp_path: Path) -> None:
    calls: list[Any] = []
    trainer = make_trainer(calls, tmp_path)
    trainer._load_checkpoint()
    trainer.global_steps = 2
    trainer.step({}, {})
    calls.clear()
    trainer._save_checkpoint()
    assert calls == [("save", str(tmp_path / "global_step_2" / "reference"), 1), "save actor"]


@pytest.mark.parametrize("mode", ["auto", "resume_path"])
def test_it_is_loaded_after_the_actor(tmp_path: Path, mode: str) -> None:
    calls: list[Any] = []
    folder = tmp_path / "global_step_5"
    (folder / "reference").mkdir(parents=True)
    trainer = make_trainer(calls, tmp_path, saved_step=5, resume_mode=mode, resume_from_path=str(folder))
    trainer._load_checkpoint()
    assert calls == ["load actor", ("load", str(folder / "reference"))]
    trainer.global_steps = 6
    metrics: dict[str, Any] = {}
    trainer.step(metrics, {})
    assert metrics["ref_update/updates"] == 8


def test_a_reference_that_stays_is_verls_own(tmp_path: Path) -> None:
    calls: list[Any] = []
    trainer = make_trainer(calls, tmp_path, saved_step=4, move=0)
    trainer._load_checkpoint()
    metrics: dict[str, Any] = {}
    trainer.step(metrics, {})
    trainer._save_checkpoint()
    assert calls == ["load actor", "step", "save actor"]
    assert metrics == {}
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_without_a_reference_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer([], tmp_path, saved_step=4)
    with pytest.raises(FileNotFoundError, match="global_step_4 has no folder 'reference'") as error:
        trainer._load_checkpoint()
    assert overrides_after("Resume with ", str(error.value)) == [OFF]


def test_a_checkpoint_with_a_reference_is_not_resumed_without(tmp_path: Path) -> None:
    (tmp_path / "global_step_4" / "reference").mkdir(parents=True)
    trainer = make_trainer([], tmp_path, saved_step=4, move=0)
    with pytest.raises(RuntimeError, match="holds a reference policy that moves"):
        trainer._load_checkpoint()
    # A run that compares with no reference does not mind.
    trainer.use_reference_policy = False
    trainer._load_checkpoint()


MOVE = "+algorithm.mine={move: 2}"
AVERAGE = "+algorithm.mine={move: 1,decay: 0.9}"
FSDP2 = ["actor_rollout_ref.actor.strategy=fsdp2", "actor_rollout_ref.ref.strategy=fsdp2"]

# (overrides with a fault, what the message says first, the first remedy)
FAULTS = [
    (["trainer.use_v1=False"], "trainer.use_v1=False: algorithm.mine acts in verl's V1", "trainer.use_v1=True"),
    (
        ["trainer.v1.trainer_mode=separate_async"],
        "trainer.v1.trainer_mode=separate_async: algorithm.mine copies weights inside the processes",
        "trainer.v1.trainer_mode=sync",
    ),
    *[
        (
            [f"actor_rollout_ref.{role}.strategy=fsdp"],
            f"actor_rollout_ref.{role}.strategy=fsdp: algorithm.mine changes weights that are sharded by FSDP2",
            f"actor_rollout_ref.{role}.strategy=fsdp2",
        )
        for role in ("actor", "ref")
    ],
    (
        ["actor_rollout_ref.ref.fsdp_config.fsdp_size=2"],
        "actor_rollout_ref.ref.fsdp_config.fsdp_size=2: algorithm.mine needs the reference in the actor's shards",
        "actor_rollout_ref.ref.fsdp_config.fsdp_size=-1",
    ),
]


@pytest.mark.parametrize(("overrides", "says", "remedy"), FAULTS)
def test_each_remedy_of_the_message_mends_it(overrides: list[str], says: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as error:
        check(composed("+stack=cpu", MOVE, *overrides))
    message = str(error.value)
    assert message.startswith(says)
    assert overrides_after("Set ", message) == [remedy]
    assert overrides_after("leave the reference alone: ", message) == [OFF]
    check(composed("+stack=cpu", MOVE, *overrides, remedy))
    check(composed("+stack=cpu", MOVE, *overrides, OFF))


@pytest.mark.parametrize(("group", "mode"), [("+rollout={}", "one_step_off"), ("+async_training={}", "fully_async")])
def test_the_entries_of_experimental_are_refused(group: str, mode: str) -> None:
    with pytest.raises(ConfigError, match=f"^algorithm.mine moves .* V1 trainers, and {mode} is none") as error:
        check(composed("+stack=cpu", MOVE, group))
    assert overrides_after("leave the reference alone: ", str(error.value)) == [OFF]
    check(composed("+stack=cpu", MOVE, group, OFF))


def test_an_average_of_low_precision_is_refused_and_a_copy_is_not() -> None:
    low = "actor_rollout_ref.ref.fsdp_config.model_dtype=bf16"
    check(composed("+stack=cpu", MOVE, low))
    with pytest.raises(ConfigError, match=r"^actor_rollout_ref\.ref\.fsdp_config\.model_dtype=bf16: ") as error:
        check(composed("+stack=cpu", AVERAGE, low))
    (remedy,) = overrides_after("Set ", str(error.value))
    check(composed("+stack=cpu", AVERAGE, low, remedy))


@pytest.mark.parametrize("adapter", ["lora_rank=8", "lora.rank=8", "lora_adapter_path=/somewhere"])
def test_with_lora_the_settings_of_the_reference_do_not_matter(adapter: str) -> None:
    others = ["actor_rollout_ref.ref.strategy=fsdp", "actor_rollout_ref.ref.fsdp_config.fsdp_size=2"]
    check(composed("+stack=cpu", MOVE, f"++actor_rollout_ref.model.{adapter}", *others))
    with pytest.raises(ConfigError, match=r"actor\.strategy=fsdp"):
        check(
            composed(
                "+stack=cpu", MOVE, f"++actor_rollout_ref.model.{adapter}", "actor_rollout_ref.actor.strategy=fsdp"
            )
        )


def test_a_run_whose_reference_stays_passes() -> None:
    check(composed("trainer.use_v1=False", "actor_rollout_ref.actor.strategy=fsdp"))


def test_a_trainer_that_would_leave_the_reference_alone_is_told() -> None:
    config = OmegaConf.create({"algorithm": {"mine": {"move": 2}}})
    trainer = ray_trainer.RayPPOTrainer.__new__(ray_trainer.RayPPOTrainer)
    trainer.config = config
    with pytest.raises(ConfigError, match="RayPPOTrainer is none of them"):
        trainer._compute_ref_log_prob(None)


def test_one_source_twice_is_one() -> None:
    reference_update.register(Source(key="algorithm.mine", off=OFF, schedule=schedule_of))
    assert len(reference_update._sources) == 1


@pytest.mark.parametrize("name", ["step", "_save_checkpoint", "_load_checkpoint"])
def test_it_fails_loudly_when_its_targets_have_moved(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delattr(trainer_base.PPOTrainer, name)
    with pytest.raises(PatchError, match=rf"verl_ext\.reference_update patches PPOTrainer\.{name}"):
        reference_update._patch_trainer(trainer_base)
