"""Dumps of the real stack: what trained, token by token, with SPRO and with verl's own GRPO and a reference policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoTokenizer

from recipe.spro.dump import Dump, read_dump, step_files
from scripts.inspect import __main__
from tests.e2e.conftest import finished
from tests.e2e.oracle import oracle_with_parts
from tests.e2e.stack import Run, make_run

STEPS = 2
BETA = 0.5
GROUPS = 3


def run_of(base: Path, folder: Path, *extra: str) -> Run:
    dumps = ["algorithm.spro.dump.every=1", f"algorithm.spro.dump.groups={GROUPS}", f"algorithm.spro.beta={BETA}"]
    return finished(make_run(base, folder, *dumps, *extra, steps=STEPS))


@pytest.fixture(scope="module")
def bounded_run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """SPRO with a bound, so that what is dumped is more than a formula of the dump's own."""
    return run_of(base, tmp_path_factory.mktemp("dump_bounded"), "algorithm.spro.max_process_share=0.1")


@pytest.fixture(scope="module")
def grpo_run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """verl's own estimator, with a reference policy and without a KL."""
    return run_of(
        base,
        tmp_path_factory.mktemp("dump_grpo"),
        "algorithm.adv_estimator=grpo",
        "algorithm.use_kl_in_reward=True",
        "algorithm.kl_ctrl.kl_coef=0.0",
    )


@pytest.fixture(params=["bounded_run", "grpo_run"])
def run(request: pytest.FixtureRequest) -> Run:
    """Each in turn."""
    return request.getfixturevalue(request.param)


def dump_of(run: Run, step: int) -> Dump:
    return read_dump(step_files(run.folder / "dump")[step])


def rows_of(batch: dict[str, Any], dump: Dump) -> list[int]:
    """Where the dumped responses stand in the batch that trained."""
    keys = [key.rpartition("_")[0] for key in batch["keys"]]
    return [keys.index(str(response.session)) for response in dump.responses]


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_it_is_what_trained(run: Run, step: int, base: Path) -> None:
    dump, batch = dump_of(run, step), run.batch(step)
    assert [len(group) for group in dump.groups().values()] == [4] * GROUPS
    assert dump.meta["batch"]["responses"] == 16
    assert dump.meta["estimator"] == ("grpo" if "adv_estimator=grpo" in " ".join(run.command) else "spro")
    tokenizer = AutoTokenizer.from_pretrained(base / "model")
    for row, response in zip(rows_of(batch, dump), dump.responses, strict=True):
        t = len(response.token_ids)
        assert int(batch["response_mask"][row].sum()) == t
        for mine, theirs in (
            ("token_ids", "responses"),
            ("old_log_probs", "old_log_probs"),
            ("ref_log_prob", "ref_log_prob"),
            ("advantages", "advantages"),
        ):
            np.testing.assert_array_equal(getattr(response, mine), batch[theirs][row, :t].numpy(), err_msg=mine)
        assert response.outcome_reward == pytest.approx(float(batch["rm_scores"][row].sum()))
        assert b"".join(response.pieces).decode(errors="replace") == tokenizer.decode(response.token_ids)
        assert response.prompt.endswith("=")


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_the_process_term_is_the_oracles_of_the_whole_batch(run: Run, step: int) -> None:
    dump, batch = dump_of(run, step), run.batch(step)
    bounded = dump.meta["estimator"] == "spro"
    _, parts = oracle_with_parts(batch, beta=BETA, max_process_share=0.1 if bounded else None)
    for row, response in zip(rows_of(batch, dump), dump.responses, strict=True):
        t = len(response.token_ids)
        np.testing.assert_allclose(response.msa, parts.msa[row, :t], atol=1e-5)
        np.testing.assert_allclose(response.cpr, parts.cpr[row, :t], atol=1e-5)
        if bounded:
            # With SPRO it is what trained.
            np.testing.assert_allclose(response.outcome_advantage + response.msa, response.advantages, atol=1e-5)
        else:
            assert np.ptp(response.advantages) == 0
    largest = max(np.abs(response.msa).max() for response in dump.responses)
    assert largest == 0 if step == 1 else largest > 0


def test_numbers_and_the_figure_are_in_the_trackers(run: Run) -> None:
    for step in range(1, STEPS + 1):
        metrics = run.metrics(step)
        assert metrics["spro/inspect/failures"] == 0
        assert metrics["spro/inspect/outcome/rms"] > 0
        assert metrics["timing_s/spro_dump"] > 0
    assert run.metrics(1)["spro/inspect/msa/rms"] == 0
    assert run.metrics(2)["spro/inspect/msa/rms"] > 0
    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    # At a dump a step only what two hundredths of the time pay for are drawn; the first always is.
    assert next(event.step for event in events.Images("spro/inspect/figure")) == 1
    assert "spro/inspect/msa/rms" in events.Tags()["scalars"]


def test_from_the_run_to_the_page_with_one_command(run: Run, tmp_path: Path) -> None:
    assert __main__.main(["page", str(run.folder), "--out", str(tmp_path / "page.html")]) == 0
    assert __main__.main(["stats", str(run.folder), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "page.html").read_text()
    assert ("only the advantage is what trained" in text) == (dump_of(run, 1).meta["estimator"] == "grpo")
