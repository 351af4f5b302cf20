"""The sandbox: what a program in it can reach, and what is left of it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.verl_ext.rewards.sandboxed import fenced, needs_sandbox, open_descriptors, sandboxed_processes
from verl_ext.rewards import Kind, sandbox_bubblewrap, sandbox_find, verify_code
from verl_ext.rewards.sandbox import Limits, ProgramEnded, SandboxUnavailable, load_request
from verl_ext.rewards.sandbox_bubblewrap import BubblewrapSandbox
from verl_ext.rewards.sandbox_find import check_isolation, find_sandbox

pytestmark = pytest.mark.alone


def output_of(program: str, stdin: str = "") -> str:
    """What a script prints in the sandbox."""
    deadline = time.monotonic() + 60
    limits = Limits()
    with find_sandbox().start(limits) as session:
        session.send(load_request("script", [[program]], limits), deadline)
        assert session.receive(deadline, 1000)[0] == "ok"
        session.send(("run", stdin.encode(), 100_000), deadline)
        _, status, _, note = session.receive(deadline, 1000)
        assert status == 0, note
        return session.receive_bytes(deadline, 100_000).decode()


@needs_sandbox
def test_only_the_interpreter_is_there() -> None:
    program = """
import os
print(sorted(os.listdir("/")), sorted(os.listdir("/python")), sorted(os.listdir("/dev")), os.listdir("."))
print([os.path.exists(x) for x in ("/etc/passwd", "/proc/self", "/sys", "/usr", "/home", "/bin/sh", "/python/bin/pip")])
print(sorted(os.listdir("/python/runner/verl_ext/rewards")), os.getcwd())
"""
    first, second, third = output_of(program).splitlines()
    for word in ("'home'", "'proc'", "'etc'", "'usr'", "'work'", "'sda'"):
        assert word not in first
    assert second == str([False] * 7)
    assert third == "['code_grader.py', 'code_runner.py', 'code_values.py'] /tmp"


@needs_sandbox
def test_environment_is_ours_and_no_capability_is_left() -> None:
    os.environ["SECRET_OF_THE_TRAINER"] = "x"
    try:
        said = output_of("import os\nprint(sorted(os.environ), os.getuid(), os.uname().nodename, os.getpid() < 10)")
    finally:
        del os.environ["SECRET_OF_THE_TRAINER"]
    assert said.strip().endswith("65534 sandbox True")
    assert "SECRET" not in said
    # An unprivileged process may not even set a clock or change a root.
    assert output_of("import os\ntry:\n    os.chroot('/tmp')\nexcept PermissionError:\n    print('no')") == "no\n"


@needs_sandbox
def test_site_packages_are_hidden() -> None:
    said = output_of(
        "import os\nh = os.path.dirname(os.__file__) + '/site-packages'\nprint(os.path.isdir(h) and os.listdir(h))"
    )
    assert said.strip() in ("[]", "False")


@needs_sandbox
@pytest.mark.parametrize("path", ["/probe", "/python/x", "/python/runner/verl_ext/rewards/code_runner.py", "/dev/x"])
def test_everything_but_its_folder_is_read_only(path: str) -> None:
    said = output_of(f"try:\n    open({path!r}, 'a')\nexcept OSError as error:\n    print(error.errno)")
    assert said.strip() in ("30", "13", "1"), said


@needs_sandbox
def test_a_link_out_of_the_sandbox_reads_nothing(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the trainer's")
    program = f"""
import os
for target in ({str(secret)!r}, "/proc/1/root{secret}", "../../../..{secret}", "/etc/passwd"):
    os.symlink(target, "link")
    print(os.path.exists("link"))
    os.unlink("link")
"""
    assert output_of(program).split() == ["False"] * 4


@needs_sandbox
def test_standard_modules_of_solutions_import() -> None:
    modules = "bisect collections copy ctypes dataclasses datetime decimal fractions functools hashlib heapq itertools"
    modules += " json math operator queue random re statistics string struct threading typing zlib bz2 lzma sqlite3"
    assert output_of(f"import {', '.join(modules.split())}\nprint('ok')") == "ok\n"


@needs_sandbox
def test_killing_leaves_no_process_and_no_descriptor() -> None:
    output_of("print(1)")
    before, running = open_descriptors(), sandboxed_processes()
    for program in ("while True: pass", "print(1)", "import time; time.sleep(100)"):
        response = fenced(f"import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()\n{program}")
        verify_code(response, {"inputs": [""], "outputs": ["1"]}, timeout_s=0.7)
    assert open_descriptors() == before
    assert not sandboxed_processes() - running


@needs_sandbox
def test_a_sandbox_that_is_killed_while_it_starts_leaves_nothing() -> None:
    # Bubblewrap's own first process waits for ever where its parent is killed too early.
    running = sandboxed_processes()
    for wait_ms in range(0, 20, 2):
        with BubblewrapSandbox().start(Limits()), BubblewrapSandbox().start(Limits()):
            time.sleep(wait_ms / 1000)
    assert not sandboxed_processes() - running


@needs_sandbox
def test_the_runner_ends_when_the_verifier_goes_away() -> None:
    session = BubblewrapSandbox().start(Limits())
    deadline = time.monotonic() + 60
    session.send(load_request("call", [["x = 1"]], Limits()), deadline)
    assert session.process.stdin
    session.process.stdin.close()
    assert session.process.wait(60) == 0
    os.close(session.info)
    for pipe in (session.process.stdout, session.process.stderr):
        assert pipe
        pipe.close()
    if session.first_process is not None:
        os.close(session.first_process)


@needs_sandbox
def test_a_dead_sandbox_is_the_programs_fault_only_after_it_started() -> None:
    deadline = time.monotonic() + 60
    with BubblewrapSandbox().start(Limits()) as session:
        session.send(load_request("call", [["import os; os._exit(0)"]], Limits()), deadline)
        assert session.receive(deadline, 1000)[0] == "ok"
        with pytest.raises(ProgramEnded):
            session.receive(deadline, 1000)
    with BubblewrapSandbox("/bin/false").start(Limits()) as session, pytest.raises(SandboxUnavailable):
        session.send(load_request("call", [["x = 1"]], Limits()), deadline)


def test_without_a_sandbox_programs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_find.shutil, "which", lambda name: None)
    monkeypatch.delenv("SPRO_SANDBOX_URL", raising=False)
    with pytest.raises(SandboxUnavailable, match=r"apt-get install bubblewrap.*SPRO_SANDBOX_URL"):
        find_sandbox()
    verdict = verify_code(fenced("print(1)"), {"inputs": [""], "outputs": ["1"]})
    assert verdict.kind is Kind.INFRA_ERROR
    assert "apt-get install" in verdict.detail


@needs_sandbox
def test_the_probe_names_what_it_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_find, "__file__", "/python/runner")
    with pytest.raises(SandboxUnavailable, match="reached /python/runner"):
        check_isolation(BubblewrapSandbox())


@needs_sandbox
@pytest.mark.parametrize(
    ("without", "more", "found"),
    [("--unshare-net", (), "the host's network"), ("", ("--setenv", "TOKEN", "x"), "the environment"),
     ("", ("--ro-bind", "/etc", "/etc"), "/etc/passwd")],
)  # fmt: skip
def test_the_probe_finds_a_hole(
    monkeypatch: pytest.MonkeyPatch, without: str, more: tuple[str, ...], found: str
) -> None:
    given = [x for x in sandbox_bubblewrap._arguments(64) if x != without]
    monkeypatch.setattr(sandbox_bubblewrap, "_arguments", lambda folder_mb: more_before(given, more))
    with pytest.raises(SandboxUnavailable, match=f"reached.*{found}"):
        check_isolation(BubblewrapSandbox())


def more_before(arguments: list[str], more: tuple[str, ...]) -> list[str]:
    """Options must come before the command, and mounts before the root is made read-only."""
    at = arguments.index("--setenv") if "--setenv" in more else arguments.index("--size")
    return [*arguments[:at], *more, *arguments[at:]]
