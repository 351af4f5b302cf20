"""Times the SPRO advantage against the memory floor, plain torch and verl's own estimators, in one run.

    python -m scripts.bench_advantage [--quick] [--repeats 30] [--csv docs/bench/advantage_cpu.csv] [--check]

Correctness comes first: on a failure nothing is timed. Contenders of a case take turns, so that what else the machine
does hits all of them; ratios are those of medians. Each target is that of the method's specification; `--check` exits
with 1 where one is missed. Needs the packages of requirements-cpu.txt; a C++ compiler makes the floor stricter.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recipe.spro.advantage import Options, spro_advantage, spro_advantage_naive, spro_advantage_with_stats, torch_impl
from recipe.spro.advantage.arguments import check_arguments
from recipe.spro.advantage.inputs import check_inputs
from scripts.bench_floor import cpp_loop, in_threads, numba_loop
from scripts.measure import in_new_process, peak_extra_bytes, provenance

_MODULE = "scripts.bench_advantage"
# What is faster is called twice more at each turn, before its timing, and timed twice: what ran before has left the
# caches full of its own.
_FAST_S, _WARM_CALLS, _TIMED_CALLS = 0.1, 3, 2

BETA = 0.05
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Shape:
    """A batch of `rows` responses of up to `width` tokens, in shuffled groups of `group`."""

    rows: int
    width: int
    group: int
    fill: float = 1.0  # mean share of the width; below 1 the lengths are lognormal
    jagged: bool = False
    mask: torch.dtype = torch.bool


@dataclass
class Case:
    """Contenders that are timed in turns; the first is the floor."""

    name: str
    contenders: dict[str, Callable[[], Any]]
    threads: int = 1
    # contender -> (against which, at most this ratio)
    targets: dict[str, tuple[str, float]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)


def make_batch(shape: Shape, seed: int = 0) -> dict[str, Any]:
    """Arguments of `spro_advantage`: log-ratios of about 0.03 nats a token, outcomes 0 and 1."""
    rng = torch.Generator().manual_seed(seed)
    log_probs = -torch.rand(shape.rows, shape.width, generator=rng)
    ref_log_probs = log_probs + 0.03 * torch.randn(shape.rows, shape.width, generator=rng)
    lengths = row_lengths(shape, seed)
    inside = torch.arange(shape.width) < lengths[:, None]
    batch = {"log_probs": log_probs, "ref_log_probs": ref_log_probs, "response_mask": inside.to(shape.mask)}
    if shape.jagged:
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        batch = {name: torch.nested.nested_tensor_from_jagged(x[inside], offsets) for name, x in batch.items()}
    groups = torch.arange(shape.rows) // shape.group
    return {
        **batch,
        "outcome_rewards": (torch.rand(shape.rows, generator=rng) < 0.5).float(),
        "group_ids": groups[torch.randperm(shape.rows, generator=rng)],
    }


def row_lengths(shape: Shape, seed: int) -> torch.Tensor:
    """(rows,) lognormal with sigma 0.8, cut at the width, of mean `fill` times the width."""
    if shape.fill == 1:
        return torch.full((shape.rows,), shape.width)
    normal = np.random.default_rng(seed).standard_normal(shape.rows)
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        lengths = np.clip(np.exp(middle + 0.8 * normal), 1, shape.width)
        low, high = (middle, high) if lengths.mean() < shape.fill * shape.width else (low, middle)
    return torch.from_numpy(lengths.astype(np.int64))


def check(advantage: Callable[..., Any] = spro_advantage) -> None:
    """Raise AssertionError unless the advantage equals its float64 oracle to 1e-5 * (1 + |oracle|)."""
    forms: list[dict[str, Any]] = [{}, {"process": "suffix"}, {"process": "token"}, {"baseline": "loo"}]
    forms += [{"baseline": "none"}, {"max_process_share": 0.1}, {"process_sign": -1, "norm_by_std": False}]
    for shape in (Shape(24, 300, 4, 0.4), Shape(24, 300, 4, 0.4, jagged=True), Shape(8, 700, 8, mask=torch.int64)):
        for options in forms:
            batch = make_batch(shape)
            _close(advantage(**batch, beta=BETA, **options), spro_advantage_naive(**batch, beta=BETA, **options), shape)
    long = make_batch(Shape(16, 32_768, 8, 0.6))
    expected, _ = torch_impl.advantage(check_inputs(check_arguments(**long, step_ids=None)), Options(beta=1.0))
    _close(advantage(**long, beta=1.0), expected, "32k tokens, against torch in float64")


def _close(got: torch.Tensor, expected: torch.Tensor, what: object) -> None:
    got, expected = (x.values() if x.is_nested else x for x in (got, expected))
    error = ((got.double() - expected.double()).abs() / (1 + expected.double().abs())).max()
    assert float(error) <= TOLERANCE, f"{what}: off by {float(error):.2e} * (1 + |oracle|)"


def floor_of(batch: dict[str, Any], threads: int = 1) -> dict[str, Callable[[], Any]]:
    """The streaming loops over this batch's own arrays."""
    tensors = [batch[name] for name in ("log_probs", "ref_log_probs", "response_mask")]
    flat = [(x.values() if x.is_nested else x).reshape(-1) for x in tensors]
    a, b, mask = (x.view(torch.uint8).numpy() if x.dtype == torch.bool else x.numpy() for x in flat)
    out = np.zeros_like(a)
    loops = {"floor (numba)": numba_loop, "floor (C++)": cpp_loop()}
    return {
        name: partial(in_threads(loop, threads), a, b, mask, out) for name, loop in loops.items() if loop is not None
    }


def verl_estimators(batch: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """verl's own advantage estimators on this batch, as the trainer calls them."""
    from verl.trainer.ppo import core_algos

    mask = batch["response_mask"].long()
    rewards = torch.zeros(mask.shape)
    rewards[torch.arange(len(mask)), mask.sum(1) - 1] = batch["outcome_rewards"]
    uids = np.array([str(g) for g in batch["group_ids"].tolist()], dtype=object)
    common = {"token_level_rewards": rewards, "response_mask": mask, "index": uids}
    pi_squared, boolean = torch.rand(mask.shape), batch["response_mask"].bool()
    values = torch.rand(mask.shape)
    return {
        "verl grpo": lambda: core_algos.compute_grpo_outcome_advantage(**common),
        "verl grpo_vectorized": lambda: core_algos.compute_grpo_vectorized_outcome_advantage(**common),
        "verl optimal_token_baseline": lambda: core_algos.compute_optimal_token_baseline_advantage(
            **{**common, "response_mask": boolean}, old_log_probs=batch["log_probs"], sum_pi_squared=pi_squared
        ),
        "verl gae": lambda: core_algos.compute_gae_advantage_return(rewards, values, mask, 1.0, 1.0),
    }


def cases(quick: bool) -> list[Case]:
    """What is timed; `quick` is for tests: small shapes, whose ratios say nothing."""
    rows, width = (64, 256) if quick else (1024, 4096)
    padded, wide = make_batch(Shape(rows, width, 8)), make_batch(Shape(rows, width, 8, mask=torch.int64))
    ragged = make_batch(Shape(rows, width, 8, 0.35))
    jagged = make_batch(Shape(rows, width, 8, 0.35, jagged=True))
    lines = torch.arange(width).expand(rows, width) // 20
    found = [
        Case(
            "padded, bool mask",
            {
                **floor_of(padded),
                "spro": lambda: spro_advantage(**padded, beta=BETA),
                "spro, max_process_share": lambda: spro_advantage(**padded, beta=BETA, max_process_share=0.1),
                "spro, jagged at 35 %": lambda: spro_advantage(**jagged, beta=BETA),
                "spro, padded at 35 %": lambda: spro_advantage(**ragged, beta=BETA),
                "spro, suffix": lambda: spro_advantage(**padded, beta=BETA, process="suffix"),
                "spro, per token": lambda: spro_advantage(**padded, beta=BETA, process="token"),
                "spro, loo": lambda: spro_advantage(**padded, beta=BETA, baseline="loo"),
                "spro, steps of 20 tokens": lambda: spro_advantage(**padded, beta=BETA, step_ids=lines),
                "plain torch": lambda: torch_impl.advantage(
                    check_inputs(check_arguments(**padded, step_ids=None)), Options(BETA)
                ),
                **verl_estimators(padded),
            },
            targets={
                "spro": ("floor", 3.0),
                "spro, max_process_share": ("floor", 6.0),
                "spro, jagged at 35 %": ("spro", 0.6),
                "verl optimal_token_baseline": ("spro", -30.0),
            },
        ),
        Case(
            "padded, int64 mask",
            {
                **floor_of(wide),
                "spro": lambda: spro_advantage(**wide, beta=BETA),
                "spro, with metrics (the trainer's call)": lambda: spro_advantage_with_stats(
                    **wide, options=Options(BETA)
                ),
            },
            targets={"spro": ("floor", 3.0)},
        ),
    ]
    tiny = make_batch(Shape(64, 256, 8))
    found.append(
        Case("64 x 256", {**floor_of(tiny), "oracle (float64 loops)": lambda: spro_advantage_naive(**tiny, beta=BETA)})
    )
    return found


def large_case(quick: bool) -> Case:
    """Past the cache, in two threads."""
    large = make_batch(Shape(64, 512, 16) if quick else Shape(4096, 8192, 16))
    contenders = {**floor_of(large, threads=2), "spro": lambda: spro_advantage(**large, beta=BETA)}
    return Case("4096 x 8192, groups of 16, two threads", contenders, threads=2, targets={"spro": ("floor", 2.2)})


def run(case: Case, repeats: int, budget_s: float) -> None:
    """Time the contenders in turns; the slow ones fewer times, but thrice at least."""
    torch.set_num_threads(case.threads)
    for name in case.contenders:
        case.seconds[name] = []
    for turn in range(repeats):
        for name, contender in case.contenders.items():
            spent = case.seconds[name]
            if turn >= 3 and sum(spent) > budget_s:
                continue
            fast = turn > 0 and spent[-1] < _FAST_S
            for _ in range(_WARM_CALLS if fast else 1):
                contender()
            for _ in range(_TIMED_CALLS if fast else 1):
                start = time.perf_counter()
                result = contender()
                spent.append(time.perf_counter() - start)
                # Freed outside of the timing, as the trainer's batch is.
                del result
        _progress(f"{case.name}: turn {turn + 1} of {repeats}")
    _progress("")


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def report(case: Case) -> list[dict[str, Any]]:
    """One row per contender, with its ratio to the floor and what became of its target."""
    median = {name: float(np.median(spent)) for name, spent in case.seconds.items()}
    floor = min(median[name] for name in median if name.startswith("floor"))
    rows = []
    for name, spent in case.seconds.items():
        low, high = np.quantile(spent, [0.1, 0.9]) * 1e3
        row = {"case": case.name, "contender": name, "threads": case.threads, "turns": len(spent)}
        row |= {"median_ms": median[name] * 1e3, "p10_ms": low, "p90_ms": high, "to_floor": median[name] / floor}
        if name in case.targets:
            against, limit = case.targets[name]
            ratio = median[name] / (floor if against == "floor" else median[against])
            # A negative limit: at least so many times slower.
            met = ratio <= limit if limit > 0 else ratio >= -limit
            bound = f"<= {limit:g}" if limit > 0 else f">= {-limit:g}"
            row |= {"target": f"{bound} x {against}", "measured": ratio, "met": met}
        rows.append(row)
    return rows


def extra_memory(quick: bool) -> list[dict[str, Any]]:
    """What a call needs at its peak beyond its output, each measured in a process of its own."""
    rows = []
    for layout in ("padded",) if quick else ("padded", "jagged"):
        found = in_new_process(_MODULE, "--measure-memory", layout, *(["--quick"] if quick else []))
        share = found["peak_extra_bytes"] / found["output_bytes"]
        row = {"case": f"extra memory, {layout}", "contender": "spro", "threads": 1, "turns": 1}
        target = {"target": "<= 0.1 x output", "measured": share, "met": share <= 0.1}
        rows.append(row | {"peak_extra_mib": found["peak_extra_bytes"] / 2**20} | target)
    return rows


def _measure_memory(layout: str, quick: bool) -> dict[str, int]:
    """Resident memory at its peak during one call, less what was there before and less the output."""
    torch.set_num_threads(1)
    shape = Shape(64, 2048, 8) if quick else Shape(1024, 4096, 8)
    if layout == "jagged":
        shape = Shape(shape.rows, shape.width, 8, 0.35, jagged=True)
    spro_advantage(**make_batch(Shape(16, 512, 8, jagged=shape.jagged)), beta=BETA)
    batch = make_batch(shape)
    result, extra = peak_extra_bytes(lambda: spro_advantage(**batch, beta=BETA))
    values = result.values() if result.is_nested else result
    return {"output_bytes": values.nbytes, "peak_extra_bytes": max(0, extra - values.nbytes)}


def first_call(quick: bool) -> dict[str, Any]:
    """The first call in a new process, after another has compiled: the import of numba and the compiled code's load."""
    spent = [in_new_process(_MODULE, "--measure-first-call")["seconds"] for _ in range(1 if quick else 4)]
    spent = spent[1:] or spent
    row = {"case": "first call in a new process", "contender": "spro", "threads": 1, "turns": len(spent)}
    median = float(np.median(spent))
    return row | {"median_ms": median * 1e3, "target": "<= 1 s", "measured": median, "met": median <= 1}


def _measure_first_call() -> dict[str, float]:
    batch = make_batch(Shape(16, 64, 8))
    start = time.perf_counter()
    spro_advantage(**batch, beta=BETA)
    return {"seconds": time.perf_counter() - start}


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    print(f"{'':44}{'ms':>10}{'p10':>9}{'p90':>9}{'/ floor':>9}  target")
    case = None
    for row in rows:
        if row["case"] != case:
            case = row["case"]
            print(case)
        numbers = [row.get(key, math.nan) for key in ("median_ms", "p10_ms", "p90_ms", "to_floor")]
        text = "".join("" if math.isnan(x) else f"{x:{n}.2f}" for x, n in zip(numbers, (10, 9, 9, 9), strict=True))
        target = f"{row['target']}: {row['measured']:.3g} {'met' if row['met'] else 'MISSED'}" if "met" in row else ""
        print(f"  {row['contender']:42}{text:37}  {target}".rstrip())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small shapes, to try the tool")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--budget", type=float, default=8.0, help="seconds that a contender may take of a case")
    parser.add_argument("--csv", type=Path, help="write every row with its provenance")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    parser.add_argument("--measure-memory", choices=("padded", "jagged"), help=argparse.SUPPRESS)
    parser.add_argument("--measure-first-call", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.measure_memory:
        print(json.dumps(_measure_memory(given.measure_memory, given.quick)))
        return 0
    if given.measure_first_call:
        print(json.dumps(_measure_first_call()))
        return 0

    check()
    where = provenance()
    print("agrees with the float64 oracle; " + ", ".join(f"{key} {value}" for key, value in where.items()))
    rows = []
    for case in cases(given.quick):
        run(case, given.repeats, given.budget)
        rows += report(case)
    case = large_case(given.quick)
    run(case, given.repeats, given.budget)
    rows += [*report(case), *extra_memory(given.quick), first_call(given.quick)]
    show(rows)
    if given.csv:
        given.csv.parent.mkdir(parents=True, exist_ok=True)
        with given.csv.open("w", newline="") as file:
            writer = csv.DictWriter(
                file, fieldnames=list(dict.fromkeys(key for row in rows for key in row)) + list(where)
            )
            writer.writeheader()
            writer.writerows(row | where for row in rows)
    return int(given.check and not all(row.get("met", True) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
