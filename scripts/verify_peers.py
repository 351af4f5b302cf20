"""Other graders with one interface, ``grade(name, response, gold) -> bool``, to run in a worker that can be killed.

verl's prime_math evaluates model text: never call this in a process that matters.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import time

PEERS = ("prime_math", "math_dapo", "verl math_verify", "math-verify")


def grade(name: str, response: str, gold: str) -> bool:
    # prime_math prints what fails.
    with contextlib.redirect_stdout(io.StringIO()):
        return _grade(name, response, gold)


def grade_chunk(name: str, chunk: list[tuple[str, str]]) -> list[tuple[bool, float]]:
    """Of every (response, gold): the verdict and the seconds that it took."""
    done = []
    for response, gold in chunk:
        start = time.perf_counter()
        done.append((grade(name, response, gold), time.perf_counter() - start))
    return done


def warm_up() -> None:
    # prime_math forks a process for every comparison by sympy, as it does where verl runs it; a spawned worker would
    # have it spawn, which fails there and costs it right answers.
    multiprocessing.set_start_method("fork", force=True)
    for name in PEERS:
        grade(name, r"The answer is $\boxed{x+1}$.", "1+x")


def _grade(name: str, response: str, gold: str) -> bool:
    if name == "prime_math":
        from verl.utils.reward_score import prime_math

        return bool(prime_math.compute_score(response, gold)[0])
    if name == "math_dapo":
        from verl.utils.reward_score import math_dapo

        return math_dapo.compute_score(response, gold)["score"] > 0
    if name == "verl math_verify":
        from verl.utils.reward_score import math_verify

        # What its compute_score runs in a pool of its own.
        return math_verify._verify_in_subprocess("\\boxed{" + gold + "}", response) > 0
    import math_verify as library

    parsed_gold = library.parse("\\boxed{" + gold + "}", parsing_timeout=None)
    return library.verify(parsed_gold, library.parse(response, parsing_timeout=None), timeout_seconds=None)
