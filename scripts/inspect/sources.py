"""From what a user names to the dumps in it."""

from __future__ import annotations

import argparse
from pathlib import Path

from recipe.spro.dump import Dump, read_dump, step_files
from recipe.spro.dump.file import DumpError


def dump_files(path: Path) -> dict[int, Path]:
    """The dumps, by training step.

    Args:
        path: a folder of dumps, a run's folder (which holds one under ``dump``, or in its checkpoints), or one dump.

    Raises:
        DumpError: nothing is there; says how a run gets dumps.
    """
    if path.is_file():
        return {read_dump(path).step: path}
    for folder in (path, path / "dump", path / "checkpoints" / "dump"):
        if found := step_files(folder):
            return found
    if not path.exists():
        raise DumpError(f"{path} does not exist.")
    raise DumpError(
        f"{path} holds no dump (step-*.parquet), nor does {path / 'dump'}: train with ++algorithm.spro.dump.every=20, "
        "or give the folder that algorithm.spro.dump.folder names."
    )


def load(path: Path) -> list[Dump]:
    """Every dump that `dump_files` finds, by training step.

    Raises:
        DumpError: none is there, or one cannot be read.
    """
    return [read_dump(file) for file in dump_files(path).values()]


def parser_of(command: str, doc: str | None, *, out: str) -> argparse.ArgumentParser:
    """What every command takes: RUN, and ``--out``, which ``out`` describes."""
    parser = argparse.ArgumentParser(
        prog=f"python -m scripts.inspect {command}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's folder, its folder of dumps, or one dump")
    parser.add_argument("--out", type=Path, help=out)
    return parser


def beside(run: Path, name: str) -> Path:
    """Where a report goes unless told: into the run's folder, or beside the one dump."""
    return (run if run.is_dir() else run.parent) / name
