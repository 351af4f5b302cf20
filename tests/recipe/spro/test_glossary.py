"""Every metric that this project logs is in the glossary of the recipe's README."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from recipe.spro.advantage import Options, spro_advantage_with_stats
from recipe.spro.dump import dump_step
from recipe.spro.dump.stats import StepStats
from recipe.spro.metrics import process_metrics
from recipe.spro.settings import SproSettings
from recipe.spro.staleness import staleness_metrics
from tests.recipe.spro.dump.synthetic import TOKENIZER, batch
from tests.support import ROOT
from verl_ext.generated_tokens import METRIC as GENERATED
from verl_ext.log_prob_gate import PREFIX
from verl_ext.log_prob_mismatch import Mismatch
from verl_ext.reward_metrics import verdict_metrics
from verl_ext.truncated_responses import METRIC as TRUNCATED
from verl_ext.weight_versions import WeightVersions


@pytest.fixture(scope="module")
def glossary() -> set[str]:
    """Names of the first column of the table under "Metrics"."""
    section = (ROOT / "recipe/spro/README.md").read_text().split("\n## Metrics\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    for row in rows:
        # Each says what it is; columns are name, meaning, healthy, otherwise.
        assert len(re.split(r"(?<!\\)\|", row)) == 6, row
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])}


def test_of_the_process_term(glossary: set[str]) -> None:
    uids = np.array(["a", "a"], dtype=object)
    rewards = torch.tensor([1.0, 0.0])
    inputs = (torch.zeros(2, 3), torch.ones(2, 3), torch.ones(2, 3).long(), rewards, uids)
    _, stats = spro_advantage_with_stats(*inputs, Options(beta=0.1))
    assert set(process_metrics(stats, rewards, uids, beta=0.1)) <= glossary


def test_of_staleness(glossary: set[str]) -> None:
    zeros = torch.zeros(2, 3)
    found: set[str] = set()
    for recomputed in (True, False):
        for current in (0, 1):
            versions = WeightVersions(np.zeros(2, dtype=int), np.zeros(2, dtype=int), current)
            found |= staleness_metrics(versions, zeros, zeros, zeros, zeros + 1, recomputed=recomputed).keys()
    assert len(found) == 6
    assert found <= glossary


def test_of_the_dumps(glossary: set[str], tmp_path: Path) -> None:
    more = batch()
    # Four prompts that vary, so that the correlation has an interval.
    more.batch["token_level_scores"] = torch.rand_like(more.batch["token_level_scores"])
    dump = dump_step(more, 1, folder=tmp_path, settings=SproSettings(beta=0.1), tokenizer=TOKENIZER)
    scalars = StepStats.of(dump).scalars()
    assert len(scalars) == 11
    assert set(scalars) <= glossary
    assert {"spro/inspect/failures", "timing_s/spro_dump"} <= glossary


def test_of_the_rewards_and_responses(glossary: set[str]) -> None:
    assert set(verdict_metrics([{"kind": "correct", "verify_s": 0.1, "verify_queue": 0}])) <= glossary
    assert {GENERATED, TRUNCATED} <= glossary


def test_of_the_log_prob_gate(glossary: set[str]) -> None:
    measured = {f"{PREFIX}{field.name}" for field in fields(Mismatch)}
    assert measured | {f"{PREFIX}{name}" for name in ("used_rollout", "measured_frac", "cumulative_share")} <= glossary
