"""Hostile programs: each gets the right kind within its deadline, and nothing is written, reached or left behind."""

from __future__ import annotations

import http.server
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support import assert_takes_less, seconds_of
from tests.verl_ext.rewards.sandboxed import fenced, needs_sandbox, open_descriptors, sandboxed_processes
from verl_ext.rewards import Kind, verify_code

pytestmark = [needs_sandbox, pytest.mark.alone]

DEADLINE_S = 1.5
SCRIPT = {"inputs": ["1\n", "2\n"], "outputs": ["2\n", "3\n"]}
CALL = {"fn_name": "f", "inputs": ["1", "2"], "outputs": ["2", "3"]}
SOURCE = ["assert abs(f(1) - 2) < 1e-6", "assert f(2) - 3 == 0"]
FORMS = {"script": SCRIPT, "call": CALL, "source": SOURCE}

# Never correct, whatever the form; those of ENDLESS end by the deadline.
ENDING = {
    "SystemExit": "raise SystemExit(0)",
    "exit in the function": "def f(x): raise SystemExit\ntry:\n    f(1)\nexcept NameError: pass",
    "_exit": "import os\nos._exit(0)",
    "_exit in the function": "import os\ndef f(x): os._exit(0)\nf(1)",
    "fork bomb": "import os\nwhile True: os.fork()",
    "subprocess": "import subprocess\nsubprocess.Popen(['/bin/sh', '-c', 'sleep 100'])",
    "daemon": "import os\nif os.fork() == 0:\n    os.setsid()\n    while True: pass",
    "exec": "import os\nos.execv('/python/bin/python3', ['python3'])",
    "flood of the channel": "import os\nfor fd in range(64):\n  try:\n    while True: os.write(fd, b'x' * 100000)\n"
    "  except OSError: pass",
    "forged frames": "import os\nfor fd in range(64):\n  for text in (b'[\"graded\",[null,null]]', b'[\"value\",2]'):\n"
    "    try: os.write(fd, len(text).to_bytes(4, 'big') + text)\n    except OSError: pass",
    "memory": "x = []\nwhile True: x.append(bytearray(1 << 24))",
    "one huge block": "x = bytearray(1 << 40)",
    "memory in files": "i = 0\nwhile True:\n    i += 1\n    open(f'/tmp/{i}', 'wb').write(b'x' * (1 << 22))",
    "memory in memfd": "import os\nfd = os.memfd_create('x')\nwhile True: os.write(fd, b'x' * (1 << 22))",
    "threads": "import threading, time\nthreading.stack_size(1 << 20)\n"
    "while True: threading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
    "recursion": "def f(x): return f(x)\nf(1)",
    "nested data": "x = []\nfor i in range(300000): x = [x]\ndef f(a): return x\nprint(repr(f))",
    "nested source": "(" * 3000 + ")" * 3000,
    "NUL": "x = 1\x00",
    "surrogate": "x = '\ud800'",
    "socket": "import socket\nsocket.create_connection(('127.0.0.1', PORT), 1)",
    "raw socket": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "name service": "import socket\nsocket.getaddrinfo('example.com', 80)",
    "/etc/passwd": "open('/etc/passwd')",
    "the project": "open('PROJECT/verl_ext/rewards/code.py')",
    "link": "import os\nos.symlink('OUTSIDE/secret', 'x')\nopen('x')",
    "write outside": "open('OUTSIDE/written', 'w')",
    "close all": "import os\nos.closerange(0, 100)",
    "kill all": "import os\nos.kill(os.getppid() or 2, 9)\nos.kill(-1, 9)\nos.kill(1, 9)",
    "equal to all": "class E(int):\n    __eq__ = __lt__ = lambda self, other: True\n"
    "    __abs__ = __sub__ = __rsub__ = lambda self, *other: self\ndef f(x): return E(7)\nprint(f(1))",
    "object equal to all": "class E:\n    __eq__ = __lt__ = lambda self, other: True\n"
    "    __abs__ = __sub__ = lambda self, *other: self\ndef f(x): return E()\nprint(f(1))",
    "patched builtins": "import builtins, sys, gc\nfor name in ('abs', 'len', 'type', 'isinstance', 'repr', 'print'):\n"
    "    setattr(builtins, name, lambda *a, **k: 2)\nsys.modules.clear()\ndef f(x): return 7",
    "patched json": "import json, marshal\njson.loads = json.dumps = marshal.loads = lambda *a, **k: True\n"
    "def f(x): return 7",
    "patched runner": "import gc, sys\nsys.modules['verl_ext.rewards.code_runner'].encode = lambda v: ['any', 2]\n"
    "def f(x): return 7",
    "frames": "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
    "        for v in frame.f_locals.values():\n            if isinstance(v, dict): v['expected'] = None\n"
    "        frame = frame.f_back\n    return 7",
    "StopIteration": "def f(x): raise StopIteration",
    "AssertionError caught": "def f(x): raise AssertionError",
}
ENDLESS = {
    "endless": "while True: pass",
    "endless in C": "10 ** 10 ** 9",
    "sleep": "import time\ntime.sleep(100)",
    "deaf": "import signal, time\nfor n in range(1, 32):\n  try: signal.signal(n, signal.SIG_IGN)\n"
    "  except (OSError, ValueError): pass\nwhile True: pass",
    "orphan at heart": "import ctypes\nctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\nwhile True: pass",
    "fork bomb that goes on": "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass",
    "thread left running": "import threading\ndef g():\n  while True: pass\nthreading.Thread(target=g).start()\n"
    "while True: pass",
    "catches all": "while True:\n  try:\n    while True: pass\n  except BaseException: pass",
    "huge integer": "print(7 ** 7 ** 9)",
}


@pytest.fixture(scope="module")
def listener() -> Iterator[tuple[int, list[Any]]]:
    """A server of this machine, and the addresses that called it."""
    called: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def setup(self) -> None:
            called.append(self.client_address)
            super().setup()

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1], called
    server.shutdown()
    server.server_close()


def test_hostile_programs(tmp_path: Path, listener: tuple[int, list[Any]]) -> None:
    port, called = listener
    (tmp_path / "secret").write_text("2")
    project = str(Path(__file__).resolve().parents[3])
    open_before, running = open_descriptors(), sandboxed_processes()

    def judged(case: tuple[str, str, str]) -> tuple[str, float]:
        """What is wrong with the verdict, and the seconds that it took."""
        form, name, program = case
        for word, value in (("PORT", str(port)), ("OUTSIDE", str(tmp_path)), ("PROJECT", project)):
            program = program.replace(word, value)
        start = time.monotonic()
        verdict = verify_code(fenced(program), FORMS[form], timeout_s=DEADLINE_S)
        took = time.monotonic() - start
        # One that ends at once may still be slow to be seen ending on a busy machine.
        kinds = (Kind.WRONG, Kind.TIMEOUT) if name in ENDING else (Kind.TIMEOUT,)
        right = verdict.kind in kinds and verdict.score == 0
        return "" if right else f"{name} as {form}: {verdict.kind} after {took:.1f} s: {verdict.detail}", took

    cases = [(form, name, program) for form in FORMS for name, program in {**ENDING, **ENDLESS}.items()]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(judged, cases))
    assert [wrong for wrong, _ in found if wrong] == []
    # Fork bombs ran beside them: one that was late is judged again, with nothing beside it.
    for case, (_, took) in zip(cases, found, strict=True):
        if took >= DEADLINE_S + 2:
            assert_takes_less(DEADLINE_S + 2, lambda case=case: judged(case)[1])  # type: ignore[misc]
    assert [x.name for x in tmp_path.iterdir()] == ["secret"]
    assert called == []
    assert not sandboxed_processes() - running
    assert open_descriptors() <= open_before + 1


@pytest.mark.parametrize("name", ["SystemExit", "_exit", "fork bomb", "forged frames", "memory in memfd", "socket"])
@pytest.mark.parametrize("form", FORMS)
def test_what_ends_is_wrong_and_not_a_time_out(name: str, form: str) -> None:
    verdict = verify_code(fenced(ENDING[name].replace("PORT", "1")), FORMS[form], timeout_s=20)
    assert verdict.kind is Kind.WRONG, verdict


@pytest.mark.parametrize("size", [10**5, 10**7])
def test_an_output_flood_is_wrong_and_bounded(size: int) -> None:
    program = fenced(f"while True: print('x' * {size})")
    verdict = verify_code(program, SCRIPT, timeout_s=20)
    assert verdict.kind is Kind.WRONG
    assert len(verdict.detail) < 1000
    assert verify_code(fenced(f"def f(x): return 'x' * {size}"), CALL, timeout_s=20).kind is Kind.WRONG


def test_hostile_responses_are_read_in_linear_time() -> None:
    responses = ("```python\n" + "x" * 10**6, "(" * 10**6, "```" * 10**6, "\x00" * 10**6, "\ud800" * 10**6 + "=")

    def read() -> None:
        for response in responses:
            assert verify_code(response, CALL, timeout_s=5).kind in (Kind.WRONG, Kind.UNPARSEABLE)

    assert_takes_less(15, lambda: seconds_of(read))


def _many(count: int, threads: int = 2) -> None:
    """``count`` verdicts of which 2 % are hostile: all there, the honest ones right, and nothing left."""
    draw = random.Random(0)
    hostile = list({**ENDING, **ENDLESS}.values())
    honest = "def f(x): return x + 1\nif __name__ == '__main__': print(f(int(input())))"
    cases = []
    for index in range(count):
        bad = index % 50 == 49
        cases.append((fenced(draw.choice(hostile) if bad else honest), draw.choice(list(FORMS.values())), bad))

    def resident_mib() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096 / 2**20

    for program, tests, _ in cases[:50]:
        verify_code(program, tests, timeout_s=0.5)
    running = sandboxed_processes()
    before = open_descriptors(), threading.active_count(), resident_mib()
    with ThreadPoolExecutor(threads) as pool:
        verdicts = list(pool.map(lambda x: verify_code(x[0], x[1], timeout_s=0.7 if x[2] else 20), cases))
    assert len(verdicts) == count
    assert [x for x, (_, _, bad) in zip(verdicts, cases, strict=True) if (x.kind is Kind.CORRECT) is bad] == []
    assert not [x for x in verdicts if x.kind in (Kind.GRADER_ERROR,)]
    assert not sandboxed_processes() - running
    assert open_descriptors() == before[0]
    assert threading.active_count() == before[1]
    assert resident_mib() - before[2] < 20


def test_nothing_leaks() -> None:
    _many(300)


@pytest.mark.slow
def test_nothing_leaks_in_fifteen_hundred() -> None:
    _many(1500)
