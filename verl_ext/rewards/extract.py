"""Finds the answer of a response. Every rule is one pass over the text, so the time is linear in its length.

The rules, in the order in which they are tried; each has a switch in `Extraction`:

* `boxed`: the last ``\\boxed{...}`` or ``\\fbox{...}`` whose braces balance,
* `hashes`: what follows the last ``####``, to the end of the line (GSM8K),
* `phrase`: what follows the last "the answer is", "final answer:" and the like,
* `last`: the last formula between dollars or brackets, or the last number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Of a longer response only the end is read: an answer stands at the end. In characters.
MAX_RESPONSE = 100_000
# The longest answer of the benchmarks has fewer than 400 characters; a longer one is no answer. In characters.
MAX_ANSWER = 2_000


@dataclass(frozen=True)
class Extraction:
    """Which rules are tried, always in this order; the first that finds something ends the search."""

    boxed: bool = True
    hashes: bool = True
    phrase: bool = True
    last: bool = True


ALL_RULES = Extraction()

# All quantifiers are bounded and no two adjacent ones match the same characters.
_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])[ \t]{0,8}")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_PHRASE = re.compile(
    r"(?:final[ \t]{1,3}answers?|answers?)(?:\*\*|__)?[ \t]{0,3}(?::|\bis\b:?|\bare\b:?|=)|\banswer[ \t]{0,3}\n",
    re.IGNORECASE,
)
_FORMULA = re.compile(r"\\\[|\\\]|\\\(|\\\)|\$\$|\\\$|\$")
_NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:/\d+)?%?")
_CHOICE = re.compile(r"^\(?([A-J])(?:\)|[.:]|$)")


def extract(response: str, rules: Extraction = ALL_RULES) -> str | None:
    """The answer of a response, stripped, or None where no rule that is switched on finds one.

    An answer longer than `MAX_ANSWER` is returned up to there plus one character, so that its length tells.
    """
    text = response[-MAX_RESPONSE:]
    for switched_on, rule in (
        (rules.boxed, last_boxed),
        (rules.hashes, after_hashes),
        (rules.phrase, after_phrase),
        (rules.last, last_formula_or_number),
    ):
        answer = rule(text) if switched_on else None
        if answer:
            return answer[: MAX_ANSWER + 1]
    return None


def last_boxed(text: str) -> str | None:
    """The content of the last box whose braces balance; ``\\boxed 7`` without braces is its next word."""
    starts = [match.end() for match in _BOX.finditer(text)]
    if not starts:
        return None
    # Nearly always the last box is whole, and only its own braces have to be looked at.
    content = _closed_from(text, starts[-1])
    if content:
        return content
    # One pass notes where each brace closes, whatever the number of boxes.
    closing: dict[int, int] = {}
    opened: list[int] = []
    for match in _BRACE.finditer(text, starts[0]):
        if match.group() == "{":
            opened.append(match.end())
        elif match.group() == "}" and opened:
            closing[opened.pop()] = match.start()
    for start in reversed(starts):
        if text[start : start + 1] == "{":
            end = closing.get(start + 1)
            content = text[start + 1 : end].strip() if end is not None else ""
        else:
            word = text[start : start + 64].split(maxsplit=1)
            content = word[0].rstrip("$.,") if word else ""
        if content:
            return content
    return None


def _closed_from(text: str, start: int) -> str | None:
    """The content of the brace that opens at `start`, if it closes."""
    if text[start : start + 1] != "{":
        return None
    level = 0
    for match in _BRACE.finditer(text, start):
        level += (match.group() == "{") - (match.group() == "}")
        if level == 0 and match.group() == "}":
            return text[start + 1 : match.start()].strip()
    return None


def after_hashes(text: str) -> str | None:
    """What follows the last ``####`` on its line."""
    _, mark, rest = text.rpartition("####")
    return rest.split("\n", 1)[0].strip() or None if mark else None


def after_phrase(text: str) -> str | None:
    """The rest of the sentence after the last final-answer phrase, or the formula that it begins with."""
    last = None
    for match in _PHRASE.finditer(text):
        last = match
    if last is None:
        return None
    rest = text[last.end() : last.end() + MAX_ANSWER].lstrip(" \t\n:*")
    formula = _leading_formula(rest)
    if formula:
        return formula
    line = rest.split("\n", 1)[0]
    # A full stop ends the sentence; the point of 3.5 does not.
    sentence = re.split(r"\.(?=\s|$)", line, maxsplit=1)[0]
    return sentence.strip(" \t*_`\"'") or None


def last_formula_or_number(text: str) -> str | None:
    """Of the last formula in dollars or brackets and the last number, the one that ends later."""
    formula, formula_end = _last_formula(text)
    number = None
    for match in _NUMBER.finditer(text):
        number = match
    if number is not None and number.end() > formula_end:
        return number.group()
    return formula


def choice_letter(text: str) -> str | None:
    """The letter of a multiple-choice answer such as ``B``, ``(B)``, ``\\text{(B)}``, ``B. 42``, or None."""
    plain = re.sub(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s{0,4}\{|[{}$*]|\\[()]", "", text).strip()
    match = _CHOICE.match(plain)
    return match.group(1) if match else None


_CLOSES = {"$": "$", "$$": "$$", "\\[": "\\]", "\\(": "\\)"}


def _leading_formula(text: str) -> str | None:
    """The formulas that a text begins with; several stay together: "$2$ and $3$", "$69$,$84$"."""
    pieces: list[str] = []
    position = 0
    while mark := _FORMULA.match(text, position):
        closer = _CLOSES.get(mark.group())
        end = text.find(closer, mark.end()) if closer else -1
        if closer is None or end < 0:
            break
        pieces.append(text[mark.end() : end].strip())
        joint = re.compile(r"\s{0,4}(?:,\s{0,4}(?:and|or)?|and|or)\s{0,4}").match(text, end + len(closer))
        if joint is None:
            break
        position = joint.end()
    return ", ".join(pieces) or None


def _last_formula(text: str) -> tuple[str | None, int]:
    """The last formula with something in it, and where it ends."""
    found: tuple[str | None, int] = (None, -1)
    opened: re.Match[str] | None = None
    for mark in _FORMULA.finditer(text):
        symbol = mark.group()
        if symbol == "\\$":
            continue
        if opened is not None and symbol == _CLOSES[opened.group()]:
            content = text[opened.end() : mark.start()].strip()
            if content:
                found = (content, mark.end())
            opened = None
        elif opened is None or symbol in ("\\[", "\\("):
            opened = mark if symbol in _CLOSES else None
    return found
