"""One evaluation from the command line's wishes to its files."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.evaluate import problems, subject, tables
from scripts.evaluate.config import Sampling, configure, key_of
from scripts.evaluate.errors import BadInput
from scripts.evaluate.export import export
from scripts.evaluate.problems import Problems
from scripts.evaluate.progress import Progress
from scripts.evaluate.results import Asked, Evaluation, SetResult
from scripts.evaluate.scores import Scores, by_category
from scripts.evaluate.servers import NotEnoughDevices, Servers, cluster
from scripts.evaluate.store import Store
from scripts.files import write
from verl_ext.rewards.settings import RewardSettings
from verl_ext.rewards.verdict import Kind


@dataclass(frozen=True)
class Task:
    """One way of asking one set."""

    of: Problems
    greedy: bool
    store: Store

    @property
    def name(self) -> str:
        return f"{self.of.name}, {'greedy' if self.greedy else f'{self.store.samples} samples'}"

    def missing(self) -> list[int]:
        """Reads every response that is there."""
        return self.store.missing(len(self.of))


def evaluate(given: argparse.Namespace) -> int:
    """What the command does (see `__main__`); returns its exit status.

    Raises:
        BadInput, ConfigError: it cannot be done; nothing was started.
    """
    asked = subject.find(given.model, given.label)
    if given.export and not asked.is_checkpoint:
        raise BadInput(f"--export {given.export}: {given.model} is a model already. Leave the option out.")
    sets = [problems.read(path, given.limit) for path in problems.files(given.data)]
    sampling = Sampling(given.samples, given.greedy, given.temperature, given.top_p, given.max_tokens, given.seed)
    config = configure(asked, sets, sampling, given.overrides) if sets else None
    if given.export:
        print(export(asked, given.export, dtype=given.dtype, base=given.base))
    if config is None:
        return 0
    out = given.out or (asked.run / "evaluation" if asked.run else Path("outputs/evaluation"))
    with _alone(out):
        tasks = _tasks(config, asked, sets, sampling, out, {"dtype": given.dtype, "base": given.base})
        if given.force:
            for task in tasks:
                shutil.rmtree(task.store.folder, ignore_errors=True)
        if todo := [(task, missing) for task in tasks if (missing := task.missing())]:
            # The servers of a resumed evaluation must not draw again what they drew in its beginning.
            config.actor_rollout_ref.rollout.seed += 1000 * sum(len(task.store.chunks) for task in tasks)
            with _model(asked, given, out) as folder:
                try:
                    _answer(config, folder, todo, given.chunk)
                except NotEnoughDevices as error:
                    print(f"evaluate: {error}", file=sys.stderr)
                    return 1
        result = _result(config, asked, sets, tasks, given)
        result.write(out / f"{asked.label}.json")
        write(out / f"{asked.label}.md", tables.markdown(result).encode())
        print(tables.overview(result).markdown())
        print(out / f"{asked.label}.json")
        return _verdict(config, result)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Two commands that add chunks to one folder would write over each other's."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"--out {out}: another evaluation is writing there. Wait for it, or give another.") from None
        yield


def _tasks(
    config: Any,
    asked: subject.Subject,
    sets: list[Problems],
    sampling: Sampling,
    out: Path,
    exported: dict[str, Any],
) -> list[Task]:
    tasks = []
    for each in sets:
        for greedy, samples in ((True, int(sampling.greedy)), (False, sampling.samples)):
            if samples:
                key = key_of(config, asked, each, greedy=greedy, samples=samples, exported=exported)
                store = Store(out, f"{each.name}-{'greedy' if greedy else 'sampled'}", key, samples)
                tasks.append(Task(each, greedy, store))
    return tasks


@contextmanager
def _model(asked: subject.Subject, given: argparse.Namespace, out: Path) -> Iterator[Path]:
    """The folder that servers read: the model's own, or the checkpoint's export.

    An export that nobody asked for stays until all is answered, so that an interrupted evaluation need not repeat it.
    """
    if not asked.is_checkpoint:
        yield asked.folder
    elif given.export:
        yield given.export
    else:
        folder = out / "models" / f"{asked.label}-{asked.digest[:16]}"
        print(f"making a model of {asked.source}", file=sys.stderr, flush=True)
        yield export(asked, folder, dtype=given.dtype, base=given.base)
        shutil.rmtree(out / "models", ignore_errors=True)


def _answer(config: Any, model: Path, todo: list[tuple[Task, list[int]]], chunk: int) -> None:
    config.actor_rollout_ref.model.path = str(model.resolve())
    # verl's messages are no output of the command.
    with redirect_stdout(sys.stderr), cluster(config):
        asyncio.run(_answer_all(config, todo, chunk))


async def _answer_all(config: Any, todo: list[tuple[Task, list[int]]], chunk: int) -> None:
    print("starting verl's servers", file=sys.stderr, flush=True)
    servers = await Servers.start(config)
    for task, missing in todo:
        progress = Progress(task.name, len(task.of), len(task.of) - len(missing))
        rows = servers.rows(task.of)
        places = asyncio.Semaphore(servers.chunks_at_once(chunk, task.store.samples))

        async def one(
            of: list[int], task: Task = task, rows: Any = rows, places: Any = places, say: Any = progress
        ) -> None:
            async with places:
                responses = await servers.answer(rows, of, greedy=task.greedy, samples=task.store.samples)
                task.store.add(responses)
                say(len(of), responses)

        async with asyncio.TaskGroup() as group:
            for start in range(0, len(missing), chunk):
                group.create_task(one(missing[start : start + chunk]))


def _result(
    config: Any, asked: subject.Subject, sets: list[Problems], tasks: list[Task], given: argparse.Namespace
) -> Evaluation:
    from verl_ext.run_record import provenance

    found: dict[tuple[str, bool], Asked] = {}
    for task in tasks:
        answers = task.store.responses()
        ks = () if task.greedy else given.ks
        found[task.of.name, task.greedy] = Asked(
            task.store.key,
            {
                **task.store.made_with["sampling"],
                "samples": task.store.samples,
                "max_tokens": config.actor_rollout_ref.rollout.response_length,
            },
            Scores.of(list(answers.values()), ks),
            by_category(answers, task.of.categories, ks),
        )
    known = provenance(config, given.overrides)
    return Evaluation(
        asked.label,
        {"source": asked.source, "step": asked.step, "digest": asked.digest},
        [SetResult(s.name, len(s), found.get((s.name, True)), found.get((s.name, False))) for s in sets],
        {"commit": known["commit"], "versions": known["versions"], "overrides": given.overrides},
    )


def _verdict(config: Any, result: Evaluation) -> int:
    """1 where the verifier's infrastructure failed on more responses than a training would accept."""
    limit = RewardSettings.from_config(config).max_infra_error_frac
    status = 0
    for each in result.sets:
        for asked in filter(None, (each.greedy, each.sampled)):
            way = "greedy" if asked is each.greedy else f"{asked.sampling['samples']} samples"
            share = asked.scores.kinds.get(Kind.INFRA_ERROR, 0) / asked.scores.responses
            if share > limit:
                status = 1
                print(
                    f"evaluate: {each.name}, {way}: {share:.1%} of the responses were never graded (infra_error), "
                    f"above reward.reward_kwargs.max_infra_error_frac={limit}. "
                    "The same command asks these problems again.",
                    file=sys.stderr,
                )
    return status
