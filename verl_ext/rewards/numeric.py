"""A strict grammar of numbers, read exactly: no eval, no parser of somebody else, `fractions.Fraction` throughout.

Reads integers, decimals, thousands separators (``1,234`` and ``1 234``), ``a/b`` and ``\\frac{a}{b}``, mixed numbers
(``1\\frac{1}{2}``, ``1 1/2``), powers of ten (``3e8``, ``3\\times 10^{8}``, ``10^{8}``), signs and per cent.

Numbers compare exactly. 142.0 equals 142 and 0.5 equals 1/2, but 3.1416 is not 3.14 and 0.333 is not 1/3: a benchmark
whose gold answer is rounded states how, and rounding is part of the answer. A per cent sign on one side only is read
both ways, as a unit that was left out (``62.5%`` and 62.5) and as a hundredth (``62.5%`` and 0.625).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

# A number with more characters is none; int() refuses more than 4,300 digits.
_MAX_LENGTH = 400
# Of a power of ten.
_MAX_EXPONENT = 400

_THOUSANDS = r"[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d{0,2}(?: \d{3})+"
_DECIMAL = rf"(?:(?:{_THOUSANDS}|\d+)(?:\.\d*)?|\.\d+)"
_POWER = r"10 ?\^ ?(?:\{ ?([+-]? ?\d{1,4}) ?\}|([+-]?\d{1,4}))"
_SCIENTIFIC = re.compile(rf"({_DECIMAL})(?:[eE]([+-]?\d{{1,4}})| ?(?:\\times|\\cdot|\*|x) ?{_POWER})?")
_TEN = re.compile(_POWER)
_SIGNED = rf"[+-]? ?{_DECIMAL}"
_FRACTION = re.compile(rf"\\frac ?\{{ ?({_SIGNED}) ?\}} ?\{{ ?({_SIGNED}) ?\}}|({_DECIMAL}) ?/ ?({_DECIMAL})")
_MIXED = re.compile(r"(\d+)(?: ?\\frac ?\{ ?(\d+) ?\} ?\{ ?(\d+) ?\}| (\d+) ?/ ?(\d+))")


@dataclass(frozen=True)
class Number:
    """An exact value; with `percent`, that many hundredths."""

    value: Fraction
    percent: bool = False


def read_number(text: str) -> Number | None:
    """The number that a normalised text is, all of it, or None."""
    if len(text) > _MAX_LENGTH:
        return None
    text = text.strip()
    percent = text.endswith("%")
    text = _unwrap(text.removesuffix("%").strip())
    negative = text.startswith("-")
    if text[:1] in ("+", "-"):
        text = text[1:].strip()
    value = _read_unsigned(_unwrap(text))
    return None if value is None else Number(-value if negative else value, percent)


def same_number(gold: Number, answer: Number) -> bool:
    """Exactly equal; a per cent sign on one side only is read both ways."""
    if gold.percent == answer.percent or gold.value == answer.value:
        return gold.value == answer.value
    with_percent, without = (gold, answer) if gold.percent else (answer, gold)
    return with_percent.value / 100 == without.value


def could_be_list(text: str) -> bool:
    """Whether the commas of a number may as well separate numbers: ``100,200``."""
    return "," in text and "\\frac" not in text


def _unwrap(text: str) -> str:
    """Without one pair of braces or parentheses around all of it: ``{5}``, ``(5)``."""
    if len(text) > 2 and (text[0], text[-1]) in (("(", ")"), ("{", "}")) and not any(c in "(){}" for c in text[1:-1]):
        return text[1:-1].strip()
    return text


def _read_unsigned(text: str) -> Fraction | None:
    if match := _SCIENTIFIC.fullmatch(text):
        return _scaled(_decimal(match.group(1)), match.group(2) or match.group(3) or match.group(4) or "0")
    if match := _TEN.fullmatch(text):
        return _scaled(Fraction(1), match.group(1) or match.group(2))
    if match := _MIXED.fullmatch(text):
        whole, *parts = (int(group) for group in match.groups() if group is not None)
        return whole + Fraction(*parts) if parts[1] else None
    if match := _FRACTION.fullmatch(text):
        above, below = (_decimal(group) for group in match.groups() if group is not None)
        return above / below if below else None
    return None


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace(" ", "").rstrip(".") or "0")


def _scaled(value: Fraction, exponent: str) -> Fraction | None:
    power = int(exponent.replace(" ", ""))
    return value * Fraction(10) ** power if abs(power) <= _MAX_EXPONENT else None
