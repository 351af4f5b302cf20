"""Evaluations of the runs that are compared (`python -m scripts.evaluate`): beside a run, or given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from scripts.compare.sources import ENDINGS
from scripts.evaluate.errors import BadInput
from scripts.evaluate.results import Evaluation
from scripts.runs import BadRun, Run


def load(runs: Iterable[Run], given: Iterable[Path] = ()) -> list[Evaluation]:
    """Those beside the runs, in the order of the runs and named after them; then those given, named as they are.

    Args:
        given: files, or folders of them.

    Raises:
        BadRun: a file that is none.
    """
    found = [replace(one, label=_name(run, one)) for run in runs for one in map(_read, beside(run))]
    for path in given:
        paths = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not paths:
            raise BadRun(f"--evaluations {path}: the folder holds no *.json. Give what scripts.evaluate wrote.")
        found += map(_read, paths)
    return found


def beside(run: Run) -> list[Path]:
    """``evaluation/*.json`` in a run's folder; ``<name>.evaluation.json`` beside a kept run."""
    path = Path(run.source)
    if path.name == "metrics.jsonl":
        path = path.parent
    if path.is_dir():
        return sorted(path.glob("evaluation/*.json"))
    name = next((path.name.removesuffix(ending) for ending in ENDINGS if path.name.endswith(ending)), path.name)
    kept = path.with_name(f"{name}.evaluation.json")
    return [kept] if kept.is_file() else []


def _name(run: Run, one: Evaluation) -> str:
    step = one.model.get("step")
    return f"{run.label}, seed {run.seed}, {one.label if step is None else f'step {step}'}"


def _read(path: Path) -> Evaluation:
    try:
        return Evaluation.read(path)
    except BadInput as error:
        raise BadRun(str(error)) from None
