"""What tests of the in-process loop share."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.arithmetic import make_model
from tests.support import ROOT


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """The environment of a run of two steps from a base model that has learned next to nothing."""
    for key, value in {"steps": 2, "dev_every": 1, "batch_size": 8, "dev_n": 8}.items():
        monkeypatch.setitem(make_model.RECIPE, key, value)
    monkeypatch.setattr(make_model, "ACCEPTED", (0.0, 1.0))
    monkeypatch.chdir(ROOT)
    return {"ROOT": str(tmp_path), "OUT": str(tmp_path / "run"), "STEPS": "2", "TEST_FREQ": "2", "HELDOUT_N": "16"}
