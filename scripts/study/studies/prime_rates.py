"""PRIME: does the learning rate of its reward model, or its reference, decide how it compares with GRPO?"""

from __future__ import annotations

from statistics import fmean

from scripts.compare.tables import Cell, Table
from scripts.study.asked import Asked
from scripts.study.document import Block
from scripts.study.effects import Row, spread, table
from scripts.study.figures import curves
from scripts.study.studies.prime import ORDER, RM_LR
from scripts.study.study import Study, over
from scripts.study.variant import Variant

BASE = Variant("grpo")
# The policy's is 1e-4; the last is upstream's ratio to it.
RATES = ("2e-6", "2e-5", RM_LR)

PRIMES = [
    *(Variant("prime", rm_lr=rate, name=f"PRIME, {rate}") for rate in RATES),
    Variant(
        "prime",
        rm_lr=RM_LR,
        tag="moving",
        overrides=("algorithm.prime.ref_type=policy",),
        name=f"PRIME, {RM_LR}, reference: the policy",
    ),
]
# Those that the runs through verl have.
WANTED = over([BASE, Variant("spro", "0.03"), *PRIMES], (0, 1, 2))

# First and last step of each.
SPANS = ((2, 20), (21, 80))


def render(asked: Asked) -> Block:
    """Final accuracy against GRPO's, and how well each reward model orders the pairs that it was just trained on."""
    rows = asked.rows(WANTED)
    primes = rows[-len(PRIMES) :]
    columns = ["setting", *(f"ordered rightly, steps {first} to {last} (range)" for first, last in SPANS)]
    orders = [[Cell(row.label), *(spread(_means(row, span)) for span in SPANS)] for row in primes]
    text = f"{table(rows, rows[0], with_detectable=True).markdown()}\n{Table(columns, orders).markdown()}"
    return Block(text, [curves("prime-rates", "PRIME by its reward model's learning rate", [rows[0], *primes])])


def _means(row: Row, span: tuple[int, int]) -> list[float]:
    """Of each seed."""
    curves_of_seeds = [row.curve(seed, ORDER) for seed in row.runs]
    return [fmean(value for step, value in curve if span[0] <= step <= span[1]) for curve in curves_of_seeds]


STUDY = Study(
    "prime_rates", "PRIME: does the learning rate of its reward model, or its reference, decide?", WANTED, render
)
