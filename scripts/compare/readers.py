"""The formats that verl's metrics come in, each read to ``{step: {metric: value}}``.

| format | recognised by |
|---|---|
| verl's file tracker | `.jsonl`, `.jsonl.gz` with rows `{"step": int, "data": {metric: value}}` |
| W&B, `run.scan_history()` written a row a line | `.jsonl`, `.jsonl.gz` with a `_step` in each row |
| W&B, `run.history()` or the web page's export | `.csv` with a column `_step`, `Step`, `step` or `global_step` |
| TensorBoard | a folder with `events.out.tfevents.*` |
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scripts.runs import BadRun, numbers

Steps = dict[int, dict[str, float]]

STEP_COLUMNS = ("_step", "Step", "step", "global_step", "trainer/global_step")

# What the web page's export of a chart adds to each curve; the curve itself has no such ending.
CHART_ENDINGS = ("__MIN", "__MAX")

EVENTS = "events.out.tfevents.*"


def merge(rows: Iterable[tuple[int, dict[str, Any]]]) -> Steps:
    """Rows in any order to one entry a step, ordered; a later row of a step adds to it and wins."""
    steps: Steps = {}
    for step, data in rows:
        steps.setdefault(step, {}).update(numbers(data))
    return {step: steps[step] for step in sorted(steps) if steps[step]}


def read_jsonl(path: Path) -> Steps:
    """Read a metrics JSONL, gzipped or not: verl's, or rows of W&B's `scan_history()`.

    Raises:
        BadRun: a line other than the last is not a row (a kill may leave the last one half written).
    """
    try:
        data = path.read_bytes()
        lines = (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines()
    except (OSError, EOFError, zlib.error) as error:
        raise BadRun(f"{path} cannot be read ({error}): copy it again.") from error
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(_row(json.loads(line)))
        except ValueError as error:
            if number == len(lines) and found:
                break
            hint = 'rows are {"step": int, "data": {...}}, or W&B\'s with a "_step"'
            raise BadRun(f"{path}, line {number}: not a row of metrics ({error}); {hint}.") from error
    return merge(found)


def _row(row: Any) -> tuple[int, dict[str, Any]]:
    if isinstance(row, dict) and isinstance(row.get("step"), int) and isinstance(row.get("data"), dict):
        return row["step"], row["data"]
    if isinstance(row, dict) and isinstance(row.get("_step"), (int, float)):
        return int(row["_step"]), {key: value for key, value in row.items() if not key.startswith("_")}
    raise ValueError("no step or no data")


def read_csv(path: Path) -> Steps:
    """Read a W&B export: `run.history()` as CSV, or a chart's export of one run (`<run> - <metric>` columns).

    Raises:
        BadRun: no column of steps, a step that is no number, or curves of several runs in one file.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadRun(f"{path} cannot be read ({error}): export it again as CSV.") from error
    step_column = next((name for name in STEP_COLUMNS if name in columns), None)
    if step_column is None:
        raise BadRun(
            f"{path} has no column of steps ({', '.join(STEP_COLUMNS)}): is it a W&B export of a run's history?"
        )
    curves = [name for name in columns if name and name != step_column and not name.startswith("_")]
    curves = [name for name in curves if not name.endswith(CHART_ENDINGS)]
    runs = {name.split(" - ", 1)[0] for name in curves if " - " in name}
    if len(runs) > 1:
        raise BadRun(
            f"{path} holds curves of {len(runs)} runs ({', '.join(sorted(runs))}): export each to its own file."
        )
    found = []
    for number, row in enumerate(rows, start=2):
        step = _number(row[step_column])
        if step is None:
            raise BadRun(f"{path}, line {number}: {step_column} is {row[step_column]!r}, not a number.")
        found.append((int(step), {name.split(" - ", 1)[-1]: _number(row[name]) for name in curves}))
    return merge(found)


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def read_tensorboard(folder: Path) -> Steps:
    """Read the scalars of a folder's event files; TensorBoard keeps them as float32.

    Raises:
        BadRun: the files hold no scalar.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # 0 keeps every event: the default would thin them out.
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    steps = merge(
        (event.step, {tag: event.value}) for tag in sorted(events.Tags()["scalars"]) for event in events.Scalars(tag)
    )
    if not steps:
        raise BadRun(f"{folder} has event files without a scalar: has the run finished its first step?")
    return steps


def read(path: Path) -> Steps:
    """Read one run's metrics from a file, or from a folder of event files.

    Raises:
        BadRun: nothing is there, or in no format known here.
    """
    if path.is_dir():
        if any(path.glob(EVENTS)):
            return read_tensorboard(path)
        raise BadRun(f"{path} has no metrics.jsonl, no kept runs (*.jsonl.gz) and no TensorBoard events.")
    if not path.exists():
        raise BadRun(f"{path} does not exist.")
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        steps = read_jsonl(path)
    elif path.suffix == ".csv":
        steps = read_csv(path)
    else:
        raise BadRun(f"{path}: unknown format; known are .jsonl, .jsonl.gz, .csv and a folder of TensorBoard events.")
    if not steps:
        raise BadRun(f"{path} holds no number: has the run finished its first step?")
    return steps
