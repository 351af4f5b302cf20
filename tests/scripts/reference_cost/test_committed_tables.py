"""docs/reference_cost.md quotes what the kept times give."""

from __future__ import annotations

from scripts.reference_cost.__main__ import load, report
from tests.support import ROOT

TIMES = ROOT / "docs/bench/reference_cost.csv"


def test_the_page_holds_the_tables() -> None:
    assert report(TIMES).strip() in (ROOT / "docs/reference_cost.md").read_text()


def test_there_are_as_many_pairs_as_were_asked_for() -> None:
    assert len({(step.part, step.block) for step in load(TIMES)["full"]}) >= 50
