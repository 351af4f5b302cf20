"""verl's file and TensorBoard trackers across a resume: one row and one value per step."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from verl.utils import tracking as verl_tracking

from tests.support import run_python
from verl_ext import tracking
from verl_ext.tracking import HistoryFile, metrics_path, read_rows, void_path

Rows = list[tuple[int, dict[str, Any]]]


def training(step: int, reward: float, **more: Any) -> tuple[int, dict[str, Any]]:
    """A row of a training step, as verl logs it."""
    return step, {"training/global_step": step, "critic/rewards/mean": reward, **more}


def validation(step: int, accuracy: float) -> tuple[int, dict[str, Any]]:
    """A row of the validation with which verl opens a run."""
    return step, {"val-core/acc": accuracy}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The metrics file of a run; its TensorBoard folder is ``tb`` beside it."""
    monkeypatch.delenv("VERL_FILE_LOGGER_PATH", raising=False)
    monkeypatch.setenv("VERL_FILE_LOGGER_ROOT", str(tmp_path))
    monkeypatch.setenv("TENSORBOARD_DIR", str(tmp_path / "tb"))
    return tmp_path / "project" / "experiment.jsonl"


def log_to_file(rows: Rows) -> None:
    """One process's life as far as verl's file tracker sees it."""
    logger = verl_tracking.FileLogger("project", "experiment")
    for step, data in rows:
        logger.log(data=data, step=step)
    logger.finish()


def log_to_tensorboard(rows: Rows, *, killed: bool = False) -> None:
    """One process's life as far as verl's TensorBoard adapter sees it."""
    # Files of one second are told apart by a counter that does not sort; processes are further apart.
    before = int(time.time())
    while int(time.time()) == before:
        time.sleep(0.01)
    logger = verl_tracking._TensorboardAdapter("project", "experiment")
    for step, data in rows:
        logger.log(data=data, step=step)
    if not killed:
        logger.finish()


def rows_of(path: Path) -> Rows:
    rows, torn = read_rows(path)
    assert torn == b""
    return [(row["step"], row["data"]) for row in rows]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows."""
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in tags}


def test_a_fresh_run(path: Path) -> None:
    rows = [validation(0, 0.125), training(1, 0.5), training(2, 0.75)]
    log_to_file(rows)
    assert rows_of(path) == rows
    assert not void_path(path).exists()
    assert [entry.name for entry in path.parent.iterdir()] == ["experiment.jsonl"]


def test_a_run_that_logs_nothing_leaves_the_history_alone(path: Path) -> None:
    log_to_file([training(1, 0.5)])
    log_to_file([])
    assert rows_of(path) == [training(1, 0.5)]


def test_a_resume_goes_on_behind_the_last_step(path: Path) -> None:
    log_to_file([training(1, 0.5), training(2, 0.75)])
    log_to_file([training(3, 1.0), training(4, 1.25)])
    assert rows_of(path) == [training(1, 0.5), training(2, 0.75), training(3, 1.0), training(4, 1.25)]
    assert not void_path(path).exists()


def test_rows_that_are_done_again_move_to_the_void_file(path: Path) -> None:
    log_to_file([training(1, 0.1), training(2, 0.2), training(3, 0.3), training(4, 0.4)])
    log_to_file([training(3, 3.3), training(4, 4.4)])
    assert rows_of(path) == [training(1, 0.1), training(2, 0.2), training(3, 3.3), training(4, 4.4)]
    assert rows_of(void_path(path)) == [training(3, 0.3), training(4, 0.4)]
    # And once more: the void file is appended to.
    log_to_file([training(4, 44.0)])
    assert rows_of(path)[-2:] == [training(3, 3.3), training(4, 44.0)]
    assert rows_of(void_path(path)) == [training(3, 0.3), training(4, 0.4), training(4, 4.4)]


def test_an_opening_validation_joins_the_row_it_resumed_from(path: Path) -> None:
    log_to_file([training(1, 0.1), training(2, 0.2), training(3, 0.3)])
    log_to_file([validation(2, 0.625), training(3, 3.3)])
    joined = (2, {"val-core/acc": 0.625, **training(2, 0.2)[1]})
    assert rows_of(path) == [training(1, 0.1), joined, training(3, 3.3)]
    assert rows_of(void_path(path)) == [training(3, 0.3)]


def test_an_opening_validation_whose_step_has_no_row_gets_one(path: Path) -> None:
    log_to_file([training(1, 0.1)])
    log_to_file([validation(2, 0.625), training(3, 0.3)])
    assert rows_of(path) == [training(1, 0.1), validation(2, 0.625), training(3, 0.3)]


def test_a_run_started_anew_voids_everything(path: Path) -> None:
    log_to_file([training(1, 0.1), training(2, 0.2)])
    log_to_file([training(1, 9.0)])
    assert rows_of(path) == [training(1, 9.0)]
    assert rows_of(void_path(path)) == [training(1, 0.1), training(2, 0.2)]


def test_each_step_has_one_row_after_many_restarts(path: Path) -> None:
    log_to_file([validation(0, 0.0), *(training(step, step) for step in range(1, 6))])
    log_to_file([validation(4, 0.4), *(training(step, 10 + step) for step in range(5, 8))])
    log_to_file([*(training(step, 100 + step) for step in range(6, 10))])
    log_to_file([validation(9, 0.9), training(10, 10)])
    assert [step for step, _ in rows_of(path)] == list(range(11))
    assert dict(rows_of(path))[5]["critic/rewards/mean"] == 15
    assert dict(rows_of(path))[6]["critic/rewards/mean"] == 106


def test_a_line_torn_by_a_kill_is_kept_in_the_void_file(path: Path) -> None:
    log_to_file([training(1, 0.1), training(2, 0.2)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    log_to_file([training(2, 2.2)])
    assert rows_of(path) == [training(1, 0.1), training(2, 2.2)]
    torn = whole.splitlines()[1][:-8]
    assert void_path(path).read_bytes() == torn + b"\n"


def test_a_last_line_that_lacks_only_its_end_is_a_row(path: Path) -> None:
    log_to_file([training(1, 0.1), training(2, 0.2)])
    path.write_bytes(path.read_bytes()[:-1])
    log_to_file([training(3, 0.3)])
    assert rows_of(path) == [training(1, 0.1), training(2, 0.2), training(3, 0.3)]


@pytest.mark.parametrize("line", [b'{"step":2,"da', b"[2]", b"null", b'{"data":{}}', b'{"step":2}', b"\xff\xfe", b""])
def test_a_corrupt_line_in_the_middle_is_an_error_with_its_place(path: Path, line: bytes) -> None:
    log_to_file([training(1, 0.1)])
    path.write_bytes(path.read_bytes() + line + b"\n" + orjson.dumps({"step": 3, "data": {}}) + b"\n")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"^{path}, line 2: not a row of metrics"):
        log_to_file([training(4, 0.4)])
    assert path.read_bytes() == before


def test_an_empty_file_is_a_history_of_nothing(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    log_to_file([training(1, 0.1)])
    assert rows_of(path) == [training(1, 0.1)]


def test_numpy_values(path: Path) -> None:
    data = {"float": np.float32(0.5), "int": np.int64(3), "array": np.array([1.0, 2.0])}
    log_to_file([training(1, 0.1, **data)])
    # Once more through a resume, which reads the row and writes it again.
    log_to_file([training(2, 0.2, **data)])
    expected = {"float": 0.5, "int": 3, "array": [1.0, 2.0]}
    assert rows_of(path) == [training(1, 0.1, **expected), training(2, 0.2, **expected)]


def test_a_kill_during_the_settling_loses_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log_to_file([training(1, 0.1), training(2, 0.2)])
    before = path.read_bytes()

    def fake_kill(source: Any, destination: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tracking.os, "replace", fake_kill)
        with pytest.raises(KeyboardInterrupt):
            log_to_file([training(2, 2.2)])
    assert path.read_bytes() == before
    log_to_file([training(2, 2.2)])
    assert rows_of(path) == [training(1, 0.1), training(2, 2.2)]


def test_rows_are_on_disk_as_soon_as_they_are_logged(path: Path) -> None:
    logger = verl_tracking.FileLogger("project", "experiment")
    logger.log(data=training(1, 0.1)[1], step=1)
    assert rows_of(path) == [training(1, 0.1)]
    logger.finish()


def test_history_file_may_be_closed_unopened(tmp_path: Path) -> None:
    HistoryFile(tmp_path / "metrics.jsonl").close()
    assert not (tmp_path / "metrics.jsonl").exists()


def test_the_path_is_the_one_of_verls_own_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environments: list[dict[str, str]] = [
        {},
        {"VERL_FILE_LOGGER_ROOT": str(tmp_path / "root")},
        {"VERL_FILE_LOGGER_ROOT": "~/of-home"},
        {"VERL_FILE_LOGGER_PATH": str(tmp_path / "one.jsonl")},
        {"VERL_FILE_LOGGER_PATH": str(tmp_path / "one.jsonl"), "VERL_FILE_LOGGER_ROOT": str(tmp_path / "root")},
    ]
    names = ("VERL_FILE_LOGGER_ROOT", "VERL_FILE_LOGGER_PATH")
    code = f"""
import json, os
from verl.utils.tracking import FileLogger
assert not hasattr(FileLogger.__init__, "__verl_ext_patch__")
paths = []
for environment in {environments!r}:
    for name in {names!r}:
        os.environ.pop(name, None)
    os.environ.update(environment)
    logger = FileLogger("project", "experiment")
    paths.append(logger.filepath)
    logger.finish()
print("PATHS" + json.dumps(paths))
"""
    # Only in that process is verl as it comes; it writes into its working directory.
    printed = run_python(code, {"VERL_USE_EXTERNAL_PLUGINS": "none", "HOME": str(tmp_path)}, cwd=tmp_path)
    (line,) = [line for line in printed.splitlines() if line.startswith("PATHS")]
    monkeypatch.setenv("HOME", str(tmp_path))
    ours = []
    for environment in environments:
        for name in names:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        ours.append(metrics_path("project", "experiment"))
        assert verl_tracking.FileLogger("project", "experiment").filepath == ours[-1]
    assert ours == json.loads(line.removeprefix("PATHS"))


def test_tensorboard_of_a_fresh_run(path: Path, tmp_path: Path) -> None:
    log_to_tensorboard([validation(0, 0.125), training(1, 0.5), training(2, 0.75)])
    shown = curves(tmp_path / "tb")
    assert shown["critic/rewards/mean"] == [(1, 0.5), (2, 0.75)]
    assert shown["val-core/acc"] == [(0, 0.125)]


@pytest.mark.parametrize("killed", [False, True])
def test_tensorboard_shows_the_later_value_of_a_step_done_again(path: Path, tmp_path: Path, killed: bool) -> None:
    log_to_tensorboard([training(1, 0.5), training(2, 0.75), training(3, 1.0)], killed=killed)
    log_to_tensorboard([training(2, 2.5), training(3, 3.5), training(4, 4.5)])
    assert curves(tmp_path / "tb")["critic/rewards/mean"] == [(1, 0.5), (2, 2.5), (3, 3.5), (4, 4.5)]


def test_tensorboard_keeps_the_step_that_an_opening_validation_is_of(path: Path, tmp_path: Path) -> None:
    log_to_tensorboard([training(1, 0.5), training(2, 0.75), training(3, 1.0)])
    log_to_tensorboard([validation(2, 0.625), training(3, 3.5)])
    shown = curves(tmp_path / "tb")
    assert shown["critic/rewards/mean"] == [(1, 0.5), (2, 0.75), (3, 3.5)]
    assert shown["val-core/acc"] == [(2, 0.625)]


def test_a_step_validated_before_and_after_the_resume_has_one_value(path: Path, tmp_path: Path) -> None:
    """test_freq and save_freq often agree: the checkpoint's step was validated, and verl opens with it again."""
    before = [training(1, 0.5), (2, {**training(2, 0.75)[1], "val-core/acc": 0.5}), training(3, 1.0)]
    after: Rows = [validation(2, 0.625), training(3, 3.5), (4, {**training(4, 4.5)[1], "val-core/acc": 0.75})]
    for rows in (before, after):
        log_to_file(rows)
        log_to_tensorboard(rows)
    shown = curves(tmp_path / "tb")
    assert [step for step, _ in shown["val-core/acc"]] == [2, 4]
    assert shown["critic/rewards/mean"] == [(1, 0.5), (2, 0.75), (3, 3.5), (4, 4.5)]
    # Both histories keep the same one.
    in_file = [(step, data["val-core/acc"]) for step, data in rows_of(path) if "val-core/acc" in data]
    assert in_file == shown["val-core/acc"]


def test_verls_tracking_uses_both(path: Path, tmp_path: Path) -> None:
    tracker = verl_tracking.Tracking("project", "experiment", ["file", "tensorboard"])
    tracker.log(data=training(1, 0.5)[1], step=1)
    tracker.finish()
    assert rows_of(path) == [training(1, 0.5)]
    assert curves(tmp_path / "tb")["critic/rewards/mean"] == [(1, 0.5)]
    assert os.listdir(tmp_path / "tb")


@pytest.mark.parametrize("first", [0, 1])
def test_a_run_of_its_own_inherits_nothing(tmp_path: Path, first: int) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": 0, "data": {"val": 0.5}}, {"step": 1, "data": {"training/global_step": 1, "val": 0.6}}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    history = tracking.HistoryFile(path)
    history.log({"val": 0.9} if first == 0 else {"training/global_step": 1, "val": 0.9}, first)
    history.close()
    assert [(row["step"], row["data"]["val"]) for row in tracking.read_rows(path)[0]] == [(first, 0.9)]
    assert tracking.read_rows(tracking.void_path(path))[0] == rows
