"""MATH-like responses with known verdicts, from a seed: for measuring verifiers.

Groups of 8 per gold: 4 with the gold as it is written, 2 with an equal answer in two other forms, 2 with two wrong
answers. Every response is 2 to 14 kB of working with formulas, the answer in the last box.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

GROUP = 8

_SENTENCES = (
    "We substitute $x = {a}$ into $f(x) = {b}x^2 - {c}x + {a}$ and collect the terms. ",
    "By the quadratic formula the roots are $\\frac{{-{b} \\pm \\sqrt{{{c}}}}}{{{a}}}$, so the sum is ${b}$. ",
    "Note that ${a} \\cdot {b} = {c}$, which is \\boxed{{{a}}} only if the triangle is acute; it is not. ",
    "\\[\n\\begin{{aligned}} y &= {a}x + {b} \\\\ &= {c} \\end{{aligned}}\n\\]\n",
    "Let me check this again: wait, the angle is ${a}^\\circ$ and not ${b}^\\circ$. ",
    "Hence there are $\\binom{{{c}}}{{{a}}}$ ways, and the answer is not simply ${b}$.\n\n",
)


@dataclass(frozen=True)
class Sample:
    """`form`: "identical", "equivalent" or "wrong"."""

    response: str
    gold: str
    form: str


def responses(count: int, seed: int) -> list[Sample]:
    """`count` samples (a multiple of 8), groups together."""
    rng = random.Random(seed)
    samples = []
    for i in range(count // GROUP):
        make = _KINDS[i % len(_KINDS)]
        gold, equal, wrong = make(rng)
        answers = [(gold, "identical")] * 4 + [(x, "equivalent") for x in equal] + [(x, "wrong") for x in wrong]
        rng.shuffle(answers)
        samples += [Sample(_response(rng, answer), gold, form) for answer, form in answers]
    return samples


def _response(rng: random.Random, answer: str) -> str:
    length, parts = rng.randint(2_000, 14_000), []
    size = 0
    while size < length - 100:
        a, b, c = (rng.randint(2, 400) for _ in range(3))
        parts.append(rng.choice(_SENTENCES).format(a=a, b=b, c=c))
        size += len(parts[-1])
    return "".join(parts) + f"\n\nTherefore the final answer is $\\boxed{{{answer}}}$."


Made = tuple[str, tuple[str, str], tuple[str, str]]


def _integer(rng: random.Random) -> Made:
    n = rng.randint(1_000, 99_999)
    return str(n), (f"{n:,}", f"x = {n}"), (str(n + 1), f"\\frac{{{n}}}{{2}}")


def _fraction(rng: random.Random) -> Made:
    value = Fraction(rng.randint(1, 60), rng.choice((7, 9, 11, 13)))
    p, q = value.numerator, value.denominator
    return (
        f"\\frac{{{p}}}{{{q}}}",
        (f"\\dfrac{{{p}}}{{{q}}}", f"{3 * p}/{3 * q}"),
        (f"\\frac{{{p}}}{{{q + 1}}}", f"-{p}/{q}"),
    )


def _decimal(rng: random.Random) -> Made:
    n = 2 * rng.randint(1, 49) + 1
    return f"{n}.5", (f"\\frac{{{2 * n + 1}}}{{2}}", f"{n}.50"), (f"{n}.6", f"\\frac{{{2 * n + 3}}}{{2}}")


def _root(rng: random.Random) -> Made:
    a, b = rng.randint(2, 30), rng.choice((2, 3, 5, 7))
    equal = (f"\\sqrt{{{a * a * b}}}", f"{a * b}/\\sqrt{{{b}}}")
    return f"{a}\\sqrt{{{b}}}", equal, (f"{a + 1}\\sqrt{{{b}}}", f"{a}\\sqrt{{{b + 1}}}")


def _polynomial(rng: random.Random) -> Made:
    a, b = rng.randint(1, 20), rng.randint(21, 40)
    gold = f"x^2+{a + b}x+{a * b}"
    return gold, (f"(x+{a})(x+{b})", f"{a * b}+{a + b}x+x^2"), (f"x^2+{a + b}x+{a * b + 1}", f"(x+{a})(x-{b})")


def _pi(rng: random.Random) -> Made:
    a, b = rng.randint(1, 60), rng.choice((3, 4, 7))
    return (
        f"\\frac{{{a}\\pi}}{{{b}}}",
        (f"\\frac{{{a}}}{{{b}}}\\pi", f"{a}\\pi/{b}"),
        (f"{a}\\pi", f"\\frac{{{b}\\pi}}{{{a + 50}}}"),
    )


def _tuple(rng: random.Random) -> Made:
    a, b = rng.randint(-30, 30), rng.randint(31, 60)
    return (
        f"({a},{b})",
        (f"\\left( {a}, {b} \\right)", f"({a}, \\frac{{{2 * b}}}{{2}})"),
        (f"({b},{a})", f"({a},{b + 1})"),
    )


def _interval(rng: random.Random) -> Made:
    a, b = rng.randint(2, 30), rng.choice((2, 3, 5))
    equal = (f"\\left[{a}, \\infty\\right)\\cup(-\\infty,{b}-{b})", f"(-\\infty, 0) \\cup [{a}, +\\infty)")
    wrong = (f"(-\\infty,0]\\cup[{a},\\infty)", f"(-\\infty,0)\\cup({a},\\infty)")
    return f"(-\\infty,0)\\cup[{a},\\infty)", equal, wrong


def _complex(rng: random.Random) -> Made:
    a, b = rng.randint(2, 30), rng.randint(31, 60)
    return f"{a}+{b}i", (f"{b}i+{a}", f"{a} + {2 * b}i/2"), (f"{a}-{b}i", f"{b}+{a}i")


# Complex numbers, which need a worker, are rarer, as they are in MATH.
_KINDS: tuple[Callable[[random.Random], Made], ...] = (
    *(_integer, _fraction, _decimal, _root, _polynomial, _pi, _tuple, _interval) * 2,
    _complex,
)
