r"""Whether the answer of a response is the gold answer: cheap and exact first, math-verify in a worker for the rest.

1. the answer is found in the response (`extract`),
2. equal spelling, then numbers by a strict grammar, part by part of tuples, sets and lists (`structure`): in process,
3. what is left is compared by math-verify in a killable worker (`pool`), under a deadline.

What counts as equal: numbers exactly (see `numeric`), tuples in order, sets and lists in any order and complete,
intervals with their brackets; a trailing unit, ``x =``, degree and currency signs are ignored.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from verl_ext.rewards.extract import ALL_RULES, MAX_ANSWER, Extraction, after_hashes, choice_letter, extract, last_boxed
from verl_ext.rewards.normalise import key, normalise
from verl_ext.rewards.structure import compare
from verl_ext.rewards.verdict import Kind, Verdict

if TYPE_CHECKING:
    from verl_ext.rewards.pool import WorkerPool

_MEMO_SIZE = 65_536
# Braces deeper than in any answer: ANTLR needs seconds for hundreds.
_MAX_NESTING = 30
_CHOICE_GOLD = re.compile(r"\(?[A-J]\)?")

# What was found of (gold, answer, exact). Time-outs and infra errors are not kept: they may not come again.
_memo: OrderedDict[tuple[str, str, bool], tuple[Kind, str]] = OrderedDict()
_memo_lock = threading.Lock()

_pools: dict[int, WorkerPool] = {}
_pool_lock = threading.Lock()
_workers: int | None = None


@dataclass(frozen=True)
class _Case:
    """An answer that waits for its verdict."""

    extracted: str
    gold_as_given: str
    gold: str
    answer: str
    exact: bool
    correct: float
    wrong: float

    def verdict(self, kind: Kind, detail: str = "") -> Verdict:
        # A lone surrogate can be neither written to a file nor sent.
        shown = self.extracted.encode(errors="replace").decode()
        return Verdict(kind, self.correct if kind is Kind.CORRECT else self.wrong, shown, detail)


def verify_math(
    response: str,
    gold: str,
    *,
    timeout_s: float = 5.0,
    rules: Extraction = ALL_RULES,
    correct: float = 1.0,
    wrong: float = 0.0,
    memo: bool = True,
    exact: bool = True,
    pool: WorkerPool | None = None,
) -> Verdict:
    r"""Judge a response by its final answer.

    Args:
        response: the model's text. Of more than 100,000 characters the last are read.
        gold: the right answer; also as ``\boxed{answer}`` or ``... #### answer``.
        timeout_s: seconds that a worker may spend on it; waiting for a free worker does not count.
        rules: where an answer is looked for.
        correct, wrong: the scores; every kind but ``correct`` scores `wrong`.
        memo: remember (gold, answer).
        exact: equal spelling is equal. Off only to see what the rest can do.
        pool: the workers; by default one pool per process, see `configure_workers`.

    Raises:
        ValueError: a score that is not finite. Nothing that a response or a gold answer contains raises.
    """
    started = _start(response, gold, rules, correct, wrong, memo, exact)
    if isinstance(started, Verdict):
        return started
    return _finish(started, _submit(started, timeout_s, pool), memo)


async def verify_math_async(
    response: str,
    gold: str,
    *,
    timeout_s: float = 5.0,
    rules: Extraction = ALL_RULES,
    correct: float = 1.0,
    wrong: float = 0.0,
    memo: bool = True,
    exact: bool = True,
    pool: WorkerPool | None = None,
) -> Verdict:
    """`verify_math` without blocking the event loop."""
    started = _start(response, gold, rules, correct, wrong, memo, exact)
    if isinstance(started, Verdict):
        return started
    future = _submit(started, timeout_s, pool)
    await asyncio.wait([asyncio.wrap_future(future)])
    return _finish(started, future, memo)


def gold_problem(gold: str, *, timeout_s: float = 5.0) -> str | None:
    """Why a gold answer cannot be compared other than by spelling, or None. For data preparation."""
    verdict = verify_math("\\boxed{" + gold_answer(gold) + "}", gold, timeout_s=timeout_s, memo=False, exact=False)
    return None if verdict.kind is Kind.CORRECT else f"{verdict.kind}: {verdict.detail}"


def gold_answer(gold: str) -> str:
    r"""The answer that a gold text states: the last ``\boxed{}``, what follows the last ``####``, or all of it."""
    return last_boxed(gold) or after_hashes(gold) or gold


def configure_workers(workers: int) -> None:
    """The number of workers of this process's pool. Before the first verdict; a running pool is closed."""
    global _workers
    if workers < 1:
        raise ValueError(f"workers={workers}: must be at least 1")
    _workers = workers
    with _pool_lock:
        pool = _pools.pop(os.getpid(), None)
    if pool is not None:
        pool.close()


def default_pool() -> WorkerPool:
    """The pool of this process."""
    # After a fork the pool belongs to the parent.
    with _pool_lock:
        if os.getpid() not in _pools:
            _pools[os.getpid()] = new_pool(_workers or min(8, max(2, (os.cpu_count() or 2) // 4)))
        return _pools[os.getpid()]


def new_pool(workers: int) -> WorkerPool:
    """Workers that can do what `verify_math` asks of them."""
    from verl_ext.rewards.pool import WorkerPool

    return WorkerPool(workers, warm_up=_warm_up)


def clear_memo() -> None:
    with _memo_lock:
        _memo.clear()


def _start(
    response: str, gold: str, rules: Extraction, correct: float, wrong: float, memo: bool, exact: bool
) -> Verdict | _Case:
    """The verdict, where no worker is needed."""
    gold_as_given = str(gold)
    gold = normalise(gold_answer(gold_as_given)[: MAX_ANSWER + 1])
    problem = _unreadable(gold)
    if problem:
        return Verdict(Kind.GRADER_ERROR, wrong, None, f"the gold answer {gold_as_given[:200]!r} {problem}")
    found = extract(response, rules)
    if found is None:
        return Verdict(Kind.UNPARSEABLE, wrong, None, "no answer found" if response.strip() else "empty response")
    # Two answers of 2,000 characters are compared; the rest of a longer one would be ignored.
    answer = normalise(found) if len(found) <= MAX_ANSWER else found
    case = _Case(found, gold_as_given, gold, answer, exact, correct, wrong)
    problem = _unreadable(answer)
    if problem:
        return case.verdict(Kind.UNPARSEABLE, f"the answer {problem}")
    known = _remembered(case) if memo else None
    if known is not None:
        return case.verdict(*known)
    equal = _compare_in_process(case)
    if equal is None:
        return case
    return _remember(case, Kind.CORRECT if equal else Kind.WRONG, "", memo)


def _compare_in_process(case: _Case) -> bool | None:
    if _CHOICE_GOLD.fullmatch(key(case.gold)):
        letter = choice_letter(case.answer)
        if letter is not None and (case.exact or key(case.answer) != letter):
            return letter == case.gold.strip("() ")
    return compare(case.gold, case.answer, lambda gold, answer: None, exact=case.exact)


def _unreadable(text: str) -> str | None:
    if not text:
        return "is empty"
    if len(text) > MAX_ANSWER:
        return f"is longer than {MAX_ANSWER} characters"
    level = 0
    for brace in re.findall(r"\\.|[{}]", text):
        level += (brace == "{") - (brace == "}")
        if not 0 <= level <= _MAX_NESTING:
            return "has braces that do not match" if level < 0 else f"has more than {_MAX_NESTING} nested braces"
    return "has braces that do not match" if level else None


def _submit(case: _Case, timeout_s: float, pool: WorkerPool | None) -> Future:
    return (pool or default_pool()).submit(_check, case.gold, case.answer, case.exact, timeout_s=timeout_s)


def _finish(case: _Case, future: Future, memo: bool) -> Verdict:
    from verl_ext.rewards.pool import TaskCrashed, TaskTimeout, WorkerLost

    try:
        outcome = future.result()
    except TaskTimeout as error:
        return case.verdict(Kind.TIMEOUT, str(error))
    except TaskCrashed as error:
        return case.verdict(Kind.GRADER_ERROR, f"the answer killed its worker: {error}")
    except WorkerLost as error:
        return case.verdict(Kind.INFRA_ERROR, str(error))
    # What math-verify raises on this answer is the verifier's failure, whatever it is.
    except Exception as error:  # noqa: BLE001
        return case.verdict(Kind.GRADER_ERROR, f"{type(error).__name__} in the verifier")
    if outcome == "out of memory":
        return case.verdict(Kind.TIMEOUT, "the comparison needed more memory than a worker has")
    kind, detail = {
        "equal": (Kind.CORRECT, ""),
        "different": (Kind.WRONG, ""),
        "answer unreadable": (Kind.UNPARSEABLE, "the answer cannot be read"),
        "gold unreadable": (Kind.GRADER_ERROR, f"the gold answer {case.gold_as_given[:200]!r} cannot be read"),
    }[outcome]
    return _remember(case, kind, detail, memo)


def _remembered(case: _Case) -> tuple[Kind, str] | None:
    place = (case.gold, case.answer, case.exact)
    with _memo_lock:
        if place in _memo:
            _memo.move_to_end(place)
        return _memo.get(place)


def _remember(case: _Case, kind: Kind, detail: str, memo: bool) -> Verdict:
    if memo:
        with _memo_lock:
            _memo[case.gold, case.answer, case.exact] = (kind, detail)
            if len(_memo) > _MEMO_SIZE:
                _memo.popitem(last=False)
    return case.verdict(kind, detail)


# In a worker. Here, so that the trainer never imports sympy.


def _check(gold: str, answer: str, exact: bool) -> str:
    from verl_ext.rewards import math_worker

    return math_worker.check(gold, answer, exact).value


def _warm_up() -> None:
    from verl_ext.rewards import math_worker

    math_worker.warm_up()
