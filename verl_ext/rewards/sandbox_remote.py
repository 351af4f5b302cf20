"""A sandbox elsewhere: a service with SandboxFusion's ``run_code`` (POST of code and standard input, JSON back).

Such a service runs one program to its end, so each request of a session is one call, in which a new interpreter gets
our runner, the program and that request. Right for scripts and for calls; a test source that talks with the program
(assertions that are not ``f(literals) == literal``) needs both ends at once and raises `SandboxUnavailable`.

Isolation, and the limits on memory and output, are the service's. What is expected is never sent. A program may print
frames of its own; it gains nothing by that, as with the local sandbox.
"""

from __future__ import annotations

import base64
import http.client
import json
import marshal
import secrets
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from verl_ext.rewards.sandbox import (
    RUNNER,
    Limits,
    OutOfTime,
    ProgramEnded,
    ProgramFailed,
    SandboxUnavailable,
    TooMuchOutput,
)

_MAX_REPLY = 64 * 2**20
# Puts the runner where it can be imported, feeds it the frames, and prints its answers behind a marker.
_DRIVER = """
import base64, os, subprocess, sys, tempfile
folder = tempfile.mkdtemp()
package = os.path.join(folder, "verl_ext", "rewards")
os.makedirs(package)
for name, text in {files!r}.items():
    with open(os.path.join(package, name), "w", encoding="utf-8") as file:
        file.write(text)
start = "import sys; sys.path.insert(0, " + repr(folder) + "); from verl_ext.rewards.code_runner import main; main()"
work = os.path.join(folder, "work")
os.mkdir(work)
frames = base64.b64decode({frames!r})
done = subprocess.run([sys.executable, "-I", "-S", "-c", start], input=frames, capture_output=True, cwd=work)
print({marker!r} + base64.b64encode(done.stdout).decode())
"""


class RemoteSandbox:
    """The service at this address (the whole address of its ``run_code``)."""

    def __init__(self, url: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise SandboxUnavailable(f"SPRO_SANDBOX_URL={url!r} must begin with http:// or https://")
        self.url = url

    def start(self, limits: Limits) -> RemoteSession:
        return RemoteSession(self.url, limits)


class RemoteSession:
    """Collects requests and sends the first, with the latest one, when an answer is asked for."""

    def __init__(self, url: str, limits: Limits) -> None:
        self.url, self.limits = url, limits
        self.first: dict[str, Any] | None = None
        self.answers: list[bytes] = []
        self._deadline = 0.0

    def __enter__(self) -> RemoteSession:
        return self

    def __exit__(self, *error: object) -> None:
        self.answers.clear()

    def send(self, request: Any, deadline: float) -> None:
        if self.first is None:
            if request["mode"] == "grade":
                raise SandboxUnavailable("test sources need a sandbox on this machine; the remote one runs one program")
            # Over there it would count all processes of the service's user.
            limits = {name: value for name, value in request["limits"].items() if name != "RLIMIT_NPROC"}
            self.first = request = request | {"limits": limits}
            self.answers = self._run([request], deadline)
            return
        # What loading answers is known already.
        before = 1 if self.first["mode"] == "script" else 2
        self.answers = self._run([self.first, request], deadline)[before:]

    def receive_bytes(self, deadline: float, cap: int) -> bytes:
        if time.monotonic() >= deadline:
            raise OutOfTime("the time limit passed")
        if not self.answers:
            raise ProgramEnded("the process ended without an answer")
        if len(self.answers[0]) > cap:
            raise TooMuchOutput(f"{len(self.answers[0])} bytes were written, more than the {cap} allowed")
        return self.answers.pop(0)

    def receive(self, deadline: float, cap: int) -> Any:
        try:
            return json.loads(self.receive_bytes(deadline, cap))
        except (ValueError, RecursionError) as error:
            raise ProgramFailed(f"the answer cannot be read: {type(error).__name__}") from None

    def _run(self, requests: list[Any], deadline: float) -> list[bytes]:
        """One call of the service; the runner's answers after its ["ready"]."""
        bodies = [marshal.dumps(x) for x in requests]
        frames = b"".join(len(x).to_bytes(4, "big") + x for x in bodies)
        marker = secrets.token_hex(16)
        here = Path(__file__).parent
        code = _DRIVER.format(
            files={name: (here / name).read_text(encoding="utf-8") for name in RUNNER},
            frames=base64.b64encode(frames).decode(),
            marker=marker,
        )
        left = deadline - time.monotonic()
        if left <= 0:
            raise OutOfTime("the time limit passed")
        result = self._post({
            "code": code, "language": "python", "stdin": "", "compile_timeout": left, "run_timeout": left,
            "memory_limit_MB": self.limits.memory_mb, "files": {}, "fetch_files": [],
        }, left)  # fmt: skip
        run = result.get("run_result") or {}
        if result.get("status") == "SandboxError" or not run:
            raise SandboxUnavailable(f"the sandbox at {self.url} failed: {str(result)[:300]}")
        if run.get("status") == "TimeLimitExceeded":
            raise OutOfTime("the time limit passed")
        said = (run.get("stdout") or "").rpartition(marker)
        if not said[1]:
            raise ProgramEnded(f"the process ended without an answer: {str(run.get('stderr'))[-200:]}")
        return _frames(base64.b64decode(said[2]))[1:]

    def _post(self, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        request = urllib.request.Request(
            self.url, json.dumps(body).encode(), {"Content-Type": "application/json", "Accept": "application/json"}
        )
        try:
            # Longer than the program may take: the service says best that it took too long.
            with urllib.request.urlopen(request, timeout=timeout_s + 5) as reply:
                result = json.loads(reply.read(_MAX_REPLY))
        except (urllib.error.URLError, OSError, http.client.HTTPException, ValueError) as error:
            raise SandboxUnavailable(f"the sandbox at {self.url} does not answer: {error}") from error
        if not isinstance(result, dict):
            raise SandboxUnavailable(f"the sandbox at {self.url} answers in no known form: {str(result)[:200]}")
        return result


def _frames(data: bytes) -> list[bytes]:
    """Whole frames; what a program cut short is left out."""
    found, at = [], 0
    while at + 4 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if at + 4 + size > len(data):
            break
        found.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return found
