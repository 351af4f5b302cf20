"""Grades the reference solutions of HumanEval and MBPP, as they stand and with the returned value spoiled.

    python -m scripts.verify_code_report [--data FOLDER] [--threads 2] [--timeout 10]

FOLDER (or the environment variable SPRO_BENCHMARKS) holds ``humaneval.jsonl.gz`` and ``mbpp.json``. Expected: 100 % of
the first are correct, 0 % of the second. Each exception is listed; the exit status is 1 if there is one.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_ext.rewards import Kind, Verdict, verify_code
from verl_ext.rewards.sandbox_find import find_sandbox

# Appended to a solution: every value it returns becomes another of the same type.
_SPOILER = """

def _spoiled(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float, complex)):
        # Far away: tests compare floats with a tolerance.
        return value + abs(value) + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, list):
        return value + ["x"]
    if isinstance(value, tuple):
        return value + ("x",)
    if isinstance(value, (set, frozenset)):
        return value | {"x"}
    if isinstance(value, dict):
        return {**value, "x": "x"}
    return "x"


def _spoil(function):
    return lambda *args, **keywords: _spoiled(function(*args, **keywords))
"""


@dataclass(frozen=True)
class Case:
    name: str
    program: str
    function: str
    tests: Any


def humaneval(folder: Path) -> Iterator[Case]:
    with gzip.open(folder / "humaneval.jsonl.gz", "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            tests = {key: row[key] for key in ("prompt", "test", "entry_point")}
            yield Case(row["task_id"], row["prompt"] + row["canonical_solution"], row["entry_point"], tests)


def mbpp(folder: Path) -> Iterator[Case]:
    for row in json.loads((folder / "mbpp.json").read_text(encoding="utf-8")):
        tests = {key: row[key] for key in ("test_list", "test_imports")}
        defined = [x.name for x in ast.parse(row["code"]).body if isinstance(x, ast.FunctionDef)]
        function = next(x for x in reversed(defined) if f"{x}(" in row["test_list"][0].replace(" (", "("))
        yield Case(f"MBPP/{row['task_id']}", row["code"], function, tests)


def spoiled(case: Case) -> str:
    return f"{case.program}{_SPOILER}\n{case.function} = _spoil({case.function})\n"


def graded(cases: list[Case], *, spoil: bool, threads: int, timeout_s: float) -> list[tuple[Case, Verdict, float]]:
    """Each case with its verdict and the seconds it took, in the order of the cases."""

    def one(case: Case) -> tuple[Case, Verdict, float]:
        response = f"```python\n{spoiled(case) if spoil else case.program}\n```"
        start = time.perf_counter()
        verdict = verify_code(response, case.tests, timeout_s=timeout_s)
        return case, verdict, time.perf_counter() - start

    results = []
    with ThreadPoolExecutor(threads) as pool:
        for done, result in enumerate(pool.map(one, cases), 1):
            results.append(result)
            if done % 100 == 0 or done == len(cases):
                print(f"  {done} of {len(cases)}", file=sys.stderr, flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("SPRO_BENCHMARKS"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds per verdict")
    given = parser.parse_args()
    if given.data is None:
        parser.error("--data FOLDER, or the environment variable SPRO_BENCHMARKS, is needed")
    # Its start-up check is not a verdict's time.
    find_sandbox()
    exceptions: list[str] = []
    print("| set | solutions | verdicts | correct | p50 ms | p99 ms |\n|---|---|---|---|---|---|")
    for name, cases in (("HumanEval", list(humaneval(given.data))), ("MBPP", list(mbpp(given.data)))):
        for spoil in (False, True):
            results = graded(cases, spoil=spoil, threads=given.threads, timeout_s=given.timeout)
            correct = [x for x in results if x[1].kind is Kind.CORRECT]
            times = sorted(1e3 * x[2] for x in results)
            p50, p99 = (times[int(q * (len(times) - 1))] for q in (0.5, 0.99))
            form = "spoiled" if spoil else "reference"
            share = f"{100 * len(correct) / len(results):.1f} %"
            print(f"| {name} | {form} | {len(results)} | {share} | {p50:.0f} | {p99:.0f} |", flush=True)
            for case, verdict, _ in results:
                if (verdict.kind is Kind.CORRECT) is spoil or verdict.kind not in (Kind.CORRECT, Kind.WRONG):
                    exceptions.append(f"{case.name}, {form}: {verdict.kind}: {verdict.detail}")
    print(f"\n{len(exceptions)} exceptions" + "".join(f"\n- {x}" for x in exceptions))
    sys.exit(bool(exceptions))


if __name__ == "__main__":
    main()
