"""Whether a program's answer is the expected one. Outside the sandbox: the program never sees what is expected.

What is compared is data as `code_values.encode` sent it (scalars and tagged lists), so no method of the program's
runs here. The cost is linear in the smaller of the two: sets and dictionaries are built of the expected values only,
since a program could choose values whose hashes collide.
"""

from __future__ import annotations

import math
from typing import Any

MAX_DEPTH = 200


def _close(a: float, b: float, tolerance: float) -> bool:
    """Equal, both NaN, or within a relative (and a 1000 times smaller absolute) tolerance."""
    if a == b:
        return True
    try:
        return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance * 1e-3) or (math.isnan(a) and math.isnan(b))
    except OverflowError:
        return False


def same_value(answer: Any, expected: Any, *, json_like: bool, tolerance: float, depth: int = 0) -> bool:
    """Whether an encoded answer is the expected value (None, numbers, str, bytes and their containers).

    Args:
        answer: as `code_values.encode` makes it.
        json_like: the expected value came from JSON: tuples are lists there, and a dictionary's keys text.
        tolerance: of floats, relative; integers are exact.
    """
    if depth > MAX_DEPTH:
        return False
    deeper: dict[str, Any] = {"json_like": json_like, "tolerance": tolerance, "depth": depth + 1}
    if type(answer) is not list:
        if isinstance(expected, bool | int | float) and isinstance(answer, bool | int | float):
            exact = not isinstance(answer, float) and not isinstance(expected, float)
            return answer == expected if exact else _close(answer, expected, tolerance)
        return type(answer) is type(expected) and answer == expected
    if len(answer) < 2:
        return False
    tag, items = answer[0], answer[1]
    if tag in ("l", "t"):
        allowed = (list, tuple) if json_like else (list,) if tag == "l" else (tuple,)
        if not isinstance(expected, allowed) or len(items) != len(expected):
            return False
        return all(same_value(a, e, **deeper) for a, e in zip(items, expected, strict=True))
    if tag in ("s", "f") and isinstance(expected, set | frozenset):
        left = set(expected)
        for item in items if len(items) == len(expected) else ():
            left.discard(_key(item))
        return not left and len(items) == len(expected)
    if tag == "d" and isinstance(expected, dict) and len(items) == len(expected):
        rest = {(_text(k) if json_like else k): v for k, v in expected.items()}
        for pair in items:
            key = _text(_key(pair[0])) if json_like else _key(pair[0])
            if key not in rest or not same_value(pair[1], rest.pop(key), **deeper):
                return False
        return not rest
    if tag == "i" and isinstance(expected, int):
        return int(items, 16) == expected
    if tag == "b" and isinstance(expected, bytes):
        return items == expected.hex()
    if tag == "c" and isinstance(expected, complex):
        return _close(answer[1], expected.real, tolerance) and _close(answer[2], expected.imag, tolerance)
    return False


def _text(key: Any) -> Any:
    """A dictionary's key as JSON writes an integer's."""
    return str(key) if type(key) is int else key


def _key(item: Any) -> Any:
    """A hashable value of an encoded item; something that equals nothing for what the tests cannot expect."""
    if type(item) is not list:
        return item
    if item[0] == "t" and len(item[1]) < 1000:
        return tuple(_key(x) for x in item[1])
    if item[0] == "f" and len(item[1]) < 1000:
        return frozenset(_key(x) for x in item[1])
    if item[0] == "i":
        return int(item[1], 16)
    if item[0] == "b":
        return bytes.fromhex(item[1])
    return object()


def same_call_result(answer: Any, expected: Any, *, tolerance: float = 1e-6) -> bool:
    """APPS's leniency: tuples are lists, and the expected value may be wrapped in a list of one."""
    if same_value(answer, expected, json_like=True, tolerance=tolerance):
        return True
    wrapped = isinstance(expected, list) and len(expected) == 1
    return wrapped and same_value(answer, expected[0], json_like=True, tolerance=tolerance)


def same_output(answer: str, expected: str, *, tolerance: float = 1e-5) -> bool:
    """Line by line and word by word; blank lines and the amount of white space do not count.

    Numbers that differ as text are compared with a relative tolerance if one of them is not an integer, as prime_code's
    `np.allclose` does (there for whole lines).
    """
    mine = [x for x in (line.split() for line in answer.splitlines()) if x]
    theirs = [x for x in (line.split() for line in expected.splitlines()) if x]
    if mine == theirs:
        return True
    if [len(x) for x in mine] != [len(x) for x in theirs]:
        return False
    return all(
        a == e or _same_number(a, e, tolerance)
        for line, other in zip(mine, theirs, strict=True)
        for a, e in zip(line, other, strict=True)
    )


def _same_number(a: str, e: str, tolerance: float) -> bool:
    # Long words are no floats; `isdigit` keeps integers exact.
    if len(a) > 100 or len(e) > 100 or (a.lstrip("+-").isdigit() and e.lstrip("+-").isdigit()):
        return False
    try:
        x, y = float(a), float(e)
    except ValueError:
        return False
    return math.isfinite(x) and math.isfinite(y) and _close(x, y, tolerance)
