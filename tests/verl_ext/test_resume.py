"""The checkpoint that a run resumes from is whole, and no later than its history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from verl_ext import resume
from verl_ext.resume import align, align_history, complete_checkpoints
from verl_ext.tracking import HistoryFile

TRACKER = "latest_checkpointed_iteration.txt"


def save(folder: Path, *steps: int, tracker: str | None = None) -> None:
    """Checkpoints as verl leaves them; the tracker file names the last unless told otherwise."""
    for step in steps:
        checkpoint = folder / f"global_step_{step}"
        (checkpoint / "actor").mkdir(parents=True)
        (checkpoint / "data.pt").touch()
    (folder / TRACKER).write_text(str(steps[-1]) if tracker is None else tracker)


def history(folder: Path, last: int) -> Path:
    path = folder / "metrics.jsonl"
    file = HistoryFile(path)
    for step in range(1, last + 1):
        file.log({"training/global_step": step}, step)
    file.close()
    return path


def test_nothing_to_resume(tmp_path: Path) -> None:
    assert align_history(tmp_path, None) is None
    assert align_history(tmp_path / "not there", tmp_path / "metrics.jsonl") is None
    assert list(tmp_path.iterdir()) == []


def test_a_consistent_run_is_left_alone(tmp_path: Path) -> None:
    save(tmp_path, 2, 4)
    written = (tmp_path / TRACKER).stat().st_mtime_ns
    assert align_history(tmp_path, history(tmp_path, 5)) == 4
    assert (tmp_path / TRACKER).read_text() == "4"
    assert (tmp_path / TRACKER).stat().st_mtime_ns == written


def test_a_history_that_ends_at_the_checkpoint_is_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, 2, 4)
    assert align_history(tmp_path, history(tmp_path, 4)) == 4
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("torn", ["", "\n", "x"])
def test_a_torn_tracker_file_is_written_again(tmp_path: Path, torn: str) -> None:
    save(tmp_path, 2, 4, 10, tracker=torn)
    assert align_history(tmp_path, None) == 10
    assert (tmp_path / TRACKER).read_text() == "10"


def test_a_checkpoint_ahead_of_the_history_goes_back_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, 2, 3, 4)
    assert align_history(tmp_path, history(tmp_path, 3)) == 3
    assert (tmp_path / TRACKER).read_text() == "3"
    assert capsys.readouterr().out == "step 4 was saved but not logged; it is done again from step 3.\n"


def test_no_earlier_checkpoint_is_a_warning_with_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, 4)
    metrics = history(tmp_path, 3)
    assert align_history(tmp_path, metrics) == 4
    assert (tmp_path / TRACKER).read_text() == "4"
    warning = capsys.readouterr().err
    assert f"warning: {metrics} ends at step 3, the checkpoint is of step 4" in warning
    assert "trainer.max_actor_ckpt_to_keep=2" in warning


@pytest.mark.parametrize("lacking", ["actor", "data.pt"])
def test_an_incomplete_checkpoint_is_passed_over(tmp_path: Path, lacking: str) -> None:
    save(tmp_path, 2, 4)
    folder = tmp_path / "global_step_4" / lacking
    folder.rmdir() if folder.is_dir() else folder.unlink()
    assert complete_checkpoints(tmp_path) == [2]
    assert align_history(tmp_path, history(tmp_path, 5)) == 2
    assert (tmp_path / TRACKER).read_text() == "2"


def test_only_checkpoints_count_in_numerical_order(tmp_path: Path) -> None:
    save(tmp_path, 9, 10, 100)
    for other in ("global_step_x", "global_step_11.tmp", "global_step_"):
        (tmp_path / other / "actor").mkdir(parents=True)
        (tmp_path / other / "data.pt").touch()
    assert complete_checkpoints(tmp_path) == [9, 10, 100]


def test_a_later_checkpoint_than_the_tracker_names_is_not_taken(tmp_path: Path) -> None:
    """verl writes the tracker file last: what it does not name may lack a rank's part."""
    save(tmp_path, 2, 4, tracker="2")
    assert align_history(tmp_path, history(tmp_path, 4)) == 2


def test_a_kill_during_the_write_leaves_the_old_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 2, 4)
    metrics = history(tmp_path, 3)

    def fake_kill(source: Any, destination: Any) -> None:
        assert Path(source).read_text() == "2"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(resume.os, "replace", fake_kill)
        with pytest.raises(KeyboardInterrupt):
            align_history(tmp_path, metrics)
    assert (tmp_path / TRACKER).read_text() == "4"
    assert align_history(tmp_path, metrics) == 2
    assert (tmp_path / TRACKER).read_text() == "2"
    assert not list(tmp_path.glob("*.tmp"))


def config(folder: Path, **trainer: Any) -> Any:
    settings = {
        "resume_mode": "auto",
        "logger": ["console", "file"],
        "project_name": "project",
        "experiment_name": "experiment",
        "default_local_dir": str(folder / "checkpoints"),
    }
    return OmegaConf.create({"trainer": {**settings, **trainer}})


@pytest.mark.parametrize(
    ("trainer", "resumed", "tracker"),
    [
        ({}, 2, "2"),
        ({"logger": "file"}, 2, "2"),
        # No history is kept, so none can be behind.
        ({"logger": ["console"]}, 4, "4"),
        ({"logger": "console"}, 4, "4"),
        ({"resume_mode": "disable"}, None, "4"),
        ({"resume_mode": "resume_path"}, None, "4"),
    ],
)
def test_align_reads_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: dict[str, Any], resumed: int | None, tracker: str
) -> None:
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(history(tmp_path, 3)))
    save(tmp_path / "checkpoints", 2, 4)
    assert align(config(tmp_path, **trainer)) == resumed
    assert (tmp_path / "checkpoints" / TRACKER).read_text() == tracker


def test_a_folder_in_use_is_waited_for_and_then_refused(tmp_path: Path) -> None:
    first = resume.hold(tmp_path)
    with pytest.raises(RuntimeError, match="another run still writes there"):
        resume.hold(tmp_path, timeout_s=0.3)
    first.close()
    resume.hold(tmp_path, timeout_s=0.3).close()


def test_the_trainer_aligns_before_it_loads() -> None:
    trainer_base = pytest.importorskip("verl.trainer.ppo.v1.trainer_base")
    assert "verl_ext.resume" in trainer_base.PPOTrainer._load_checkpoint.__verl_ext_patch__
