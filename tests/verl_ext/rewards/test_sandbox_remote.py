"""The remote sandbox against a service of this test, which runs what it is sent in the local sandbox's stead."""

from __future__ import annotations

import base64
import http.server
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.verl_ext.rewards.sandboxed import fenced
from verl_ext.rewards import Kind, verify_code
from verl_ext.rewards.sandbox import SandboxUnavailable
from verl_ext.rewards.sandbox_find import find_sandbox
from verl_ext.rewards.sandbox_remote import RemoteSandbox


class Service:
    """Answers as SandboxFusion does. It has no isolation: only the harmless programs of this file are sent to it."""

    def __init__(self) -> None:
        self.reply: dict[str, Any] | bytes | None = None
        self.requests: list[dict[str, Any]] = []
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                service.requests.append(body)
                reply = service.reply or service.run(body)
                data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/run_code"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def run(self, body: dict[str, Any]) -> dict[str, Any]:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-c", body["code"]], capture_output=True, text=True, timeout=body["run_timeout"]
            )
        except subprocess.TimeoutExpired:
            return {"status": "Failed", "run_result": {"status": "TimeLimitExceeded"}}
        result = {"status": "Finished", "stdout": done.stdout, "stderr": done.stderr, "return_code": done.returncode}
        return {"status": "Success", "run_result": result}


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.server.shutdown()
    service.server.server_close()


def test_verdicts_are_those_of_a_local_sandbox(service: Service) -> None:
    sandbox = RemoteSandbox(service.url)
    program = fenced("def f(x): return [x + 1]\nif __name__ == '__main__': print(f(int(input())))")
    script = {"inputs": ["1", "41"], "outputs": ["[2]", "[42]"]}
    for tests in (script, ["assert f(1) == [2]", "assert f(41) == [42]"]):
        assert verify_code(program, tests, sandbox=sandbox).kind is Kind.CORRECT
    sent = [base64.b64decode(re.findall(r"b64decode\('(.*?)'\)", x["code"])[0]) for x in service.requests]
    assert any(b"41" in x for x in sent)
    assert not any(b"[42]" in x for x in sent)
    wrong = {"inputs": ["1", "1"], "outputs": ["[2]", "[3]"]}
    assert verify_code(program, wrong, sandbox=sandbox, partial=True).score == 0.5
    assert verify_code(fenced("def f(x): return 1 / 0"), ["assert f(1) == 1"], sandbox=sandbox).kind is Kind.WRONG
    assert verify_code(fenced("import os; os._exit(0)"), ["assert f(1) == 1"], sandbox=sandbox).kind is Kind.WRONG
    assert verify_code(fenced("def f(:"), ["assert f(1) == 1"], sandbox=sandbox).kind is Kind.WRONG


def test_time_limit(service: Service) -> None:
    service.reply = {"status": "Failed", "run_result": {"status": "TimeLimitExceeded"}}
    verdict = verify_code(fenced("while True: pass"), ["assert f(1) == 1"], sandbox=RemoteSandbox(service.url))
    assert verdict.kind is Kind.TIMEOUT


@pytest.mark.parametrize("reply", [{"status": "SandboxError"}, b"not json", b"[]", {"status": "Success"}])
def test_a_failing_service_is_no_wrong_answer(service: Service, reply: Any) -> None:
    service.reply = reply
    verdict = verify_code(fenced("x = 1"), ["assert f(1) == 1"], sandbox=RemoteSandbox(service.url))
    assert verdict.kind is Kind.INFRA_ERROR


def test_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPRO_SANDBOX_URL", "http://127.0.0.1:1/run_code")
    verdict = verify_code(fenced("x = 1"), ["assert f(1) == 1"])
    assert verdict.kind is Kind.INFRA_ERROR
    assert "does not answer" in verdict.detail
    monkeypatch.setenv("SPRO_SANDBOX_URL", "somewhere")
    with pytest.raises(SandboxUnavailable, match="must begin with http"):
        find_sandbox()


def test_test_sources_need_a_local_sandbox(service: Service) -> None:
    verdict = verify_code(fenced("def f(x): return x"), ["assert f(1) > 0"], sandbox=RemoteSandbox(service.url))
    assert verdict.kind is Kind.INFRA_ERROR
