"""The committed comparison is what the kept runs give, and the README quotes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scripts.compare import figures, report, sources, tables
from scripts.compare.comparison import Comparison
from tests.support import ROOT

METHODS = ("grpo", "prime", "spro", "spro_bounded", "spro_shuffled", "grpo_neg_kl")
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    """As `examples/arithmetic/compare.sh` makes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        runs = sources.load([f"docs/runs/methods/{method}-seed{seed}.jsonl.gz" for seed in SEEDS for method in METHODS])
        times = sources.load([f"docs/runs/times/{method}-seed0.jsonl.gz" for method in METHODS])
    return Comparison.of(runs, times=[replace(run, name=f"{run.name} (timed)") for run in times])


def test_the_report_is_of_the_kept_runs(comparison: Comparison) -> None:
    written = (ROOT / "docs/compare/report.md").read_text()
    assert report.markdown(comparison, figures.pictures(comparison)) == written


@pytest.mark.parametrize("page", ["README.md", "examples/arithmetic/README.md"])
def test_a_readme_quotes_its_table(page: str, comparison: Comparison) -> None:
    table = tables.summary(comparison).markdown().split("\n\n")[0]
    assert table.strip() in Path(ROOT / page).read_text()
