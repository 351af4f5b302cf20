"""Sessions of several outputs count once, by their final row: against plain loops."""

from __future__ import annotations

import math
import re
import statistics
from typing import Any

import numpy as np
import pytest
import torch

from recipe.spro.advantage import SproParts, spro_advantage
from recipe.spro.advantage import spro_advantage_naive as naive
from recipe.spro.advantage.sessions import final_row_of
from tests.recipe.spro.advantage.batches import as_uids, random_batch


def with_sessions(seed: int, T: int = 12, **kind: Any) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """A random batch whose rows fall into sessions of one to three outputs, within a group."""
    rng = np.random.default_rng(seed)
    batch = random_batch(seed, T, **kind)
    # Few outcomes, so that groups are degenerate by their final rows now and then.
    batch["outcome_rewards"] = torch.from_numpy(rng.integers(0, 2, len(batch["outcome_rewards"])).astype(np.float32))
    batch["group_ids"] = as_uids(batch["group_ids"])
    session_ids = np.array([f"{uid}_{rng.integers(0, 2)}" for uid in batch["group_ids"]], dtype=object)
    final = np.zeros(len(session_ids), dtype=bool)
    for session in set(session_ids):
        final[rng.choice(np.flatnonzero(session_ids == session))] = True
    return batch, session_ids, final


OPTIONS: list[dict[str, Any]] = [
    {},
    {"norm_by_std": False, "baseline": "loo"},
    {"process": "suffix", "process_sign": -1},
    {"gate_degenerate_groups": True},
    {"max_process_share": 0.1},
    {"max_process_share": 0.1, "gate_degenerate_groups": True, "process_sign": -1},
    {"max_process_share": 1e6},
]


def by_hand(
    batch: dict[str, Any],
    session_ids: np.ndarray,
    final: np.ndarray,
    *,
    norm_by_std: bool = True,
    gate_degenerate_groups: bool = False,
    max_process_share: float | None = None,
    process_sign: int = 1,
    **options: Any,
) -> tuple[torch.Tensor, list[float], float]:
    """Advantages, outcome of each row, scale."""
    result = naive(**batch, **options, return_parts=True)
    assert isinstance(result, tuple)
    msa, mask = result[1].msa, batch["response_mask"].bool()
    rewards, groups = batch["outcome_rewards"].tolist(), batch["group_ids"]
    outcomes = []
    for row, (group, session) in enumerate(zip(groups, session_ids, strict=True)):
        finals = [rewards[k] for k in range(len(rewards)) if final[k] and groups[k] == group]
        (own,) = [rewards[k] for k in range(len(rewards)) if final[k] and session_ids[k] == session]
        mean, std = (statistics.mean(finals), statistics.stdev(finals)) if len(finals) > 1 else (0.0, 1.0)
        outcomes.append((own - mean) / (std + 1e-6) if norm_by_std else own - mean)
        if gate_degenerate_groups and len(set(finals)) == 1:
            msa[row] = 0
    scale = 1.0
    if max_process_share is not None:
        rms_O = math.sqrt(sum(o * o * int(n) for o, n in zip(outcomes, mask.sum(1), strict=True)))
        rms_M = math.sqrt(float((msa[mask] ** 2).sum()))
        scale = 0.0 if rms_O == 0 else min(1.0, max_process_share * rms_O / rms_M) if rms_M else 1.0
    outcome = torch.tensor(outcomes, dtype=torch.float64)[:, None]
    return (outcome + process_sign * scale * msa) * mask, outcomes, scale


def both(batch: dict[str, Any], **options: Any) -> list[tuple[torch.Tensor, SproParts]]:
    """What is used and the oracle."""
    results = [function(**batch, beta=0.4, **options, return_parts=True) for function in (spro_advantage, naive)]
    assert all(isinstance(result, tuple) for result in results)
    return results


@pytest.mark.parametrize("steps", ["none", "wide"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("seed", range(6))
def test_against_plain_loops(seed: int, options: dict[str, Any], steps: str) -> None:
    batch, session_ids, final = with_sessions(seed, steps=steps)
    expected, outcomes, scale = by_hand(batch, session_ids, final, beta=0.4, **options)
    mask = batch["response_mask"].bool()
    for advantages, parts in both(batch, final_rows=final_row_of(session_ids, final), **options):
        torch.testing.assert_close(advantages.double(), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(parts.outcome.double(), torch.tensor(outcomes).double(), rtol=0, atol=1e-5)
        assert float(parts.scale) == pytest.approx(scale, rel=1e-5)
        # What the parts promise: A = O + sign * M, 0 at masked places.
        again = parts.outcome[:, None] + options.get("process_sign", 1) * parts.msa
        torch.testing.assert_close(advantages, again * mask, rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", OPTIONS)
def test_sessions_of_one_output_change_nothing(options: dict[str, Any]) -> None:
    batch, _, _ = with_sessions(1)
    alone = torch.arange(len(batch["response_mask"]))
    for result, expected in zip(both(batch, final_rows=alone, **options), both(batch, **options), strict=True):
        assert torch.equal(result[0], expected[0])


def test_rewards_of_other_rows_have_no_effect() -> None:
    batch, session_ids, final = with_sessions(2)
    final_rows = final_row_of(session_ids, final)
    first = both(batch, final_rows=final_rows)
    batch["outcome_rewards"][torch.from_numpy(~final)] = 1e6
    second = both(batch, final_rows=final_rows)
    for before, after in zip(first, second, strict=True):
        assert torch.equal(before[0], after[0])


def test_final_rows() -> None:
    sessions = np.array(["b_1", "a_0", "b_1", "b_0", "a_0"], dtype=object)
    final = np.array([False, False, True, True, True])
    assert final_row_of(sessions, final).tolist() == [2, 4, 2, 3, 4]
    assert final_row_of(sessions[:0], final[:0]).tolist() == []


@pytest.mark.parametrize(
    ("final", "message"),
    [
        ([True, False, True], "session 'a' has 2 final outputs, it must have one"),
        ([True, False, False], "session 'b' has 0 final outputs, it must have one"),
    ],
)
def test_a_session_must_have_one_final_output(final: list[bool], message: str) -> None:
    sessions = np.array(["a", "b", "a"] if final[2] else ["a", "b", "b"], dtype=object)
    with pytest.raises(ValueError, match=re.escape(message)):
        final_row_of(sessions, np.array(final))
