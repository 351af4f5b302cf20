"""Evaluations are in the report: those beside a run, and those given; without any there is no section."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from scripts.compare import evaluations, sources
from scripts.compare.__main__ import main
from tests.scripts.compare.synthetic import keep, rows, settings
from tests.scripts.evaluate.synthetic import evaluation

ONE = evaluation("global_step_80", ["c", "w", "c", "c"], ["cw", "ww", "cc", "cw"], step=80)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A kept run."""
    return keep(tmp_path, "spro-seed0", rows([0.5, 0.6]), settings("spro", 0, 0.01))


def reported(run: Path, *more: str | Path) -> tuple[str, str]:
    out = run.parent / "out"
    assert main(["report", str(run), "--out", str(out), *map(str, more)]) == 0
    return (out / "report.md").read_text(), (out / "report.html").read_text()


def test_without_any_there_is_no_section(written: Path) -> None:
    assert all("Evaluations" not in (written / name).read_text() for name in ("report.md", "report.html"))


def test_beside_a_kept_run(run: Path) -> None:
    ONE.write(run.with_name("spro-seed0.evaluation.json"))
    markdown, page = reported(run)
    assert "## Evaluations" in markdown
    assert "| math500: SPRO, beta 0.01, seed 0, step 80 | 4 | 0.750 (0.301 to 0.954) | 0.500 (k = 2;" in markdown
    assert "math500: SPRO, beta 0.01, seed 0, step 80" in page


def test_in_the_folder_of_a_run(run: Path) -> None:
    folder = run.parent / "outputs" / "spro"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_bytes(gzip.decompress(run.read_bytes()))
    (folder / "run.json").write_text(run.with_name("spro-seed0.json").read_text())
    ONE.write(folder / "evaluation" / "global_step_80.json")
    # Of the folder that holds its responses.
    (folder / "evaluation" / "responses" / "math500-greedy-0").mkdir(parents=True)
    for given in (folder, folder / "metrics.jsonl"):
        (found,) = evaluations.load(sources.load([str(given)]))
        assert found.label == "SPRO, beta 0.01, seed 0, step 80"


def test_given(run: Path) -> None:
    ONE.write(run.parent / "given" / "a.json")
    evaluation("base", ["w"] * 4, ["ww"] * 4).write(run.parent / "given" / "b.json")
    markdown, _ = reported(run, "--evaluations", run.parent / "given")
    assert "| math500: global_step_80 | 4 | 0.750 " in markdown
    assert "| math500: base | 4 | 0.000 (0.000 to 0.490) | 0.000 (k = 2; 0.000 to 0.490) |" in markdown


def test_another_file_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run.parent / "x.json").write_text("{}")
    assert main(["report", str(run), "--evaluations", str(run.parent / "x.json")]) == 2
    assert "x.json: is no evaluation that can be read" in capsys.readouterr().err
    (run.parent / "nothing").mkdir()
    assert main(["report", str(run), "--evaluations", str(run.parent / "nothing")]) == 2
    assert "the folder holds no *.json" in capsys.readouterr().err
