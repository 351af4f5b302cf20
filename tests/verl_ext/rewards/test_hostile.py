"""The hostile set for mathematics: the right kind within the deadline, nothing written, connected or left behind."""

from __future__ import annotations

import gc
import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scripts.verify_responses import responses
from tests.support import assert_takes_less, seconds_of
from tests.verl_ext.rewards import support
from verl_ext.rewards import Kind, Verdict
from verl_ext.rewards.math import new_pool, verify_math
from verl_ext.rewards.pool import WorkerPool

pytestmark = pytest.mark.alone

_DEADLINE_S = 1.0
# A judgement, or a refusal to read; never "correct", and never a failure of ours.
_JUDGED = {Kind.WRONG, Kind.UNPARSEABLE}
_BOMB = {*_JUDGED, Kind.TIMEOUT}


def payloads(folder: Path, port: int) -> dict[str, tuple[str, str, set[Kind]]]:
    """Name -> answer, gold, the kinds that are right."""
    mark = folder / "written"
    matrix = rf"\begin{{pmatrix}} open('{mark}','w') \\ 2 \end{{pmatrix}}"
    connect = f"__import__('socket').create_connection(('127.0.0.1',{port}))"
    return {
        "eval with pi": (f"open('{mark}','w') and 2\\pi", r"2\pi", _JUDGED),
        "eval with pi, alone": (f"open('{mark}','w').write('x')", r"\pi", _JUDGED),
        "eval in a matrix": (matrix, r"\begin{pmatrix}1\\2\end{pmatrix}", _JUDGED),
        "eval in a list": (f"[open('{mark}','w')]", "[1,2]", _JUDGED),
        "import": (f"__import__('os').system('touch {mark}')", "7", _JUDGED),
        "socket": (connect, "7", _JUDGED),
        "socket with pi": (f"{connect} or \\pi", r"\pi", _JUDGED),
        "sympify": (f"\\operatorname{{S}}('{connect}')", "x+1", _JUDGED),
        "subclasses": ("().__class__.__base__.__subclasses__()", "7", _JUDGED),
        "SystemExit": ("raise SystemExit", "7", _JUDGED),
        "exit()": ("exit()", "x+1", _JUDGED),
        "digits to evaluate": ("9**9**9**9", "9", _BOMB),
        "tower": ("9^{9^{9^9}}", "9", _BOMB),
        "tower against a root": ("9^{9^{9^9}}", r"\sqrt{2}", _BOMB),
        "tower of tens": ("10^{10^{10^{10}}}+x", "x", _BOMB),
        "factorial": ("100000!!!", "9", _BOMB),
        "factorial of a factorial": ("((9!)!)!", "9", _BOMB),
        "root of a tower": (r"\sqrt[9^{9^9}]{9^{9^{9}}}", "9", _BOMB),
        "sum": (r"\sum_{i=1}^{10^{10}} \sin(i)^i", "9", _BOMB),
        "integral": (r"\int_0^1 \sin(\sin(\sin(\sin(x^{x^x})))) dx", "9", _BOMB),
        "power of a sum": ("(a+b+c+d+e+f)^{500}", "x", _BOMB),
        "huge exponent": ("1e999999999", "9", _BOMB),
        "huge decimal": ("9" * 1500 + ".5", "9", _BOMB),
        "many factors": ("x" * 1500, "x", _BOMB),
        "3,000 nested braces": ("{" * 3000 + "7" + "}" * 3000, "8", {Kind.UNPARSEABLE}),
        "900 nested braces": ("{" * 900 + "7" + "}" * 900, "8", {Kind.UNPARSEABLE}),
        "900 nested parentheses": ("(" * 900 + "7" + ")" * 900, "8", _BOMB),
        "nested fractions": ("\\frac{1}{" * 28 + "x" + "}" * 28, "8", _BOMB),
        "nested lists": ("(" * 300 + "1,2" + "),(3,4)" * 200, "(1,2)", _BOMB),
        "long list": (",".join("x^2" for _ in range(400)), ",".join(f"x+{i}" for i in range(60)), _BOMB),
        "1 MB answer": ("7" * 1_000_000, "7", {Kind.UNPARSEABLE}),
        "1 MB of braces": ("{" * 500_000 + "}" * 500_000, "7", {Kind.UNPARSEABLE}),
        "NUL": ("7\x00\x00 8", "9", _JUDGED),
        "surrogates": ("\ud800\udfff", "9", _JUDGED),
        "other digits": ("٣٤", "x+35", _JUDGED),
        "NaN": ("nan", "x", _JUDGED),
        "infinity times zero": (r"0\cdot\infty", "x", _JUDGED),
        "division by zero": (r"\frac{x}{0}", "x", _JUDGED),
        "format": ("{0.__class__}%s%n", "x", _JUDGED),
    }  # fmt: skip


NAMES = list(payloads(Path("/"), 1))


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    workers = new_pool(2)
    workers.start()
    yield workers
    workers.close()


@pytest.fixture(scope="module")
def listener() -> Iterator[socket.socket]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        yield server


@pytest.mark.parametrize("name", NAMES)
def test_hostile_answer(
    name: str, pool: WorkerPool, listener: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer, gold, kinds = payloads(tmp_path, listener.getsockname()[1])[name]
    # What is judged is judged at once; a machine that stands still for a second must not make it a time-out.
    timeout_s = _DEADLINE_S if Kind.TIMEOUT in kinds else 20 * _DEADLINE_S

    def judged() -> None:
        verdict = verify_math(f"So it is \\boxed{{{answer}}}", gold, timeout_s=timeout_s, pool=pool, memo=False)
        assert verdict.kind in kinds, verdict
        assert verdict.score == 0

    # A worker that is replaced needs time to start; the deadline counts from when it takes the task.
    assert_takes_less(_DEADLINE_S + 5, lambda: seconds_of(judged))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BlockingIOError):
        listener.accept()


@pytest.mark.parametrize("gold", ["9^{9^{9^9}}", "open('x','w') and 2\\pi", "{" * 900 + "}" * 900])
def test_hostile_gold(gold: str, pool: WorkerPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    verdict = verify_math(r"\boxed{x+1}", gold, timeout_s=_DEADLINE_S, pool=pool, memo=False)
    assert verdict.kind in {Kind.TIMEOUT, Kind.GRADER_ERROR, Kind.WRONG}
    assert list(tmp_path.iterdir()) == []


def test_nothing_leaks_in_2000_verdicts() -> None:
    _soak(2000, share=0.02)


@pytest.mark.slow
def test_nothing_leaks_in_10000_verdicts() -> None:
    _soak(10_000, share=0.02)


def _soak(count: int, share: float) -> None:
    """Verdicts of which a share is hostile: all there, benign ones right, and no process, file or memory kept."""
    pool = new_pool(2)
    pool.start()
    before = support.descriptors()
    samples = [(s.response, s.gold, s.form) for s in responses(count, seed=1)]
    # One deadline each; the others take milliseconds.
    slow = ["9^{9^{9^9}}", "100000!!!", "((9!)!)!", "(" * 900 + "7" + ")" * 900, r"\sqrt{2}^{9^{9^{9}}}"]
    quick = ["open('x','w') and 2\\pi", "{" * 3000, "7" * 500_000, "\x00\ud800", "__import__('os').abort()"]
    rng = random.Random(0)
    for place in rng.sample(range(count), int(share * count)):
        hostile = rng.choice(quick if rng.random() < 0.6 else slow)
        samples[place] = (f"So $\\boxed{{{hostile}}}$.", "x+7", "hostile")

    def one(sample: tuple[str, str, str]) -> Verdict:
        return verify_math(sample[0], sample[1], timeout_s=0.4 if sample[2] == "hostile" else 10, pool=pool, memo=False)

    memory = 0
    verdicts: list[Verdict] = []
    with ThreadPoolExecutor(4) as threads:
        for i, verdict in enumerate(threads.map(one, samples)):
            verdicts.append(verdict)
            if i == count // 4:
                gc.collect()
                memory = support.resident_bytes()
    assert len(verdicts) == count
    for (_, gold, form), verdict in zip(samples, verdicts, strict=True):
        expected = {"wrong": {Kind.WRONG}, "hostile": _BOMB}.get(form, {Kind.CORRECT})
        assert verdict.kind in expected, (form, gold, verdict)
    assert pool.stats().queue_depth == 0
    # The last hostile one may just have cost a worker.
    pool.start()
    assert len(support.children() & _pids(pool)) == 2
    gc.collect()
    # The verdicts themselves are kept here. A leak of the responses would be 8 kB each.
    assert support.resident_bytes() - memory < max(8 * 2**20, 4_000 * count)
    workers = _pids(pool)
    pool.close()
    assert not workers & support.children()
    assert support.descriptors() <= before


def _pids(pool: WorkerPool) -> set[int]:
    with ThreadPoolExecutor(4) as threads:
        return set(threads.map(lambda _: pool.run(support.slow_pid, timeout_s=10), range(40)))
