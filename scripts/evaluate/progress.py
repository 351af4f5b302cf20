"""One line a chunk: how far, how well so far, how long still."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from scripts.evaluate.store import Response
from verl_ext.rewards.verdict import Kind


class Progress:
    """Of one way of asking one set."""

    def __init__(self, name: str, total: int, done: int) -> None:
        self._name, self._total, self._before, self._done = name, total, done, done
        self._responses = self._correct = self._tokens = 0
        self._start = time.monotonic()
        if done:
            print(f"{name}: {done:,} of {total:,} problems are there already", file=sys.stderr, flush=True)

    def __call__(self, problems: int, responses: Sequence[Response]) -> None:
        self._done += problems
        self._responses += len(responses)
        self._correct += sum(each.kind == Kind.CORRECT for each in responses)
        self._tokens += sum(each.tokens for each in responses)
        seconds = time.monotonic() - self._start
        left = seconds / (self._done - self._before) * (self._total - self._done)
        print(
            f"{self._name}: {self._done:,} of {self._total:,} problems, {self._correct / self._responses:.1%} correct, "
            f"{self._tokens / seconds:,.0f} tokens/s, {left / 60:.0f} min left",
            file=sys.stderr,
            flush=True,
        )
