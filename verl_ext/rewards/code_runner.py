"""Runs inside the sandbox: executes the program, or the tests' own source, and answers the verifier's requests.

Started by the bare interpreter (``python -I -S -E``), which sees of this project this file, `code_values` and
`code_grader` only. It imports little of the standard library: each import costs a verdict its milliseconds. It holds no
secret. Expected outputs are never sent to the process that runs the program, so a program that takes this module over
can only report other values.

Requests come on the first standard input as marshal frames, from the verifier; answers go out as JSON, because the
verifier must not unmarshal what a hostile program writes.
"""

from __future__ import annotations

import builtins
import marshal
import os
import sys
from typing import Any

from verl_ext.rewards.code_values import decode, encode, to_json


def set_standard_streams() -> None:
    """New objects on descriptors 0 to 2, which they leave open when they are collected."""
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
        for number, mode in enumerate(("r", "w", "w"))
    )


class Channel:
    """Length-prefixed frames to and from the verifier."""

    def __init__(self) -> None:
        self.requests, self.answers = os.dup(0), os.dup(1)
        null = os.open("/dev/null", os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        os.close(null)
        set_standard_streams()

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = os.read(self.requests, min(count - len(data), 1 << 20))
            if not piece:
                # The verifier has gone, or is done with us.
                os._exit(0)
            data += piece
        return bytes(data)

    def receive(self) -> Any:
        return marshal.loads(self._read(int.from_bytes(self._read(4), "big")))

    def send(self, answer: Any) -> None:
        self.send_bytes(to_json(answer).encode("ascii"))

    def send_bytes(self, data: bytes) -> None:
        data = len(data).to_bytes(4, "big") + data
        while data:
            data = data[os.write(self.answers, data) :]


def limit(limits: dict[str, int]) -> None:
    """Resource limits, by the names of the resource module; inherited by children, each counting for itself."""
    import resource

    for name, value in limits.items():
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (value, value))


class Blocker:
    """A seccomp filter (struct sock_filter's bytes), made ready before a fork, so that a child spends no import."""

    def __init__(self, blocked: bytes) -> None:
        import ctypes

        class Filter(ctypes.Structure):
            _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

        self.libc = ctypes.CDLL(None)
        self.filter = Filter(len(blocked) // 8, blocked)
        self.reference = ctypes.byref(self.filter)

    def block(self) -> None:
        """From here on in this process, and for good."""
        # PR_SET_NO_NEW_PRIVS, then PR_SET_SECCOMP with SECCOMP_MODE_FILTER.
        self.libc.prctl(38, 1, 0, 0, 0)
        if self.libc.prctl(22, 2, self.reference, 0, 0):
            raise OSError("the seccomp filter was refused")


def brief(error: BaseException) -> str:
    """An exception's text for a person; computing it may itself fail, since the program may have made the class."""
    try:
        return str(error)[:300]
    except BaseException:  # noqa: BLE001
        return "(no text)"


class Program:
    """The program under test: compiled once; called by name, or run as a script per test."""

    def __init__(self, request: dict[str, Any], blocker: Blocker) -> None:
        self.request, self.blocker = request, blocker
        self.codes: list[Any] = []
        self.names: dict[str, Any] = {}

    def compile(self) -> list[Any]:
        """Takes the first of the candidates (each a list of sources to run in turn) that is Python."""
        problem = ""
        for index, sources in enumerate(self.request["candidates"]):
            try:
                self.codes = [compile(x, "<program>", "exec", dont_inherit=True) for x in sources]
            except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
                problem = problem or f"{type(error).__name__}: {brief(error)}"
            else:
                return ["ok", index]
        return ["syntax", problem]

    def _fresh(self, name: str) -> dict[str, Any]:
        module = type(sys)(name)
        sys.modules[name] = module
        names = module.__dict__
        for alias, origin, attribute in self.request["prelude"]:
            found = __import__(origin)
            names[alias] = getattr(found, attribute) if attribute else found
        sys.setrecursionlimit(self.request["recursion"])
        return names

    def load(self) -> list[Any]:
        """Runs the module for its definitions. A `sys.exit` at its end leaves them standing."""
        try:
            self.names = self._fresh("solution")
            for code in self.codes:
                exec(code, self.names)
        except SystemExit:
            pass
        except BaseException as error:  # noqa: BLE001
            return ["raised", type(error).__name__[:100], brief(error)]
        return ["loaded", [x for x in self.names if type(x) is str and hasattr(builtins, x) and x[:2] != "__"]]

    def call(self, name: str, args: Any, keywords: Any) -> list[Any]:
        function = self.names.get(name)
        try:
            if function is None and isinstance(self.names.get("Solution"), type):
                function = getattr(self.names["Solution"](), name, None)
            if function is None:
                return ["missing", name]
            return ["value", encode(function(*decode(args), **decode(keywords)))]
        except BaseException as error:  # noqa: BLE001
            return ["raised", type(error).__name__[:100], brief(error)]

    def run(self, channel: Channel, stdin: bytes, cap: int) -> None:
        """One test of a script: a process of its own, its standard streams files in the private folder."""
        streams = []
        for data in (stdin, b"", b""):
            fd = os.open("stream", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            os.unlink("stream")
            streams.append(fd)
            while data:
                data = data[os.write(fd, data) :]
            os.lseek(fd, 0, os.SEEK_SET)
        try:
            child = os.fork()
        except OSError as error:
            channel.send(["infra", f"the sandbox cannot fork: {error}"])
            return
        if child == 0:
            self._run_child(channel, streams)
        status = os.waitpid(child, 0)[1]
        size = os.fstat(streams[1]).st_size
        note = os.pread(streams[2], 400, max(0, os.fstat(streams[2]).st_size - 400)).decode("utf-8", "replace")
        channel.send(["ran", status, size, note.strip().rpartition("\n")[2]])
        if size <= cap:
            os.lseek(streams[1], 0, os.SEEK_SET)
            with os.fdopen(os.dup(streams[1]), "rb") as file:
                channel.send_bytes(file.read())
        for fd in streams:
            os.close(fd)

    def _run_child(self, channel: Channel, streams: list[int]) -> None:
        status = 1
        try:
            for number, fd in enumerate(streams):
                os.dup2(fd, number)
            for fd in (*streams, channel.requests, channel.answers):
                os.close(fd)
            set_standard_streams()
            self.blocker.block()
            names = self._fresh("__main__")
            try:
                for code in self.codes:
                    exec(code, names)
                status = 0
            except SystemExit:
                # Contest programs end so; what they printed counts, as in verl's prime_code.
                status = 0
            finally:
                # As at the end of a script: wait for its threads, then run what it registered, then flush.
                if "threading" in sys.modules:
                    sys.modules["threading"]._shutdown()
                import atexit

                atexit._run_exitfuncs()
                sys.stdout.flush()
        except BaseException as error:  # noqa: BLE001
            status = 1
            os.write(2, f"\n{type(error).__name__}: {brief(error)}".encode("utf-8", "backslashreplace"))
        finally:
            os._exit(status)


def main() -> None:
    channel = Channel()
    channel.send(["ready"])
    request = channel.receive()
    for name, data in request["files"].items():
        with open(name, "wb") as file:
            file.write(data)
    try:
        limit(request["limits"])
        blocker = Blocker(request["blocked"])
    except (ImportError, OSError, ValueError) as error:
        channel.send(["infra", f"the runner cannot confine itself: {error}"])
        return
    scripts = request["mode"] == "script"
    # The process that runs scripts has to fork; each of its children blocks itself.
    if not scripts:
        try:
            blocker.block()
        except OSError as error:
            channel.send(["infra", str(error)])
            return
    if request["mode"] == "grade":
        from verl_ext.rewards.code_grader import Grader

        channel.send(Grader(channel, request).grade())
        return
    program = Program(request, blocker)
    compiled = program.compile()
    channel.send(compiled)
    if compiled[0] != "ok":
        return
    if not scripts:
        channel.send(program.load())
    while True:
        what = channel.receive()
        if what[0] == "call":
            answer = program.call(*what[1:])
            try:
                channel.send(answer)
            except (RecursionError, MemoryError, ValueError) as error:
                channel.send(["raised", type(error).__name__, "the returned value cannot be sent"])
        else:
            program.run(channel, what[1], what[2])
