"""Kept runs: compact, found by settings, cut to the steps that a study asks for, never trained twice."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from scripts.study import training
from scripts.study.kept import KeptRuns
from scripts.study.training import TrainingFailed, missing, train
from scripts.study.variant import INPROCESS, VERL, Variant, Wanted
from tests.scripts.study.synthetic import ACCURACY, write_folder

SPRO = Variant("spro", "0.03")
NOWHERE = Path("none")


def wanted(steps: int, seeds: tuple[int, ...] = (1,)) -> Wanted:
    return Wanted(SPRO, seeds, steps)


def test_a_run_is_kept_small_and_found_again(tmp_path: Path) -> None:
    kept = KeptRuns(tmp_path / "runs")
    path = kept.keep(write_folder(tmp_path / "out", "spro", 0.03, 1, [0.5, 0.6, 0.7]))
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert rows[5]["data"] == {"actor/entropy": 0.123457, "spro/process_share": 0.03}
    text = path.with_name(f"{path.name.removesuffix('.jsonl.gz')}.json").read_text()
    assert str(Path.cwd()) not in text
    for index in (kept, KeptRuns(tmp_path / "runs")):
        run = index.find(wanted(20), 1)
        assert run is not None
        assert run.series(ACCURACY) == ([0, 10, 20], [0.5, 0.6, 0.7])
        assert index.find(wanted(20), 2) is None
        assert index.find(wanted(20), 1, VERL) is None


def test_a_run_of_prime_is_kept_apart_and_with_its_own_metrics(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "out", "prime", None, 1, [0.5, 0.6])
    settings = {**json.loads((folder / "run.json").read_text()), "rm_lr": 2e-4}
    (folder / "run.json").write_text(json.dumps(settings))
    row = {"step": 1, "data": {"reward_model/loss": 0.69314718, "prime/process_share": 0.3, "timing_s/reward_model": 1}}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    kept = KeptRuns(tmp_path / "runs")
    path = kept.keep(folder)
    assert path.parent == tmp_path / "runs" / "prime"
    assert json.loads(gzip.decompress(path.read_bytes()))["data"] == {
        "reward_model/loss": 0.693147,
        "prime/process_share": 0.3,
    }
    assert kept.find(Wanted(Variant("prime", rm_lr="2e-4"), (1,), 10), 1) is not None
    assert kept.find(Wanted(Variant("prime", rm_lr="2e-5"), (1,), 10), 1) is None


def test_a_longer_run_serves_a_shorter_question_and_not_the_reverse(tmp_path: Path) -> None:
    kept = KeptRuns(tmp_path / "runs")
    kept.keep(write_folder(tmp_path / "out", "spro", 0.03, 1, [0.5, 0.6, 0.7]))
    run = kept.find(wanted(10), 1)
    assert run is not None
    assert max(run.steps) == 10
    assert kept.find(wanted(30), 1) is None


def test_the_same_run_is_the_same_file(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "out", "grpo", None, 1, [0.5, 0.6])
    first = KeptRuns(tmp_path / "a").keep(folder).read_bytes()
    assert first == KeptRuns(tmp_path / "b").keep(folder).read_bytes()


def test_only_missing_runs_are_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop itself is stood in for by one that writes folders; its command and cells are the real ones."""
    made: list[str] = []

    def stand_in(command: list[str], **_: object) -> object:
        for cell in json.loads(Path(command[command.index("--cells") + 1]).read_text()):
            environment = cell["environment"]
            made.append(f"{environment['METHOD']}-{environment['SEED']}")
            write_folder(tmp_path / "out" / INPROCESS, "spro", 0.03, int(environment["SEED"]), [0.5, 0.6])
        return type("Done", (), {"returncode": 1})()

    monkeypatch.setattr(training, "OUT", tmp_path / "out")
    monkeypatch.setattr(training.subprocess, "run", stand_in)
    kept = KeptRuns(tmp_path / "runs")
    kept.keep(write_folder(tmp_path / "before", "spro", 0.03, 0, [0.5, 0.6]))
    asked = [wanted(10, (0, 1, 2))]
    # What ended well is kept although the loop says that something failed.
    with pytest.raises(TrainingFailed):
        train(asked, kept, stack=INPROCESS, launcher=NOWHERE, jobs=1)
    assert made == ["spro-1", "spro-2"]
    assert kept.missing(asked[0]) == []
    train(asked, kept, stack=INPROCESS, launcher=NOWHERE, jobs=1)
    assert len(made) == 2


def test_a_run_is_made_once_and_as_long_as_any_table_needs(tmp_path: Path) -> None:
    kept = KeptRuns(tmp_path)
    asked = [wanted(80, (0, 1)), wanted(160, (1, 2)), wanted(80, (1,))]
    made = [(seed, want.steps) for want, seed in missing(asked, kept, INPROCESS, NOWHERE)]
    assert made == [(0, 80), (1, 160), (2, 160)]


def test_a_longer_run_takes_the_place_of_one_that_was_read(tmp_path: Path) -> None:
    kept = KeptRuns(tmp_path / "runs")
    kept.keep(write_folder(tmp_path / "short", "spro", 0.03, 1, [0.5, 0.6]))
    assert kept.find(wanted(10), 1) is not None
    kept.keep(write_folder(tmp_path / "long", "spro", 0.03, 1, [0.5, 0.6, 0.7]))
    run = kept.find(wanted(20), 1)
    assert run is not None
    assert max(run.steps) == 20


def test_runs_of_another_launcher_are_other_runs(tmp_path: Path) -> None:
    kept = KeptRuns(tmp_path / "runs")
    path = kept.keep(write_folder(tmp_path / "out", "spro", 0.03, 1, [0.5, 0.6]))
    beside = path.with_name(path.name.removesuffix(".jsonl.gz") + ".json")
    settings = {**json.loads(beside.read_text()), "stack": VERL, "launcher": "mine.sh"}
    beside.write_text(json.dumps(settings))
    kept = KeptRuns(tmp_path / "runs")
    assert kept.find(wanted(10), 1, VERL) is None
    assert kept.find(wanted(10), 1, VERL, "mine.sh") is not None
