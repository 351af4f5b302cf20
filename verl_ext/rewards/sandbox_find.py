"""Picks the sandbox of this machine and proves once per process that it holds."""

from __future__ import annotations

import functools
import json
import os
import shutil
import socket
import time
from pathlib import Path

from verl_ext.rewards.sandbox import (
    HOW_TO_GET_ONE,
    Limits,
    ProgramFailed,
    Sandbox,
    SandboxUnavailable,
    load_request,
)
from verl_ext.rewards.sandbox_bubblewrap import BubblewrapSandbox

# Tries what must not work, and prints what did.
_PROBE = """
import json, os, socket, sys
paths, port = json.loads(sys.stdin.read())
ours = {"HOME", "LC_ALL", "LD_LIBRARY_PATH", "MALLOC_ARENA_MAX", "PWD"}
holes = [x for x in paths if os.path.exists(x)]
def works(name, action):
    try:
        action()
    except BaseException:
        return
    holes.append(name)
works("the host's network", lambda: socket.create_connection(("127.0.0.1", port), 1))
works("an interface", lambda: 1 / (len(socket.if_nameindex()) > 1))
works("writing beside its folder", lambda: open("/probe", "w"))
works("writing to the interpreter", lambda: open(os.__file__, "a"))
works("fork", os.fork)
works("the environment", lambda: 1 / len(set(os.environ) - ours))
print(json.dumps(holes))
"""


def check_isolation(sandbox: Sandbox, timeout_s: float = 10.0) -> None:
    """Runs a probe that tries the network, the home, this project and the host's files.

    Raises:
        SandboxUnavailable: it does not start, or something could be reached; the message lists what.
    """
    deadline = time.monotonic() + timeout_s
    # The home itself may exist as the empty way to an interpreter, so what lies in it is tried.
    home = Path.home()
    inside = [str(x) for x in home.iterdir()] if os.access(home, os.R_OK) else []
    paths = [*inside[:100], __file__, os.getcwd(), "/etc/passwd", "/proc/self", "/sys/kernel", "/usr/bin", "/bin/sh"]
    paths = [x for x in paths if x not in ("/", "/tmp")]
    limits = Limits()
    try:
        # Something that would answer if the network were the host's.
        with socket.create_server(("127.0.0.1", 0)) as listener, sandbox.start(limits) as session:
            port = listener.getsockname()[1]
            session.send(load_request("script", [[_PROBE]], limits), deadline)
            session.receive(deadline, 1000)
            session.send(("run", json.dumps([paths, port]).encode(), 100_000), deadline)
            said = session.receive(deadline, 100_000)
            if said[1]:
                raise SandboxUnavailable(f"the sandbox's probe failed: {said[3]}")
            holes = json.loads(session.receive_bytes(deadline, 100_000))
    except ProgramFailed as error:
        raise SandboxUnavailable(f"the sandbox's probe did not finish: {error}. {HOW_TO_GET_ONE}") from error
    if holes:
        raise SandboxUnavailable(f"the sandbox does not hold: a program inside reached {', '.join(holes)}")


@functools.cache
def _local() -> Sandbox:
    sandbox = BubblewrapSandbox()
    try:
        check_isolation(sandbox)
    except SandboxUnavailable as error:
        raise SandboxUnavailable(f"{error}. {HOW_TO_GET_ONE}") from error
    return sandbox


def find_sandbox() -> Sandbox:
    """The service at SPRO_SANDBOX_URL if that is set, else bubblewrap, checked once per process.

    Raises:
        SandboxUnavailable: neither; the message says how to get one. Programs are never run without.
    """
    url = os.environ.get("SPRO_SANDBOX_URL")
    if url:
        from verl_ext.rewards.sandbox_remote import RemoteSandbox

        return RemoteSandbox(url)
    if not shutil.which("bwrap"):
        raise SandboxUnavailable(HOW_TO_GET_ONE)
    return _local()
