"""Chunks are whole or not there, and what is missing is what is asked again."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.evaluate.errors import BadInput
from scripts.evaluate.store import Store
from tests.scripts.evaluate.synthetic import answers
from tests.support import ROOT

MADE_WITH = {"model": "a", "data": "b", "sampling": {"temperature": 0}}


def store(out: Path, made_with: dict[str, Any] | None = None, samples: int = 2) -> Store:
    return Store(out, "math500-sampled", made_with or MADE_WITH, samples)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    first, second = answers("cw", "wu")
    store(tmp_path).add(second)
    store(tmp_path).add(first)
    assert store(tmp_path).responses() == {0: first, 1: second}
    assert store(tmp_path).missing(4) == [2, 3]
    assert [path.name for path in store(tmp_path).chunks] == ["000000.jsonl.gz", "000001.jsonl.gz"]


def test_it_goes_by_everything_that_decides_the_responses(tmp_path: Path) -> None:
    store(tmp_path).add(answers("cw")[0])
    for changed in ({"model": "c"}, {"data": "c"}, {"sampling": {"temperature": 1.0}}):
        assert store(tmp_path, MADE_WITH | changed).responses() == {}
    assert store(tmp_path, dict(reversed(MADE_WITH.items()))).missing(1) == []


def test_the_same_responses_are_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        store(tmp_path / folder).add(answers("cw")[0])
    one, two = (store(tmp_path / folder).chunks[0].read_bytes() for folder in ("one", "two"))
    assert one == two


def test_a_problem_without_all_its_samples_is_missing(tmp_path: Path) -> None:
    store(tmp_path).add(answers("c")[0])
    assert store(tmp_path).missing(1) == [0]
    assert store(tmp_path).responses() == {}


def test_what_the_verifier_never_saw_is_asked_again_and_replaced(tmp_path: Path) -> None:
    store(tmp_path).add(answers("ci")[0])
    store(tmp_path).add(answers("xx".replace("x", "w"), "cg")[1])
    # A grader's error comes again with the same response: it stays.
    assert store(tmp_path).missing(2) == [0]
    again = answers("cc")[0]
    store(tmp_path).add(again)
    assert store(tmp_path).missing(2) == []
    assert store(tmp_path).responses()[0] == again


def test_a_torn_chunk_is_named(tmp_path: Path) -> None:
    store(tmp_path).add(answers("cw")[0])
    (chunk,) = store(tmp_path).chunks
    chunk.write_bytes(chunk.read_bytes()[:-9])
    with pytest.raises(BadInput, match=r"000000.jsonl.gz: cannot be read .* Delete it"):
        store(tmp_path).responses()
    chunk.write_bytes(gzip.compress(b'{"problem": 0}\n'))
    with pytest.raises(BadInput, match="cannot be read"):
        store(tmp_path).responses()


def test_killed_between_and_within_chunks(tmp_path: Path) -> None:
    """A process that adds chunks for ever is killed: what it left is whole, and goes on."""
    code = (
        "import sys, pathlib\n"
        "from tests.scripts.evaluate.test_store import store\n"
        "from tests.scripts.evaluate.synthetic import answers\n"
        "from dataclasses import replace\n"
        "for n in range(10**6):\n"
        "    one = answers('cw')[0]\n"
        "    store(pathlib.Path(sys.argv[1])).add([replace(each, problem=n, text='x' * 10**5) for each in one])\n"
        "    print(n, flush=True)\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    assert writer.stdout is not None
    said = [int(writer.stdout.readline()) for _ in range(5)]
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    there = store(tmp_path).responses()
    assert len(there) >= len(said) == 5
    assert all(len(one) == 2 for one in there.values())
    assert store(tmp_path).missing(len(there) + 1) == [len(there)]
    store(tmp_path).add(answers(*["cw"] * (len(there) + 1))[len(there)])
    assert store(tmp_path).missing(len(there) + 1) == []
