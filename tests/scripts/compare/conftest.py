"""One report for all tests that read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.compare import __main__
from tests.scripts.compare.synthetic import family


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report on three methods; the runs lie beside it, in `runs`."""
    folder = tmp_path_factory.mktemp("report")
    assert __main__.main(["report", str(family(folder / "runs")), "--out", str(folder / "out")]) == 0
    return folder / "out"
