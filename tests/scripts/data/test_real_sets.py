"""Real sets from local files, where they are at hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from scripts.data.prepare import main
from scripts.verify_code_report import Case, humaneval, mbpp, spoiled
from tests.benchmarks import BENCHMARKS, needs_benchmarks
from tests.verl_ext.rewards.sandboxed import fenced, needs_sandbox
from verl_ext.rewards import Kind
from verl_ext.rewards.routing import verifier_of
from verl_ext.rewards.settings import RewardSettings
from verl_ext.rewards.verifiers import verdict_of

# Rows, and those of them whose gold answer our verifier can read.
EXPECTED = {
    "aime24": (30, 30),
    "amc": (83, 83),
    "math500": (500, 500),
    "minerva": (272, 271),
    "olympiadbench": (675, 673),
    "gsm8k_test": (1319, 1319),
    "humaneval": (164, 164),
    "mbpp": (399, 399),
    "gsm8k_train": (7473, 7473),
}


pytestmark = needs_benchmarks


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("data")
    assert main([*EXPECTED, "--source", str(BENCHMARKS), "--out", str(made)]) == 0
    return made


def test_rows_and_drops(out: Path) -> None:
    found = json.loads((out / "summary.json").read_text())["sets"]
    assert {name: (report["rows_read"], report["rows"]) for name, report in found.items()} == EXPECTED
    for name in ("minerva", "olympiadbench"):
        assert list(found[name]["dropped"]) == ["gold cannot be read"]


def test_training_and_test_questions_of_gsm8k_are_disjoint_but_for_near_copies(out: Path) -> None:
    overlap = json.loads((out / "gsm8k_train.report.json").read_text())["overlap"]
    # Two training questions are a test question with other numbers.
    assert overlap == {"gsm8k_test": {"rows_exact": 0, "rows_ngram": 2, "questions": 1}}


@needs_sandbox
@pytest.mark.parametrize(("name", "of"), [("humaneval", humaneval), ("mbpp", mbpp)])
def test_a_right_program_is_rewarded_and_another_is_not(
    out: Path, name: str, of: Callable[[Path], Iterator[Case]]
) -> None:
    assert BENCHMARKS is not None
    rows = pq.read_table(out / f"{name}.parquet").slice(0, 5).to_pylist()
    for row, case in zip(rows, of(BENCHMARKS), strict=False):
        for program, kind in ((case.program, Kind.CORRECT), (spoiled(case), Kind.WRONG)):
            verdict = verdict_of("code", fenced(program), row["reward_model"]["ground_truth"], RewardSettings())
            assert verdict.kind is kind, (case.name, verdict)


@pytest.mark.parametrize("name", [name for name in EXPECTED if name not in ("humaneval", "mbpp")])
def test_a_right_answer_is_rewarded_and_another_is_not(out: Path, name: str) -> None:
    for row in pq.read_table(out / f"{name}.parquet").slice(0, 20).to_pylist():
        verifier = verifier_of(row["data_source"], {}, has_user_function=False)
        gold = row["reward_model"]["ground_truth"]
        for answer, kind in ((gold, Kind.CORRECT), ("\\text{no answer}", Kind.WRONG)):
            verdict = verdict_of(verifier, f"So it is $\\boxed{{{answer}}}$.", gold, RewardSettings())
            assert verdict.kind is kind or (kind is Kind.WRONG and verdict.kind is Kind.UNPARSEABLE), (gold, verdict)
