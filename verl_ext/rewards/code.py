"""Verdicts on programs: extracted from a response, run in a sandbox, compared outside of it.

What a program cannot do: see an expected value (the comparison happens in this process, or, for tests that are source,
in a second sandbox that shares nothing with the program's), and so print, return, raise or forge its way to a pass. It
may take over the runner in its own process (builtins, json, frames, the answer channel, os._exit), which only lets it
report other values; an object whose ``__eq__`` is always true arrives as the data it holds, or as an opaque name.

What remains: a program that knows the answers by heart passes, as does one that finds the expected values in the
inputs. Tests that use a helper which only the program defines (HumanEval without its ``prompt``: `poly`,
`encode_cyclic`) trust the program's own helper. A bare ``assert f(x)`` accepts any object that is true.
Programs have no third-party packages, no subprocesses, and get copies of the tests' arguments: a test that looks at an
argument changed in place fails.
"""

from __future__ import annotations

import re
import time
from typing import Any

from verl_ext.rewards.code_extract import last_block
from verl_ext.rewards.code_run import NoProgram, Run
from verl_ext.rewards.code_tests import TestsError, plan_of
from verl_ext.rewards.sandbox import MIB, Limits, Sandbox, SandboxUnavailable
from verl_ext.rewards.sandbox_find import find_sandbox
from verl_ext.rewards.verdict import Kind, Verdict

MAX_PROGRAM = MIB
"""characters; a longer program is wrong"""
_LOOKS_LIKE_CODE = re.compile(r"\b(?:def|class|import|print|return|for|while|lambda)\b|=")


def verify_code(
    response: str,
    tests: Any,
    *,
    timeout_s: float = 10.0,
    test_timeout_s: float | None = None,
    partial: bool = False,
    limits: Limits | None = None,
    sandbox: Sandbox | None = None,
) -> Verdict:
    """Runs the last program of a response against tests.

    Args:
        response: the model's text; its last ```python block counts, else its last block, else the whole if it is code.
        tests: any form of `code_tests`, or its JSON text.
        timeout_s: wall clock of the whole verdict in seconds; killing what is left may add a few milliseconds.
        test_timeout_s: wall clock of each test, where less than the whole is wanted.
        partial: the score is the fraction of tests passed; otherwise 1.0 or 0.0 and the first failure ends it.
            A test source with ``check(candidate)`` is one test.
        limits: of memory, output and so on.
        sandbox: where to run; by default what `find_sandbox` finds.

    Returns:
        correct; wrong (an error, no such function, a wrong value, too much output); unparseable (no program);
        timeout; grader_error (tests missing or malformed); infra_error (no sandbox, or it did not start).
    """
    try:
        plan = plan_of(tests)
    except TestsError as error:
        return Verdict(Kind.GRADER_ERROR, 0.0, None, str(error))
    block = last_block(response)
    program = block[0] if block else response
    if not block and not _LOOKS_LIKE_CODE.search(response[:MAX_PROGRAM]):
        return Verdict(Kind.UNPARSEABLE, 0.0, None, "no program in the response")
    if len(program) > MAX_PROGRAM:
        return Verdict(Kind.WRONG, 0.0, None, f"a program of {len(program)} characters")
    try:
        limits = limits or Limits(cpu_s=int(timeout_s) + 2)
        # The check of a process's first sandbox is not this program's time.
        sandbox = sandbox or find_sandbox()
        deadline = time.monotonic() + timeout_s
        run = Run(sandbox, limits, program, plan, deadline, test_timeout_s or timeout_s, partial)
        return run.verdict()
    except SandboxUnavailable as error:
        return Verdict(Kind.INFRA_ERROR, 0.0, program, str(error))
    except TestsError as error:
        return Verdict(Kind.GRADER_ERROR, 0.0, program, str(error))
    except NoProgram as error:
        kind = Kind.WRONG if block else Kind.UNPARSEABLE
        return Verdict(kind, 0.0, program if block else None, str(error))
