"""The worked example in one process: the settings of run.sh, sampling and log-probs in plain form, whole runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from transformers import Qwen2ForCausalLM

from examples.arithmetic import inprocess, make_model, task
from examples.arithmetic.sampling import Responses, log_probs, sample
from recipe.spro.requirements_check import reference_schedule
from tests.support import ROOT, composed
from verl_ext import estimator_state
from verl_ext.config_checks import ConfigError
from verl_ext.reference_weights import Schedule


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    return make_model.make_model(make_model.make_tokenizer()).eval()


def rows_of(folder: Path) -> dict[int, dict[str, float]]:
    return {row["step"]: row["data"] for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())}


def test_greedy_sampling_is_the_models_own(model: Qwen2ForCausalLM) -> None:
    prompts = torch.randint(33, 120, (5, 8), generator=torch.Generator().manual_seed(1))
    ours = sample(model, prompts, max_new_tokens=12, temperature=0)
    theirs = model.generate(prompts, attention_mask=torch.ones_like(prompts), do_sample=False, max_new_tokens=12)
    assert torch.equal(ours.ids, theirs[:, : ours.ids.shape[1]])


def test_a_response_ends_with_its_end_of_sequence(model: Qwen2ForCausalLM) -> None:
    prompts = torch.full((64, 8), 40)
    responses = sample(model, prompts, max_new_tokens=60, temperature=1.0, generator=torch.Generator().manual_seed(0))
    end, pad = model.generation_config.eos_token_id, model.generation_config.pad_token_id
    ended = 0
    for tokens, mask in zip(responses.tokens.tolist(), responses.mask.tolist(), strict=True):
        length = sum(mask)
        assert mask == [1] * length + [0] * (len(mask) - length)
        assert end not in tokens[: length - 1]
        assert all(token == pad for token in tokens[length:])
        ended += tokens[length - 1] == end
    assert 0 < ended < 64


def test_log_probs_are_those_of_each_row_alone(model: Qwen2ForCausalLM) -> None:
    ids = torch.randint(0, 200, (3, 14), generator=torch.Generator().manual_seed(2))
    mask = torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0], [1] * 5 + [0]])
    with torch.no_grad():
        found, entropy = log_probs(model, Responses(ids, 8, mask), with_entropy=True)
        assert entropy is not None
        for row in range(3):
            for position in range(int(mask[row].sum())):
                logits = model(input_ids=ids[row : row + 1, : 8 + position]).logits[0, -1].double()
                every = logits.log_softmax(-1)
                assert found[row, position].item() == pytest.approx(every[ids[row, 8 + position]].item(), abs=1e-5)
                assert entropy[row, position].item() == pytest.approx(-(every.exp() * every).sum().item(), abs=1e-4)


def test_a_run_leaves_what_a_run_through_verl_leaves(example: dict[str, str]) -> None:
    out = inprocess.run({**example, "METHOD": "spro", "BETA": "0.1", "SNAPSHOTS": "2"}, [])
    rows = rows_of(out)
    assert list(rows) == [0, 1, 2]
    assert [step for step, row in rows.items() if inprocess.ACCURACY in row] == [0, 2]
    # Policy and reference are the same weights at the first step, and not at the second.
    assert rows[1]["spro/cpr/abs_max"] == 0 < rows[2]["spro/cpr/abs_max"]
    assert rows[2]["spro/beta"] == 0.1
    names = ("actor/entropy", "actor/grad_norm", "critic/score/mean", "response_length/clip_ratio", "timing_s/step")
    assert all(name in rows[2] for name in names)
    assert 0 <= rows[2]["response_length/truncated_frac"] <= rows[2]["response_length/clip_ratio"]
    settings = json.loads((out / "run.json").read_text())
    assert (settings["method"], settings["beta"], settings["stack"]) == ("spro", 0.1, "inprocess")
    record = json.loads((out / "metrics.provenance.json").read_text())
    assert "algorithm.spro.beta=0.1" in record[0]["overrides"]
    snapshots = sorted(path.name for path in (out / "snapshots").iterdir())
    assert snapshots == ["step-000000", "step-000002"]

    before = (out / "metrics.jsonl").stat().st_mtime_ns
    inprocess.run({**example, "METHOD": "spro", "BETA": "0.1", "SNAPSHOTS": "2"}, [])
    assert (out / "metrics.jsonl").stat().st_mtime_ns == before


def test_the_same_seed_gives_the_same_run(example: dict[str, str]) -> None:
    learned = ("actor/grad_norm", "critic/score/mean", "actor/entropy")
    first, again, other = (
        rows_of(inprocess.run({**example, "OUT": f"{example['OUT']}-{name}", "SEED": seed}, []))[2]
        for name, seed in (("a", "0"), ("b", "0"), ("c", "1"))
    )
    assert [first[key] for key in learned] == [again[key] for key in learned]
    assert [first[key] for key in learned] != [other[key] for key in learned]


def test_a_kl_loss_is_verls(example: dict[str, str]) -> None:
    rows = rows_of(inprocess.run({**example, "METHOD": "grpo_neg_kl", "BETA": "0.1"}, []))
    assert rows[1]["actor/kl_loss"] == pytest.approx(0, abs=1e-9)
    assert rows[2]["actor/kl_loss"] > 0


def test_a_reference_that_is_refreshed_makes_cpr_zero_again(example: dict[str, str]) -> None:
    refresh = ["algorithm.spro.ref_update.mode=every", "algorithm.spro.ref_update.every=2"]
    assert reference_schedule(composed(*refresh)) == Schedule(2)
    rows = rows_of(inprocess.run({**example, "METHOD": "spro", "STEPS": "3"}, refresh))
    assert rows[1]["spro/cpr/abs_max"] == rows[3]["spro/cpr/abs_max"] == 0 < rows[2]["spro/cpr/abs_max"]
    assert rows[2]["ref_update/distance"] > 0


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["+method=dapo"], "algorithm.filter_groups.enable=True"),
        (["+method=prime", "algorithm.prime.optim.lr_scheduler_type=cosine"], "optim.lr_scheduler_type=cosine"),
        (["+method=prime", "algorithm.prime.optim.lr_warmup_steps=5"], "algorithm.prime.optim.lr_warmup_steps=5"),
        (["+method=grpo", "trainer.v1.sampler.custom_sampler.path=pkg://mine"], "custom_sampler.path=pkg://mine"),
        (["+method=grpo", "algorithm.use_kl_in_reward=True", "algorithm.kl_ctrl.kl_coef=0.1"], "kl_ctrl.kl_coef=0.1"),
        (["+method=spro", "algorithm.spro.guard.action=stop"], "algorithm.spro.guard.action=stop"),
        (["+method=spro", "algorithm.spro.dump.every=5"], "algorithm.spro.dump.every=5"),
        (["+method=spro", "actor_rollout_ref.actor.ppo_epochs=2"], "ppo_epochs=2"),
        (["+method=spro", "actor_rollout_ref.actor.optim.lr_warmup_steps=10"], "lr_warmup_steps=10"),
    ],
)
def test_what_the_loop_does_not_do_is_refused(overrides: list[str], key: str) -> None:
    with pytest.raises(ConfigError, match=f"{re.escape(key)}: examples.arithmetic.inprocess does not do that"):
        inprocess.composed(["+stack=cpu", *overrides])


def test_log_probs_are_of_the_distribution_that_was_sampled_from(example: dict[str, str]) -> None:
    half = ["actor_rollout_ref.rollout.temperature=0.5"]
    usual = rows_of(inprocess.run({**example, "OUT": f"{example['OUT']}-usual"}, []))[1]
    colder = rows_of(inprocess.run(example, half))[1]
    # An untrained model is nearly uniform; at half the temperature it is less so.
    assert colder["actor/entropy"] < usual["actor/entropy"]


def test_a_run_starts_without_what_another_left_in_the_process(example: dict[str, str]) -> None:
    estimator_state.put("spro/adapted_beta", 1e-6)
    adaptive = ["algorithm.spro.beta_schedule.kind=adaptive", "algorithm.spro.beta_schedule.target_share=0.5"]
    rows = rows_of(inprocess.run({**example, "METHOD": "spro", "BETA": "0.1"}, adaptive))
    assert rows[1]["spro/beta"] == 0.1


def test_evaluations_are_as_often_as_the_configuration_says(example: dict[str, str]) -> None:
    rows = rows_of(inprocess.run({**example, "METHOD": "grpo"}, ["trainer.test_freq=1"]))
    assert [step for step, row in rows.items() if inprocess.ACCURACY in row] == [0, 1, 2]


def test_a_failed_run_of_many_is_named_and_the_others_go_on(
    example: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    cells = [
        {"environment": {**example, "METHOD": "nothing"}, "overrides": []},
        {"environment": {**example, "METHOD": "grpo", "STEPS": "1"}, "overrides": []},
    ]
    assert inprocess.run_cells(cells, jobs=1) == 1
    assert "METHOD=nothing: must be one of" in capfd.readouterr().err
    assert (Path(example["OUT"]) / "run.json").exists()


@pytest.mark.parametrize(
    "method",
    [{"METHOD": "spro", "BETA": "0.03"}, {"METHOD": "prime"}, {"METHOD": "prime", "RM_LR": "3e-5"}],
    ids=lambda method: "-".join(method.values()),
)
def test_the_loop_is_told_what_run_sh_tells_verl(method: dict[str, str], tmp_path: Path) -> None:
    """Both compose the same configuration, but for what only the real stack has."""
    # A base model that is there already costs nothing; what it knows does not matter here.
    environment = {**method, "LR": "2e-4", "SEED": "3", "STEPS": "7", "ROOT": str(tmp_path)}
    stand_in = tmp_path / "bin"
    stand_in.mkdir()
    # Makes nothing where run.sh makes data and model, prints the overrides where it trains.
    python = stand_in / "python"
    python.write_text(
        f'#!/bin/sh\ncase "$2" in examples.arithmetic.make_*|examples.arithmetic.watch) exit 0;; esac\n'
        f'exec {sys.executable} "$@"\n'
    )
    recorder = stand_in / "record"
    recorder.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 3\n')
    for script in (python, recorder):
        script.chmod(0o755)
    path = f"{stand_in}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "examples/arithmetic/run.sh"],
        env={**os.environ, **environment, "PATH": path, "SPRO_LAUNCH": str(recorder)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3, done.stderr
    (log,) = tmp_path.glob("*/train.log")
    theirs = composed(*log.read_text().splitlines())
    ours = composed(*inprocess.overrides_of({**inprocess.DEFAULTS, **environment}))
    groups = ("algorithm", "data", "actor_rollout_ref.actor", "actor_rollout_ref.model", "reward", "trainer.v1")
    # Of workers, batching and validation prompts.
    of_the_stack = {"data_loader_seed", "dataloader_num_workers"}
    for group in groups:
        one, other = (OmegaConf.to_container(OmegaConf.select(c, group), resolve=False) for c in (ours, theirs))
        assert isinstance(one, dict)
        assert isinstance(other, dict)
        different = {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
        assert different <= of_the_stack, group
    for key in ("n", "seed", "temperature", "top_p", "top_k"):
        assert ours.actor_rollout_ref.rollout[key] == theirs.actor_rollout_ref.rollout[key], key
    for key in ("total_training_steps", "test_freq"):
        assert ours.trainer[key] == theirs.trainer[key], key
    # The loop samples from the whole distribution.
    assert (ours.actor_rollout_ref.rollout.top_p, ours.actor_rollout_ref.rollout.top_k) == (1.0, -1)


def test_the_longest_response_is_the_base_models() -> None:
    assert len(task.solution(999, 999)) < inprocess.MAX_NEW_TOKENS


def test_a_bound_by_the_guard_is_on_from_the_next_step(example: dict[str, str]) -> None:
    # Fires at the first step; a model that gets nothing right has no outcome, and a bound share of nothing is nothing.
    guard = ["action=bound", "window=1", "early=1", "entropy=0.5"]
    rows = rows_of(inprocess.run({**example, "BETA": "0.1"}, [f"algorithm.spro.guard.{setting}" for setting in guard]))
    assert [rows[step]["spro/guard/alarm"] for step in (1, 2)] == [1, 1]
    assert [rows[step]["spro/guard/bound"] for step in (1, 2)] == [0, 1]
    assert [rows[step]["spro/process_scale"] for step in (1, 2)] == [1, 0]


@pytest.mark.parametrize(
    ("accuracies", "until"),
    [
        # Lost at once; lost for a moment; well at the end; not well at the end, and then it is.
        ([0.5, 0.04, 0.04, 0.04, 0.04, 0.04], 4),
        ([0.5, 0.04, 0.04, 0.04, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], 6),
        ([0.5] * 10, 6),
        ([0.5, 0.5, 0.5, 0.5, 0.5, 0.3, 0.3, 0.3, 0.45, 0.5], 8),
        ([0.5, 0.5, 0.5, 0.5, 0.5, 0.3] + [0.3] * 10, 12),
    ],
)
def test_what_becomes_of_a_run_says_how_long_it_is(
    accuracies: list[float], until: int, example: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    curve = iter(accuracies)
    monkeypatch.setattr(inprocess.Loop, "step", lambda self, number: {"critic/score/mean": 0.0})
    monkeypatch.setattr(inprocess.Loop, "evaluate", lambda self: {inprocess.ACCURACY: next(curve)})
    out = inprocess.run({**example, "STEPS": "6", "TEST_FREQ": "1", "UNTIL_DECIDED": "1"}, [])
    assert max(rows_of(out)) == until
    assert json.loads((out / "run.json").read_text())["until_decided"]
