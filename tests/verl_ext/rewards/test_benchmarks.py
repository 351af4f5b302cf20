"""Real gold answers, where the benchmarks' files are at hand; the whole report is `scripts.verify_report`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from scripts.verify_data import gold_answers
from scripts.verify_report import Case, cross_cases, near_misses, self_cases
from tests.benchmarks import BENCHMARKS, needs_benchmarks
from verl_ext.rewards import Kind, Verdict
from verl_ext.rewards.math import new_pool, verify_math
from verl_ext.rewards.pool import WorkerPool

_PER_SET = 60


pytestmark = needs_benchmarks


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    workers = new_pool(2)
    yield workers
    workers.close()


@pytest.fixture(scope="module")
def golds() -> dict[str, list[str]]:
    assert BENCHMARKS is not None
    return gold_answers(BENCHMARKS)


def _judge(cases: list[Case], pool: WorkerPool) -> list[tuple[Case, Verdict]]:
    def one(case: Case) -> tuple[Case, Verdict]:
        response = f"So $\\boxed{{{case.answer}}}$."
        return case, verify_math(response, case.gold, memo=False, exact=False, pool=pool)

    with ThreadPoolExecutor(4) as threads:
        return list(threads.map(one, cases))


def _some(cases: list[Case]) -> list[Case]:
    return random.Random(0).sample(cases, min(_PER_SET, len(cases)))


def test_gold_equals_itself_as_it_stands_and_rewritten(golds: dict[str, list[str]], pool: WorkerPool) -> None:
    for dataset, answers in golds.items():
        judged = _judge(_some(self_cases(dataset, answers)), pool)
        missed = [(case, verdict) for case, verdict in judged if verdict.kind is not Kind.CORRECT]
        # The targets are of whole sets; a sample of 60 may hold two of the exceptions.
        assert len(missed) <= 2, missed


def test_gold_differs_from_others_and_from_near_misses(golds: dict[str, list[str]], pool: WorkerPool) -> None:
    for dataset, answers in golds.items():
        cases = _some(cross_cases(dataset, answers, seed=0)) + _some(near_misses(dataset, answers))
        assert [(c, v) for c, v in _judge(cases, pool) if v.kind is Kind.CORRECT] == []
