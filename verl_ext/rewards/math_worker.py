"""What runs inside a worker: two answers are compared by math-verify, with nothing to catch but our pool's deadline.

Nothing parsed is printed or logged: `str()` of an expression can run for minutes and is under no time-out but ours.
math-verify's own time-outs (SIGALRM) are off; the worker is killed instead.
"""

from __future__ import annotations

import logging
import re
from enum import Enum
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import NormalizationConfig, normalize_latex
from math_verify import grader, parser

from verl_ext.rewards.structure import compare

# Relative; two numbers that math-verify calls equal must agree this closely. It rounds to 6 decimals, where all the
# small constants of physics are equal.
_TOLERANCE = 1e-12
_CONFIG = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
)

# E is Euler's number to math-verify, E_1 is not; renamed on both sides, to a letter that no answer has.
_ENERGY = re.compile(r"(?<![a-zA-Z\\])E ?(?=_)")

# math-verify warns about its time-outs being off, and logs expressions.
logging.disable(logging.CRITICAL)


class Outcome(Enum):
    """What a worker says of two answers."""

    EQUAL = "equal"
    DIFFERENT = "different"
    GOLD_UNREADABLE = "gold unreadable"
    ANSWER_UNREADABLE = "answer unreadable"
    OUT_OF_MEMORY = "out of memory"


class _GoldUnreadable(Exception):
    pass


def check(gold: str, answer: str, exact: bool = True) -> Outcome:
    """Compare two normalised answers."""
    try:
        equal = compare(gold, answer, _same_expression, exact=exact)
    except _GoldUnreadable:
        return Outcome.GOLD_UNREADABLE
    except MemoryError:
        return Outcome.OUT_OF_MEMORY
    if equal is None:
        return Outcome.ANSWER_UNREADABLE
    return Outcome.EQUAL if equal else Outcome.DIFFERENT


def warm_up() -> None:
    """Import and run everything once, so that no task pays for it: sympy imports much of itself at first use."""
    for gold, answer in (
        (r"\frac{\sqrt{3}}{2}x+1", r"1+\frac{\sqrt{3}x}{2}"),
        (r"\sin(x)^2+e^x", r"\cos(x)^2+\ln(2)"),
        (r"(2,\infty)\cup[0,1]", r"x>2"),
        (r"\begin{pmatrix}x\\\\1\end{pmatrix}", r"\begin{pmatrix}x+0\\\\2\end{pmatrix}"),
        ("y=2x", "2y=4x+1"),
    ):
        check(gold, answer, exact=False)


def _same_expression(gold: str, answer: str) -> bool | None:
    parsed_gold = _parse_gold(gold)
    if parsed_gold is None:
        raise _GoldUnreadable
    parsed_answer = _parse(answer)
    if parsed_answer is None:
        return None
    if not grader.verify(
        parsed_gold, parsed_answer, float_rounding=12, allow_set_relation_comp=True, timeout_seconds=None
    ):
        return False
    return not _numbers_disagree(parsed_gold, parsed_answer)


def _parse(text: str) -> Any:
    """The expression that a text is, all of it, or None."""
    try:
        parsed = parser.parse_latex_cached(normalize_latex(_ENERGY.sub(r"\\Xi", text), config=_CONFIG))
        return None if parsed is None else _exact(parsed)
    except MemoryError:
        raise
    # A grammar, ANTLR and sympy raise what they like, RecursionError included; all of it means: not readable.
    except Exception:  # noqa: BLE001
        return None


_parse_gold = lru_cache(maxsize=4096)(_parse)


def _exact(parsed: Any) -> Any:
    """Decimals as the fractions that they are: 0.785398 is not pi/4."""
    if not isinstance(parsed, sympy.Basic | sympy.MatrixBase):
        return parsed
    decimals = parsed.atoms(sympy.Float)
    return parsed.xreplace({x: sympy.Rational(str(x)) for x in decimals if x.is_finite and abs(x) < 1e60})


def _numbers_disagree(gold: Any, answer: Any) -> bool:
    """Whether two expressions that math-verify calls equal differ in value, beyond rounding.

    Variables get fixed values. False where nothing can be evaluated: then math-verify's word stands.
    """
    if isinstance(gold, sympy.Eq) or isinstance(answer, sympy.Eq):
        gold = gold.rhs if isinstance(gold, sympy.Eq) and gold.lhs.is_Symbol else gold
        answer = answer.rhs if isinstance(answer, sympy.Eq) and answer.lhs.is_Symbol else answer
    if not (isinstance(gold, sympy.Expr) and isinstance(answer, sympy.Expr)):
        return False
    try:
        symbols = sorted(gold.free_symbols | answer.free_symbols, key=lambda symbol: symbol.name)
        values = {symbol: sympy.Rational(7 + 3 * i, 5 + 2 * i) for i, symbol in enumerate(symbols)}
        one, other = (complex(x.subs(values).doit().evalf(20)) for x in (gold, answer))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001
        return False
    if one != one or other != other:
        return False
    # Per cent is read both ways, as in the grammar of numbers.
    scale = max(abs(one), abs(other))
    return all(abs(one * factor - other) > _TOLERANCE * scale for factor in (1, 100, 0.01))
