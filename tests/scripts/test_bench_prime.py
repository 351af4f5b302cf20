"""PRIME's benchmark times nothing that is wrong, and says where and with what it was run."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from recipe.prime_v1.advantage import prime_advantage
from scripts import bench_prime_advantage
from scripts.prime_upstream import load
from tests.scripts.test_bench import PROVENANCE

# A stand-in for upstream's file, for equal rows that are valid throughout: the same tensors, by the formula.
MOCK_UPSTREAM = """
import torch

def compute_rloo_advantage_return(data, response_mask, n, config):
    batch, coefs = data.batch, config.algorithm
    rows, width = response_mask.shape

    def rloo(x, means):
        sums = means.view(-1, n).sum(1).repeat_interleave(n)
        return (x * n - sums.view(-1, *[1] * (x.dim() - 1))) / (n - 1)

    final = coefs.reward_dpo_coef * rloo(batch["rm_scores"], batch["rm_scores"].mean(1))
    final[:, -1] += coefs.reward_gt_coef * rloo(batch["acc"], batch["acc"])
    returns = final.flip(1).cumsum(1).flip(1)
    return (returns - returns.mean()) / (returns.var() + 1e-8).sqrt(), returns
"""


@pytest.fixture
def mock_upstream(tmp_path: Path) -> Path:
    path = tmp_path / "mock_prime_core_algos.py"
    path.write_text(MOCK_UPSTREAM)
    return path


@pytest.mark.parametrize("index", [0, 1])
def test_wrong_results_are_not_timed(monkeypatch: pytest.MonkeyPatch, mock_upstream: Path, index: int) -> None:
    def off(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
        return tuple(x * 1.0001 if i == index else x for i, x in enumerate(prime_advantage(*args, **kwargs)))

    check = bench_prime_advantage.check
    monkeypatch.setattr(bench_prime_advantage, "check", lambda upstream, rows, width: check(upstream, rows, width, off))
    monkeypatch.setattr(bench_prime_advantage, "run", lambda *_: pytest.fail("timed"))
    name = ("advantages", "returns")[index]
    with pytest.raises(AssertionError, match=rf"{name} off by .* \(1 \+ \|expected\|\)"):
        bench_prime_advantage.main(["--quick", "--upstream", str(mock_upstream)])


def test_an_upstream_that_differs_is_not_timed(monkeypatch: pytest.MonkeyPatch, mock_upstream: Path) -> None:
    mock_upstream.write_text(MOCK_UPSTREAM.replace("x * n - sums", "x * n - 2 * sums"))
    monkeypatch.setattr(bench_prime_advantage, "run", lambda *_: pytest.fail("timed"))
    with pytest.raises(AssertionError, match=r"^against upstream: advantages off by"):
        bench_prime_advantage.main(["--quick", "--upstream", str(mock_upstream)])


def test_every_row_has_its_provenance(tmp_path: Path, mock_upstream: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench" / "prime.csv"
    arguments = ["--quick", "--upstream", str(mock_upstream), "--repeats", "2", "--out", str(out)]
    assert bench_prime_advantage.main(arguments) == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert all(row[key] for row in rows for key in PROVENANCE)
    assert rows[0]["contender"] == bench_prime_advantage.UPSTREAM
    assert float(rows[0]["times_faster"]) == 1
    assert [row["contender"] for row in rows if row["met"]] == [bench_prime_advantage.TARGET]
    shown = capsys.readouterr().out
    assert all(row["contender"] in shown for row in rows)


def test_what_is_not_upstreams_file(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"is no Python file: give the path of verl-recipe's"):
        load(tmp_path / "missing.py")
    (tmp_path / "other.py").write_text("x = 1\n")
    with pytest.raises(ImportError, match=r"has no compute_rloo_advantage_return"):
        load(tmp_path / "other.py")
