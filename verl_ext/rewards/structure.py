"""Answers made of several: tuples, intervals, sets, lists, unions and matrices, compared part by part.

Tuples, intervals and matrices are ordered and their brackets count: ``(1,2)`` is neither ``[1,2)`` nor ``1,2``. Sets
and bare lists ("2, 3", "2 and 3") are unordered, without multiplicity, and equal each other; all answers are required.
``a \\pm b`` is the list of both.

Comparison has three outcomes: True, False and None where the comparison of two parts (`Leaf`) cannot tell.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from verl_ext.rewards.closed_form import same_closed_form
from verl_ext.rewards.normalise import key, unwrap_text
from verl_ext.rewards.numeric import could_be_list, read_number, same_number

Leaf = Callable[[str, str], "bool | None"]

_MAX_DEPTH = 6
_MAX_PARTS = 64

_TOKEN = re.compile(r"\\[{}]|\\begin\{[a-zA-Z*]{1,20}\}|\\end\{[a-zA-Z*]{1,20}\}|\\\\|\\[a-zA-Z]+|\\.|.", re.DOTALL)
_MATRIX = re.compile(r"\\begin\{([pbB]?matrix|array)\}(?:\{[lcr| ]{1,40}\})?(.*)\\end\{\1\}", re.DOTALL)
_LEFT_SIDE = re.compile(
    r"(\\?[a-zA-Z]+(?:_ ?(?:\{ ?[\\a-zA-Z0-9 ]{1,20}\}|[a-zA-Z0-9]))?(?: ?\( ?[a-zA-Z](?: ?, ?[a-zA-Z])* ?\))?'?) ?"
    r"(?:=|\\in(?![a-zA-Z])) ?([^=]+)"
)
# Whether two plain words differ is decided by their letters, not by algebra: "even" is not e*v*e*n.
_WORDS = re.compile(r"[a-zA-Z]{4,}(?:[ -][a-zA-Z]+){0,8}")
# 4210_5 and 4210_{5}
_NUMERAL = re.compile(r"([0-9A-F]+)(?:_\{?(?:\\text\{)?([0-9]{1,2})\}{0,2})?")
# A statement about a variable: an interval may say the same.
_RELATION = re.compile(r"[<>]|\\(?:le|ge|ne|in|lt|gt)(?![a-zA-Z])|(?<!:)=")


@dataclass(frozen=True)
class Parts:
    """`kind`: "set" (also a bare list), "union", "matrix:RxC", or the brackets of a tuple or interval: "()", "[)"."""

    kind: str
    items: tuple[str, ...]

    @property
    def ordered(self) -> bool:
        return self.kind not in ("set", "union")


def compare(gold: str, answer: str, leaf: Leaf, *, exact: bool = True, depth: int = 0) -> bool | None:
    """Whether two normalised answers are equal: True, False, or None where `leaf` could not tell of a part.

    Args:
        leaf: compares two parts that are neither numbers nor made of parts.
        exact: equal text is equal; off to see what the rest can do.
    """
    if exact and key(gold) == key(answer):
        return True
    gold, answer = _same_left_side(gold, answer)
    gold_number, answer_number = read_number(gold), read_number(answer)
    if gold_number is not None and answer_number is not None:
        return same_number(gold_number, answer_number)
    gold_parts, answer_parts = split(gold), split(answer)
    # "100,200" is a list beside "200, 100" and a number beside "100200".
    if gold_parts and answer_number is not None and not could_be_list(answer):
        answer_parts = None
    if answer_parts and gold_number is not None and not could_be_list(gold):
        gold_parts = None
    if depth < _MAX_DEPTH and (gold_parts or answer_parts):
        outcome = _compare_parts(gold, answer, gold_parts, answer_parts, leaf, exact, depth)
        if outcome != "whole":
            return outcome  # type: ignore[return-value]
    return compare_leaf(gold, answer, leaf)


def compare_leaf(gold: str, answer: str, leaf: Leaf) -> bool | None:
    """Words by their letters, numerals of another base by digits and base, everything else by `leaf`."""
    gold_numeral, answer_numeral = _NUMERAL.fullmatch(key(gold)), _NUMERAL.fullmatch(key(answer))
    if gold_numeral and answer_numeral and (gold_numeral.group(2) or answer_numeral.group(2)):
        # A base that was left out is the one that was asked for.
        same_base = not (gold_numeral.group(2) and answer_numeral.group(2)) or gold_numeral[2] == answer_numeral[2]
        return gold_numeral.group(1) == answer_numeral.group(1) and same_base
    gold_words, answer_words = unwrap_text(gold).strip("() "), unwrap_text(answer).strip("() ")
    if _WORDS.fullmatch(gold_words):
        if gold_words.lower() == answer_words.lower():
            return True
        if _WORDS.fullmatch(answer_words) or read_number(answer) is not None:
            return False
    closed = same_closed_form(gold, answer)
    return leaf(gold, answer) if closed is None else closed


def _compare_parts(
    gold: str, answer: str, gold_parts: Parts | None, answer_parts: Parts | None, leaf: Leaf, exact: bool, depth: int
) -> bool | str | None:
    """The outcome of a comparison by parts, or "whole" where the two texts have to be looked at as they are."""
    if gold_parts is None or answer_parts is None:
        other = answer if gold_parts else gold
        if _RELATION.search(other):
            return "whole"
        parts = gold_parts or answer_parts
        if parts is None or parts.kind != "set":
            # A tuple is no number; a union or a matrix may be written as an expression.
            return False if parts is not None and read_number(other) is not None else "whole"
        gold_parts = gold_parts or Parts("set", (gold,))
        answer_parts = answer_parts or Parts("set", (answer,))
    if gold_parts.kind != answer_parts.kind:
        # A union may be written as one interval, a set as a union.
        return "whole" if "union" in (gold_parts.kind, answer_parts.kind) else False

    def same(one: str, other: str) -> bool | None:
        return compare(one, other, leaf, exact=exact, depth=depth + 1)

    if gold_parts.ordered:
        if len(gold_parts.items) != len(answer_parts.items):
            return False
        return _all(same(one, other) for one, other in zip(gold_parts.items, answer_parts.items, strict=True))
    there = _all(_any(same(one, other) for other in answer_parts.items) for one in gold_parts.items)
    if there is False:
        plain = gold_parts.kind == "set" or (_disjoint(gold_parts) and _disjoint(answer_parts))
        return False if plain else "whole"
    return _all([there, _all(_any(same(one, other) for one in gold_parts.items) for other in answer_parts.items)])


def _disjoint(union: Parts) -> bool:
    """Whether a union is of intervals with known ends, apart from each other: then it is written in one way only."""
    ends: list[tuple[Fraction | float, Fraction | float, str]] = []
    for item in union.items:
        interval = _bracketed(item)
        if interval is None or len(interval.kind) != 2 or len(interval.items) != 2:
            return False
        low, high = (_end(text) for text in interval.items)
        if low is None or high is None or not low < high:
            return False
        ends.append((low, high, interval.kind))
    ends.sort()
    return all(
        one[1] < other[0] or (one[1] == other[0] and one[2][1] == ")" and other[2][0] == "(")
        for one, other in pairwise(ends)
    )


def _end(text: str) -> Fraction | float | None:
    if key(text) in ("\\infty", "-\\infty"):
        return -math.inf if text.startswith("-") else math.inf
    number = read_number(text)
    return number.value if number is not None else None


def _all(outcomes: Iterable[bool | None]) -> bool | None:
    result: bool | None = True
    for outcome in outcomes:
        if outcome is False:
            return False
        result = None if outcome is None else result
    return result


def _any(outcomes: Iterable[bool | None]) -> bool | None:
    result: bool | None = False
    for outcome in outcomes:
        if outcome is True:
            return True
        result = None if outcome is None else result
    return result


def _same_left_side(gold: str, answer: str) -> tuple[str, str]:
    """Without ``x =`` where only one of them has it, or both the same. Different variables stay."""
    gold_side, answer_side = _LEFT_SIDE.fullmatch(gold), _LEFT_SIDE.fullmatch(answer)
    if gold_side and answer_side and key(gold_side.group(1)) != key(answer_side.group(1)):
        return gold, answer
    return (gold_side.group(2).strip() if gold_side else gold, answer_side.group(2).strip() if answer_side else answer)


def split(text: str) -> Parts | None:
    """The parts of a normalised answer, or None if it is one expression."""
    if matrix := _MATRIX.fullmatch(text):
        rows = [[cell.strip() for cell in row] for row in _split_at(matrix.group(2), {"\\\\"}, {"&"}) if any(row)]
        if rows and "begin" not in matrix.group(2):
            cells = tuple(cell for row in rows for cell in row)
            return Parts(f"matrix:{len(rows)}x{'-'.join(str(len(row)) for row in rows)}", cells)
        return None
    pieces = [piece[0].strip() for piece in _split_at(text, {"\\cup"}, set())]
    if len(pieces) > 1 and all(pieces) and len(pieces) <= _MAX_PARTS:
        return Parts("union", tuple(pieces))
    pieces = [piece[0].strip() for piece in _split_at(text, {",", ";"}, set())]
    pieces = [part for piece in pieces for part in re.split(r" (?:and|or) ", piece)]
    pieces = [re.sub(r"^(?:and|or) ", "", piece) for piece in pieces]
    if len(pieces) > 1 and all(pieces) and len(pieces) <= _MAX_PARTS:
        return Parts("set", tuple(part for piece in pieces for part in _both_signs(piece)))
    signs = _both_signs(text)
    if len(signs) == 2:
        return Parts("set", signs)
    return _bracketed(text)


def _both_signs(text: str) -> tuple[str, ...]:
    if text.count("\\pm") != 1 or text.startswith(("(", "[", "\\{")):
        return (text,)
    return tuple(
        text.replace("\\pm", sign).replace("\\mp", other).removeprefix("+").strip() for sign, other in ("+-", "-+")
    )


def _bracketed(text: str) -> Parts | None:
    for opening, closing in (("\\{", "\\}"), ("(", ")"), ("(", "]"), ("[", ")"), ("[", "]")):
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
            inside = text[len(opening) : -len(closing)].strip()
            pieces = [piece[0].strip() for piece in _split_at(inside, {",", ";"}, set())]
            if opening == "\\{":
                parts = tuple(part for piece in pieces for part in _both_signs(piece))
                return Parts("set", parts) if all(parts) and len(parts) <= _MAX_PARTS else None
            if 1 < len(pieces) <= _MAX_PARTS and all(pieces) and _balanced(inside):
                return Parts(opening + closing, tuple(pieces))
    return None


def _balanced(text: str) -> bool:
    """Whether no bracket closes what was opened outside: false of the inside of ``(1,2),(3,4)``."""
    level = 0
    for token in _TOKEN.findall(text):
        level += (token in ("(", "[", "{", "\\{")) - (token in (")", "]", "}", "\\}"))
        if level < 0:
            return False
    return level == 0


def _split_at(text: str, rows: set[str], cells: set[str]) -> list[list[str]]:
    """Rows of cells, split at separators outside of any bracket."""
    result: list[list[list[str]]] = [[[]]]
    level = 0
    for token in _TOKEN.findall(text):
        if token in ("(", "[", "{", "\\{") or token.startswith("\\begin"):
            level += 1
        elif token in (")", "]", "}", "\\}") or token.startswith("\\end"):
            level -= 1
        if level == 0 and token in rows:
            result.append([[]])
        elif level == 0 and token in cells:
            result[-1].append([])
        else:
            result[-1][-1].append(token)
    return [["".join(cell) for cell in row] for row in result]
