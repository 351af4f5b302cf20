"""One spelling for what is written in many: `normalise` for a formula, `key` for exact comparison.

Only rewriting: nothing here evaluates. What is dropped is what the benchmarks' own graders drop: dollars, ``\\left``
and ``\\right``, spacing commands, degree signs, a trailing full stop and a trailing unit in ``\\text{}``.
"""

from __future__ import annotations

import re
from functools import lru_cache

_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("−–—‐‑", "-"),
        **dict.fromkeys("\u00a0\u2009\u202f\u2002\u2003\n\t\r", " "),
        **dict.fromkeys("\u200b\ufeff\x00", ""),
        "×": "\\times ",
        "÷": "/",
        "·": "\\cdot ",
        "⋅": "\\cdot ",
        "π": "\\pi ",
        "∞": "\\infty ",
        "°": "",
        "≤": "\\le ",
        "≥": "\\ge ",
        "≠": "\\ne ",
        "∪": "\\cup ",
        "∈": "\\in ",
        "±": "\\pm ",
        "½": "\\frac{1}{2}",
        "²": "^2",
        "³": "^3",
        "（": "(",
        "）": ")",
        "，": ",",
        "％": "%",
    }
)

_SPACE = re.compile(r"(?<![0-9]) | (?![0-9])")

# Text that must not be taken for a unit: it changes the answer.
_NO_UNIT = re.compile(r"\b(?:not|no|none|undefined|million|billion|trillion|thousand|hundred|dozen|if|when|where)\b|\d")
_TEXT = r"\\(?:text|textrm|textit|textbf|mathrm|mbox|rm|operatorname)\s{0,4}\{([^{}]{0,80})\}"
_WHOLE_TEXT = re.compile(rf"(-?){_TEXT}")
_TRAILING_TEXT = re.compile(rf"\s{{0,8}}{_TEXT}(?:\s{{0,4}}\^\s{{0,4}}(?:\{{?-?[0-9]\}}?))?$")
_ANY_TEXT = re.compile(_TEXT)
_JOINT = re.compile(r"\\(?:text|mbox|textrm|mathrm)\s{0,4}\{\s{0,4}(?:,\s{0,4})?(?:and|or)\s{0,4}\}")
_UNIT_WORDS = (
    "(?:centi|milli|kilo)?met(?:er|re)s?|inch(?:es)?|feet|foot|yards?|miles?|cm|mm|km|kg|grams?|pounds?|ounces?|"
    "lit(?:er|re)s?|seconds?|minutes?|mins?|hours?|days?|weeks?|months?|years?|degrees?|dollars?|cents?|mph|units?|"
    "percent|points?|people|students|ways|times"
)
_UNITS = re.compile(
    rf"(?<=[\d}}).])\s{{0,4}}(?:square |cubic |sq )?(?:{_UNIT_WORDS})(?:\s{{0,2}}\^\s{{0,2}}\{{?[23]\}}?)?"
    r"(?:/h| per hour)?$",
    re.IGNORECASE,
)

_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # `\\[2pt]` between the rows of a matrix is not `\[`.
        (r"\\\\\s{0,4}\[[^\]]{0,12}\]", r"\\\\ "),
        (r"(?<!\\)\\[()\[\]]", " "),
        (r"\\\$|\$|£|€", " "),
        (r"\\(?:left|right)\s{0,4}\.", " "),
        (r"\\(?:left|right|bigg?|Bigg?)[lrm]?(?![a-zA-Z])", ""),
        (r"\\(?:dfrac|tfrac|cfrac)(?![a-zA-Z])", r"\\frac"),
        (r"\\(?:displaystyle|textstyle|limits)(?![a-zA-Z])", " "),
        (r"(?<!\\)\\!", ""),
        (r"(?<!\\)\\[,;: ]|\\q?quad(?![a-zA-Z])|~", " "),
        (r"\{,\}", ","),
        (r"\\lbrace(?![a-zA-Z])", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (r"\\l?dots(?![a-zA-Z])|\\cdots(?![a-zA-Z])", "..."),
        (r"\\(?:geqslant|geq)(?![a-zA-Z])", r"\\ge"),
        (r"\\(?:leqslant|leq)(?![a-zA-Z])", r"\\le"),
        (r"\\neq(?![a-zA-Z])", r"\\ne"),
        (r"\^\s{0,4}(?:\{\s{0,4}\\circ\s{0,4}\}|\\circ(?![a-zA-Z]))|\\degree(?![a-zA-Z])", ""),
        (r"\\%", "%"),
        # \frac12, \frac1{2}, \frac{1}2, \sqrt2
        (r"\\frac\s{0,4}(\d)\s{0,4}(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s{0,4}(\d)\s{0,4}\{", r"\\frac{\1}{"),
        (r"(\\frac\s{0,4}\{[^{}]{0,80}\})\s{0,4}(\d)", r"\1{\2}"),
        (r"\\sqrt\s{0,4}(\d)", r"\\sqrt{\1}"),
        # Plain notation.
        (r"\*\*", "^"),
        (r"(?<![a-zA-Z\\])sqrt\s{0,4}\(([^()]{0,200})\)", r"\\sqrt{\1}"),
        (
            r"(?<![a-zA-Z\\])(?:(?:np|math|numpy)\.)?(arcsin|arccos|arctan|sin|cos|tan|cot|log|ln|exp)(?= ?\()",
            r"\\\1",
        ),
        (r"(?<![a-zA-Z\\])(?:(?:np|math|numpy)\.)?pi(?![a-zA-Z])", r"\\pi "),
        (r"(?<![a-zA-Z\\])(?:infinity|inf|oo)(?![a-zA-Z])", r"\\infty "),
        (r"\+\s{0,4}\\infty", r"\\infty"),
        (r"\s+", " "),
    )
)


@lru_cache(maxsize=4096)
def normalise(text: str) -> str:
    """One spelling of a formula; still LaTeX. Expects at most a few thousand characters."""
    text = text.translate(_CHARACTERS).strip()
    text = _JOINT.sub(" , ", text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = text.strip().rstrip(".,;: ").strip()
    whole = _WHOLE_TEXT.fullmatch(text)
    if whole:
        return whole.group(2).strip().rstrip(".")
    return _without_unit(text)


def key(text: str) -> str:
    """For exact comparison of two normalised texts: without spaces, but ``1 1/2`` is not ``11/2``."""
    return _SPACE.sub("", text)


def unwrap_text(text: str) -> str:
    r"""``\text{red}`` inside a formula becomes ``red``."""
    return _ANY_TEXT.sub(r"\1", text)


def _without_unit(text: str) -> str:
    trailing = _TRAILING_TEXT.search(text)
    if trailing and trailing.start():
        unit = trailing.group(1).strip()
        # \mathrm{e} and \mathrm{i} are numbers, \operatorname{...} a function's name.
        if unit.lower() not in ("e", "i", "d", "a", "b", "c") and not _NO_UNIT.search(unit):
            text = text[: trailing.start()].rstrip(" .,\\")
    if "%" not in text[-1:]:
        text = _UNITS.sub(lambda m: "%" if "percent" in m.group().lower() else "", text)
    return text.strip()
