"""Runs inside a sandbox of its own: the tests' source, for which the program's functions are stand-ins."""

from __future__ import annotations

import builtins
from typing import Any

from verl_ext.rewards.code_runner import Channel, brief
from verl_ext.rewards.code_values import decode, encode


class CannotSend(BaseException):
    """The tests need something that the separation of the two processes does not allow."""


def opaque_in(encoded: Any) -> str:
    """The name of a type in there that has no encoding, or nothing."""
    if type(encoded) is not list or not encoded:
        return ""
    return encoded[1] if encoded[0] == "o" else next(filter(None, map(opaque_in, encoded)), "")


class ProgramError(Exception):
    """The program raised something that has no builtin name, or something that would end the tests."""


class Grader:
    """The tests' own source. The program's functions are stand-ins here: it runs in another sandbox."""

    def __init__(self, channel: Channel, request: dict[str, Any]) -> None:
        self.channel, self.request = channel, request
        self.calls = 0

    def stand_in(self, name: str) -> Any:
        def ask(*args: Any, **keywords: Any) -> Any:
            sent = [encode(list(args)), encode(keywords)]
            opaque = opaque_in(sent)
            # An object that the program returned is the program's fault; anything else is the tests'.
            if opaque.endswith(".Opaque"):
                raise ProgramError(f"{name} would need an object that the program returned")
            if opaque:
                raise CannotSend(f"the tests pass {name} an argument that cannot leave its process")
            self.calls += 1
            self.channel.send(["call", name, *sent])
            answer = self.channel.receive()
            if answer[0] == "value":
                return decode(answer[1])
            if answer[0] == "missing":
                raise ProgramError(f"no function {name}")
            kind = getattr(builtins, answer[1], None)
            # A StopIteration would end a `map` over the tests early, and `all` of nothing is true.
            if not (isinstance(kind, type) and issubclass(kind, Exception)) or issubclass(kind, StopIteration):
                kind = ProgramError
            raise kind(*answer[2:])

        return ask

    def grade(self) -> list[Any]:
        """["graded", [the failure of each test, or None]], or ["broken", why] where the tests cannot be run at all."""
        request = self.request
        names: dict[str, Any] = {"__name__": "tests"}
        try:
            for source in request["setup"]:
                exec(compile(source, "<setup>", "exec", dont_inherit=True), names)
            for name in request["proxies"]:
                names.setdefault(name, self.stand_in(name))
            for name in request["shadowed"]:
                names[name] = self.stand_in(name)
            codes = [compile(x, "<tests>", "exec", dont_inherit=True) for x in request["tests"]]
        except BaseException as error:  # noqa: BLE001
            return ["broken", f"{type(error).__name__}: {brief(error)}"]
        results: list[str | None] = []
        for code in codes:
            try:
                exec(code, names)
                results.append(None)
            except AssertionError as error:
                results.append(f"an assertion failed {brief(error)}".strip())
            except CannotSend as error:
                return ["broken", brief(error)]
            except BaseException as error:  # noqa: BLE001
                # A module that is not there, a misspelt name: nothing was learned of the program.
                if not self.calls:
                    return ["broken", f"{type(error).__name__}: {brief(error)}"]
                results.append(f"{type(error).__name__}: {brief(error)}")
            if results[-1] and not request["all"]:
                break
        return ["graded", results]
