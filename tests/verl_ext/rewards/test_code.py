"""Verdicts on honest programs: every form of tests, extraction, comparison, kinds."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest

from tests.support import assert_takes_less, seconds_of
from tests.verl_ext.rewards.sandboxed import fenced, needs_sandbox
from verl_ext.rewards import Kind, verify_code
from verl_ext.rewards.code_compare import same_call_result, same_output, same_value
from verl_ext.rewards.code_extract import last_block, prelude
from verl_ext.rewards.code_tests import TestsError, plan_of
from verl_ext.rewards.code_values import decode, encode, to_json
from verl_ext.rewards.sandbox import Limits

pytestmark = pytest.mark.alone

SUMS = {"inputs": ["1 2\n", "3 4\n", "5 6"], "outputs": ["3\n", "7", "11\n"]}
ADD = {"fn_name": "add", "inputs": ["1\n2", "[1]\n[2]"], "outputs": ["3", "[1, 2]"]}
HUMANEVAL = {
    "prompt": "def double(x: int) -> int:\n    '''Twice x.'''\n",
    "entry_point": "double",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert abs(candidate(0.5) - 1) < 1e-9\n",
}


@needs_sandbox
@pytest.mark.parametrize(
    ("program", "tests"),
    [
        ("print(sum(map(int, input().split())))", SUMS),
        ("import sys\nfor line in sys.stdin:\n    print(eval(line.replace(' ', '+')))\nsys.exit(1)", SUMS),
        ("import os\nprint(sum(map(int, os.read(0, 99).split())), flush=True)\nos._exit(0)", SUMS),
        ("def main():\n    print(sum(map(int, open(0).read().split())))\nif __name__ == '__main__':\n    main()", SUMS),
        ("import atexit, io\nout = io.StringIO()\natexit.register(lambda: print(out.getvalue()))\n"
         "print(sum(map(int, input().split())), file=out)", SUMS),
        ("import threading\nthreading.stack_size(2**26)\n"
         "threading.Thread(target=lambda: print(sum(map(int, input().split())))).start()", SUMS),
        ("def add(a, b): return a + b", ADD),
        ("class Solution:\n    def add(self, a: List[int], b): return tuple(a) + tuple(b) if a != 1 else 3", ADD),
        ("def add(a, b): return a + b", json.dumps(ADD)),
        ("def add(a, b): return a + b", {"fn_name": "add", "inputs": [[1, 2]], "outputs": [[3]]}),
        ("def f(x): return [x]", ["assert f(1) == [1]", "assert f('a') == ['a']"]),
        ("def f(x): return [x]", {"test_list": ["assert math.prod(f(2)) == 2"], "test_imports": ["import math"]}),
        ("def f(x): return {x, 1}", ["assert set(f(2)) == set([1, 2])", "assert f(1)", "assert not f(1) - {1}"]),
        ("def sum(a, b): return a + b", ["assert sum(10, 15) == 25"]),
        ("def sum(a, b): return a + b", ["assert not sum(1, -1)"]),
        ("def f(x): raise ValueError('no')",
         ["try:\n    f(1)\nexcept ValueError as e:\n    assert str(e) == 'no'\nelse:\n    assert False"]),
        ("def double(x): return x * 2", HUMANEVAL),
        ("def double(x): return x * 2", HUMANEVAL | {"prompt": ""}),
        ("    return x * 2", HUMANEVAL),
        ("import math\ndef f(n): return math.factorial(n)", [f"assert f(2000) == {math.factorial(2000):#x}"]),
    ],
)  # fmt: skip
def test_right_programs_are_correct(program: str, tests: Any) -> None:
    verdict = verify_code(fenced(program), tests)
    assert (verdict.kind, verdict.score) == (Kind.CORRECT, 1.0), verdict
    assert verdict.extracted
    assert verdict.extracted.strip() == program.strip()


@needs_sandbox
@pytest.mark.parametrize(
    ("program", "tests", "detail"),
    [
        ("print(3)", SUMS, "printed '3"),
        ("print(1 / 0)", SUMS, "ZeroDivisionError"),
        ("def add(a, b): return a", ADD, "add returned 1"),
        ("def sub(a, b): return a", ADD, "no function add"),
        ("def add(a, b):\n    return (", ADD, "SyntaxError"),
        ("def f(x): return (x,)", ["assert f(1) == [1]"], "f returned"),
        ("def f(x): return {x}", ["assert set(f(2)) == {1}"], "assertion failed"),
        ("def f(x): return x", ["assert sorted(f(2)) == [1]"], "TypeError"),
        ("def double(x): return x", HUMANEVAL, "assertion failed"),
        ("x = 1", HUMANEVAL | {"prompt": ""}, "no function double"),
    ],
)
def test_wrong_programs_are_wrong(program: str, tests: Any, detail: str) -> None:
    verdict = verify_code(fenced(program), tests)
    assert (verdict.kind, verdict.score) == (Kind.WRONG, 0.0), verdict
    assert detail in verdict.detail


@needs_sandbox
def test_partial_credit_only_when_asked() -> None:
    program = fenced("n = sum(map(int, input().split()))\nwhile n == 7: pass\nprint(n)")

    def partly() -> None:
        # The other tests have to pass in it, and the sandbox to start.
        verdict = verify_code(program, SUMS, partial=True, test_timeout_s=1.5)
        assert (verdict.kind, round(verdict.score, 3)) == (Kind.TIMEOUT, 0.667)

    assert_takes_less(5, lambda: seconds_of(partly))
    assert verify_code(program, SUMS, test_timeout_s=1.5).score == 0
    died = fenced("import os\ndef f(x): return x if x != 1 else os._exit(0)")
    tests = ["assert f(0) == 0", "assert f(1) == 1", "assert f(2) == 2", "assert f(3) == 4"]
    assert verify_code(died, tests, partial=True).score == 0.5
    assert verify_code(fenced("def f(x): return x"), ["assert f(1)", "assert not f(1)"], partial=True).score == 0.5


@needs_sandbox
def test_an_endless_program_costs_its_limit_once() -> None:
    tests = {"inputs": ["1"] * 15, "outputs": ["1"] * 15}

    def endless() -> float:
        start = time.monotonic()
        verdict = verify_code(fenced("while True: pass"), tests, timeout_s=1.5)
        took = time.monotonic() - start
        assert verdict.kind is Kind.TIMEOUT
        assert took > 1.4
        return took

    assert_takes_less(3, endless)


@needs_sandbox
@pytest.mark.parametrize("response", ["", "I do not know.", "The answer is 5", "```\n\n```"])
def test_no_program_is_unparseable(response: str) -> None:
    assert verify_code(response, SUMS).kind is Kind.UNPARSEABLE


@pytest.mark.parametrize(
    "tests",
    [
        None, "", "[]", [], {}, "not json", {"inputs": [], "outputs": []}, {"inputs": ["1"], "outputs": []},
        {"inputs": ["1"], "outputs": [{"a": 1}]}, {"fn_name": "f", "inputs": ["not json"], "outputs": ["1"]},
        ["assert f("], [1, 2], {"test_list": []}, {"test": "x = 1", "entry_point": "f"}, {"test": "def check(c): pass"},
        {"inputs": 1, "outputs": 1}, "[" * 100_000,
    ],
)  # fmt: skip
def test_missing_or_malformed_tests_are_no_pass(tests: Any) -> None:
    verdict = verify_code(fenced("def f(x): return x\nprint(1)"), tests)
    assert (verdict.kind, verdict.score) == (Kind.GRADER_ERROR, 0.0), verdict


@needs_sandbox
@pytest.mark.parametrize(
    "tests",
    [
        ["assert True or f(1)"],
        {"test": "import nothing_here\ndef check(c):\n    for x in (1,): assert c(x) == 1", "entry_point": "f"},
        ["assert f(lambda x: x) == 1"],
    ],
)
def test_tests_that_cannot_test_are_no_pass(tests: Any) -> None:
    assert verify_code(fenced("def f(x): return 1"), tests).kind is Kind.GRADER_ERROR


@needs_sandbox
def test_a_program_cannot_make_its_failure_the_graders() -> None:
    tests = ["x = f(1)\nassert f(x) == 2"]
    assert verify_code(fenced("def f(x): return x if x == 1 else 2"), tests).kind is Kind.WRONG
    assert verify_code(fenced("def f(x): return object()"), tests).kind is Kind.WRONG
    assert verify_code(fenced("def f(x): raise ModuleNotFoundError"), tests).kind is Kind.WRONG
    assert verify_code(fenced("import numpy\ndef f(x): return 2"), tests).kind is Kind.WRONG


@needs_sandbox
def test_tests_that_the_sandbox_cannot_take() -> None:
    huge = {"inputs": ["1" * (2 << 20)], "outputs": ["1"]}
    assert verify_code(fenced("print(1)"), huge).kind is Kind.CORRECT
    assert verify_code(fenced("print(1)"), huge, limits=Limits(file_mb=1)).kind is Kind.GRADER_ERROR
    deep: list[Any] = []
    for _ in range(3000):
        deep = [deep]
    verdict = verify_code(fenced("def f(x): return 1"), {"fn_name": "f", "inputs": [[deep]], "outputs": [1]})
    assert verdict.kind is Kind.GRADER_ERROR


@needs_sandbox
def test_details_are_printable() -> None:
    verdict = verify_code(fenced("raise ValueError('\\x1b[2J\\n\\ud800')"), ["assert f(1) == 1"])
    assert verdict.kind is Kind.WRONG
    assert verdict.detail.isprintable()


@needs_sandbox
def test_a_helper_of_the_prompt_is_the_tests_own() -> None:
    tests = {
        "prompt": "def helper(x):\n    return x + 1\n\ndef f(x):\n    '''Undo helper.'''\n",
        "entry_point": "f",
        "test": "def check(candidate):\n    for x in range(3):\n        assert candidate(helper(x)) == x\n",
    }
    assert verify_code(fenced("def f(x): return x - 1"), tests).kind is Kind.CORRECT
    assert verify_code(fenced("def helper(x): return x\ndef f(x): return x"), tests).kind is Kind.WRONG


@needs_sandbox
def test_limits_are_the_callers() -> None:
    program = fenced("x = bytearray(300 << 20)\nprint(3)")
    tests = {"inputs": [""], "outputs": ["3"]}
    assert verify_code(program, tests).kind is Kind.CORRECT
    assert "MemoryError" in verify_code(program, tests, limits=Limits(memory_mb=200)).detail


def test_blocks() -> None:
    two = "```python\na = 1\n```\ntext\n```py\nb = 2\n```\n```bash\nls\n```"
    assert last_block(two) == ("b = 2\n", True)
    assert last_block("```\nc = 3\n```") == ("c = 3\n", True)
    assert last_block("```python\nd = 4") == ("d = 4", False)
    assert last_block("~~~python\nx = '''\n```\n'''\n~~~") == ("x = '''\n```\n'''\n", True)
    assert last_block("none") is None
    # The processor's: nobody is waited for.
    start = time.process_time()
    for response in ("```" * 300_000, "```python\n" * 100_000, "`" * 10**6, "\n```" * 200_000, " " * 10**6):
        last_block(response)
    assert time.process_time() - start < 3


def test_prelude_names_what_a_program_may_use() -> None:
    assert prelude("def f(x: List[int]): return gcd(*x)") == [("List", "typing", "List"), ("gcd", "math", "gcd")]
    assert prelude("print(sum([1]))") == []
    assert ("datetime", "datetime", "") in prelude("datetime.datetime.now()")


@pytest.mark.parametrize(
    "value",
    [None, True, 3, -(2**70), 1.5, "a\n\u20ac\ud800", b"\x00", [1, (2, {3})], {"a": {1: frozenset([2])}}, 2 + 3j],
)
def test_values_travel_unchanged(value: Any) -> None:
    arrived = decode(json.loads(to_json(encode(value))))
    assert arrived == value
    assert type(arrived) is type(value)
    assert same_value(json.loads(to_json(encode(value))), value, json_like=False, tolerance=0)


def test_comparison_of_values() -> None:
    assert same_call_result(encode((1, (2, 3))), [1, [2, 3]])
    assert same_call_result(encode(3), [3])
    assert same_call_result(encode(0.1 + 0.2), 0.3)
    assert same_call_result(encode({1: "a"}), {"1": "a"})
    assert not same_call_result(encode([3, 4]), [3])
    assert not same_call_result(encode("3"), 3)
    assert not same_call_result(encode({1, 2}), [1, 2])
    exact: dict[str, Any] = {"json_like": False, "tolerance": 1e-9}
    assert not same_value(encode((1,)), [1], **exact)
    assert not same_value(encode(10**20 + 1), 10**20, **exact)
    assert not same_value(encode([1, 1]), {1}, **exact)
    assert not same_value(["s", [1, 1]], {1, 2}, **exact)
    assert not same_value(["d", [[1, 1], [1, 1]]], {1: 1, 2: 1}, **exact)
    assert not same_value(encode(object()), None, **exact)
    assert same_value(encode(float("nan")), float("nan"), **exact)


def test_comparison_of_output() -> None:
    assert same_output("1 2 \n\n3", " 1  2\n3\n\n")
    assert same_output("0.3333333", "0.33333331")
    assert same_output("1.0", "1")
    assert not same_output("1000001", "1000002")
    assert not same_output("1\n2", "1 2")
    assert not same_output("", "1")
    assert not same_output("nan", "1.0")
    assert not same_output("yes", "no")


def test_simple_assertions_become_calls() -> None:
    plan = plan_of(["assert f(1, [2], k=(3,)) == {'a': -1}", "assert g('x') is None"])
    assert [(x.name, x.args, x.keywords, x.expected) for x in plan.calls] == [
        ("f", [1, [2]], {"k": (3,)}, {"a": -1}),
        ("g", ["x"], {}, None),
    ]
    assert plan_of(["assert set(f(1)) == {1}"]).source
    with pytest.raises(TestsError, match="2 inputs and 1 outputs"):
        plan_of({"inputs": ["", ""], "outputs": [""]})
