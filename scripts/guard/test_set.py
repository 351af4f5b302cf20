"""The test of the guard's thresholds: which runs, settled and committed before any of them was made.

Seeds that nobody has looked at, and settings with learning rate x beta of at most 6e-6: what drifts is their product
times the steps, and above it some runs for tuning were destroyed before a window and ten steps had passed. At the
loop's usual rate, 1e-4, with beta 0.1, no function of what is logged announces most collapses in time (docs/guard.md).
The runs go seed by seed, so that an interrupted test is one of fewer seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from scripts.guard.verdicts import Verdict
from scripts.runs import Run
from scripts.study.kept import KeptRuns
from scripts.study.training import OUT, run_cells
from scripts.study.variant import INPROCESS, Variant, Wanted

SEEDS = (20, 21, 22, 23)

WANTED = (
    # Expected to collapse, from the runs for tuning.
    Wanted(Variant("spro", "0.3", "2e-5"), SEEDS, 80),
    Wanted(Variant("spro", "0.25", "2e-5"), SEEDS, 90),
    Wanted(Variant("spro", "0.2", "2e-5"), SEEDS, 110),
    # Expected to go either way.
    Wanted(Variant("spro", "0.1", "5e-5"), SEEDS[:2], 70),
    Wanted(Variant("spro_gated", "0.1", "5e-5"), SEEDS[2:], 70),
    # Expected to go well.
    Wanted(Variant("spro", "0.05", "5e-5"), SEEDS, 50),
    Wanted(Variant("spro", "0.03", "5e-5"), SEEDS, 40),
    Wanted(Variant("spro", "0.1", "2e-5"), SEEDS, 50),
    Wanted(Variant("spro", "0.05", "2e-5"), SEEDS, 40),
    Wanted(Variant("spro", "0.02", "1e-4"), SEEDS, 40),
    Wanted(Variant("grpo", "", "5e-5"), SEEDS[2:], 40),
    Wanted(Variant("spro_shuffled", "0.2", "2e-5"), SEEDS[:2], 50),
)

# Evaluated every few steps, on fewer problems; as long as what becomes of them asks for.
ENVIRONMENT = {"TEST_FREQ": "5", "HELDOUT_N": "200", "UNTIL_DECIDED": "1", "ROOT": "outputs/guard"}

BOUND = "algorithm.spro.guard.action=bound"

# Steps that a bounded run goes on after the collapse of the same run without it.
LONGER = 40


def is_test(run: Run) -> bool:
    """Whether a kept run belongs to the test."""
    return run.seed in SEEDS and not is_bounded(run)


def is_bounded(run: Run) -> bool:
    """Whether the guard acted in a run."""
    return BOUND in (run.settings.get("overrides") or ())


def bounded(verdicts: Iterable[Verdict]) -> list[Wanted]:
    """The test runs whose collapse an alarm came before, once more with the bound that it switches on.

    The others would be the same runs again: nothing acts without an alarm.
    """
    found = []
    for verdict in verdicts:
        run = verdict.run
        if is_test(run) and verdict.collapse is not None and verdict.ahead is not None and verdict.ahead > 0:
            beta = "" if run.settings.get("beta") is None else f"{run.settings['beta']:g}"
            variant = Variant(run.method, beta, lr_of(run), "bound", (BOUND,))
            found.append(Wanted(variant, (run.seed,), verdict.collapse + LONGER))
    return found


def lr_of(run: Run) -> str:
    """The learning rate as it is given: ``2e-5``."""
    mantissa, _, exponent = f"{float(run.settings['lr']):e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def folder_of(variant: Variant, seed: int) -> Path:
    """Where the in-process loop works."""
    return OUT / "guard" / f"guard-{variant.key}-seed{seed}"


def make(wanted: Sequence[Wanted], kept: KeptRuns, jobs: int) -> None:
    """Make the runs that are not kept yet, seed by seed, and keep each that ends well.

    Raises:
        TrainingFailed: a run failed; the others are kept.
    """
    pairs = sorted(((want, seed) for want in wanted for seed in want.seeds), key=lambda pair: pair[1])
    there = {path.name.removesuffix(".jsonl.gz") for path in (kept.root / INPROCESS).glob("*.jsonl.gz")}
    missing = [(want, seed) for want, seed in pairs if folder_of(want.variant, seed).name not in there]
    cells = []
    for want, seed in missing:
        own = ENVIRONMENT | {"OUT": str(folder_of(want.variant, seed))}
        environment = want.variant.environment(seed, want.steps) | own
        cells.append({"environment": environment, "overrides": list(want.variant.overrides)})
    try:
        run_cells(cells, jobs)
    finally:
        for want, seed in missing:
            folder = folder_of(want.variant, seed)
            if (folder / "run.json").exists():
                kept.keep(folder)
