"""Gold answers of public benchmarks from local files, and the ways in which a right answer is written otherwise.

The folder holds the files as their projects publish them: gsm8k_{train,test}.jsonl, math500.json (column-wise),
aime.jsonl, aime24.jsonl, amc.jsonl, amc23.jsonl, minerva_math.jsonl and olympiadbench.jsonl.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

from verl_ext.rewards.extract import after_hashes, last_boxed
from verl_ext.rewards.normalise import normalise
from verl_ext.rewards.numeric import read_number

FOLDER_VARIABLE = "SPRO_BENCHMARKS"


def gold_answers(folder: Path) -> dict[str, list[str]]:
    """The gold answers of every set, in the order of the files."""
    math500 = json.loads((folder / "math500.json").read_text())
    return {
        "GSM8K": [after_hashes(row["answer"]) or "" for row in _rows(folder, "gsm8k_test", "gsm8k_train")],
        "MATH500": [str(answer) for answer in math500["expected_answer"].values()],
        "AIME": [str(row["answer"]) for row in _rows(folder, "aime", "aime24")],
        "AMC": [str(row["answer"]) for row in _rows(folder, "amc", "amc23")],
        "Minerva": [last_boxed(row["solution"]) or "" for row in _rows(folder, "minerva_math")],
        "OlympiadBench": [", ".join(row["final_answer"]) for row in _rows(folder, "olympiadbench")],
    }


def _rows(folder: Path, *names: str) -> list[dict[str, Any]]:
    return [json.loads(x) for name in names for x in (folder / f"{name}.jsonl").read_text().splitlines() if x.strip()]


def as_response(answer: str) -> str:
    return f"We work it out step by step.\n\nTherefore the answer is $\\boxed{{{answer}}}$."


# Each returns the rewritten answer, or the same text where the rewriting does not apply.


def dfrac(text: str) -> str:
    return text.replace("\\frac", "\\dfrac")


def frac(text: str) -> str:
    return text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")


def left_right(text: str) -> str:
    r"""``\left`` and ``\right`` at every bracket, or none where there are some."""
    if "\\left" in text:
        return re.sub(r"\\(?:left|right)(?![a-zA-Z])", "", text)
    level = 0
    for character in text:
        level += (character in "([") - (character in ")]")
        if level < 0:
            return text
    return text if level else re.sub(r"([)\]])", r"\\right\1", re.sub(r"([(\[])", r"\\left\1", text))


def spaces(text: str) -> str:
    return re.sub(r"(?<=[^\s{(\[,=eE^<>])([+=-])", r" \1 ", re.sub(r"\s*,(?!\d{3}(?!\d))", r" ,\\; ", text))


def unit(text: str) -> str:
    number = read_number(normalise(text))
    return text + "\\text{ cm}" if number is not None and not number.percent else text


def unit_mathrm(text: str) -> str:
    number = read_number(normalise(text))
    return text + "~\\mathrm{km}" if number is not None and not number.percent else text


def variable(text: str) -> str:
    return text if re.search(r"=|,|<|>|\\[gl]e|[a-zA-Z]{4}|\(.\)$", text) else "x = " + text


def thousands(text: str) -> str:
    """Separators where there are none, none where there are some."""
    if re.fullmatch(r"-?\d{1,3}(,\d{3})+", text):
        return text.replace(",", "")
    return f"{int(text):,}" if re.fullmatch(r"-?\d{4,}", text) else text


def thousands_braces(text: str) -> str:
    return f"{int(text):,}".replace(",", "{,}") if re.fullmatch(r"-?\d{4,}", text) else text


def fraction_decimal(text: str) -> str:
    """1/2 for 0.5, 0.5 for 1/2 where it ends."""
    plain = normalise(text)
    number = read_number(plain)
    if number is None or number.percent or "e" in plain.lower():
        return text
    value = number.value
    if "." in plain and "frac" not in plain and "/" not in plain:
        return f"{'-' if value < 0 else ''}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
    if value.denominator == 1:
        return text
    places = next((n for n in range(1, 16) if 10**n % value.denominator == 0), None)
    return text if places is None else _decimal(value, places)


def _decimal(value: Fraction, places: int) -> str:
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def tuple_spaces(text: str) -> str:
    if not re.match(r"\$?(?:\\left)?[(\[].*,", text):
        return text
    return re.sub(r"(?<!\\left)(?<!\\right)([(\[])", r"\1 ", text).replace(",", " , ").replace(")", " )")


REWRITINGS: dict[str, Callable[[str], str]] = {
    "dfrac": dfrac,
    "frac": frac,
    "left, right": left_right,
    "spaces": spaces,
    "unit in text": unit,
    "unit in mathrm": unit_mathrm,
    "x =": variable,
    "thousands ,": thousands,
    "thousands {,}": thousands_braces,
    "1/2, 0.5": fraction_decimal,
    "tuple spacing": tuple_spaces,
}


# Each returns an answer that is wrong, or the same text where it does not apply.


def next_digit(text: str) -> str:
    """The last digit one more."""
    return re.sub(r"\d(?=\D*$)", lambda m: str((int(m.group()) + 1) % 10), text)


def other_sign(text: str) -> str:
    number = read_number(normalise(text))
    if number is None or not number.value:
        return text
    return text.replace("-", "", 1) if number.value < 0 else "-" + text


def other_order(text: str) -> str:
    """The first and the last entry of a tuple exchanged."""
    match = re.fullmatch(r"(\$?\()([^,()]+)((?:,[^,()]+)*),([^,()]+)(\)\$?)", text)
    if not match or match.group(2).strip() == match.group(4).strip():
        return text
    opening, first, middle, last, closing = match.groups()
    return f"{opening}{last}{middle},{first}{closing}"


def other_bracket(text: str) -> str:
    """An interval or tuple with another closing bracket."""
    if not re.fullmatch(r"[(\[][^()\[\]]+,[^()\[\]]+[)\]]", text):
        return text
    return text[:-1] + ("]" if text[-1] == ")" else ")")


def one_fewer(text: str) -> str:
    """A list without its last answer."""
    match = re.fullmatch(r"(\$?[^,()\[\]]+(?:, ?[^,()\[\]]+)*), ?([^,()\[\]]+?)(\$?)", text)
    if not match or read_number(normalise(text)) or match.group(2) in match.group(1):
        return text
    return match.group(1) + match.group(3)


NEAR_MISSES: dict[str, Callable[[str], str]] = {
    "last digit + 1": next_digit,
    "other sign": other_sign,
    "other order": other_order,
    "other bracket": other_bracket,
    "one answer fewer": one_fewer,
}
