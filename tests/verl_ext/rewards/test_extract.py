"""The answer of a response: each rule alone, their order, and time linear in the length."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_ext.rewards.extract import (
    MAX_ANSWER,
    MAX_RESPONSE,
    Extraction,
    after_hashes,
    after_phrase,
    choice_letter,
    extract,
    last_boxed,
    last_formula_or_number,
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"first \boxed{1}, then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{7} and an open \boxed{8", "7"),
        (r"\fbox{3}", "3"),
        (r"\boxed 9$.", "9"),
        (r"\boxed{\boxed{4}}", "4"),
        (r"\boxed{}", None),
        (r"\boxedx{5}", None),
        ("nothing", None),
    ],
)
def test_box(text: str, answer: str | None) -> None:
    assert last_boxed(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"), [("a\n#### 1,234\nb", "1,234"), ("#### 1\n#### 2", "2"), ("####", None), ("# 5", None)]
)
def test_hashes(text: str, answer: str | None) -> None:
    assert after_hashes(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The final answer is: $\\frac12$. I hope it is correct.", "\\frac12"),
        ("So the answer is 3.5. Done", "3.5"),
        ("**Answer:** B", "B"),
        ("The answers are $2$ and $3$.", "2, 3"),
        ("Final answer: x = 5\nThanks", "x = 5"),
        ("The answer is 4. No: the answer is 5.", "5"),
        ("no such words", None),
    ],
)
def test_phrase(text: str, answer: str | None) -> None:
    assert after_phrase(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("It is $5$ and then \\[ y = 7 \\]", "y = 7"),
        ("with $x$ we get 12, so 15.", "15"),
        ("costs \\$1,200.50 in all", "1,200.50"),
        ("from 3 to $\\pi$", "\\pi"),
        ("words", None),
    ],
)
def test_last(text: str, answer: str | None) -> None:
    assert last_formula_or_number(text) == answer


def test_order_and_switches() -> None:
    text = "The answer is 3.\n#### 2\n\\boxed{1} and 4"
    assert extract(text) == "1"
    assert extract(text, Extraction(boxed=False)) == "2"
    assert extract(text, Extraction(boxed=False, hashes=False)) == "3"
    assert extract(text, Extraction(boxed=False, hashes=False, phrase=False)) == "4"
    assert extract(text, Extraction(False, False, False, False)) is None


@pytest.mark.parametrize(
    ("text", "letter"),
    [("B", "B"), ("(C)", "C"), (r"\text{(D)}", "D"), ("A. 42", "A"), ("B) no", "B"), ("Both", None), ("5", None)],
)
def test_choice(text: str, letter: str | None) -> None:
    assert choice_letter(text) == letter


@pytest.mark.parametrize(
    "piece",
    [
        "\\boxed{",
        "{",
        "}",
        "$",
        "\\[",
        "the answer is ",
        "answer\n",
        "1,234",
        "####",
        "1,",
        "9",
        " ",
        "\x00",
        "\ud800",
        "-",
    ],
)
@pytest.mark.alone
def test_time_is_linear(piece: str) -> None:
    # The processor's: nobody is waited for.
    start = time.process_time()
    extract(piece * (1_000_000 // len(piece)))
    # 1 MB takes hundredths of a second; quadratic would be minutes.
    assert time.process_time() - start < 5


def test_only_the_end_is_read() -> None:
    assert extract(r"\boxed{1}" + " word" * MAX_RESPONSE) is None
    assert len(extract("\\boxed{" + "x" * 50_000 + "}") or "") == MAX_ANSWER + 1


@settings(deadline=None)
@given(
    st.text(
        alphabet=st.characters(codec=None) | st.sampled_from("\\{}$#[]()boxed answer is\n0123456789.,"), max_size=200
    )
)
def test_any_text_survives(text: str) -> None:
    for rules in (Extraction(), Extraction(boxed=False), Extraction(False, False, True, True)):
        answer = extract(text, rules)
        assert answer is None or answer
