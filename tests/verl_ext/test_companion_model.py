"""A companion gets its worker, its call, its rows and its part of each checkpoint; a moved target is an error."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from verl_ext import companion_model
from verl_ext.companion_model import Companion
from verl_ext.patching import PatchError


class FakeGroup:
    """Stands in for a group of Ray workers: it writes down what it is told."""

    def __init__(self, name: str, calls: list[Any]) -> None:
        self.name, self.calls = name, calls

    def reset(self) -> None:
        self.calls.append((self.name, "reset"))

    def set_loss_fn(self, loss: Any) -> None:
        self.calls.append((self.name, "set_loss_fn", loss))

    def save_checkpoint(self, path: str, remote: str | None, step: int, max_ckpt_to_keep: int | None) -> None:
        Path(path).mkdir(parents=True)
        self.calls.append((self.name, "save", path, remote, step, max_ckpt_to_keep))

    def load_checkpoint(self, path: str, del_local_after_load: bool) -> None:
        self.calls.append((self.name, "load", path, del_local_after_load))


def fake_trainer_base(calls: list[Any]) -> types.ModuleType:
    """A module with what is patched of verl's, in its shape and without Ray."""
    module = types.ModuleType("fake.trainer_base")

    def create_colocated_worker_cls(class_dict: dict[str, Any]) -> list[str]:
        calls.append(("classes", *class_dict))
        return list(class_dict)

    class RayWorkerGroup:
        def __init__(self, names: list[str]) -> None:
            self.names = names

        def spawn(self, prefix_set: Any) -> dict[str, FakeGroup]:
            return {name: FakeGroup(name, calls) for name in prefix_set}

    class PPOTrainer:
        saved_step = 0

        def __init__(self, config: Any) -> None:
            self.config = config
            self.timing_raw: dict[str, float] = {}
            self.global_steps = 0

        def _setup(self) -> None:
            for classes in ({"teacher": "class"}, {"actor_rollout_ref": "class"}):
                module_class = module.create_colocated_worker_cls(class_dict=classes)
                module.RayWorkerGroup(module_class).spawn(prefix_set=classes.keys())
            calls.append("actor")
            self._load_checkpoint()

        def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> str:
            calls.append(("advantage", dict(metrics)))
            return batch

        def _get_required_batch_multiple(self, dp_size: int) -> int:
            return 4 * dp_size

        def _save_checkpoint(self) -> None:
            calls.append("save actor")

        def _load_checkpoint(self) -> None:
            self.global_steps = self.saved_step
            calls.append("load actor")

    module.create_colocated_worker_cls = create_colocated_worker_cls  # type: ignore[attr-defined]
    module.RayWorkerGroup = RayWorkerGroup  # type: ignore[attr-defined]
    module.PPOTrainer = PPOTrainer  # type: ignore[attr-defined]
    return module


@pytest.fixture
def calls() -> list[Any]:
    return []


@pytest.fixture(autouse=True)
def _no_companions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(companion_model, "_companions", [])


def config(folder: Path, **trainer: Any) -> Any:
    settings = {
        "default_local_dir": str(folder),
        "default_hdfs_dir": None,
        "max_actor_ckpt_to_keep": 3,
        "resume_mode": "auto",
        "del_local_ckpt_after_load": False,
    }
    return OmegaConf.create({"method": "mine", "trainer": {**settings, **trainer}})


def fake_loss() -> None:
    """Stands in for a loss function; nobody calls it here."""


def companion(calls: list[Any], name: str = "melon", multiple: int = 6) -> Companion:
    def before(trainer: Any, group: FakeGroup, batch: Any, metrics: dict[str, Any]) -> None:
        metrics["told"] = batch
        calls.append(("before", group.name))

    return Companion(
        name=name,
        applies=lambda config: config.method == "mine",
        worker_config=lambda config: f"config of {name}",
        loss=lambda config: fake_loss,
        before_advantage=before,
        batch_multiple=lambda config: multiple,
    )


def patched(calls: list[Any]) -> Any:
    module = fake_trainer_base(calls)
    companion_model._patch(module)
    return module


def test_it_is_one_more_worker_on_the_actors_pool_and_ready_before_the_actor(tmp_path: Path, calls: list[Any]) -> None:
    companion_model.register(companion(calls))
    trainer = patched(calls).PPOTrainer(config(tmp_path))
    trainer._setup()
    assert calls == [
        ("classes", "teacher"),
        ("classes", "actor_rollout_ref", "melon"),
        ("melon", "reset"),
        ("melon", "set_loss_fn", fake_loss),
        "actor",
        "load actor",
    ]


def test_its_worker_is_verls(tmp_path: Path, calls: list[Any]) -> None:
    from verl.single_controller.ray import RayClassWithInitArgs
    from verl.workers.engine_workers import TrainingWorker

    companion_model.register(companion(calls))
    module = fake_trainer_base(calls)
    seen: dict[str, Any] = {}
    original = module.create_colocated_worker_cls

    def keep(class_dict: dict[str, Any]) -> Any:
        seen.update(class_dict)
        return original(class_dict)

    module.create_colocated_worker_cls = keep  # type: ignore[attr-defined]
    companion_model._patch(module)
    module.PPOTrainer(config(tmp_path))._setup()
    assert isinstance(seen["melon"], RayClassWithInitArgs)
    assert issubclass(seen["melon"].cls.__ray_actor_class__, TrainingWorker)
    assert seen["melon"].kwargs == {"config": "config of melon"}


def test_a_run_to_which_none_applies_is_verls_own(tmp_path: Path, calls: list[Any]) -> None:
    companion_model.register(companion(calls))
    other = config(tmp_path)
    other.method = "another"
    trainer = patched(calls).PPOTrainer(other)
    trainer._setup()
    assert trainer._compute_advantage("batch", {}) == "batch"
    trainer._save_checkpoint()
    assert trainer._get_required_batch_multiple(2) == 8
    assert trainer.timing_raw == {}
    assert calls == [
        ("classes", "teacher"),
        ("classes", "actor_rollout_ref"),
        "actor",
        "load actor",
        ("advantage", {}),
        "save actor",
    ]


def test_it_is_called_before_the_advantage_and_its_time_is_its_own(tmp_path: Path, calls: list[Any]) -> None:
    companion_model.register(companion(calls))
    trainer = patched(calls).PPOTrainer(config(tmp_path))
    trainer._setup()
    calls.clear()
    assert trainer._compute_advantage("batch", {}) == "batch"
    assert calls == [("before", "melon"), ("advantage", {"told": "batch"})]
    assert trainer.timing_raw["melon"] > 0
    # verl adds the time of its stage, with the call in it, to this.
    assert trainer.timing_raw["adv"] == -trainer.timing_raw["melon"]


def test_the_rows_of_a_batch_are_a_multiple_of_both(tmp_path: Path, calls: list[Any]) -> None:
    companion_model.register(companion(calls, multiple=6))
    companion_model.register(companion(calls, name="plum", multiple=5))
    trainer = patched(calls).PPOTrainer(config(tmp_path))
    assert trainer._get_required_batch_multiple(2) == 120


@pytest.mark.parametrize(
    ("trainer", "kept"),
    [
        ({}, 3),
        ({"max_actor_ckpt_to_keep": 1}, 2),
        ({"max_actor_ckpt_to_keep": None}, None),
        ({"remove_previous_ckpt_in_save": True}, 2),
    ],
)
def test_it_is_saved_before_the_actor(
    tmp_path: Path, calls: list[Any], trainer: dict[str, Any], kept: int | None
) -> None:
    companion_model.register(companion(calls))
    made = patched(calls).PPOTrainer(config(tmp_path, default_hdfs_dir="far", **trainer))
    made._setup()
    made.global_steps = 7
    calls.clear()
    made._save_checkpoint()
    path = str(tmp_path / "global_step_7" / "melon")
    assert calls == [("melon", "save", path, "far/global_step_7/melon", 7, kept), "save actor"]


@pytest.mark.parametrize("mode", ["auto", "resume_path"])
def test_it_is_loaded_from_the_checkpoint_of_the_actor(tmp_path: Path, calls: list[Any], mode: str) -> None:
    companion_model.register(companion(calls))
    (tmp_path / "global_step_5" / "melon").mkdir(parents=True)
    elsewhere = {"default_local_dir": "/nowhere", "resume_from_path": str(tmp_path / "global_step_5")}
    trainer = patched(calls).PPOTrainer(
        config(tmp_path, resume_mode=mode, **(elsewhere if mode == "resume_path" else {}))
    )
    trainer.saved_step = 5
    trainer._setup()
    assert calls[-2:] == ["load actor", ("melon", "load", str(tmp_path / "global_step_5" / "melon"), False)]


def test_a_checkpoint_without_it_is_refused(tmp_path: Path, calls: list[Any]) -> None:
    companion_model.register(companion(calls))
    (tmp_path / "global_step_5" / "actor").mkdir(parents=True)
    trainer = patched(calls).PPOTrainer(config(tmp_path))
    trainer.saved_step = 5
    with pytest.raises(FileNotFoundError, match="global_step_5 has no folder 'melon'"):
        trainer._setup()


def test_two_of_one_name_are_refused_and_one_twice_is_one(calls: list[Any]) -> None:
    one = companion(calls)
    companion_model.register(one)
    companion_model.register(one)
    assert companion_model._companions == [one]
    with pytest.raises(ValueError, match="'melon'"):
        companion_model.register(companion(calls))


def test_a_name_that_verl_uses_is_refused(tmp_path: Path, calls: list[Any]) -> None:
    companion_model.register(companion(calls, name="actor_rollout_ref"))
    with pytest.raises(ValueError, match="verl has a worker of the name 'actor_rollout_ref'"):
        patched(calls).PPOTrainer(config(tmp_path))._setup()


@pytest.mark.parametrize("name", ["create_colocated_worker_cls", "RayWorkerGroup", "PPOTrainer"])
def test_a_moved_target_of_the_module(calls: list[Any], name: str) -> None:
    module = fake_trainer_base(calls)
    delattr(module, name)
    with pytest.raises(PatchError, match=f"verl_ext.companion_model patches fake.trainer_base.{name}"):
        companion_model._patch(module)


@pytest.mark.parametrize(
    "name",
    ["_setup", "_compute_advantage", "_get_required_batch_multiple", "_save_checkpoint", "_load_checkpoint"],
)
def test_a_moved_target_of_the_trainer(calls: list[Any], name: str) -> None:
    module = fake_trainer_base(calls)
    delattr(module.PPOTrainer, name)
    with pytest.raises(PatchError, match=f"verl_ext.companion_model patches PPOTrainer.{name}"):
        companion_model._patch(module)


def test_a_setup_that_makes_its_workers_otherwise_is_an_error(tmp_path: Path, calls: list[Any]) -> None:
    companion_model.register(companion(calls))
    module = fake_trainer_base(calls)
    module.PPOTrainer._setup = lambda self: self._load_checkpoint()
    companion_model._patch(module)
    with pytest.raises(PatchError, match="adds the worker 'melon'"):
        module.PPOTrainer(config(tmp_path))._setup()
