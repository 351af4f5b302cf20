"""The task: a sum of two three-digit numbers, worked out digit by digit with its carries.

Prompt ``347+585=``, response ``7+5+0=12;4+8+1=13;3+5+1=09;A932``: units first, each step ``digit+digit+carry=sum``,
then ``A`` and the answer. The base model's demonstrations leave out a fifth of the digit sums (see `is_withheld`), so
that it writes the form well and guesses those: one wrong token loses the problem, and credit has a place to go.
In training `verl_ext/rewards` grades by the same rule.
"""

import hashlib
from collections.abc import Iterator

LOWEST, HIGHEST = 100, 999
"""Operands, both ends included: three digits, so every response has the same three steps."""

DATA_SOURCE = "arithmetic"

# Of 100 buckets of unordered pairs: the first 10 are held out, the next 10 show the base model's progress.
_HELDOUT_BELOW, _DEV_BELOW = 10, 20

# Of 100 buckets of digit sums: a problem has three, so about half of all problems need a withheld one.
_WITHHELD_BELOW = 20


def prompt(a: int, b: int) -> str:
    """The question, 8 characters."""
    return f"{a}+{b}="


def digit_sums(a: int, b: int) -> Iterator[tuple[int, int, int]]:
    """The sums that a problem needs: (digit, digit, carry), units first."""
    carry = 0
    for digit_a, digit_b in zip(reversed(str(a)), reversed(str(b)), strict=True):
        yield int(digit_a), int(digit_b), carry
        carry = (int(digit_a) + int(digit_b) + carry) // 10


def solution(a: int, b: int) -> str:
    """The worked response, 31 or 32 characters without the end-of-sequence token."""
    steps = [f"{x}+{y}+{carry}={x + y + carry:02d};" for x, y, carry in digit_sums(a, b)]
    return "".join(steps) + f"A{a + b}"


def _bucket(key: str) -> int:
    """0 to 99: the same for a key on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 100


def is_withheld(digit_a: int, digit_b: int, carry: int) -> bool:
    """Whether the base model's demonstrations never show this sum, in either order of its digits."""
    return _bucket(f"{min(digit_a, digit_b)}+{max(digit_a, digit_b)}+{carry}") < _WITHHELD_BELOW


def is_demonstrable(a: int, b: int) -> bool:
    """Whether the problem needs no withheld sum."""
    return not any(is_withheld(*digits) for digits in digit_sums(a, b))


def partition(a: int, b: int) -> str:
    """``heldout``, ``dev`` or ``train``: a fixed function of the unordered pair, so no seed can mix them."""
    bucket = _bucket(f"{min(a, b)}+{max(a, b)}")
    if bucket < _HELDOUT_BELOW:
        return "heldout"
    return "dev" if bucket < _DEV_BELOW else "train"


def grade(response: str, gold: str) -> bool:
    """Whether what follows the last ``A`` is the sum, character for character.

    Only the answer counts: a wrong step before a right answer passes.

    Raises:
        ValueError: ``gold`` is not plain ASCII digits, so nothing can be graded against it.
    """
    if not (gold.isascii() and gold.isdigit()):
        raise ValueError(f"the gold answer must be ASCII digits, got {gold[:40]!r}")
    _, marker, answer = response.rpartition("A")
    return bool(marker) and answer == gold
