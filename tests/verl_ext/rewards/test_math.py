"""What counts as equal, where a verdict comes from, and its kind."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from verl_ext.rewards import Kind
from verl_ext.rewards.extract import Extraction
from verl_ext.rewards.math import clear_memo, gold_problem, new_pool, verify_math, verify_math_async
from verl_ext.rewards.pool import WorkerPool

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    workers = new_pool(1)
    yield workers
    workers.close()


def boxed(answer: str) -> str:
    return f"Thus $\\boxed{{{answer}}}$."


EQUAL = [
    ("142.0", "142"),
    ("0.5", r"\frac{1}{2}"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
    (r"\frac{\pi}{4}", r"\pi/4"),
    (r"\frac{\pi}{10}", r"0.1\pi"),
    ("x^2-1", "(x-1)(x+1)"),
    ("5", "x=5"),
    ("f(x)=2x", "2x"),
    ("2, 3", "3 and 2"),
    ("2,3", r"\{3, 2\}"),
    (r"1\pm\sqrt{19}", r"1+\sqrt{19},1-\sqrt{19}"),
    (r"\{1\pm\sqrt{5},-2\}", r"-2, 1-\sqrt5, 1+\sqrt5"),
    ("(3,4]", r"\left( 3, 4 \right]"),
    (r"(2,\infty)", "x>2"),
    (r"[2,\infty)", r"x\in[2,+\infty)"),
    (r"(-\infty,2)\cup(3,\infty)", r"(3,\infty)\cup(-\infty,2)"),
    (r"(0,36)", r"(0,9]\cup(9,36)"),
    (r"(0,2)\cup(3,4)", r"(0,1]\cup(1,2)\cup(3,4)"),
    (r"(1,\frac{1}{2}),(0,3)", r"(0,3),\ (1,0.5)"),
    (r"\begin{pmatrix}-1/3\\2/3\end{pmatrix}", r"\begin{bmatrix}-\frac13\\ \frac23\end{bmatrix}"),
    ("Evelyn", r"\text{Evelyn}"),
    ("(B)", r"\text{B}"),
    ("C", "(C) 12"),
    ("4210_{5}", "4210_5"),
    ("11,111,111,100", "11111111100"),
    ("E_{1},E_{2}", "E_2, E_1"),
    (r"\$18.90", "18.9"),
    ("10", r"10 \text{ dollars}"),
]
DIFFERENT = [
    ("3.14", "3.1416"),
    ("1/3", "0.333333"),
    (r"\frac{\pi}{4}", "0.785398"),
    (r"10^{-20}\pi", r"2\cdot 10^{-20}\pi"),
    ("5.3e-9", "2.26e-10"),
    ("x=5", "y=5"),
    ("2,3", "2"),
    ("2", "2,3"),
    ("(2,3)", "(3,2)"),
    ("(2,3)", "2,3"),
    ("[0,1)", "[0,1]"),
    (r"(-\infty,0]", r"(-\infty,0)"),
    (r"(0,9)\cup(9,36)", "(0,36)"),
    (r"(0,9)\cup(9,36)", r"(0,9]\cup(9,36)"),
    (r"(-\infty,0)\cup[2,\infty)", r"(-\infty,0)\cup(2,\infty)"),
    ("6m", "6"),
    ("6", "6m"),
    (r"\frac{37}{4} m", r"\frac{37}{4}"),
    ("even", "odd"),
    ("east", "seat"),
    ("(B)", "(C)"),
    ("4210_{5}", "4210_{6}"),
    (r"2\pi", "2"),
    ("5", "-5"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
    (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    ("200, 100", "200100"),
    ("11/2", "1 1/2"),
    ("12", "1 2"),
    ("5", r"5 \text{ million}"),
    (r"\sin(t)^2", r"1+\cos(t)^2"),
]


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal(gold: str, answer: str, pool: WorkerPool) -> None:
    verdict = verify_math(boxed(answer), gold, pool=pool)
    assert (verdict.kind, verdict.score, verdict.extracted) == (Kind.CORRECT, 1.0, answer)
    # Without equal spelling: what is understood, not what is written.
    assert verify_math(boxed(gold), gold, pool=pool, exact=False, memo=False).kind is Kind.CORRECT


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different(gold: str, answer: str, pool: WorkerPool) -> None:
    verdict = verify_math(boxed(answer), gold, pool=pool)
    assert (verdict.kind, verdict.score) == (Kind.WRONG, 0.0)


def test_kinds(pool: WorkerPool) -> None:
    assert verify_math("", "5").kind is Kind.UNPARSEABLE
    assert verify_math("I do not know.", "5").kind is Kind.UNPARSEABLE
    assert verify_math(boxed(r"\frac{\foo("), "x+1", pool=pool).kind is Kind.UNPARSEABLE
    for gold in ("", r"\frac{1", r"\mho)(", "x" * 3000):
        verdict = verify_math(boxed("y-2"), gold, pool=pool)
        assert verdict.kind is Kind.GRADER_ERROR
        assert "gold" in verdict.detail
        assert repr(gold[:200]) in verdict.detail


def test_rules_scores_and_forms_of_gold(pool: WorkerPool) -> None:
    assert verify_math("The answer is 7.\n#### 8", "#### 8").kind is Kind.CORRECT
    assert verify_math("The answer is 7.\n#### 8", "7", rules=Extraction(hashes=False)).kind is Kind.CORRECT
    assert verify_math("so 7", r"hence \boxed{7}", correct=2.5, wrong=-1.0).score == 2.5
    assert verify_math("so 8", "7", correct=2.5, wrong=-1.0).score == -1.0
    assert verify_math("", "7", wrong=-1.0).score == -1.0
    with pytest.raises(ValueError, match="finite"):
        verify_math("so 8", "7", wrong=float("nan"))


def test_cheap_cases_need_no_worker() -> None:
    pool = new_pool(1)
    for gold, answer in [("142", "142.0"), ("5", "6"), (r"\sqrt{2}", r"\sqrt 2"), ("(1,2)", "(1,3)"), ("A", "(B)")]:
        verify_math(boxed(answer), gold, pool=pool, memo=False)
    assert pool.stats().outcomes == {}


def test_memo_keeps_verdicts(pool: WorkerPool) -> None:
    clear_memo()
    for _ in range(3):
        assert verify_math(boxed(r"1-\cos(t)^2"), r"\sin(t)^2", pool=pool).kind is Kind.CORRECT
    before = pool.stats().outcomes["done"]
    verify_math(boxed(r"1-\cos(t)^2"), r"\sin(t)^2", pool=pool)
    assert pool.stats().outcomes["done"] == before
    verify_math(boxed(r"1-\cos(t)^2"), r"\sin(t)^2", pool=pool, memo=False)
    assert pool.stats().outcomes["done"] == before + 1


def test_from_asyncio(pool: WorkerPool) -> None:
    async def all_of_them() -> list[Kind]:
        calls = [verify_math_async(boxed(f"{i}-{i}\\cos(t)^2"), f"{i}\\sin(t)^2", pool=pool) for i in range(1, 6)]
        return [verdict.kind for verdict in await asyncio.gather(*calls)]

    assert asyncio.run(all_of_them()) == [Kind.CORRECT] * 5


def test_gold_problem(pool: WorkerPool) -> None:
    assert gold_problem(r"\frac{\sqrt{3}}{2}") is None
    assert "gold" in (gold_problem(r"\mho)(") or "")


def test_import_is_cheap() -> None:
    code = (
        "import sys, verl_ext.rewards as r; v = r.verify_math('so 7', '7.0'); assert v.kind == 'correct';"
        "heavy = {'sympy', 'math_verify', 'torch', 'verl', 'pebble', 'ray'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
