"""A run that is asked to end saves its step and ends; nothing of it is left out of the history."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import composed
from tests.verl_ext.step_loop import config, logged, make_trainer, train
from verl_ext import step_watch, stop_request
from verl_ext.config_checks import ConfigError
from verl_ext.stop_request import StopRequested, saved_mark


@pytest.fixture
def stop_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the environment says that a request would stand; its watch is the only one."""
    path = tmp_path / "stop"
    monkeypatch.setattr(step_watch, "_makers", [stop_request.make_watch])
    monkeypatch.setenv(stop_request.VARIABLE, str(path))
    return path


def asking_at(step: int, stop_file: Path) -> Callable[[int], dict[str, float]]:
    """Metrics of a run that is asked to end while it does ``step``."""

    def metrics_of(now: int) -> dict[str, float]:
        if now == step:
            stop_file.touch()
        return {"loss": float(now)}

    return metrics_of


def test_it_ends_after_the_step_with_a_checkpoint(
    stop_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(config(tmp_path, steps=5), asking_at(2, stop_file))
    with pytest.raises(StopRequested, match=r"at step 2.*global_step_2"):
        train(trainer, monkeypatch, tmp_path)
    assert list(logged()) == [1, 2]
    assert trainer.calls[-4:] == [("step", 2), ("rollout asleep", 2), ("save", 2), "dumps written"]
    folder = tmp_path / "checkpoints" / "global_step_2"
    assert saved_mark(stop_file).read_text() == f"{folder}\n"
    # It keeps nothing of its own in the checkpoint.
    assert not list(folder.glob("*.json"))


def test_a_run_in_its_last_step_ends_as_usual(stop_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(config(tmp_path, steps=3), asking_at(3, stop_file))
    train(trainer, monkeypatch, tmp_path)
    assert list(logged()) == [1, 2, 3]
    assert not saved_mark(stop_file).exists()


def test_it_goes_on_where_it_ended(stop_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StopRequested):
        train(make_trainer(config(tmp_path, steps=4), asking_at(2, stop_file)), monkeypatch, tmp_path)
    # Another process, with a request of its own to look for.
    monkeypatch.setenv(stop_request.VARIABLE, str(tmp_path / "other"))
    train(make_trainer(config(tmp_path, steps=4), asking_at(9, stop_file), resumed=2), monkeypatch, tmp_path)
    assert list(logged()) == [1, 2, 3, 4]


def test_without_the_variable_nothing_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(stop_request.VARIABLE, raising=False)
    assert stop_request.make_watch(None) is None


@pytest.mark.parametrize("other", ["trainer.use_v1=False", "+rollout={}", "+async_training={}"])
def test_a_trainer_that_does_not_answer_is_told(
    other: str, stop_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_request.check(composed(other, "trainer.save_freq=5"))
    assert "does not look for a request to end" in (message := capsys.readouterr().err)
    assert "trainer.save_freq=5" in message
    for mode in ("sync", "separate_async"):
        stop_request.check(composed(f"trainer.v1.trainer_mode={mode}"))
    monkeypatch.delenv(stop_request.VARIABLE)
    stop_request.check(composed(other))
    assert capsys.readouterr().err == ""


def test_a_run_that_would_start_anew_is_refused(stop_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = composed("trainer.resume_mode=disable")
    with pytest.raises(ConfigError, match=r"trainer\.resume_mode=disable.*trainer\.resume_mode=auto"):
        stop_request.check(settings)
    stop_request.check(composed("trainer.resume_mode=auto"))
    monkeypatch.delenv(stop_request.VARIABLE)
    stop_request.check(settings)
