"""Closed forms compared in process: what is read, what is refused, and that it stays cheap."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_ext.rewards.closed_form import same_closed_form
from verl_ext.rewards.normalise import normalise


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        (r"2\sqrt{3}", r"\sqrt{12}", True),
        (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}", True),
        (r"\sqrt[3]{8}", "2", True),
        ("x^2-1", "(x-1)(x+1)", True),
        (r"\frac{\pi}{4}", r"\pi/4", True),
        ("e^{2}", "e*e", True),
        (r"2\sqrt{3}", r"\sqrt{13}", False),
        ("p-q", "q-p", False),
        (r"10^{-20}\pi", r"2\cdot 10^{-20}\pi", False),
        (r"\frac{\pi}{4}", "0.785398", False),
    ],
)
def test_decided(gold: str, answer: str, same: bool) -> None:
    assert same_closed_form(normalise(gold), normalise(answer)) is same


@pytest.mark.parametrize(
    "text",
    ["1/2x", r"x1\frac{1}{2}", "x_1", "f(x)", "dx", "even", r"\sin(x)", "3i", "9^{9^{9}}", "x^{500}", r"\sqrt{-1}",
     "0^0", "1/0", "", "(", "x^12", "5!", "open('x','w')", "(" * 60 + "x" + ")" * 60, "x" * 400, r"\infty", "2 3"],
)  # fmt: skip
def test_refused(text: str) -> None:
    assert same_closed_form(normalise(text), normalise(text)) is None


def test_nearly_equal_is_not_decided() -> None:
    """Thirty digits of pi/4 are neither equal nor clearly different: the symbolic comparison has to say."""
    assert same_closed_form(r"\frac{\pi}{4}", "0.785398163397448309615660845820") is None


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(2, 50))
def test_polynomials_and_roots(a: int, b: int, c: int) -> None:
    assert same_closed_form(f"(x+{a})(x-{b})", f"x^2+{a}x-{b}x-{a * b}") is True
    assert same_closed_form(f"(x+{a})(x-{b})", f"x^2+{a}x-{b}x-{a * b + c}") is False
    assert same_closed_form(f"{a}\\sqrt{{{c}}}", f"\\sqrt{{{a * a * c}}}") is True
    assert same_closed_form(f"{a}\\sqrt{{{c}}}", f"\\sqrt{{{a * a * c + 1}}}") is False


@pytest.mark.alone
@pytest.mark.parametrize("text", ["9^{99}" * 20, "((9^{99})^{99})^{99}", "\\sqrt{" * 25 + "2" + "}" * 25, "9" * 1900])
def test_cheap_whatever_it_is(text: str) -> None:
    # The processor's: nobody is waited for.
    start = time.process_time()
    same_closed_form(text, text + "+1")
    assert time.process_time() - start < 0.5
