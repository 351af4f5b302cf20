"""Times the verifier of mathematics beside verl's prime_math on the same responses, with two worker processes each.

    python -m scripts.bench_verifier [--count 2000] [--seed 0] [--csv docs/bench/verifier.csv] [--check]

Ours is asked as a reward loop asks: `--in-flight` responses at a time, each timed from the call to its verdict.
prime_math gets its responses in chunks, so that handing them over costs it nothing. Workers are started before the
clock. `--check` exits with 1 where a target is missed: 10 times prime_math's throughput with the memo, 5 times
without, p99 under 100 ms, every verdict right.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from scripts.measure import provenance
from scripts.verify_peers import grade_chunk, warm_up
from scripts.verify_responses import Sample, responses
from verl_ext.rewards.math import clear_memo, new_pool, verify_math
from verl_ext.rewards.pool import TaskTimeout, WorkerPool

_WORKERS = 2
_CHUNK = 20
_CHUNK_LIMIT_S = 200.0


def time_ours(samples: list[Sample], memo: bool, in_flight: int) -> dict[str, Any]:
    pool = new_pool(_WORKERS)
    pool.start()
    clear_memo()

    def one(sample: Sample) -> tuple[bool, float]:
        start = time.perf_counter()
        verdict = verify_math(sample.response, sample.gold, memo=memo, pool=pool)
        return verdict.kind == "correct", time.perf_counter() - start

    start = time.perf_counter()
    with ThreadPoolExecutor(in_flight) as threads:
        done = list(threads.map(one, samples))
    seconds = time.perf_counter() - start
    pool.close()
    return _row("ours" if memo else "ours, no memo", samples, [x for x, _ in done], seconds, [t for _, t in done])


def time_prime_math(samples: list[Sample]) -> dict[str, Any]:
    pool = WorkerPool(_WORKERS, warm_up=warm_up, memory_bytes=16 * 2**30, write_files=True)
    pairs = [(sample.response, sample.gold) for sample in samples]
    chunks = [pairs[i : i + _CHUNK] for i in range(0, len(pairs), _CHUNK)]
    with ThreadPoolExecutor(_WORKERS) as threads:
        list(
            threads.map(
                lambda i: pool.run(grade_chunk, "prime_math", chunks[i][:2], timeout_s=_CHUNK_LIMIT_S), range(_WORKERS)
            )
        )

    def one(chunk: list[tuple[str, str]]) -> list[tuple[bool, float]]:
        try:
            return pool.run(grade_chunk, "prime_math", chunk, timeout_s=_CHUNK_LIMIT_S)
        except TaskTimeout:
            return [(False, _CHUNK_LIMIT_S)] * len(chunk)

    start = time.perf_counter()
    with ThreadPoolExecutor(2 * _WORKERS) as threads:
        done = [pair for part in threads.map(one, chunks) for pair in part]
    seconds = time.perf_counter() - start
    pool.close()
    return _row("verl prime_math", samples, [x for x, _ in done], seconds, [t for _, t in done])


def _row(name: str, samples: list[Sample], says: list[bool], seconds: float, times: list[float]) -> dict[str, Any]:
    ordered = sorted(times)
    right = {
        form: sum(s is (form != "wrong") for sample, s in zip(samples, says, strict=True) if sample.form == form)
        / sum(sample.form == form for sample in samples)
        for form in ("identical", "equivalent", "wrong")
    }
    return {
        "verifier": name,
        "responses": len(samples),
        "seconds": round(seconds, 3),
        "per_second": round(len(samples) / seconds, 1),
        "mean_ms": round(1e3 * sum(times) / len(times), 3),
        "p50_ms": round(1e3 * ordered[len(ordered) // 2], 3),
        "p99_ms": round(1e3 * ordered[int(0.99 * len(ordered))], 3),
        "max_ms": round(1e3 * ordered[-1], 3),
        **{f"right_{form}": round(share, 4) for form, share in right.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="responses; a multiple of 8")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--in-flight", type=int, default=4)
    parser.add_argument("--csv", type=Path, help="append the rows here")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    arguments = parser.parse_args()
    samples = responses(arguments.count, arguments.seed)
    rows = []
    for measure in (
        lambda: time_ours(samples, True, arguments.in_flight),
        lambda: time_ours(samples, False, arguments.in_flight),
        lambda: time_prime_math(samples),
    ):
        rows.append(measure())
        print("  ".join(f"{name}={value}" for name, value in rows[-1].items()), flush=True)
    base = rows[-1]["per_second"]
    for row in rows:
        row["times_prime_math"] = round(row["per_second"] / base, 2)
    with_memo, without, _ = rows
    print(f"throughput against prime_math: {with_memo['times_prime_math']} with the memo (target 10), ", end="")
    print(f"{without['times_prime_math']} without (target 5)")
    if arguments.csv:
        _append(arguments.csv, rows, {"seed": arguments.seed, "in_flight": arguments.in_flight, **provenance()})
    right = all(
        row[f"right_{form}"] == 1 for row in (with_memo, without) for form in ("identical", "equivalent", "wrong")
    )
    met = right and with_memo["times_prime_math"] >= 10 and without["times_prime_math"] >= 5
    met &= max(with_memo["p99_ms"], without["p99_ms"]) < 100
    print(f"targets {'met' if met else 'MISSED'}")
    return 1 if arguments.check and not met else 0


def _append(path: Path, rows: list[dict[str, Any]], common: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *common])
        if new:
            writer.writeheader()
        writer.writerows({**row, **common} for row in rows)


if __name__ == "__main__":
    sys.exit(main())
