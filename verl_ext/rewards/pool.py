"""A pool of workers that can be killed: spawned, limited, and replaced (pebble).

A task that passes its deadline ends with its worker, by signal, also in the middle of C code. One that is
killed for another reason (the system's out-of-memory killer, a person) is tried once more on a new worker.

What this does not cover: it is no sandbox. A worker shares the user and the file system with the trainer; it is for
libraries that we trust on input that we do not.
"""

from __future__ import annotations

import asyncio
import atexit
import os
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


@dataclass
class _Task:
    """A task that has no result yet."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    timeout_s: float
    future: Future[Any] = field(default_factory=Future)
    start: float = field(default_factory=time.monotonic)
    retries: int = 1
    stalled: bool = False
    attempt: int = 0
    """what comes of an earlier attempt is ignored"""


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
        stall_s: without any result for so long beyond the longest deadline, the workers are started anew. A worker
            that is killed while it holds the lock of their common pipe would stop them all.
    """

    def __init__(
        self,
        workers: int = 2,
        *,
        warm_up: Callable[[], None] | None = None,
        memory_bytes: int = _MEMORY,
        write_files: bool = False,
        stall_s: float = 30.0,
    ):
        if workers < 1:
            raise ValueError(f"workers={workers}: must be at least 1")
        self.workers = workers
        self._start_arguments = (warm_up, memory_bytes, write_files)
        self._lock = threading.Lock()
        self._pool: ProcessPool | None = None
        self._tasks: dict[int, _Task] = {}
        self._stall_s = stall_s
        self._progress = time.monotonic()
        self._watch: threading.Timer | None = None
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
        task = _Task(function, arguments, timeout_s)
        with self._lock:
            if not self._tasks:
                self._progress = time.monotonic()
            self._tasks[id(task)] = task
        self._schedule(task)
        return task.future

    def run(self, function: Callable[..., Any], *arguments: Any, timeout_s: float) -> Any:
        """`submit` and wait."""
        return self.submit(function, *arguments, timeout_s=timeout_s).result()

    async def run_async(self, function: Callable[..., Any], *arguments: Any, timeout_s: float) -> Any:
        """`submit` and await."""
        return await asyncio.wrap_future(self.submit(function, *arguments, timeout_s=timeout_s))

    def start(self, timeout_s: float = 120.0) -> None:
        """Wait until every worker has started and warmed up, so that no task waits for it.

        Raises:
            WorkerLost: a worker cannot start; the message says why.
        """
        deadline, seen = time.monotonic() + timeout_s, set[int]()
        while len(seen) < self.workers:
            if time.monotonic() > deadline:
                raise WorkerLost(f"{len(seen)} of {self.workers} workers started within {timeout_s:g} s")
            futures = [self.submit(_pause, 0.05, timeout_s=timeout_s) for _ in range(self.workers)]
            seen.update(future.result() for future in futures)

    def stats(self) -> Stats:
        with self._lock:
            times = sorted(self._latencies)
            outcomes, depth = dict(self._outcomes), len(self._tasks)
        return Stats(depth, self.workers, _quantile(times, 0.5), _quantile(times, 0.99), outcomes)

    def close(self) -> None:
        """Kill the workers; what has no result ends with `WorkerLost`. The next task starts new ones."""
        with self._lock:
            tasks = self._abandoned()
        self._stop()
        for task in tasks:
            self._finish(task, "lost", WorkerLost("the pool was closed"))

    def _abandoned(self) -> list[_Task]:
        """The tasks without a result; what their current attempts bring no longer counts."""
        for task in self._tasks.values():
            task.attempt += 1
        return list(self._tasks.values())

    def _stop(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
            watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
        if pool is not None:
            pool.stop()
            pool.join()

    def _schedule(self, task: _Task) -> None:
        pool, attempt = None, task.attempt
        try:
            pool = self._started()
            inner = pool.schedule(
                _limited, args=(task.timeout_s, task.function, task.arguments), timeout=task.timeout_s
            )
        # RuntimeError: the pool broke or was closed in between.
        except (RuntimeError, OSError, BrokenProcessPool) as error:
            with self._lock:
                if self._pool is pool:
                    self._pool = None
            self._retry(task, f"no worker could be started: {error}")
            return
        inner.add_done_callback(lambda future: self._on_done(task, attempt, future))

    def _on_done(self, task: _Task, attempt: int, inner: Future[Any]) -> None:
        # A pool that is stopped cancels what it has; `close` and the watch say what becomes of it.
        if inner.cancelled() or task.attempt != attempt:
            return
        error = inner.exception()
        own_fault = isinstance(error, ProcessExpired) and error.exitcode in _OWN_FAULT
        if isinstance(error, FutureTimeout):
            self._finish(task, "timeout", TaskTimeout(f"no result after {task.timeout_s:g} s"))
        elif own_fault:
            self._finish(task, "crashed", TaskCrashed(str(error)))
        elif isinstance(error, ProcessExpired | BrokenProcessPool):
            self._retry(task, f"the worker died: {error}")
        elif error is not None:
            self._finish(task, "lost" if isinstance(error, WorkerLost) else "error", error)
        else:
            self._finish(task, "done", None, inner.result())

    def _retry(self, task: _Task, why: str) -> None:
        if not task.retries:
            self._finish(task, "lost", WorkerLost(f"{why}, twice"))
            return
        task.retries -= 1
        task.attempt += 1
        with self._lock:
            self._outcomes["retried"] += 1
        self._schedule(task)

    def _finish(self, task: _Task, outcome: str, error: BaseException | None, result: Any = None) -> None:
        with self._lock:
            # Already finished, by `close` or by another try.
            if self._tasks.pop(id(task), None) is None:
                return
            self._progress = time.monotonic()
            self._outcomes[outcome] += 1
            self._latencies.append(self._progress - task.start)
        if not task.future.set_running_or_notify_cancel():
            return
        if error is not None:
            task.future.set_exception(error)
        else:
            task.future.set_result(result)

    def _look(self) -> None:
        """Called every now and then: a pool in which nothing ends any more is replaced, its tasks are tried again."""
        with self._lock:
            tasks = list(self._tasks.values())
            limit = self._stall_s + max((task.timeout_s for task in tasks), default=0.0)
            stalled = bool(tasks) and time.monotonic() - self._progress > limit
            self._progress = time.monotonic() if stalled else self._progress
            if not stalled and self._watch is not None:
                self._start_watch()
            if stalled:
                tasks = self._abandoned()
        if stalled:
            self._stop()
            for task in tasks:
                # A stall is mostly another task's doing; the first costs no retry.
                task.retries += not task.stalled
                task.stalled = True
                self._retry(task, f"no worker answered for {limit:g} s")

    def _start_watch(self) -> None:
        self._watch = threading.Timer(min(5.0, self._stall_s / 2), self._look)
        self._watch.daemon = True
        self._watch.start()

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
                if self._watch is None:
                    self._start_watch()
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


def _pause(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def _limited(timeout_s: float, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """In a worker: one task, under a limit of CPU time that holds even when the trainer is gone."""
    if _broken is not None:
        raise WorkerLost(f"the worker's start failed: {_broken}")
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime + timeout_s) + _CPU_GRACE_S
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    return function(*arguments)
