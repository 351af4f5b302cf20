"""Numbers are read exactly or not at all; one spelling for what is written in many."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_ext.rewards.normalise import key, normalise
from verl_ext.rewards.numeric import Number, read_number, same_number

READ = {
    "142.0": "142",
    ".5": "1/2",
    "-1./3": "-1/3",
    "1,234,567.5": "2469135/2",
    r"1{,}234": "1234",
    r"1\,234": "1234",
    r"\dfrac{1}{2}": "1/2",
    r"-\frac12": "-1/2",
    r"\frac{270}7": "270/7",
    r"\frac{-1}{1997}": "-1/1997",
    r"1\frac{4}{5}": "9/5",
    "1 1/2": "3/2",
    "11/2": "11/2",
    "4.5e33": "45" + "0" * 32,
    r"3 \times 10^{-2}": "3/100",
    "10^3": "1000",
    "+2": "2",
    "− 7": "-7",
    r"5 \text{ cm}^2": "5",
    r"5~\mathrm{km}": "5",
    "5 minutes": "5",
    r"45^{\circ}": "45",
    r"\$32.50": "65/2",
    "(5)": "5",
    "$12$.": "12",
}


@pytest.mark.parametrize(("text", "value"), READ.items())
def test_read(text: str, value: str) -> None:
    assert read_number(normalise(text)) == Number(Fraction(value))


@pytest.mark.parametrize(
    "text",
    ["", "1 2", "12,34", "1,23", "6m", "2^3", "1/0", "\\frac{1}{0}", "x", "5 million", "1e", "--1", "1+1", "9^{9^{9}}",
     "open('x','w')", "1e99999", "9" * 500, "0x10", "1_000", "inf", "nan", "2e\\mathrm{e}", "3\\mathrm{e}"],
)  # fmt: skip
def test_not_a_number(text: str) -> None:
    assert read_number(normalise(text)) is None


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("142", "142.0", True),
        ("0.5", "1/2", True),
        ("3.14", "3.1416", False),
        ("1/3", "0.333333", False),
        ("5.3e-9", "2.26e-10", False),
        ("62.5%", "62.5", True),
        ("62.5%", "0.625", True),
        ("62.5", "62.5%", True),
        ("50%", "60%", False),
        ("50%", "0.05", False),
    ],
)
def test_same(gold: str, answer: str, same: bool) -> None:
    one, other = read_number(normalise(gold)), read_number(normalise(answer))
    assert one is not None
    assert other is not None
    assert same_number(one, other) is same


@settings(deadline=None)
@given(st.fractions(max_denominator=10**6))
def test_fractions_of_any_size(value: Fraction) -> None:
    below = value.denominator
    for text in (
        f"{value.numerator}/{below}",
        f"\\frac{{{value.numerator}}}{{{below}}}",
        f"\\dfrac {value.numerator} {below}",
    ):
        if "dfrac" in text and (value.numerator not in range(10) or below > 9):
            continue
        assert read_number(normalise(text)) == Number(value)


@settings(deadline=None)
@given(st.integers(-(10**12), 10**12))
def test_integers_with_separators(value: int) -> None:
    assert read_number(normalise(f"{value:,}")) == read_number(str(value)) == Number(Fraction(value))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\left( 1, \dfrac{1}{2} \right)", r"(1,\frac12)"),
        (r"$x \geqslant 2$", r"x\ge2"),
        (r"\text{red}", "red"),
        (r"\sqrt2", r"\sqrt{2}"),
        (r"2 \text{ and } 3", "2,3"),
        ("π/2", r"\pi/2"),
        ("sqrt(5)", r"\sqrt{5}"),
    ],
)
def test_one_spelling(one: str, other: str) -> None:
    assert key(normalise(one)) == key(normalise(other))


def test_matrix_rows_are_kept() -> None:
    assert key(normalise(r"\begin{pmatrix}1\\[2pt]2\end{pmatrix}")) == r"\begin{pmatrix}1\\2\end{pmatrix}"


@settings(deadline=None)
@given(st.text(alphabet=st.characters(codec=None) | st.sampled_from("\\{}$^_,. frac0123456789"), max_size=100))
def test_any_text_survives(text: str) -> None:
    read_number(normalise(text))
