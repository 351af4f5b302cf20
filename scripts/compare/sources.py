"""From the command line's RUNS to runs: files, folders, and foreign runs as METHOD:SEED=PATH."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from scripts.compare import readers
from scripts.runs import BadRun, Run
from verl_ext.run_record import record_path

ENDINGS = (".jsonl.gz", ".jsonl", ".csv")
FOREIGN = re.compile(r"([A-Za-z][\w.+-]*):(\d+)=(.+)")

FIX = "give it as METHOD:SEED=PATH, e.g. grpo:0="


def load(arguments: list[str]) -> list[Run]:
    """Every run that the arguments name, ordered by label and seed, GRPO first.

    Raises:
        BadRun: a path that holds no run, no method or seed, or the same label and seed twice.
    """
    sources: list[tuple[Path, str | None, int | None]] = []
    for argument in arguments:
        match = FOREIGN.fullmatch(argument)
        if match and not Path(argument).exists():
            sources.append((Path(match[3]), match[1].lower(), int(match[2])))
        else:
            sources += [(path, None, None) for path in expand(Path(argument))]
    runs = []
    for number, (path, method, seed) in enumerate(sources, start=1):
        if len(sources) > 3:
            print(f"reading {number} of {len(sources)}: {path}", file=sys.stderr)
        runs.append(load_one(path, method, seed))
    seen: dict[tuple[str, int], Run] = {}
    for run in runs:
        twin = seen.setdefault((run.label, run.seed), run)
        if twin is not run:
            raise BadRun(f"{twin.source} and {run.source} are both {run.label}, seed {run.seed}: leave one out.")
    names = Counter(run.name for run in runs)
    # Names tell runs apart in tables: two files of one name are told apart by their folders.
    runs = [run if names[run.name] == 1 else replace(run, name=f"{Path(run.source).parent}/{run.name}") for run in runs]
    return sorted(runs, key=lambda run: (run.method != "grpo", run.method, run.beta or 0.0, run.seed))


def expand(path: Path) -> list[Path]:
    """The runs at a path: itself, or those that a folder holds.

    Raises:
        BadRun: nothing is there, or no run.
    """
    if not path.is_dir():
        return [path]
    if (path / "metrics.jsonl").is_file() or any(path.glob(readers.EVENTS)):
        return [path]
    kept = sorted(file for file in path.iterdir() if file.name.endswith(ENDINGS) and ".void." not in file.name)
    folders = sorted(file.parent for file in path.glob("*/metrics.jsonl"))
    folders += sorted({file.parent for file in path.glob(f"*/{readers.EVENTS}")} - set(folders))
    if not kept and not folders:
        raise BadRun(f"{path} holds no run: no metrics.jsonl, no *.jsonl.gz, no *.csv, no TensorBoard events.")
    return kept + folders


def load_one(path: Path, method: str | None = None, seed: int | None = None) -> Run:
    """One run; method and seed, where not given, are those of its settings file.

    Raises:
        BadRun: no metrics, or no method or seed.
    """
    metrics = path / "metrics.jsonl" if (path / "metrics.jsonl").is_file() else path
    steps = readers.read(metrics)
    # An output folder has fixed names; a file has its settings beside it under its own.
    folder = path if path.is_dir() else path.parent if path.name == "metrics.jsonl" else None
    if folder is not None:
        name, beside = folder.resolve().name, folder / "run.json"
    else:
        name = next(path.name.removesuffix(ending) for ending in ENDINGS if path.name.endswith(ending))
        beside = path.with_name(f"{name}.json")
    settings = _object(beside)
    provenance = settings.pop("provenance", None)
    if folder is not None and provenance is None:
        provenance = _last_start(record_path(folder / "metrics.jsonl"))
    method = method or settings.get("method")
    seed = seed if seed is not None else settings.get("seed")
    if method is None or seed is None:
        missing = " and ".join(what for what, value in (("method", method), ("seed", seed)) if value is None)
        raise BadRun(f"{path}: no {missing} known ({beside.name} beside it has none): {FIX}{path}")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise BadRun(f"{beside}: seed is {seed!r}, not a whole number.")
    return Run(name, str(path), str(method).lower(), seed, settings, provenance, steps)


def _last_start(record: Path) -> dict[str, Any] | None:
    """What the run's last start recorded of itself; None where none did."""
    if not record.is_file():
        return None
    try:
        return json.loads(record.read_text())[-1]
    except (ValueError, LookupError) as error:
        raise BadRun(f"{record} is no record of starts ({error}): move it away.") from error


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadRun(f"{path} is not JSON ({error}): mend it, or move it away and {FIX}...") from error
    if not isinstance(content, dict):
        raise BadRun(f"{path} is not an object of settings: mend it, or move it away and {FIX}...")
    return content
