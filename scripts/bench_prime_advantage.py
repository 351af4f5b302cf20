"""Times the PRIME advantage against the loop of verl-recipe's, in one run.

    python -m scripts.bench_prime_advantage --upstream PATH [--quick] [--repeats 15] [--out FILE.csv] [--check]

PATH is verl-recipe's prime/prime_core_algos.py, which is not shipped with us. Correctness comes first: on a failure
nothing is timed. Contenders take turns in one thread, and a ratio is taken within each turn, so that what else the
machine does hits both; run it where a core is free, for times are of the wall clock (a thread's processor time may
leave out the faults of fresh memory, of which upstream's loop takes much). Upstream gets its batch as it needs it, in
contiguous groups with the scores already made; ours has shuffled rows and starts from the log-probs.
`--check` exits with 1 where the target is missed.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from recipe.prime_v1.advantage import prime_advantage, prime_advantage_naive
from scripts.bench_advantage import Shape, make_batch
from scripts.measure import provenance
from scripts.prime_upstream import load, upstream_call

GROUP = 8
TOLERANCE = 1e-5
UPSTREAM = "upstream's loop"
# The form that upstream has is to be this many times faster than it.
TARGET, TARGET_RATIO = "ours, form upstream", 20.0

FORMS: list[dict[str, Any]] = [
    *(dict(prime_granularity=g, prime_norm=n) for g in ("token", "whole") for n in ("batch_norm", "none")),
    dict(form="paper", prime_norm="none"),
]

Advantage = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def prime_batch(shape: Shape) -> dict[str, Any]:
    """Arguments of `prime_advantage`."""
    batch = make_batch(shape)
    return {"rm_log_probs" if name == "log_probs" else name: x for name, x in batch.items()}


def contiguous(batch: dict[str, Any]) -> dict[str, Any]:
    """The same rows group by group."""
    order = batch["group_ids"].argsort(stable=True)
    return {name: x[order] for name, x in batch.items()}


def check(upstream: ModuleType, rows: int, width: int, advantage: Advantage = prime_advantage) -> None:
    """Raise AssertionError unless it equals its float64 oracle, and upstream on what is timed, to 1e-5 * (1 + |x|)."""
    for shape in (Shape(24, 200, 4, 0.4), Shape(24, 200, 4, 0.4, jagged=True), Shape(8, 300, 8, mask=torch.int64)):
        batch = prime_batch(shape)
        for form in FORMS:
            _close(advantage(**batch, **form), prime_advantage_naive(**batch, **form), f"{shape}, {form}")
    batch = contiguous(prime_batch(Shape(rows, width, GROUP)))
    _close(advantage(**batch), upstream_call(upstream, batch, GROUP)(), "against upstream")


def _close(got: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...], what: str) -> None:
    for name, x, y in zip(("advantages", "returns"), got, expected, strict=True):
        x, y = (z.values() if z.is_nested else z for z in (x, y))
        error = float(((x.double() - y.double()).abs() / (1 + y.double().abs())).max())
        assert error <= TOLERANCE, f"{what}: {name} off by {error:.2e} * (1 + |expected|)"


def contenders(upstream: ModuleType, rows: int, width: int) -> dict[str, Callable[[], Any]]:
    """What is timed, upstream first."""
    padded = prime_batch(Shape(rows, width, GROUP))
    jagged = prime_batch(Shape(rows, width, GROUP, 0.35, jagged=True))
    return {
        UPSTREAM: upstream_call(upstream, contiguous(padded), GROUP),
        TARGET: lambda: prime_advantage(**padded),
        "ours, form upstream, whole": lambda: prime_advantage(**padded, prime_granularity="whole"),
        "ours, form paper": lambda: prime_advantage(**padded, form="paper", prime_norm="none"),
        "ours, form upstream, jagged at 35 %": lambda: prime_advantage(**jagged),
    }


def run(calls: dict[str, Callable[[], Any]], turns: int) -> dict[str, list[float]]:
    """Seconds of each contender in each turn; a call before fills the caches with its own, untimed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    try:
        for _ in range(turns):
            for name, call in calls.items():
                call()
                start = time.perf_counter()
                result = call()
                seconds[name].append(time.perf_counter() - start)
                # Freed outside of the timing, as the trainer's batch is.
                del result
    finally:
        torch.set_num_threads(threads)
    return seconds


def report(seconds: dict[str, list[float]], rows: int, width: int) -> list[dict[str, Any]]:
    """One row per contender: quantiles of its milliseconds, and of how many times faster it was in the same turn."""
    table = []
    for name, spent in seconds.items():
        faster = np.array(seconds[UPSTREAM]) / np.array(spent)
        low, median, high = np.quantile(spent, [0.1, 0.5, 0.9]) * 1e3
        slow, typical, fast = np.quantile(faster, [0.1, 0.5, 0.9])
        row = {"contender": name, "rows": rows, "width": width, "group": GROUP, "threads": 1, "turns": len(spent)}
        row |= {"median_ms": median, "p10_ms": low, "p90_ms": high}
        row |= {"times_faster": typical, "times_faster_p10": slow, "times_faster_p90": fast}
        if name == TARGET:
            row |= {"target": f">= {TARGET_RATIO:g} x", "met": bool(typical >= TARGET_RATIO)}
        table.append(row)
    return table


def show(table: list[dict[str, Any]]) -> None:
    """Print the table."""
    print(f"{'':38}{'ms':>9}{'p10':>9}{'p90':>9}{'x faster':>10}{'p10':>7}{'p90':>7}")
    for row in table:
        numbers = "".join(f"{row[key]:9.2f}" for key in ("median_ms", "p10_ms", "p90_ms"))
        faster = f"{row['times_faster']:10.1f}{row['times_faster_p10']:7.1f}{row['times_faster_p90']:7.1f}"
        target = f"  {row['target']}: {'met' if row['met'] else 'MISSED'}" if "met" in row else ""
        print(f"{row['contender']:38}{numbers}{faster}{target}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", type=Path, required=True, help="verl-recipe's prime/prime_core_algos.py")
    parser.add_argument("--quick", action="store_true", help="a small shape, to try the tool")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, help="write every row with its provenance")
    parser.add_argument("--check", action="store_true", help="exit with 1 if the target is missed")
    given = parser.parse_args(arguments)
    rows, width = (64, 256) if given.quick else (1024, 4096)

    upstream = load(given.upstream)
    check(upstream, rows, width)
    where = provenance()
    print("agrees with the float64 oracle and upstream; " + ", ".join(f"{key} {value}" for key, value in where.items()))
    table = report(run(contenders(upstream, rows, width), given.repeats), rows, width)
    show(table)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        with given.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in table for key in row)) + list(where))
            writer.writeheader()
            writer.writerows(row | where for row in table)
    return int(given.check and not all(row.get("met", True) for row in table))


if __name__ == "__main__":
    sys.exit(main())
