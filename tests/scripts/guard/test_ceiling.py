"""What a model of all logged metrics sees before a collapse, and what it does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scripts.guard import ceiling
from scripts.runs import Run
from tests.scripts.guard.test_guard import FALLS, HEALTHY, make

NORM = "actor/grad_norm"


def runs(rise: float) -> list[Run]:
    """Twenty healthy runs and eight that collapse at step 30, whose gradient norm rises after step 12; four seeds."""
    found = []
    for number in range(28):
        falls = number < 8
        run = make(f"run{number}", FALLS if falls else HEALTHY)
        noise = np.random.default_rng(number).normal(1, 0.1, 41)
        for step, data in run.steps.items():
            data[NORM] = float(noise[step]) + (rise if falls and step > 12 else 0.0)
        found.append(replace(run, seed=number % 4))
    return found


@pytest.mark.parametrize(("rise", "caught"), [(1.0, True), (0.0, False)])
def test_the_model_finds_a_metric_that_no_signal_reads(rise: float, caught: bool) -> None:
    *signals, (name, ahead, possible, healthy) = [[cell.text for cell in row] for row in ceiling.table(runs(rise)).rows]
    assert (name, healthy) == ("all metrics, logistic", "20")
    assert (ahead.split(":")[0] == possible.split(":")[0] == "8 of 8") == caught
    assert all(cells[1].startswith("0 of 8") for cells in signals)


def test_what_was_cut_off_while_it_fell_is_neither() -> None:
    cut = make("cut", [0.5, 0.6, 0.6, 0.6, 0.4])
    rows = ceiling.table([*runs(1.0), cut]).rows
    assert {row[3].text for row in rows} == {"20"}
