"""The forms in which tests of programs come, brought to three: calls, scripts, and the tests' own source.

| form | data |
|---|---|
| ``{"fn_name": f, "inputs": [...], "outputs": [...]}`` | APPS, TACO, Eurus-2: calls |
| ``{"inputs": [...], "outputs": [...]}`` | APPS, CodeContests, Codeforces, Eurus-2: standard input and output |
| ``["assert f(1) == 2", ...]`` or ``{"test_list": [...], "test_imports": [...], "test_setup_code": ...}`` | MBPP |
| ``{"test": source with check(candidate), "entry_point": f, "prompt": optional}`` | HumanEval |

Each may be given as JSON text. Assertions of the form ``f(literals) == literal`` become calls whose result is compared
outside; anything else is run as source, in a sandbox apart from the program's.
"""

from __future__ import annotations

import ast
import builtins
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


class TestsError(ValueError):
    """Tests that are missing or cannot be read; never a pass."""

    __test__ = False


@dataclass(frozen=True)
class Call:
    """One call and the value it must return."""

    name: str
    args: list[Any]
    keywords: dict[str, Any]
    expected: Any
    from_json: bool
    """compare as APPS does (tuples are lists) and not as Python's ``==``"""


@dataclass(frozen=True)
class Script:
    """One run of the program as a script: standard input, expected standard output."""

    stdin: str
    expected: str


@dataclass(frozen=True)
class Source:
    """Tests to execute; the program's functions are stand-ins there."""

    tests: list[str]
    setup: list[str] = field(default_factory=list)
    stand_ins: list[str] = field(default_factory=list)
    """names that the tests use and do not define"""
    called_builtins: list[str] = field(default_factory=list)
    """builtin names that the tests call: a program may define them (MBPP has a `sum`)"""
    forced: list[str] = field(default_factory=list)
    """stand-ins even where the set-up defines the name"""


@dataclass(frozen=True)
class Plan:
    """Exactly one of the three is not empty."""

    calls: list[Call] = field(default_factory=list)
    scripts: list[Script] = field(default_factory=list)
    source: Source | None = None
    prompt: str = ""
    """what the program continues or belongs to (HumanEval); run before it"""


def plan_of(tests: Any) -> Plan:
    """What is to be run for these tests.

    Raises:
        TestsError: no tests, an unknown form, or tests that are not Python or JSON where they must be.
    """
    try:
        if isinstance(tests, str):
            tests = json.loads(tests)
        if isinstance(tests, dict):
            if "test" in tests:
                return _humaneval(tests)
            if "test_list" in tests:
                setup = [*_lines(tests.get("test_imports")), *_lines(tests.get("test_setup_code"))]
                return _asserts(tests["test_list"], setup)
            if "inputs" in tests and "outputs" in tests:
                return _pairs(tests)
        if isinstance(tests, list | tuple) and tests and all(isinstance(x, str) for x in tests):
            return _asserts(list(tests), [])
    except TestsError:
        raise
    except (ValueError, TypeError, KeyError, SyntaxError, RecursionError, MemoryError) as error:
        raise TestsError(f"the tests cannot be read: {type(error).__name__}: {error}") from error
    raise TestsError(f"no tests, or tests of an unknown form: {str(tests)[:200]!r}")


def _lines(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])


def _pairs(tests: dict[str, Any]) -> Plan:
    inputs, outputs = tests["inputs"], tests["outputs"]
    if not inputs or len(inputs) != len(outputs):
        raise TestsError(f"{len(inputs)} inputs and {len(outputs)} outputs")
    name = tests.get("fn_name")
    if not name:
        return Plan(scripts=[Script(_text(i), _text(o)) for i, o in zip(inputs, outputs, strict=True)])
    calls = []
    for given, output in zip(inputs, outputs, strict=True):
        as_text = isinstance(given, str)
        args = [json.loads(line) for line in given.split("\n")] if as_text else list(given)
        # JSON has text for keys only; as APPS does for a first argument that is a dictionary.
        if args and isinstance(args[0], dict) and all(str(k).lstrip("-").isdigit() for k in args[0]):
            args[0] = {int(k): v for k, v in args[0].items()}
        expected = json.loads(output) if as_text and isinstance(output, str) else output
        calls.append(Call(name, args, {}, expected, from_json=True))
    return Plan(calls=calls)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(str(x) for x in value)
    if not isinstance(value, str):
        raise TestsError(f"standard input or output must be text or a list of lines, not {type(value).__name__}")
    return value


def _asserts(tests: list[str], setup: list[str]) -> Plan:
    if not tests:
        raise TestsError("an empty list of assertions")
    trees = [ast.parse(x) for x in tests]
    calls = [_simple_call(tree.body[0]) if len(tree.body) == 1 else None for tree in trees]
    if all(calls):
        return Plan(calls=[x for x in calls if x])
    return Plan(source=_source(tests, setup, [*trees, *(ast.parse(x) for x in setup)]))


def _humaneval(tests: dict[str, Any]) -> Plan:
    source, entry, prompt = tests["test"], tests["entry_point"], tests.get("prompt") or ""
    tree = ast.parse(source)
    check = next((x for x in tree.body if isinstance(x, ast.FunctionDef) and x.name == "check"), None)
    if check is None or not entry.isidentifier():
        raise TestsError("the test source has no check(candidate), or entry_point is no name")
    around = [x for x in tree.body if x is not check]
    body = [x for x in check.body if not _says_nothing(x)]
    calls = [_simple_call(x, alias=(check.args.args[0].arg, entry)) for x in body]
    if body and all(calls) and all(isinstance(x, ast.Assign | ast.Import | ast.ImportFrom) for x in around):
        return Plan(calls=[x for x in calls if x], prompt=prompt)
    setup = [prompt] if prompt else []
    known = [tree, *(ast.parse(x) for x in setup)]
    found = _source([f"{source}\n\ncheck({entry})\n"], setup, known)
    return Plan(source=Source(found.tests, found.setup, found.stand_ins, [], [entry]), prompt=prompt)


def _says_nothing(node: ast.stmt) -> bool:
    """`assert True`, a docstring, `pass`."""
    if isinstance(node, ast.Expr | ast.Assert):
        value = node.value if isinstance(node, ast.Expr) else node.test
        return isinstance(value, ast.Constant) and bool(value.value)
    return isinstance(node, ast.Pass)


def _simple_call(node: ast.stmt, alias: tuple[str, str] | None = None) -> Call | None:
    """``assert f(literals) == literal`` (or ``is`` True, False or None), or None for anything else."""
    if not isinstance(node, ast.Assert) or not isinstance(node.test, ast.Compare):
        return None
    left, operators, right = node.test.left, node.test.ops, node.test.comparators[0]
    if len(operators) != 1 or not isinstance(left, ast.Call) or not isinstance(left.func, ast.Name):
        return None
    by_identity = isinstance(operators[0], ast.Is) and isinstance(right, ast.Constant)
    if not (isinstance(operators[0], ast.Eq) or (by_identity and right.value in (True, False, None))):  # type: ignore[attr-defined]
        return None
    name = left.func.id
    if alias:
        if name != alias[0]:
            return None
        name = alias[1]
    elif hasattr(builtins, name) and name in ("set", "sorted", "list", "tuple", "len", "abs", "round", "type", "str"):
        return None
    try:
        args = [ast.literal_eval(x) for x in left.args]
        keywords = {str(x.arg): ast.literal_eval(x.value) for x in left.keywords if x.arg}
        expected = ast.literal_eval(right)
    except (ValueError, TypeError):
        return None
    return Call(name, args, keywords, expected, from_json=False) if len(keywords) == len(left.keywords) else None


def _source(tests: list[str], setup: list[str], trees: Iterable[ast.AST]) -> Source:
    """Finds out which names the tests expect of the program: those they use and nobody defines."""
    used: set[str] = set()
    called: set[str] = set()
    defined: set[str] = set()
    for node in (x for tree in trees for x in ast.walk(tree)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else defined).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            defined.update((x.asname or x.name).partition(".")[0] for x in node.names)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            defined.add(node.name)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called.add(node.func.id)
    open_names = {x for x in used - defined if not hasattr(builtins, x)}
    # A module that the tests use and leave to the program's imports.
    modules = sorted(x for x in open_names - called if x in sys.stdlib_module_names)
    called_builtins = sorted(x for x in called - defined if hasattr(builtins, x))
    setup = [*setup, *(f"import {x}" for x in modules)]
    return Source(tests, setup, sorted(open_names.difference(modules)), called_builtins)
