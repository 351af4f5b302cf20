"""One program against its tests, in sandboxes: what is sent, what comes back, and what that means."""

from __future__ import annotations

import functools
import marshal
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from verl_ext.rewards.code_compare import same_call_result, same_output, same_value
from verl_ext.rewards.code_extract import prelude
from verl_ext.rewards.code_tests import Call, Plan, Script, Source, TestsError
from verl_ext.rewards.code_values import encode
from verl_ext.rewards.sandbox import (
    MIB,
    Limits,
    OutOfTime,
    ProgramFailed,
    Sandbox,
    SandboxUnavailable,
    Session,
    load_request,
)
from verl_ext.rewards.verdict import Kind, Verdict


@dataclass
class _Failure(Exception):
    """The first test that did not pass."""

    kind: Kind
    detail: str
    ended: bool = False
    """the sandbox with it"""


class NoProgram(Exception):
    """None of the candidates is Python."""


@dataclass
class Run:
    """One verdict in the making."""

    sandbox: Sandbox
    limits: Limits
    program: str
    plan: Plan
    deadline: float
    test_timeout_s: float
    partial: bool
    builtins_defined: tuple[str, ...] = ()

    def verdict(self) -> Verdict:
        if self.plan.source:
            failures, count = self._graded(self.plan.source)
        else:
            tests = self.plan.calls or self.plan.scripts
            failures, count = self._one_by_one(tests), len(tests)
        if not failures:
            return Verdict(Kind.CORRECT, 1.0, self.program, f"{count} tests")
        passed = (count - len(failures)) / count if self.partial else 0.0
        # The program has a say in this text: no control characters into logs.
        detail = "".join(x if x.isprintable() else " " for x in failures[0].detail)
        return Verdict(failures[0].kind, passed, self.program, detail)

    def _one_by_one(self, tests: list[Call] | list[Script]) -> list[_Failure]:
        """The failures. The sandbox is started anew after a test that ended it, for the rest of partial credit."""
        failures: list[_Failure] = []
        done = 0
        while done < len(tests):
            with self.sandbox.start(self.limits) as session:
                try:
                    self._load(session, "call" if self.plan.calls else "script")
                except _Failure as failure:
                    return [failure] * len(tests)
                for test in tests[done:]:
                    done += 1
                    try:
                        self._guarded(functools.partial(self._test, session, test))
                    except _Failure as failure:
                        failures.append(failure)
                        if not self.partial:
                            return failures
                        if failure.ended:
                            break
            if time.monotonic() >= self.deadline:
                return failures + [_Failure(Kind.TIMEOUT, "the time limit passed")] * (len(tests) - done)
        return failures

    def _guarded(self, step: Callable[[], None]) -> None:
        """Turns what a session raises of the program into a failure."""
        try:
            step()
        except OutOfTime as error:
            raise _Failure(Kind.TIMEOUT, str(error), ended=True) from None
        except ProgramFailed as error:
            raise _Failure(Kind.WRONG, str(error), ended=True) from None

    def _until(self) -> float:
        return min(self.deadline, time.monotonic() + self.test_timeout_s)

    def _load(self, session: Session, mode: str) -> None:
        prompt = [self.plan.prompt] if self.plan.prompt else []
        candidates = [[*prompt, self.program]]
        if prompt:
            # A bare completion: the body of the prompt's function.
            candidates.append([self.plan.prompt + self.program])
        request = load_request(mode, candidates, self.limits, prelude=prelude("".join((*prompt, self.program))))

        def load() -> None:
            session.send(request, self.deadline)
            compiled = session.receive(self._until(), MIB)
            # Believed here only, where the program has not run yet.
            if compiled[0] == "infra":
                raise SandboxUnavailable(compiled[1])
            if compiled[0] != "ok":
                raise NoProgram(f"no Python: {compiled[1]}")
            if mode == "call":
                loaded = session.receive(self._until(), MIB)
                if loaded[0] != "loaded":
                    raise _Failure(Kind.WRONG, f"{loaded[1]}: {loaded[2]}")
                self.builtins_defined = tuple(x for x in loaded[1] if isinstance(x, str))

        try:
            self._guarded(load)
        # What a program wrote on our channel.
        except (IndexError, TypeError, KeyError):
            raise _Failure(Kind.WRONG, "the answer has no known form", ended=True) from None

    def _test(self, session: Session, test: Call | Script) -> None:
        if isinstance(test, Call):
            self._call(session, test)
        else:
            self._script(session, test)

    def _call(self, session: Session, test: Call) -> None:
        try:
            session.send(("call", test.name, encode(test.args), encode(test.keywords)), self._until())
        except (ValueError, RecursionError) as error:
            raise TestsError(f"the arguments of a test cannot be sent: {error}") from error
        answer = _checked(session.receive(self._until(), MIB + 16 * len(marshal.dumps(test.expected))))
        _refuse_if_raised(answer)
        try:
            if test.from_json:
                same = same_call_result(answer[1], test.expected)
            else:
                same = same_value(answer[1], test.expected, json_like=False, tolerance=1e-9)
        # An answer that the program forged need not have the form of ours.
        except (TypeError, ValueError, IndexError, KeyError, AttributeError, RecursionError):
            same = False
        if not same:
            raise _Failure(Kind.WRONG, f"{test.name} returned {str(answer[1])[:200]}")

    def _script(self, session: Session, test: Script) -> None:
        cap = MIB + 4 * len(test.expected)
        stdin = test.stdin.encode("utf-8", "surrogatepass")
        if max(len(stdin), len(test.expected)) > self.limits.file_mb * MIB:
            raise TestsError(f"a test's input or output is larger than the {self.limits.file_mb} MiB of a file")
        session.send(("run", stdin, cap), self._until())
        said = session.receive(self._until(), MIB)
        if said[0] == "infra":
            raise SandboxUnavailable(said[1])
        _, status, size, note = said
        if size > cap:
            raise _Failure(Kind.WRONG, f"{size} bytes of output, more than the {cap} allowed")
        output = session.receive_bytes(self._until(), cap)
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            kind = Kind.TIMEOUT if number == signal.SIGXCPU else Kind.WRONG
            raise _Failure(kind, f"ended by signal {number}")
        if status:
            raise _Failure(Kind.WRONG, note[-300:] or f"ended with status {os.WEXITSTATUS(status)}")
        if not same_output(output.decode("utf-8", "replace"), test.expected):
            raise _Failure(Kind.WRONG, f"printed {output[:200].decode('utf-8', 'replace')!r}")

    def _graded(self, source: Source) -> tuple[list[_Failure], int]:
        """Runs the tests' source in a sandbox of its own and passes its calls on to the program's."""
        count = len(source.tests)
        # Both start at the same time.
        with self.sandbox.start(self.limits) as session, self.sandbox.start(self.limits) as grader:
            try:
                self._load(session, "call")
                results = self._conversation(session, grader, source)
            except _Failure as failure:
                return [failure] * count, count
        failures = [_Failure(Kind.WRONG, x) for x in results if x]
        return failures, count

    def _conversation(self, session: Session, grader: Session, source: Source) -> list[str | None]:
        # A program that defines a builtin's name is meant where the tests call nothing else of it.
        shadowed = [] if source.stand_ins else [x for x in source.called_builtins if x in self.builtins_defined]
        request = load_request("grade", [], self.limits) | {
            "setup": source.setup,
            "tests": source.tests,
            "proxies": source.stand_ins,
            "shadowed": [*shadowed, *source.forced],
            "all": self.partial,
        }
        results: list[Any] = []
        calls = 0

        def talk() -> None:
            nonlocal calls
            grader.send(request, self.deadline)
            while (said := grader.receive(self.deadline, 64 * MIB))[0] == "call":
                calls += 1
                session.send(("call", *said[1:]), self._until())
                answer = _checked(session.receive(self._until(), 4 * MIB))
                try:
                    grader.send(answer if answer[0] == "value" else [str(x) for x in answer], self.deadline)
                except ValueError:
                    raise _Failure(Kind.WRONG, "the returned value is nested too deep") from None
            results.extend(said)

        self._guarded(talk)
        if results[0] != "graded":
            raise TestsError(f"the tests cannot be run: {results[1]}")
        if not calls and not any(results[1]):
            raise TestsError("the tests never call the program")
        return results[1]


def _checked(answer: Any) -> list[Any]:
    """The answer to a call, if it has the form of one: a program may have written on our channel."""
    if not isinstance(answer, list) or len(answer) < 2 or answer[0] not in ("value", "raised", "missing"):
        raise _Failure(Kind.WRONG, "the answer has no known form", ended=True)
    return answer


def _refuse_if_raised(answer: list[Any]) -> None:
    if answer[0] == "missing":
        raise _Failure(Kind.WRONG, f"no function {answer[1]}")
    if answer[0] == "raised":
        raise _Failure(Kind.WRONG, ": ".join(str(x) for x in answer[1:])[:300])
