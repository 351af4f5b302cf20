"""PRIME: whether the loop trains it as the real stack does, and why its reward model loses the order of its pairs."""

from __future__ import annotations

from statistics import fmean

from scripts.compare.tables import Cell, Table, amount
from scripts.study.asked import Asked
from scripts.study.document import Block
from scripts.study.effects import Row
from scripts.study.figures import curves
from scripts.study.study import Study
from scripts.study.variant import Variant, Wanted

ORDER, LOSS = "reward_model/ordering_accuracy", "reward_model/loss"
STEPS = 20

# Upstream's ratio to the policy's 1e-4.
RM_LR = "2e-4"


def _set(tag: str, name: str, setting: str) -> Variant:
    return Variant("prime", rm_lr=RM_LR, tag=tag, overrides=(f"algorithm.prime.{setting}",), name=name)


VARIANTS = [
    Variant("prime", rm_lr=RM_LR, name="PRIME"),
    _set("outcome", "policy trained by the outcome alone", "reward_dpo_coef=0"),
    Variant("prime", lr="0", rm_lr=RM_LR, name="policy frozen"),
    _set("moving", "reference: the policy before its update", "ref_type=policy"),
]
# Through verl seed 0 learned and seed 2 was lost.
SEEDS = ((0, 2), (0,), (0,), (0, 2))
WANTED = tuple(Wanted(variant, seeds, STEPS) for variant, seeds in zip(VARIANTS, SEEDS, strict=True))

# First and last step of each.
SPANS = ((1, 1), (2, 4), (5, STEPS))


def render(asked: Asked) -> Block:
    """Pairs ordered rightly, loss and accuracy by seed: PRIME on both stacks, then what is changed about it."""
    found = asked.rows(WANTED)
    rows = [Row("PRIME through verl", asked.real(WANTED[:1])[0].runs), *found]
    columns = ["seed", "setting", *(f"ordered rightly, step {_words(span)}" for span in SPANS)]
    columns += [f"loss, step {_words(SPANS[-1])}", "accuracy before", f"accuracy at step {STEPS}"]
    lines = []
    for seed in sorted(found[0].runs):
        for row in rows:
            if seed in row.runs:
                orders = [_mean(row, seed, ORDER, span) for span in SPANS]
                accuracies = [row.curve(seed)[at][1] for at in (0, -1)]
                values = [*orders, _mean(row, seed, LOSS, SPANS[-1]), *accuracies]
                lines.append([Cell(str(seed)), Cell(row.label), *(Cell(amount(value, 3)) for value in values)])
    text = f"{STEPS} steps; in process where nothing else is said:\n\n{Table(columns, lines).markdown()}"
    return Block(text, [curves("prime-ordering", "Pairs that the reward model orders rightly", found, ORDER, "share")])


def _words(span: tuple[int, int]) -> str:
    return str(span[0]) if span[0] == span[1] else f"{span[0]} to {span[1]}"


def _mean(row: Row, seed: int, key: str, span: tuple[int, int]) -> float:
    return fmean(value for step, value in row.curve(seed, key) if span[0] <= step <= span[1])


STUDY = Study("prime", "Why does PRIME's reward model stop telling right responses from wrong ones?", WANTED, render)
