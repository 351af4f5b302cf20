"""One verifying service per node, shared by all of verl's reward workers there: a Ray actor around `verifiers`.

The reward workers are asynchronous and many; verification blocks and is to be bounded per node. The actor hands each
response to a thread, which waits for a killable process where the response needs one (`math`, `code`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import ray

from verl_ext.rewards.settings import RewardSettings
from verl_ext.rewards.verdict import Kind, Verdict

logger = logging.getLogger(__name__)

# Waiting threads, many more than processes: most responses need no process, and those must not queue behind the others.
_THREADS = 64

# Tries of a verification whose service or worker died under it, and seconds before the second; twice as many before
# the third, and so on.
_TRIES, _PAUSE_S = 4, 0.5


class VerifierService:
    """Verifies on one node. All methods are called remotely."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from verl_ext.rewards.math import configure_workers

        self._settings = RewardSettings(**settings)
        configure_workers(self._settings.workers or max(2, (os.cpu_count() or 2) // 2))
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="verify")
        self._under_way = 0

    async def verify(self, verifier: str, response: str, gold: Any) -> tuple[Verdict, float, int]:
        """The verdict, the seconds it took, waiting included, and how many were under way when it came."""
        from verl_ext.rewards.verifiers import verdict_of

        before, start = self._under_way, time.perf_counter()
        self._under_way += 1
        try:
            verdict = await asyncio.get_running_loop().run_in_executor(
                self._threads, verdict_of, verifier, response, gold, self._settings
            )
        except Exception as error:
            # Whatever a verifier did not foresee is its own failure, and no verdict on the response.
            logger.exception("the verifier %s failed", verifier)
            verdict = Verdict(Kind.GRADER_ERROR, self._settings.wrong, None, f"{type(error).__name__}: {error}"[:500])
        finally:
            self._under_way -= 1
        return verdict, time.perf_counter() - start, before


class ServiceOfNode:
    """The handle of this node's service; starts it, and starts it again where it has died."""

    def __init__(self, settings: RewardSettings) -> None:
        self._settings = settings
        self._actor = self._start()

    def _start(self) -> Any:
        node = ray.get_runtime_context().get_node_id()
        strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        return (
            ray.remote(VerifierService)
            .options(
                name=f"verl_ext_verifier_{node}",
                get_if_exists=True,
                num_cpus=0,
                max_concurrency=1000,
                scheduling_strategy=strategy,
            )
            .remote({**asdict(self._settings), "sources": dict(self._settings.sources)})
        )

    async def verify(self, verifier: str, response: str, gold: Any) -> tuple[Verdict, float, int]:
        """As that of `VerifierService`; an infra error only where it comes again and again."""
        detail = ""
        for attempt in range(_TRIES):
            await asyncio.sleep(attempt * _PAUSE_S)
            try:
                verdict, seconds, queue = await self._actor.verify.remote(verifier, response, gold)
            except ray.exceptions.RayActorError as error:
                detail = f"the verifying service died: {str(error).partition(chr(10))[0]}"
                self._actor = self._start()
                continue
            if verdict.kind != Kind.INFRA_ERROR:
                return verdict, seconds, queue
            detail = verdict.detail
        return Verdict(Kind.INFRA_ERROR, self._settings.wrong, None, detail), 0.0, 0
