"""The committed tables are what the kept runs give with the defaults, and the pages quote them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from recipe.spro.guard import Thresholds
from scripts.guard import __main__ as command
from scripts.guard import saved, tables
from tests.support import ROOT

INPROCESS = ROOT / "docs/runs/inprocess"

needs_kept_runs = pytest.mark.skipif(not INPROCESS.is_dir(), reason="the runs in process are not in this tree")


@pytest.fixture(scope="module")
def made() -> tuple[command.Sets, list[saved.Pair]]:
    """As `python -m scripts.guard report` makes them."""
    verl = [str(ROOT / folder) for folder in command.VERL_RUNS]
    return command.sets_of([str(INPROCESS)], verl, Thresholds())


@needs_kept_runs
def test_the_tables_are_of_the_kept_runs(made: tuple[command.Sets, list[saved.Pair]]) -> None:
    sets, pairs = made
    assert command.markdown(sets, pairs, Thresholds()) == (ROOT / "docs/guard/tables.md").read_text()
    assert tables.runs_csv(sets) == (ROOT / "docs/guard/runs.csv").read_text()


@needs_kept_runs
@pytest.mark.parametrize("page", ["docs/guard.md", "recipe/spro/README.md"])
def test_a_page_quotes_the_totals(page: str, made: tuple[command.Sets, list[saved.Pair]]) -> None:
    sets, pairs = made
    assert saved.words(pairs) in (ROOT / page).read_text()
    assert tables.totals(sets).markdown().strip() in (ROOT / page).read_text()


def test_the_list_of_runs_is_the_tables() -> None:
    rows = list(csv.DictReader(io.StringIO((ROOT / "docs/guard/runs.csv").read_text())))
    page = (ROOT / "docs/guard/tables.md").read_text()
    for name in dict.fromkeys(row["set"] for row in rows):
        healthy = [row for row in rows if row["set"] == name and not row["collapsed_at"]]
        in_vain = sum(row["verdict"] == "in vain" for row in healthy)
        assert f"{in_vain} of {len(healthy)}: " in next(line for line in page.splitlines() if name in line)


@pytest.mark.parametrize("page", ["docs/guard.md", "recipe/spro/README.md"])
def test_a_page_states_every_threshold(page: str) -> None:
    text = Path(ROOT / page).read_text()
    for name, limit in Thresholds().limits.items():
        assert f"| `{name}` | {limit:g} |" in text
