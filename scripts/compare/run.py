"""Run a matrix of methods and seeds, skipping what is done; started again, it goes on.

    python -m scripts.compare run grpo spro spro:BETA=0.03 --seeds 0,1,2
    python -m scripts.compare run grpo spro --launcher recipe/spro/run_x.sh --submit "sbatch train.sbatch" -- a.b=c

A launcher is a bash script that reads METHOD, SEED and OUT (and what a method names: BETA, LR, ...) from the
environment and Hydra overrides from its arguments, leaves ``OUT/metrics.jsonl`` and ``OUT/run.json`` (with "steps", the
length of the run), resumes when it is started again, and returns at once when the run is done. Finished runs are kept
as ``KEEP/<name>.jsonl.gz`` and ``KEEP/<name>.json``, which is all that a report needs.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verl_ext.run_record import record_path
from verl_ext.tracking import read_rows

POLL_S = 1.0

# On a terminal the progress line is rewritten; in a log it is repeated only this often.
LOG_EVERY_S = 60.0

# In a run's folder: how many runs were started side by side on its machine.
RUNS_AT_ONCE = "runs_at_once"

# Of the launcher, and not a method's to set.
_RESERVED = ("METHOD", "SEED", "OUT", "FRESH")


class UsageError(Exception):
    """What was asked for cannot be run; the message says what to change."""


@dataclass(frozen=True)
class Cell:
    """One run of the matrix: a method, what its environment says beyond, and a seed."""

    method: str
    seed: int
    variables: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """Of its folder and kept files: ``spro-beta0.03-seed1``."""
        extra = "".join(f"-{key.lower()}{value}" for key, value in self.variables)
        return f"{self.method}{extra}-seed{self.seed}"


def parse_method(text: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """``METHOD`` or ``METHOD:NAME=VALUE,NAME=VALUE`` as a method and its variables.

    Raises:
        UsageError: not of that form, or a variable that the matrix sets.
    """
    method, separator, rest = text.partition(":")
    pairs = [item.partition("=") for item in rest.split(",")] if separator else []
    variables = tuple((key, value) for key, equals, value in pairs if key and equals and value)
    if not method or len(variables) != len(pairs) or "/" in text:
        raise UsageError(
            f"{text!r} is no method: METHOD, or METHOD:NAME=VALUE,... such as spro:BETA=0.03, without a slash"
        )
    if reserved := [key for key, _ in variables if key in _RESERVED]:
        raise UsageError(f"{text!r} sets {reserved[0]}, which the matrix sets; take another method, --seeds or --out")
    return method, variables


def parse_cells(methods: list[str], seeds: str) -> list[Cell]:
    """Every method with every seed, seed by seed, so that an interrupted matrix compares what it has.

    Raises:
        UsageError: a method or seed that is none, or one given twice.
    """
    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise UsageError(f"--seeds {seeds!r}: must be integers, separated by commas") from None
    parsed = [parse_method(text) for text in methods]
    cells = [Cell(method, seed, variables) for seed in numbers for method, variables in parsed]
    if twice := sorted({cell.name for cell in cells if cells.count(cell) > 1}):
        raise UsageError(f"{twice[0]} is asked for twice")
    return cells


def _same(one: Any, other: Any) -> bool:
    """Whether two settings are equal: numbers by value, however they are written."""
    try:
        return float(one) == float(other)
    except (TypeError, ValueError):
        return one == other


@dataclass
class Matrix:
    """What is run, how, and where it goes."""

    cells: list[Cell]
    launcher: Path
    overrides: list[str]
    out: Path
    keep: Path
    jobs: int = 1
    submit: list[str] = field(default_factory=list)
    list_only: bool = False

    def folder(self, cell: Cell) -> Path:
        """Where the launcher works."""
        return self.out / cell.name

    def kept(self, cell: Cell) -> Path:
        """The run's kept metrics, there or not."""
        return self.keep / f"{cell.name}.jsonl.gz"

    def command(self) -> list[str]:
        """The command of every run; the environment tells them apart."""
        return [*self.submit, "bash", str(self.launcher), *self.overrides]

    def environment(self, cell: Cell) -> dict[str, str]:
        """Of one run: the caller's, without what would make it another run."""
        clean = {key: value for key, value in os.environ.items() if key not in ("BETA", "SWEEP", *_RESERVED)}
        of_run = {"METHOD": cell.method, "SEED": str(cell.seed), "OUT": str(self.folder(cell).resolve())}
        return clean | of_run | dict(cell.variables)

    def check(self, cell: Cell, path: Path) -> None:
        """Raise UsageError unless a run that is there is the one that would be run now.

        Compared are method, seed, overrides, and every setting that a variable of the environment sets: LR sets "lr".

        Args:
            cell: the run that is wanted.
            path: the settings of the one that is there.
        """
        if not path.exists():
            raise UsageError(f"{path} is missing, and says what the run beside it is: move that away to train it anew")
        settings = json.loads(path.read_text())
        set_here = self.environment(cell).items()
        wanted: dict[str, Any] = {key.lower(): value for key, value in set_here if key.lower() in settings}
        wanted |= {"method": cell.method, "seed": cell.seed, "overrides": self.overrides}
        wrong = {key: settings[key] for key, value in wanted.items() if value != "" and not _same(settings[key], value)}
        if wrong:
            asked = {key: wanted[key] for key in wrong}
            raise UsageError(f"{path} was made with {wrong}, this matrix wants {asked}: move it away, or take --keep")

    def progress(self, cell: Cell) -> tuple[int, int | None]:
        """The last step that a run has logged, and how many it is to have."""
        folder = self.folder(cell)
        path, info = folder / "metrics.jsonl", folder / "run.json"
        rows = read_rows(path)[0] if path.exists() else []
        steps = json.loads(info.read_text()).get("steps") if info.exists() else None
        return max((row["step"] for row in rows), default=0), steps

    def is_complete(self, cell: Cell) -> bool:
        """Whether the last step is logged."""
        done, steps = self.progress(cell)
        return steps is not None and done >= steps

    def keep_run(self, cell: Cell) -> None:
        """Compress a finished run's metrics, byte for byte the same each time, with its settings and provenance."""
        folder, kept = self.folder(cell), self.kept(cell)
        self.keep.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_suffix(".tmp")
        with temporary.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as file:
            file.write((folder / "metrics.jsonl").read_bytes())
        settings = json.loads((folder / "run.json").read_text())
        if extra := {key: value for key, value in cell.variables if key != "BETA"}:
            settings["variables"] = extra
        settings["provenance"] = self.provenance(cell)
        kept.with_name(f"{cell.name}.json").write_text(json.dumps(settings, indent=1) + "\n")
        os.replace(temporary, kept)

    def provenance(self, cell: Cell) -> dict[str, Any] | None:
        """Of the run's last start, without this machine's folders; None for a launcher that records none."""
        metrics = self.folder(cell) / "metrics.jsonl"
        record = record_path(metrics)
        if not record.exists():
            return None
        shared = self.folder(cell) / RUNS_AT_ONCE
        starts = json.loads(record.read_text().replace(f"{Path.cwd()}{os.sep}", ""))
        ended = datetime.datetime.fromtimestamp(metrics.stat().st_mtime, datetime.UTC)
        return {
            **starts[-1],
            "started": starts[0]["started"],
            "ended": ended.isoformat(timespec="seconds"),
            "starts": len(starts),
            "runs_at_once": int(shared.read_text()) if shared.exists() else None,
        }


class Runner:
    """Starts the runs of a matrix, a few at a time, and says how far they are."""

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = matrix
        self.running: dict[Cell, subprocess.Popen[bytes]] = {}
        self.failed: list[Cell] = []
        self.durations: list[float] = []
        self._began: dict[Cell, float] = {}
        self._said = 0.0

    def run(self) -> int:
        """Run what is missing; returns how many runs failed."""
        missing = self.missing()
        total, waiting = len(missing), list(missing)
        try:
            while waiting or self.running:
                while waiting and len(self.running) < self.matrix.jobs:
                    self.start(waiting.pop(0))
                time.sleep(POLL_S)
                self.collect()
                self.say(total, len(waiting))
        except KeyboardInterrupt:
            self.interrupt()
            raise
        return len(self.failed)

    def missing(self) -> list[Cell]:
        """The cells that are not kept; complete ones that were not kept yet are."""
        missing = []
        for cell in self.matrix.cells:
            if self.matrix.kept(cell).exists():
                self.matrix.check(cell, self.matrix.kept(cell).with_name(f"{cell.name}.json"))
                print(f"{cell.name}: kept already")
            elif self.matrix.is_complete(cell):
                self.matrix.check(cell, self.matrix.folder(cell) / "run.json")
                self.matrix.keep_run(cell)
                print(f"{cell.name}: done, kept as {self.matrix.kept(cell)}")
            else:
                missing.append(cell)
        return missing

    def start(self, cell: Cell) -> None:
        """Start a run in a session of its own; its output goes to its folder."""
        folder = self.matrix.folder(cell)
        folder.mkdir(parents=True, exist_ok=True)
        # The most of all starts: a run that once had neighbours has their marks in its times.
        shared = folder / RUNS_AT_ONCE
        before = int(shared.read_text()) if shared.exists() else 0
        shared.write_text(str(max(before, self.matrix.jobs)))
        with (folder / "launch.log").open("ab") as log:
            self.running[cell] = subprocess.Popen(
                self.matrix.command(),
                env=self.matrix.environment(cell),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._began[cell] = time.monotonic()

    def collect(self) -> None:
        """Keep the runs that have ended, and remember those that failed."""
        for cell, process in list(self.running.items()):
            status = process.poll()
            if status is None:
                continue
            del self.running[cell]
            if status == 0 and self.matrix.is_complete(cell):
                self.durations.append(time.monotonic() - self._began[cell])
                self.matrix.keep_run(cell)
                self.tell(f"{cell.name}: done, kept as {self.matrix.kept(cell)}")
                continue
            self.failed.append(cell)
            log = self.matrix.folder(cell) / "launch.log"
            last = "\n    ".join(log.read_text(errors="replace").splitlines()[-8:])
            self.tell(f"{cell.name}: ended with status {status} before its last step; the end of {log}:\n    {last}")

    def say(self, total: int, waiting: int) -> None:
        """One line: how many are done, where the running ones are, the time left."""
        now = time.monotonic()
        terminal = sys.stderr.isatty()
        if not terminal and now - self._said < LOG_EVERY_S:
            return
        self._said = now
        parts = [f"{total - waiting - len(self.running)} of {total} done"]
        for cell in self.running:
            done, steps = self.matrix.progress(cell)
            parts.append(f"{cell.name} {done}/{steps or '?'}")
        if self.durations:
            mean = sum(self.durations) / len(self.durations)
            spent = sum(min(now - self._began[cell], mean) for cell in self.running)
            left = max(0.0, (waiting + len(self.running)) * mean - spent) / self.matrix.jobs
            parts.append(f"about {int(left // 3600)}:{int(left % 3600 // 60):02d} h left")
        line = ", ".join(parts)
        if terminal:
            columns = shutil.get_terminal_size().columns
            line = "\r" + line[: columns - 1].ljust(columns - 1)
        print(line, end="" if terminal else "\n", file=sys.stderr, flush=True)

    @staticmethod
    def tell(text: str) -> None:
        """A line that stays."""
        print(("\n" if sys.stderr.isatty() else "") + text, flush=True)

    def interrupt(self) -> None:
        """Ctrl-C reaches this process only: hand it on to the runs, and wait for them."""
        for process in self.running.values():
            os.killpg(process.pid, signal.SIGINT)
        for cell, process in self.running.items():
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                self.tell(f"{cell.name}: did not end within a minute and was killed; it resumes like the others")


def submit(matrix: Matrix) -> int:
    """Hand the missing runs to a scheduler, and keep those that are done; returns how many submissions failed.

    What the command prints (a job id) goes to ``OUT/<name>/submitted``; such a run is not submitted again until that
    file is removed.
    """
    failed = 0
    for cell in Runner(matrix).missing():
        folder = matrix.folder(cell)
        note = folder / "submitted"
        if note.exists():
            done, steps = matrix.progress(cell)
            print(f"{cell.name}: {note.read_text().strip()}, step {done}/{steps or '?'}; remove {note} to submit anew")
            continue
        folder.mkdir(parents=True, exist_ok=True)
        result = subprocess.run(matrix.command(), env=matrix.environment(cell), capture_output=True, text=True)
        if result.returncode:
            failed += 1
            print(f"{cell.name}: not submitted, status {result.returncode}: {result.stderr.strip()}")
            continue
        note.write_text(result.stdout)
        print(f"{cell.name}: {result.stdout.strip()}")
    return failed


def parse(arguments: list[str]) -> Matrix:
    """The matrix that a command line asks for.

    Raises:
        UsageError: what cannot be run.
    """
    place = arguments.index("--") if "--" in arguments else len(arguments)
    own, overrides = arguments[:place], arguments[place + 1 :]
    parser = argparse.ArgumentParser(
        prog="python -m scripts.compare run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("methods", nargs="+", metavar="METHOD", help="METHOD or METHOD:NAME=VALUE,...")
    parser.add_argument("--seeds", default="0,1,2", help="separated by commas (default %(default)s)")
    parser.add_argument("--launcher", type=Path, default=Path("examples/arithmetic/run.sh"))
    parser.add_argument("--out", type=Path, default=Path("outputs/compare"), help="where runs work (%(default)s)")
    parser.add_argument("--keep", type=Path, default=Path("docs/runs/methods"), help="where they are kept")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time on this machine (default 1)")
    parser.add_argument("--list", action="store_true", help="print where the runs are kept, and run nothing")
    parser.add_argument("--submit", default="", metavar="COMMAND", help='a scheduler\'s, such as "sbatch train.sbatch"')
    options = parser.parse_intermixed_args(own)
    submit = shlex.split(options.submit)
    if submit and shutil.which(submit[0]) is None:
        raise UsageError(f"--submit {options.submit!r}: there is no command {submit[0]!r}")
    if options.jobs < 1:
        raise UsageError(f"--jobs {options.jobs}: must be 1 or more")
    if not options.launcher.is_file():
        raise UsageError(f"--launcher {options.launcher}: no such file")
    return Matrix(
        parse_cells(options.methods, options.seeds),
        options.launcher,
        overrides,
        options.out,
        options.keep,
        options.jobs,
        submit,
        options.list,
    )


def main(arguments: list[str]) -> int:
    """Run or submit; returns 0 when every run is done or submitted, 1 if one failed, 2 for what cannot be run."""
    try:
        matrix = parse(arguments)
        if matrix.list_only:
            print(*(matrix.kept(cell) for cell in matrix.cells), sep="\n")
            return 0
        # As Ctrl-C: a closed terminal must not leave runs behind that nobody watches.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)
        failed = submit(matrix) if matrix.submit else Runner(matrix).run()
    except UsageError as error:
        print(f"compare run: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on where it was", file=sys.stderr)
        return 130
    if failed:
        print(f"compare run: {failed} failed; the same command tries them again", file=sys.stderr)
        return 1
    print(f"all there: python -m scripts.compare report {matrix.keep}")
    return 0
