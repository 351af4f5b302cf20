"""Exact-to-50-digits comparison of closed forms, in process: roots, powers, pi, e and variables; no sympy.

A recursive-descent parser of our own reads the LaTeX of sums, products, quotients, powers and roots into nothing but
arithmetic on mpmath numbers; whatever it does not know, it does not read. Every operation is bounded: at most
`_MAX_TOKENS` tokens, exponents up to `_MAX_EXPONENT`, magnitudes up to 10^`_MAX_DIGITS`.

Two forms that differ at one point differ. Two that agree to 40 digits at three fixed points, variables included, are
called equal: no benchmark answer of this length is that close to another by chance.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

_MAX_TOKENS = 160
_MAX_EXPONENT = 200
_MAX_DIGITS = 1000
_DIGITS = 50
# Relative; far above the rounding of 50 digits, far below any difference of two short expressions.
_SAME = 1e-40
# Below it two forms agree so far that more should be known than these points.
_DIFFERENT = 1e-12

_TOKEN = re.compile(r" *(\d+(?:\.\d+)?|\.\d+|\\(?:frac|sqrt|pi|cdot|times)(?![a-zA-Z])|[a-zA-Z]|[-+*/^(){}\[\]])")


class _Unknown(Exception):
    """Not in this grammar, or out of its bounds."""


def same_closed_form(gold: str, answer: str) -> bool | None:
    """Whether two normalised expressions are equal: True, False, or None where one is not of this grammar."""
    if _words(gold) or _words(answer):
        return None
    one, other = _values(gold), _values(answer)
    if one is None or other is None:
        return None
    # Different variables are different answers; x - x + 1 and 1 are left to math-verify.
    if one.variables != other.variables:
        return None
    agree = True
    for a, b in zip(one.points, other.points, strict=True):
        scale = max(abs(a), abs(b))
        gap = abs(a - b)
        if gap > _DIFFERENT * scale:
            return False
        agree &= bool(gap <= _SAME * scale)
    return True if agree else None


@dataclass(frozen=True)
class _Values:
    variables: frozenset[str]
    points: tuple[Any, ...]


def _words(text: str) -> bool:
    """Letters that may be a word or a function's name: "even", "sin x"."""
    return re.search(r"(?<![a-zA-Z\\])[a-zA-Z]{3,}", text) is not None


@lru_cache(maxsize=8192)
def _values(text: str) -> _Values | None:
    """The values of an expression at three points, or None."""
    tokens: list[str] = []
    position = 0
    text = text.strip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or len(tokens) >= _MAX_TOKENS:
            return None
        tokens.append(match.group(1))
        position = match.end()
    variables = frozenset(token for token in tokens if len(token) == 1 and token.isalpha() and token != "e")
    try:
        return _Values(variables, tuple(_Reader(tokens, point).whole() for point in range(3 if variables else 1)))
    except (_Unknown, ZeroDivisionError, OverflowError, ValueError, RecursionError):
        return None


class _Reader:
    """Evaluates tokens at one of the fixed points."""

    def __init__(self, tokens: list[str], point: int):
        from mpmath.ctx_mp import MPContext

        # A context of our own: precision is a global of mpmath otherwise.
        self.mp = _context(MPContext)
        self.tokens, self.at, self.point, self.depth = tokens, 0, point, 0

    def whole(self) -> Any:
        value = self.sum()
        if self.at != len(self.tokens):
            raise _Unknown
        return value

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, expected: str | None = None) -> str:
        token = self.peek()
        if not token or (expected is not None and token != expected):
            raise _Unknown
        self.at += 1
        return token

    def sum(self) -> Any:
        self.depth += 1
        if self.depth > 30:
            raise _Unknown
        value = self.product()
        while self.peek() in ("+", "-"):
            value = self.bounded(value + self.product() if self.take() == "+" else value - self.product())
        self.depth -= 1
        return value

    def product(self) -> Any:
        if self.peek() in ("+", "-"):
            return self.product() if self.take() == "+" else -self.product()
        value = self.power()
        while self.peek() not in ("", "+", "-", ")", "}", "]"):
            token = self.peek()
            if token in ("*", "\\cdot", "\\times"):
                self.take()
                value = self.bounded(value * self.signed_power())
            elif token == "/":
                self.take()
                value = self.bounded(value / self.signed_power())
                # 1/2x is read in two ways.
                if self.peek() not in ("", "+", "-", ")", "}", "]", "*", "/", "\\cdot", "\\times"):
                    raise _Unknown
            elif token[0].isdigit() or token[0] in ".[":
                # "2 3", "x2"
                raise _Unknown
            elif token == "\\frac" and self.tokens[self.at - 1][0].isdigit():
                # A mixed number, or a product.
                raise _Unknown
            else:
                value = self.bounded(value * self.power())
        return value

    def signed_power(self) -> Any:
        if self.peek() == "-":
            self.take()
            return -self.power()
        return self.power()

    def power(self) -> Any:
        base = self.atom()
        if self.peek() != "^":
            return base
        self.take()
        if self.peek() == "{":
            exponent = self.braces()
        else:
            # x^12 in LaTeX is x^1 followed by 2, in plain text x^12.
            token = self.peek()
            if len(token) > 1 and token[0].isdigit():
                raise _Unknown
            exponent = self.atom()
        if self.peek() == "^" or abs(exponent) > _MAX_EXPONENT:
            raise _Unknown
        if base == 0 or (base < 0 and exponent != int(exponent)):
            raise _Unknown
        return self.bounded(self.mp.power(base, exponent))

    def atom(self) -> Any:
        token = self.take()
        if token[0].isdigit() or token[0] == ".":
            return self.bounded(self.mp.mpf(token))
        if token == "(":
            value = self.sum()
            self.take(")")
            return value
        if token == "{":
            self.at -= 1
            return self.braces()
        if token == "\\frac":
            above = self.braces()
            return self.bounded(above / self.braces())
        if token == "\\sqrt":
            return self.root()
        if token == "\\pi":
            return +self.mp.pi
        if token == "e":
            return +self.mp.e
        # A function's name, or a differential.
        if (token in "fghuFGHP" and self.peek() == "(") or (token == "d" and self.peek().isalpha()):
            raise _Unknown
        # i may be the imaginary unit, E what e is.
        if len(token) == 1 and token.isalpha() and token not in "iIE":
            return self.mp.mpf(2 * ord(token) + 7 * self.point + 1) / (41 + 6 * self.point)
        raise _Unknown

    def braces(self) -> Any:
        self.take("{")
        value = self.sum()
        self.take("}")
        return value

    def root(self) -> Any:
        degree = self.mp.mpf(2)
        if self.peek() == "[":
            self.take()
            degree = self.mp.mpf(self.take())
            self.take("]")
        value = self.braces()
        if value < 0 or not 2 <= degree <= 20:
            raise _Unknown
        return self.mp.power(value, 1 / degree)

    def bounded(self, value: Any) -> Any:
        if value and abs(self.mp.mag(value)) > 4 * _MAX_DIGITS:
            raise _Unknown
        return value


@lru_cache(maxsize=1)
def _context(kind: Any) -> Any:
    context = kind()
    context.dps = _DIGITS
    return context
