"""The worker pool: deadlines that hold, workers that are replaced, nothing inherited, nothing left."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support import assert_takes_less, seconds_of
from tests.verl_ext.rewards import support
from verl_ext.rewards.pool import TaskCrashed, TaskTimeout, WorkerLost, WorkerPool

pytestmark = pytest.mark.alone

_MEMORY = 2**29


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    workers = WorkerPool(2, memory_bytes=_MEMORY)
    yield workers
    workers.close()


def test_results_and_errors(pool: WorkerPool) -> None:
    assert pool.run(support.double, 21, timeout_s=5) == 42
    with pytest.raises(ValueError, match="on purpose"):
        pool.run(support.fail, timeout_s=5)


@pytest.mark.parametrize(("function", "arguments"), [(support.sleep, (1000,)), (support.stuck_in_c, ())])
def test_deadline_ends_sleep_and_c_code(
    pool: WorkerPool, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    pool.run(support.double, 1, timeout_s=5)

    def passed() -> None:
        with pytest.raises(TaskTimeout, match=r"0\.5 s"):
            pool.run(function, *arguments, timeout_s=0.5)

    assert_takes_less(1.5, lambda: seconds_of(passed))
    assert pool.run(support.double, 2, timeout_s=5) == 4


def test_hostile_task_delays_the_others_little(pool: WorkerPool) -> None:
    """Of two workers one stays free: what waits is done while the deadline of the hostile task runs."""

    def others() -> None:
        futures = [pool.submit(support.double, i, timeout_s=5) for i in range(50)]
        assert [future.result() for future in futures] == [2 * i for i in range(50)]

    def beside_a_hostile_one() -> float:
        pool.start()
        hostile = pool.submit(support.stuck_in_c, timeout_s=2)
        time.sleep(0.2)
        took = seconds_of(others)
        with pytest.raises(TaskTimeout):
            hostile.result()
        return took

    # The rule is deadline / workers; a free worker takes far less.
    assert_takes_less(1, beside_a_hostile_one)


def test_killed_worker_is_replaced_and_the_task_tried_again(pool: WorkerPool, tmp_path: Path) -> None:
    assert pool.run(support.kill_once, str(tmp_path / "marker"), timeout_s=10) == "done"
    assert pool.stats().outcomes["retried"] >= 1


def test_worker_killed_twice_is_no_fault_of_the_task(pool: WorkerPool) -> None:
    with pytest.raises(WorkerLost):
        pool.run(support.kill_own_process, signal.SIGKILL, timeout_s=10)
    with pytest.raises(TaskCrashed):
        pool.run(support.kill_own_process, signal.SIGSEGV, timeout_s=10)
    assert pool.run(support.double, 4, timeout_s=10) == 8


def test_killed_idle_workers_are_replaced(pool: WorkerPool) -> None:
    pool.run(support.double, 1, timeout_s=10)
    workers = [process for process in support.children() if process in _worker_pids(pool)]
    assert workers
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    assert [pool.run(support.double, i, timeout_s=10) for i in range(20)] == [2 * i for i in range(20)]


def _worker_pids(pool: WorkerPool) -> set[int]:
    with ThreadPoolExecutor(4) as threads:
        return set(threads.map(lambda _: pool.run(support.slow_pid, timeout_s=10), range(8)))


def test_worker_killed_with_the_lock_stops_the_others_only_for_a_while(tmp_path: Path) -> None:
    pool = WorkerPool(2, stall_s=1)
    pool.run(support.double, 1, timeout_s=5)
    # Longer than it takes to start workers anew, or that would be the next stall.
    futures = [pool.submit(support.die_with_the_lock, str(tmp_path / "marker"), timeout_s=5)]
    futures += [pool.submit(support.double, i, timeout_s=5) for i in range(10)]
    assert [future.result(timeout=300) for future in futures] == ["done", *(2 * i for i in range(10))]
    pool.close()


def test_memory_limit(pool: WorkerPool) -> None:
    with pytest.raises(MemoryError):
        pool.run(support.allocate, 2 * _MEMORY, timeout_s=10)
    assert pool.run(support.allocate, 1000, timeout_s=10) == 1000


def test_nothing_is_inherited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    descriptor = os.open(secret, os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    pool = WorkerPool(1)
    try:
        environment = pool.run(support.environment, timeout_s=10)
        files = pool.run(support.open_files, timeout_s=10)
        with pytest.raises(OSError, match="too large"):
            pool.run(support.write_file, str(tmp_path / "written"), timeout_s=10)
    finally:
        os.close(descriptor)
        pool.close()
    assert "s3cret" not in str(environment)
    assert not any("secret" in name or "socket" in name for name in files), files
    assert not (tmp_path / "written").exists() or not (tmp_path / "written").read_text()


def test_start_that_fails_says_why() -> None:
    pool = WorkerPool(1, warm_up=support.failing_warm_up)
    for call in (pool.start, lambda: pool.run(support.double, 1, timeout_s=5)):
        with pytest.raises(WorkerLost, match="ImportError: no such library"):
            call()
    pool.close()


def test_from_threads_and_asyncio(pool: WorkerPool) -> None:
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda i: pool.run(support.double, i, timeout_s=10), range(40))) == list(
            range(0, 80, 2)
        )

    async def gather() -> list[int]:
        return await asyncio.gather(*(pool.run_async(support.double, i, timeout_s=10) for i in range(10)))

    assert asyncio.run(gather()) == list(range(0, 20, 2))


def test_stats(tmp_path: Path) -> None:
    pool = WorkerPool(1)
    assert pool.stats().queue_depth == 0
    futures = [pool.submit(support.wait_for, str(tmp_path / "go"), timeout_s=60) for _ in range(4)]
    assert pool.stats().queue_depth == 4
    time.sleep(0.05)
    (tmp_path / "go").touch()
    assert [future.result() for future in futures] == ["there"] * 4
    stats = pool.stats()
    assert (stats.queue_depth, stats.workers, stats.outcomes) == (0, 1, {"done": 4})
    assert 0.05 <= stats.latency_p50_s <= stats.latency_p99_s
    pool.close()


def test_close_leaves_nothing_and_may_be_used_again() -> None:
    WorkerPool(1).close()
    before, files = support.children(), support.descriptors()
    for _ in range(2):
        pool = WorkerPool(2)
        hostile = pool.submit(support.stuck_in_c, timeout_s=100)
        assert pool.run(support.double, 1, timeout_s=10) == 2
        pool.close()
        assert hostile.done()
        assert support.children() <= before
    assert pool.run(support.double, 1, timeout_s=10) == 2
    pool.close()
    # The resource tracker of multiprocessing keeps one pipe.
    assert support.descriptors() <= files + 1


def test_workers_must_be_a_number() -> None:
    with pytest.raises(ValueError, match="workers=0"):
        WorkerPool(0)
