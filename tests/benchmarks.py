"""Where the files of real benchmarks are: in the folder that a variable names, or beside a checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scripts.verify_data import FOLDER_VARIABLE
from tests.support import ROOT


def _folder() -> Path | None:
    given = os.environ.get(FOLDER_VARIABLE)
    folder = Path(given) if given else ROOT.parent / "shared" / "data"
    return folder if (folder / "math500.json").is_file() else None


BENCHMARKS = _folder()

needs_benchmarks = pytest.mark.skipif(
    BENCHMARKS is None, reason=f"no benchmark files: set {FOLDER_VARIABLE} to their folder"
)
