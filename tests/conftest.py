"""The same random numbers in each run of the tests, whatever was run before."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

# Examples drawn anew each time would make a failure a matter of luck, and so would a bound on the time of one.
settings.register_profile(
    "tests", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """For what a test draws without a generator of its own."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
