"""A pool of workers that can be killed: spawned, limited, and replaced (pebble).

A task that passes its deadline ends with its worker, by signal, also in the middle of C code. One that is
killed for another reason (the system's out-of-memory killer, a person) is tried once more on a new worker.

What this does not cover: it is no sandbox. A worker shares the user and the file system with the trainer; it is for
libraries that we trust on input that we do not.
"""

from __future__ import annotations

import asyncio
import atexit
import resource
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

from pebble import ProcessExpired, ProcessPool

from verl_ext.rewards.spawn import CleanSpawnContext

# Of address space per worker, in bytes: sympy and what it loads need about 0.4 GiB.
_MEMORY = 2 * 2**30
# CPU seconds beyond its deadline after which a task's worker dies even if nobody is left to kill it.
_CPU_GRACE_S = 5
# Signals by which a task kills its own worker: C stack overflow, abort, too much CPU.
_OWN_FAULT = {-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT, -signal.SIGFPE, -signal.SIGILL, -signal.SIGXCPU}


class TaskTimeout(Exception):
    """A task passed its deadline; its worker was killed."""


class TaskCrashed(Exception):
    """A task killed its worker: a crash in C code, or the CPU limit."""


class WorkerLost(Exception):
    """A worker died for no fault of the task, twice, or none could be started. The task was never done."""


@dataclass(frozen=True)
class Stats:
    """A snapshot; times in seconds, over the last 4,096 tasks, from submission to result (waiting included)."""

    queue_depth: int
    workers: int
    latency_p50_s: float
    latency_p99_s: float
    outcomes: dict[str, int] = field(default_factory=dict)
    """tasks by how they ended: done, timeout, crashed, lost, retried, error"""


class WorkerPool:
    """Runs functions in spawned workers. Started at the first task; usable from any thread and from asyncio.

    Args:
        workers: number of processes.
        warm_up: called once in each new worker, before its first task; must be importable.
        memory_bytes: limit of address space per worker.
        write_files: whether a worker may write to files after its warm-up.
    """

    def __init__(
        self,
        workers: int = 2,
        *,
        warm_up: Callable[[], None] | None = None,
        memory_bytes: int = _MEMORY,
        write_files: bool = False,
    ):
        if workers < 1:
            raise ValueError(f"workers={workers}: must be at least 1")
        self.workers = workers
        self._start_arguments = (warm_up, memory_bytes, write_files)
        self._lock = threading.Lock()
        self._pool: ProcessPool | None = None
        self._depth = 0
        self._latencies: deque[float] = deque(maxlen=4096)
        self._outcomes: Counter[str] = Counter()

    def submit(self, function: Callable[..., Any], *arguments: Any, timeout_s: float) -> Future[Any]:
        """A future of ``function(*arguments)``; `asyncio.wrap_future` awaits it.

        The deadline counts from when a worker takes the task.

        Raises:
            ValueError: a function of the main module.

        Raises (the future): TaskTimeout, TaskCrashed, WorkerLost, or what the function raised.
        """
        if function.__module__ == "__main__":
            raise ValueError(f"{function.__name__} must be in a module: workers do not import the main module")
        outer: Future[Any] = Future()
        with self._lock:
            self._depth += 1
        self._schedule(outer, time.monotonic(), function, arguments, timeout_s, retries=1)
        return outer

    def run(self, function: Callable[..., Any], *arguments: Any, timeout_s: float) -> Any:
        """`submit` and wait."""
        return self.submit(function, *arguments, timeout_s=timeout_s).result()

    async def run_async(self, function: Callable[..., Any], *arguments: Any, timeout_s: float) -> Any:
        """`submit` and await."""
        return await asyncio.wrap_future(self.submit(function, *arguments, timeout_s=timeout_s))

    def stats(self) -> Stats:
        with self._lock:
            times = sorted(self._latencies)
            outcomes, depth = dict(self._outcomes), self._depth
        return Stats(depth, self.workers, _quantile(times, 0.5), _quantile(times, 0.99), outcomes)

    def close(self) -> None:
        """Kill the workers. The next task starts new ones."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.stop()
            pool.join()

    def _schedule(
        self,
        outer: Future[Any],
        start: float,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        timeout_s: float,
        retries: int,
    ) -> None:
        def on_done(inner: Future[Any]) -> None:
            try:
                error = inner.exception()
            except BaseException as cancelled:  # noqa: BLE001
                error = cancelled
            # ExitCode of a worker that its own task has killed; of pebble's TimeoutError there is none.
            own_fault = isinstance(error, ProcessExpired) and error.exitcode in _OWN_FAULT
            lost = isinstance(error, ProcessExpired | BrokenProcessPool) and not own_fault
            if lost and retries:
                with self._lock:
                    self._outcomes["retried"] += 1
                self._schedule(outer, start, function, arguments, timeout_s, retries - 1)
                return
            if isinstance(error, FutureTimeout):
                self._finish(outer, start, "timeout", TaskTimeout(f"no result after {timeout_s:g} s"))
            elif own_fault:
                self._finish(outer, start, "crashed", TaskCrashed(str(error)))
            elif lost:
                self._finish(outer, start, "lost", WorkerLost(f"the worker died twice: {error}"))
            elif error is not None:
                self._finish(outer, start, "lost" if isinstance(error, WorkerLost) else "error", error)
            else:
                self._finish(outer, start, "done", None, inner.result())

        try:
            inner = self._started().schedule(_limited, args=(timeout_s, function, arguments), timeout=timeout_s)
        # RuntimeError: the pool broke or was closed in between.
        except (RuntimeError, OSError, BrokenProcessPool) as error:
            with self._lock:
                self._pool = None
            if retries:
                self._schedule(outer, start, function, arguments, timeout_s, retries - 1)
            else:
                self._finish(outer, start, "lost", WorkerLost(f"no worker could be started: {error}"))
            return
        inner.add_done_callback(on_done)

    def _finish(
        self, outer: Future[Any], start: float, outcome: str, error: BaseException | None, result: Any = None
    ) -> None:
        with self._lock:
            self._depth -= 1
            self._outcomes[outcome] += 1
            self._latencies.append(time.monotonic() - start)
        if not outer.set_running_or_notify_cancel():
            return
        if error is not None:
            outer.set_exception(error)
        else:
            outer.set_result(result)

    def _started(self) -> ProcessPool:
        with self._lock:
            if self._pool is None or not self._pool.active:
                self._pool = ProcessPool(
                    max_workers=self.workers,
                    initializer=_start_worker,
                    initargs=self._start_arguments,
                    context=CleanSpawnContext(),
                )
                atexit.register(self.close)
            return self._pool


def _quantile(times: list[float], q: float) -> float:
    return times[min(len(times) - 1, int(q * len(times)))] if times else 0.0


# In a worker: why it cannot work.
_broken: str | None = None


def _start_worker(warm_up: Callable[[], None] | None, memory_bytes: int, write_files: bool) -> None:
    """In a new worker: imports, then limits."""
    global _broken
    # pebble asks a worker to end and waits; stuck in C code it would not hear.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        if warm_up is not None:
            warm_up()
    # Whatever it is, it is said once a task comes; a worker that ends here would be started again and again.
    except Exception as error:  # noqa: BLE001
        _broken = f"{type(error).__name__}: {error}"
    if not write_files:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def _limited(timeout_s: float, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """In a worker: one task, under a limit of CPU time that holds even when the trainer is gone."""
    if _broken is not None:
        raise WorkerLost(f"the worker's start failed: {_broken}")
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime + timeout_s) + _CPU_GRACE_S
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    return function(*arguments)
