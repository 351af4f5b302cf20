"""Sets as `scripts.data` prepares them from local files, where those are at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.data.prepare import main
from scripts.evaluate import problems
from tests.benchmarks import BENCHMARKS, needs_benchmarks

pytestmark = needs_benchmarks


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("data")
    assert main(["math500", "aime24", "--source", str(BENCHMARKS), "--out", str(made)]) == 0
    return made


def test_a_folder_is_all_its_evaluation_sets(out: Path) -> None:
    assert {path.stem for path in problems.files([str(out)])} == {"aime24", "math500"}


def test_every_problem_and_its_category(out: Path) -> None:
    found = {path.stem: problems.read(path) for path in problems.files([str(out)])}
    assert {name: len(each) for name, each in found.items()} == {"aime24": 30, "math500": 500}
    assert found["aime24"].categories == {}
    subjects = set(found["math500"].categories["category"])
    assert {"Algebra", "Geometry", "Number Theory"} < subjects
    assert len(subjects) == 7
