"""The benchmarks time nothing that is wrong, and say where and with what they were run."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipe.spro.advantage import spro_advantage
from scripts import bench_advantage, bench_floor, bench_stage

PROVENANCE = {"date", "commit", "cpu", "cores", "memory_gib", "python", "torch", "numpy", "numba", "verl"}


def test_a_wrong_advantage_is_not_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def off(*args: Any, **kwargs: Any) -> torch.Tensor:
        return spro_advantage(*args, **kwargs) * 1.0001

    check = bench_advantage.check
    monkeypatch.setattr(bench_advantage, "check", lambda: check(off))
    monkeypatch.setattr(bench_advantage, "run", lambda *_: pytest.fail("timed"))
    with pytest.raises(AssertionError, match=r"off by .* \(1 \+ \|oracle\|\)"):
        bench_advantage.main(["--quick"])
    assert capsys.readouterr().out == ""


def test_every_row_has_its_provenance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        assert bench_advantage.main(["--quick", "--repeats", "2", "--csv", str(tmp_path / "bench.csv")]) == 0
    finally:
        torch.set_num_threads(threads)
    with (tmp_path / "bench.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(row[key] for row in rows for key in PROVENANCE)
    contenders = {row["contender"] for row in rows}
    assert {"floor (numba)", "spro", "plain torch", "verl optimal_token_baseline", "verl grpo"} <= contenders
    assert {row["case"] for row in rows} >= {"extra memory, padded", "first call in a new process"}
    shown = capsys.readouterr().out
    assert "agrees with the float64 oracle" in shown
    assert all(name in shown for name in contenders)


@pytest.mark.parametrize("mask", [torch.bool, torch.int64])
def test_the_floor_does_what_it_says(mask: torch.dtype) -> None:
    a, b, m = torch.randn(1000), torch.randn(1000), torch.rand(1000) < 0.5
    inside = m.view(torch.uint8).numpy() if mask == torch.bool else m.long().numpy()
    for loop in (bench_floor.numba_loop, bench_floor.cpp_loop(), bench_floor.in_threads(bench_floor.numba_loop, 3)):
        if loop is None:
            continue
        out = np.full(1000, np.nan, np.float32)
        loop(a.numpy(), b.numpy(), inside, out)
        np.testing.assert_array_equal(out, ((a - b) * m).numpy())


@pytest.mark.parametrize("fill", [0.1, 0.35])
def test_lognormal_lengths_fill_what_they_should(fill: float) -> None:
    lengths = bench_advantage.row_lengths(bench_advantage.Shape(4096, 4096, 8, fill), seed=0)
    assert float(lengths.float().mean()) / 4096 == pytest.approx(fill, rel=0.01)
    assert 1 <= int(lengths.min()) < int(lengths.max()) <= 4096


def test_the_stage_is_verls_own() -> None:
    """Padded by verl or jagged, the same advantages."""
    uids = [f"uid-{row // 16}" for row in range(64)]
    results = {}
    for estimator in ("grpo", "spro"):
        queue = bench_stage.InMemoryQueueInPlaceOfTransferQueue(bench_stage.make_fields(64, 128), uids)
        torch.manual_seed(0)
        queue.fields = bench_stage.make_fields(64, 128)
        bench_stage.compute_stage(queue, {"adv_estimator": estimator, "spro": {"beta": 0.0}})
        results[estimator] = queue.written["advantages"].values()
    torch.testing.assert_close(results["spro"], results["grpo"], rtol=0, atol=1e-6)
