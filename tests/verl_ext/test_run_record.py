"""What a run was is written beside its metrics, once for each start."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support import composed
from verl_ext import run_record
from verl_ext.patching import PatchError


def config(tmp_path: Path, logger: str = "[console,file]") -> object:
    return composed("+stack=cpu", f"trainer.logger={logger}")


def test_each_start_adds_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(tmp_path / "runs" / "metrics.jsonl"))
    for _ in range(2):
        run_record._record(config(tmp_path))
    first, second = json.loads((tmp_path / "runs" / "metrics.provenance.json").read_text())
    assert first["versions"]["verl"] == "0.9.1"
    assert first["hardware"]["cores"] >= 1
    assert (first["commit"], first["dirty"]) == run_record._commit()
    assert first["started"] <= second["started"]
    assert first["loss"] == {"loss_agg_mode": "seq-mean-token-mean", "clip_ratio_low": 0.2, "clip_ratio_high": 0.2}


@pytest.mark.skipif(shutil.which("git") is None, reason="no git on the PATH")
def test_the_commit_is_that_of_the_tree_if_it_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(run_record, "__file__", str(tmp_path / "file"))
    assert run_record._commit() == (None, None)

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    (tmp_path / "file").write_text("1")
    git("init", "--quiet")
    git("add", "file")
    git("commit", "--quiet", "--no-verify", "--message", "one")
    commit = git("rev-parse", "HEAD")
    assert len(commit) == 40
    assert run_record._commit() == (commit, False)
    (tmp_path / "file").write_text("2")
    assert run_record._commit() == (commit, True)


def test_a_run_without_the_file_tracker_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(tmp_path / "metrics.jsonl"))
    run_record._record(config(tmp_path, "[console]"))
    assert list(tmp_path.iterdir()) == []


def test_only_a_valid_configuration_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(tmp_path / "metrics.jsonl"))

    def refuse(config: object) -> None:
        raise ValueError("not valid")

    with pytest.raises(ValueError, match="not valid"):
        run_record._record_when_valid(refuse)(config(tmp_path))
    assert list(tmp_path.iterdir()) == []
    run_record._record_when_valid(lambda config: None)(config(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.provenance.json"]


def test_a_torn_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.provenance.json"
    path.write_text("[{")
    with pytest.raises(ValueError, match=r"metrics\.provenance\.json"):
        run_record.append(path, {})


def test_it_fails_loudly_when_its_target_has_moved() -> None:
    with pytest.raises(PatchError, match="validate_config"):
        run_record._apply(SimpleNamespace(__name__="verl.utils.config"))  # type: ignore[arg-type]
