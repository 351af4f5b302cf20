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
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from scripts.compare.matrix import RUNS_AT_ONCE, Cell, Matrix, UsageError, parse_cells

POLL_S = 1.0

# On a terminal the progress line is rewritten; in a log it is repeated only this often.
LOG_EVERY_S = 60.0


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


def parse(arguments: list[str]) -> tuple[Matrix, bool]:
    """The matrix that a command line asks for, and whether it is only to be listed.

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
    matrix = Matrix(
        parse_cells(options.methods, options.seeds),
        options.launcher,
        overrides,
        options.out,
        options.keep,
        options.jobs,
        submit,
    )
    return matrix, options.list


def main(arguments: list[str]) -> int:
    """Run or submit; returns 0 when every run is done or submitted, 1 if one failed, 2 for what cannot be run."""
    try:
        matrix, list_only = parse(arguments)
        if list_only:
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
