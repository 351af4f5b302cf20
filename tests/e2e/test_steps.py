"""Wider steps, tools and sessions of several outputs on the real stack, against the oracle."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from recipe.spro.advantage import spro_advantage
from recipe.spro.advantage.sessions import final_row_of
from tests.e2e.conftest import STEPS_OF_WIDE_STEPS, TURNS
from tests.e2e.oracle import assert_trained_with, oracle, oracle_with_parts
from tests.e2e.stack import Run

BETA = 0.5
EACH_STEP = pytest.mark.parametrize("step", range(1, STEPS_OF_WIDE_STEPS + 1))


def line_of_each_token(tokens: list[str]) -> list[int]:
    """By hand: what each newline closes, numbered where there is more than white space in it."""
    pieces: list[list[str]] = [[]]
    for token in tokens:
        pieces[-1].append(token)
        if "\n" in token:
            pieces.append([])
    number, result = -1, []
    for piece in pieces:
        number += "".join(piece).strip() != ""
        result += [max(number, 0)] * len(piece)
    return result


def line_steps(batch: dict[str, Any], base: Path) -> torch.Tensor:
    tokenizer = AutoTokenizer.from_pretrained(base / "model")
    rows = []
    for ids, mask in zip(batch["responses"].tolist(), batch["response_mask"].tolist(), strict=True):
        # No holes in these masks.
        own = line_of_each_token([tokenizer.decode([i], skip_special_tokens=True) for i in ids[: sum(mask)]])
        rows.append(own + [0] * (len(ids) - len(own)))
    return torch.tensor(rows)


@EACH_STEP
def test_lines(step: int, line_run: Run, base_of_lines: Path) -> None:
    batch = line_run.batch(step)
    step_ids = line_steps(batch, base_of_lines)
    # There is something to see: several lines in a response, of several tokens each.
    lines = step_ids.max(1).values + 1
    assert float(lines.float().mean()) > 2
    assert lines.sum() < 0.5 * batch["response_mask"].sum()
    expected = oracle(batch, beta=BETA, step_ids=step_ids)
    assert_trained_with(batch, expected)
    if step > 1:
        assert (expected - oracle(batch, beta=BETA)).abs().max() > 1e-3


def test_the_lines_trained(line_run: Run) -> None:
    assert [row["step"] for row in line_run.rows] == list(range(1, STEPS_OF_WIDE_STEPS + 1))
    assert line_run.metrics(1)["spro/cpr/abs_max"] == 0.0
    assert line_run.metrics(2)["spro/cpr/abs_max"] > 0.0


def turn_steps(mask: torch.Tensor) -> torch.Tensor:
    """Runs of the mask, token by token."""
    rows = []
    for row in mask.tolist():
        number, result = -1, []
        for at, valid in enumerate(row):
            number += valid and not (at and row[at - 1])
            result.append(max(number, 0))
        rows.append(result)
    return torch.tensor(rows)


def outcome_by_sessions(batch: dict[str, Any]) -> torch.Tensor:
    """verl's rule for its GRPO: a session counts once, by its last output, and all its rows get that."""
    final: dict[str, tuple[int, float]] = {}
    group_of: dict[str, str] = {}
    sessions = []
    for key, uid, reward in zip(batch["keys"], batch["uid"], batch["rm_scores"].sum(-1).tolist(), strict=True):
        session, number = key.rsplit("_", 1)
        sessions.append(session)
        group_of[session] = uid
        final[session] = max(final.get(session, (-1, 0.0)), (int(number), reward))
    outcome = {}
    for session, (_, reward) in final.items():
        group = [final[other][1] for other in final if group_of[other] == group_of[session]]
        mean, std = (statistics.mean(group), statistics.stdev(group)) if len(group) > 1 else (0.0, 1.0)
        outcome[session] = (reward - mean) / (std + 1e-6)
    return torch.tensor([outcome[session] for session in sessions], dtype=torch.float64)


def tool_oracle(batch: dict[str, Any]) -> torch.Tensor:
    _, parts = oracle_with_parts(batch, beta=BETA, step_ids=turn_steps(batch["response_mask"]))
    return (outcome_by_sessions(batch)[:, None] + parts.msa) * batch["response_mask"]


def real_rows(batch: dict[str, Any]) -> torch.Tensor:
    """(B,) bool: not verl's padding."""
    return torch.tensor([not key.startswith("pad") for key in batch["keys"]])


def tool_tokens(batch: dict[str, Any]) -> torch.Tensor:
    """(B, T) bool: masked, with a token of the model behind it."""
    mask = batch["response_mask"]
    return (mask == 0) & (mask.flip(1).cummax(1).values.flip(1) == 1)


@EACH_STEP
def test_turns_with_a_tool_and_sessions_of_two_outputs(step: int, tool_run: Run) -> None:
    batch = tool_run.batch(step)
    real, steps = real_rows(batch), turn_steps(batch["response_mask"])
    # 4 prompts x 4 sessions, half of them with a second output; most outputs have several turns.
    assert int(real.sum()) == 24
    assert sum(key.endswith("_1") for key in batch["keys"]) == 8
    assert 1.5 < float(steps.max(1).values[real].double().mean()) + 1 <= TURNS
    expected = tool_oracle(batch)
    assert_trained_with(batch, expected)
    # Each row once, as verl has it for every estimator but its GRPO, would be something else; so would steps of tokens.
    assert (expected - oracle(batch, beta=BETA, step_ids=steps)).abs().max() > 1e-2
    if step > 1:
        assert (oracle(batch, beta=BETA) - oracle(batch, beta=BETA, step_ids=steps)).abs().max() > 1e-3


@EACH_STEP
def test_the_tool_was_called(step: int, tool_run: Run, base: Path) -> None:
    """Between the turns stands what it says of the turn before."""
    batch = tool_run.batch(step)
    tokenizer = AutoTokenizer.from_pretrained(base / "model")
    spoken = tool_tokens(batch)
    calls = 0
    for ids, mask, tool in zip(batch["responses"], batch["response_mask"], spoken, strict=True):
        turns = turn_steps(mask[None])[0]
        for turn in range(int(turns.max())):
            begin = int(((turns == turn) & (mask == 1)).nonzero().max()) + 1
            end = int(((turns == turn + 1) & (mask == 1)).nonzero().min())
            said = tokenizer.decode(ids[(turns == turn) & (mask == 1)])
            vowels = sum(character in "aeiouAEIOU" for character in said)
            # Behind <|im_end|> verl puts the newline of Qwen's template.
            assert tokenizer.decode(ids[begin:end]).removeprefix("\n") == f"<{vowels}\n>"
            assert tool[begin:end].all()
            calls += 1
    assert calls > 24


@EACH_STEP
def test_a_tools_tokens_have_no_advantage_and_move_no_baseline(step: int, tool_run: Run) -> None:
    batch = tool_run.batch(step)
    assert tool_tokens(batch).any()
    masked = batch["response_mask"] == 0
    assert (batch["advantages"][masked] == 0).all()
    expected = tool_oracle(batch)
    for field in ("old_log_probs", "ref_log_prob"):
        batch[field] = torch.where(masked, 100 * torch.randn(masked.shape), batch[field])
    assert torch.equal(tool_oracle(batch), expected)
    # And the code that trained gives what it gave, to the bit.
    sessions = np.array([key.rsplit("_", 1)[0] for key in batch["keys"]], dtype=object)
    numbers = np.array([int(key.rsplit("_", 1)[1]) for key in batch["keys"]])
    final = np.array([number == numbers[sessions == one].max() for one, number in zip(sessions, numbers, strict=True)])
    again = spro_advantage(
        batch["old_log_probs"],
        batch["ref_log_prob"],
        batch["response_mask"],
        batch["rm_scores"].sum(-1),
        np.array(batch["uid"], dtype=object),
        final_rows=final_row_of(sessions, final),
        step_ids=turn_steps(batch["response_mask"]),
        beta=BETA,
    )
    assert isinstance(again, torch.Tensor)
    assert torch.equal(again, batch["advantages"])


def test_the_turns_trained(tool_run: Run) -> None:
    assert tool_run.metrics(1)["spro/cpr/abs_max"] == 0.0
    assert tool_run.metrics(2)["spro/cpr/abs_max"] > 0.0
    assert not (tool_run.folder / "survivors.txt").exists()
