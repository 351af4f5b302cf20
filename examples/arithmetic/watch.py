"""Show a run's progress, one line per step, from its metrics file and its log.

python -m examples.arithmetic.watch RUN_DIR --steps 80
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from examples.arithmetic.summary import ACCURACY_KEYS
from verl_ext.tracking import read_rows

POLL_S = 0.3

# What verl's log says when a phase of the start-up begins, and what to tell the person who waits.
PHASES = {
    "Started a local Ray instance": "Ray is up, starting verl's trainer",
    "train and validate dataloader initialized": "data read, starting FSDP2 workers",
    "actor and ref model engine initialized": "actor and reference ready, starting vLLM",
    "all initialize finished": "vLLM ready, measuring held-out accuracy",
}

ACCURACY = ACCURACY_KEYS[0]


def format_step(step: int, steps: int, data: dict[str, float], seconds_left: float | None) -> str:
    """One line about one step; a value that was not logged is left out."""
    parts = [f"step {step:>4}/{steps}"]
    for label, key, spec in (
        ("reward", "critic/score/mean", ".2f"),
        ("entropy", "actor/entropy", ".3f"),
        ("length", "response_length/mean", ".1f"),
        ("share", "spro/process_share", ".4f"),
        ("held-out", ACCURACY, ".3f"),
    ):
        if key in data:
            parts.append(f"{label} {data[key]:{spec}}")
    if "timing_s/step" in data:
        parts.append(f"{data['timing_s/step']:.1f} s")
    if seconds_left is not None:
        parts.append(f"{int(seconds_left // 60)}:{int(seconds_left % 60):02d} left")
    return "  ".join(parts)


def new_lines(path: Path, start: int) -> tuple[list[str], int]:
    """Whole lines of ``path`` from byte ``start`` on, and where to go on reading."""
    if not path.exists():
        return [], start
    with path.open("rb") as file:
        file.seek(start)
        text = file.read()
    end = text.rfind(b"\n") + 1
    return text[:end].decode(errors="replace").splitlines(), start + end


def watch(run: Path, steps: int) -> Iterator[str]:
    """Yield lines to print, until the last step is logged."""
    metrics, log = run / "metrics.jsonl", run / "train.log"
    # What was there before belongs to an earlier start.
    position = log.stat().st_size if log.exists() else 0
    shown = max((row["step"] for row in read_rows(metrics)[0]), default=-1) if metrics.exists() else -1
    began, first = time.monotonic(), None
    parent = os.getppid()
    # Whoever started this is gone when the parent changes.
    while shown < steps and os.getppid() == parent:
        lines, position = new_lines(log, position)
        for phrase, message in PHASES.items():
            if any(phrase in line for line in lines):
                yield f"{time.monotonic() - began:>4.0f} s  {message}"
        for row in read_rows(metrics)[0] if metrics.exists() else []:
            step = row["step"]
            if step <= shown:
                continue
            shown = step
            left = None
            if first is None:
                first = (step, time.monotonic())
            elif step > first[0]:
                left = (time.monotonic() - first[1]) / (step - first[0]) * (steps - step)
            yield format_step(step, steps, row["data"], left)
        time.sleep(POLL_S)


def main() -> None:
    """Print progress until the run is over or this process is ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--steps", type=int, required=True, help="training steps of the whole run")
    arguments = parser.parse_args()
    try:
        for line in watch(arguments.run, arguments.steps):
            print(line, flush=True)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
