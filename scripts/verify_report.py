"""How good the verifier of mathematics is on real gold answers, beside verl's graders and math-verify.

    python -m scripts.verify_report --data FOLDER [--peer-cases 300] [--sets MATH500 AMC] [--json report.json]

FOLDER (or the environment variable SPRO_BENCHMARKS) holds the benchmarks' files, see `scripts.verify_data`. Equal
spelling and the memo are switched off for ours, so that a text equals itself only where it is understood. Three tables:

* gold against itself, as it stands and rewritten mechanically: all should be correct; every exception is listed,
* gold against another problem's gold, and against itself with a digit, sign, bracket, order or answer changed: all
  should be wrong, but for those that are equal,
* other graders on the same inputs. Every grader runs in a process with a time limit: a time-out counts as "wrong".
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.measure import provenance
from scripts.verify_data import FOLDER_VARIABLE, NEAR_MISSES, REWRITINGS, as_response, gold_answers
from scripts.verify_peers import PEERS, grade, warm_up
from verl_ext.rewards import Verdict
from verl_ext.rewards.math import configure_workers, verify_math
from verl_ext.rewards.normalise import key, normalise
from verl_ext.rewards.numeric import read_number
from verl_ext.rewards.pool import TaskTimeout, WorkerPool

_TIMEOUT_S = 5.0
_OTHERS_PER_GOLD = 5
_SELF_TARGET, _CROSS_TARGET = 0.99, 0.005


@dataclass(frozen=True)
class Case:
    """An answer and a gold; `equal` is known from how the case was made."""

    dataset: str
    way: str
    gold: str
    answer: str
    equal: bool


def self_cases(dataset: str, golds: list[str]) -> list[Case]:
    cases = [Case(dataset, "as it stands", gold, gold, True) for gold in golds]
    for way, rewrite in REWRITINGS.items():
        for gold in golds:
            answer = rewrite(gold)
            if answer != gold:
                cases.append(Case(dataset, way, gold, answer, True))
    return cases


def cross_cases(dataset: str, golds: list[str], seed: int) -> list[Case]:
    """Each gold against those of other problems, without the pairs that are equal by spelling or as numbers."""
    rng = random.Random(seed)
    cases = []
    for i, gold in enumerate(golds):
        for other in rng.sample([g for j, g in enumerate(golds) if j != i], min(_OTHERS_PER_GOLD, len(golds) - 1)):
            if not plainly_equal(gold, other):
                cases.append(Case(dataset, "another's gold", gold, other, False))
    return cases


def near_misses(dataset: str, golds: list[str]) -> list[Case]:
    """Each gold with one thing changed that makes it wrong."""
    cases = [Case(dataset, way, g, spoil(g), False) for way, spoil in NEAR_MISSES.items() for g in golds]
    return [case for case in cases if not plainly_equal(case.gold, case.answer)]


def plainly_equal(gold: str, other: str) -> bool:
    """Equal by spelling, with or without ``x =``, or as numbers."""
    one, two = (re.sub(r"^[a-zA-Z] ?= ?", "", normalise(text)) for text in (gold, other))
    number = read_number(one)
    return key(one).lower() == key(two).lower() or (number is not None and number == read_number(two))


def ours(case: Case) -> Verdict:
    response = as_response(case.answer)
    return verify_math(response, case.gold, timeout_s=_TIMEOUT_S, memo=False, exact=False)


def with_progress(work: Callable[[Any], Any], items: list[Any], what: str) -> list[Any]:
    """The results in order; a line of progress every few seconds."""
    results, last = [], time.monotonic()
    with ThreadPoolExecutor(4) as threads:
        for done, result in enumerate(threads.map(work, items), 1):
            results.append(result)
            if time.monotonic() - last > 5:
                last = time.monotonic()
                print(f"  {what}: {done}/{len(items)}", file=sys.stderr, flush=True)
    return results


def print_self(cases: list[Case], verdicts: list[Verdict]) -> bool:
    print("\n## Gold against itself: correct / cases (equal spelling and memo off)\n")
    good: Counter[tuple[str, str]] = Counter()
    total: Counter[tuple[str, str]] = Counter()
    for case, verdict in zip(cases, verdicts, strict=True):
        for way in (case.way, "all"):
            total[case.dataset, way] += 1
            good[case.dataset, way] += verdict.kind == "correct"
    datasets = list(dict.fromkeys(case.dataset for case in cases))
    ways = ["as it stands", *REWRITINGS, "all"]
    print("| rewriting | " + " | ".join(datasets) + " |\n|---" * 1 + "|---" * len(datasets) + "|")
    for way in ways:
        row = [f"{good[d, way]}/{total[d, way]}" if total[d, way] else "-" for d in datasets]
        print(f"| {way} | " + " | ".join(row) + " |")
    shares = [good[d, "all"] / total[d, "all"] for d in datasets]
    as_is = [good[d, "as it stands"] / total[d, "as it stands"] for d in datasets]
    print("| share, as it stands | " + " | ".join(f"{share:.2%}" for share in as_is) + " |")
    print("| share, all | " + " | ".join(f"{share:.2%}" for share in shares) + " |")
    print("\nExceptions:\n")
    for case, verdict in zip(cases, verdicts, strict=True):
        if verdict.kind != "correct":
            why = verdict.detail if verdict.kind != "wrong" else "judged different"
            print(f"- {case.dataset}, {case.way}: `{case.answer}`: {verdict.kind}: {why}")
    return min(shares + as_is) >= _SELF_TARGET


def print_wrong(title: str, cases: list[Case], verdicts: list[Verdict]) -> bool:
    print(f"\n## {title}: judged correct / pairs that are not plainly equal\n")
    passed = True
    for dataset in dict.fromkeys(case.dataset for case in cases):
        pairs = [(c, v) for c, v in zip(cases, verdicts, strict=True) if c.dataset == dataset]
        hits = [case for case, verdict in pairs if verdict.kind == "correct"]
        kinds = dict(Counter(str(verdict.kind) for _, verdict in pairs))
        print(f"- {dataset}: {len(hits)}/{len(pairs)} = {len(hits) / len(pairs):.2%}; kinds {kinds}")
        for case in hits:
            print(f"    - gold `{case.gold}` and `{case.answer}` ({case.way})")
        passed &= len(hits) / len(pairs) <= _CROSS_TARGET
    return passed


def print_peers(cases: list[Case], verdicts: list[Verdict]) -> dict[str, dict[str, Any]]:
    pool = WorkerPool(2, warm_up=warm_up, memory_bytes=16 * 2**30, write_files=True)
    table: dict[str, dict[str, Any]] = {}
    ours_says = [verdict.kind == "correct" for verdict in verdicts]
    print(f"\n## Other graders on the same {len(cases)} inputs ({sum(c.equal for c in cases)} of them equal)\n")
    print("| grader | right on equal | right on different | agrees with ours | ours right, it wrong |", end="")
    print(" it right, ours wrong | time-outs or errors |\n|---|---|---|---|---|---|---|")
    print(_peer_row("ours", cases, ours_says, ours_says, 0), flush=True)
    disagreements: list[str] = []
    for name in PEERS:

        def one(case: Case, name: str = name) -> tuple[bool, bool]:
            try:
                return pool.run(grade, name, as_response(case.answer), case.gold, timeout_s=_TIMEOUT_S), False
            except TaskTimeout:
                return False, True
            # What a grader raises is its failure, not ours.
            except Exception:  # noqa: BLE001
                return False, True

        graded = with_progress(one, cases, name)
        says = [result for result, _ in graded]
        print(_peer_row(name, cases, says, ours_says, sum(failed for _, failed in graded)), flush=True)
        table[name] = {"says": says}
        for case, it, we in zip(cases, says, ours_says, strict=True):
            if it != we:
                right = "ours" if we == case.equal else name
                disagreements.append(
                    f"{name}: {'equal' if case.equal else 'different'} ({case.way}), {right} right: "
                    f"gold `{case.gold}`, answer `{case.answer}`"
                )
    pool.close()
    print("\nWhere ours is wrong and another is right, and at most 12 of the other kind per grader:\n")
    shown: Counter[str] = Counter()
    for line in disagreements:
        name = line.split(":")[0]
        if "ours right" in line:
            shown[name] += 1
            if shown[name] > 12:
                continue
        print(f"- {line}")
    return table


def _peer_row(name: str, cases: list[Case], says: list[bool], ours_says: list[bool], failed: int) -> str:
    rows = list(zip(cases, says, ours_says, strict=True))

    def share(chosen: Iterable[bool]) -> str:
        values = list(chosen)
        return f"{sum(values)}/{len(values)} = {sum(values) / max(1, len(values)):.1%}"

    return (
        f"| {name} | {share(it for case, it, _ in rows if case.equal)} "
        f"| {share(not it for case, it, _ in rows if not case.equal)} | {share(it == we for _, it, we in rows)} "
        f"| {sum(we == case.equal != it for case, it, we in rows)} "
        f"| {sum(it == case.equal != we for case, it, we in rows)} | {failed} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get(FOLDER_VARIABLE), help="folder of the benchmarks")
    parser.add_argument("--sets", nargs="*", help="only these sets")
    parser.add_argument("--peer-cases", type=int, default=200, help="inputs per set for other graders; 0 for none")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write every verdict of ours here")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error(f"no data: give --data FOLDER or set {FOLDER_VARIABLE}")
    configure_workers(arguments.workers)
    sets = {k: v for k, v in gold_answers(Path(arguments.data)).items() if not arguments.sets or k in arguments.sets}
    print("# Verifier of mathematics\n\n" + ", ".join(f"{k} {v}" for k, v in provenance().items()))
    print("\nGold answers: " + ", ".join(f"{name} {len(golds)}" for name, golds in sets.items()))

    same = [case for name, golds in sets.items() for case in self_cases(name, golds)]
    different = [case for name, golds in sets.items() for case in cross_cases(name, golds, arguments.seed)]
    near = [case for name, golds in sets.items() for case in near_misses(name, golds)]
    same_verdicts = with_progress(ours, same, "gold against itself")
    passed = print_self(same, same_verdicts)
    different_verdicts = with_progress(ours, different, "gold against another's")
    passed &= print_wrong("Gold against another problem's gold", different, different_verdicts)
    near_verdicts = with_progress(ours, near, "near misses")
    passed &= print_wrong("Gold with one thing changed", near, near_verdicts)

    cases, verdicts = same + different + near, same_verdicts + different_verdicts + near_verdicts
    everything = list(zip(cases, verdicts, strict=True))
    if arguments.json:
        lines = [{**vars(case), "kind": verdict.kind, "detail": verdict.detail} for case, verdict in everything]
        arguments.json.write_text(json.dumps(lines, indent=1))
    if arguments.peer_cases:
        rng = random.Random(arguments.seed)
        chosen = []
        for name in sets:
            rows = [pair for pair in everything if pair[0].dataset == name]
            chosen += rng.sample(rows, min(arguments.peer_cases, len(rows)))
        print_peers([case for case, _ in chosen], [verdict for _, verdict in chosen])
    print(f"\nTargets {'met' if passed else 'MISSED'}.")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
