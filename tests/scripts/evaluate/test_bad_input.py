"""What cannot be evaluated ends before Ray starts, with one message that names option, value and fix."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from scripts.evaluate import problems
from scripts.evaluate.__main__ import main, parse
from scripts.evaluate.config import Sampling, configure, key_of
from scripts.evaluate.errors import BadInput
from scripts.evaluate.store import Store
from scripts.evaluate.subject import find
from tests.support import ROOT, on_cpu


def row(question: str = "1+1=", **more: Any) -> dict[str, Any]:
    return {
        "data_source": "arithmetic",
        "prompt": [{"role": "user", "content": question}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"split": "test", "index": 0},
        **more,
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "sums.parquet"
    pd.DataFrame([row("1+1="), row("100+1=")]).to_parquet(path)
    return path


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> str:
    import ray

    # The command sets them for its workers; here they are to be as before.
    monkeypatch.setenv("VERL_USE_EXTERNAL_MODULES", os.environ.get("VERL_USE_EXTERNAL_MODULES", ""))
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    monkeypatch.setattr(ray, "init", lambda *a, **k: pytest.fail("Ray was started"))
    assert main([*map(str, arguments), "+stack=cpu"]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("evaluate: ")
    return message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", "-1"], "--samples must be at least 0, got -1"),
        (["--samples", "0", "--no-greedy"], "asks for nothing"),
        (["--samples", "4", "--pass-at", "1,8"], "--pass-at 1,8: needs 1 <= k <= --samples 4; raise --samples"),
        (["--pass-at", "two"], "--pass-at two: whole numbers"),
        (["--top-p", "0"], "--top-p must be above 0 and at most 1, got 0.0"),
        (["--temperature", "-1"], "--temperature must be at least 0"),
        (["--chunk", "0"], "--chunk must be at least 1, got 0"),
        (["--label", "a/b"], "--label a/b"),
    ],
)
def test_options(capsys: pytest.CaptureFixture[str], data: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["model", str(data), *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_nothing_to_evaluate_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["model", "trainer.nnodes=2"])
    assert "give DATA" in capsys.readouterr().err


def test_words_are_data_or_overrides(data: Path) -> None:
    given = parse(["model", str(data), "trainer.nnodes=2", "--samples", "6", "+stack=cpu"])
    assert (given.data, given.overrides) == ([str(data)], ["trainer.nnodes=2", "+stack=cpu"])
    assert given.ks == (1, 2, 4, 6)


@on_cpu
def test_models(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, data: Path, tmp_path: Path, model_folder: Path
) -> None:
    def said(*arguments: Any) -> str:
        return refused(capsys, monkeypatch, *arguments)

    assert "MODEL nowhere: there is no such folder" in said("nowhere", data)
    assert f"MODEL {tmp_path}: neither a model (no config.json in it) nor a checkpoint" in said(tmp_path, data)
    (tmp_path / "empty").mkdir()
    shutil.copy(model_folder / "config.json", tmp_path / "empty")
    assert "holds no weights" in said(tmp_path / "empty", data)
    assert "is a model already" in said(model_folder, data, "--export", tmp_path / "out")
    (tmp_path / "global_step_1" / "actor" / "model" / "huggingface").mkdir(parents=True)
    assert "python -m verl.model_merger merge --backend megatron" in said(tmp_path / "global_step_1", data)


@on_cpu
def test_data(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model_folder: Path, data: Path
) -> None:
    def said(*arguments: Any) -> str:
        return refused(capsys, monkeypatch, model_folder, *arguments)

    assert "DATA nowhere.parquet: there is no such file. Write it with" in said("nowhere.parquet")
    assert "the folder holds no evaluation set" in said(tmp_path)
    (tmp_path / "x.jsonl").write_text("{}")
    assert "x.jsonl: not a .parquet file" in said(tmp_path / "x.jsonl")
    (tmp_path / "x.parquet").write_text("{}")
    assert "x.parquet: is no parquet file that can be read" in said(tmp_path / "x.parquet")
    pd.DataFrame([{"question": "1+1="}]).to_parquet(tmp_path / "y.parquet")
    assert "y.parquet: no column data_source, prompt, reward_model; it has question" in said(tmp_path / "y.parquet")
    (tmp_path / "again").mkdir()
    shutil.copy(data, tmp_path / "again")
    assert "more than one file is called sums" in said(data, tmp_path / "again" / data.name)
    pd.DataFrame([row(data_source="nobody")]).to_parquet(tmp_path / "z.parquet")
    assert "no verifier is known for data_source 'nobody'" in said(tmp_path / "z.parquet")


@on_cpu
def test_settings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model_folder: Path, data: Path
) -> None:
    def said(*arguments: Any) -> str:
        return refused(capsys, monkeypatch, model_folder, data, *arguments)

    context = json.loads((model_folder / "config.json").read_text())["max_position_embeddings"]
    assert f"--max-tokens 999: the model takes {context} tokens, and row 1 of" in said("--max-tokens", "999")
    assert "--temperature 0: the 4 responses of --samples would all be the same" in said("--temperature", "0")
    assert "data.max_prompt_length=2: row 1 of" in said("data.max_prompt_length=2")
    assert "actor_rollout_ref.rollout.temprature=1" in said("actor_rollout_ref.rollout.temprature=1")
    assert "reward.reward_manager.name=naive: only spro tells kinds" in said("reward.reward_manager.name=naive")
    assert "trainer.n_gpus_per_node=3: Ray is started with ray_kwargs.ray_init.num_gpus=1. Give it 3." in said(
        "trainer.n_gpus_per_node=3"
    )
    assert "= 2: trainer.nnodes=1 x trainer.n_gpus_per_node=1 is not one server" in said(
        "actor_rollout_ref.rollout.tensor_model_parallel_size=2"
    )
    assert "reward.reward_kwargs" in said("++reward.reward_kwargs.timeout_s=-1")


def test_categories_are_found(tmp_path: Path) -> None:
    rows = [
        row(extra_info={"category": "Algebra", "level": 3, "index": 0}, subject="x"),
        row(extra_info={"category": "Geometry", "level": 3, "index": 1}, subject=None),
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "x.parquet")
    found = problems.read(tmp_path / "x.parquet")
    assert found.categories == {"category": ["Algebra", "Geometry"], "subject": ["x", ""]}
    assert len(problems.read(tmp_path / "x.parquet", limit=1)) == 1
    with pytest.raises(BadInput):
        problems.read(tmp_path / "y.parquet")


def test_the_digest_is_of_what_is_asked(tmp_path: Path) -> None:
    digests = set()
    for number, rows in enumerate(([row()], [row("1+2=")], [row(data_source="math")], [row(), row()])):
        pd.DataFrame(rows).to_parquet(tmp_path / f"{number}.parquet")
        digests.add(problems.read(tmp_path / f"{number}.parquet").digest)
    assert len(digests) == 4
    assert problems.read(tmp_path / "3.parquet", limit=1).digest == problems.read(tmp_path / "0.parquet").digest


def test_the_help_needs_no_verl() -> None:
    code = (
        "import sys\nfrom scripts.evaluate.__main__ import parse\n"
        "try: parse(['-h'])\nfinally: print('verl' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip().endswith("False")


@on_cpu
def test_a_long_prompt_beyond_the_limit_is_nobodys_concern(model_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "some.parquet"
    pd.DataFrame([row("1+1="), row("1+1=" * 5)]).to_parquet(path)
    asked = find(str(model_folder))
    config, whole = (configure(asked, [problems.read(path, n)], Sampling(), ["+stack=cpu"]) for n in (1, None))
    assert 1 <= config.data.max_prompt_length < whole.data.max_prompt_length
    # A problem that is asked is never dropped.
    assert not config.data.filter_overlong_prompts


@on_cpu
def test_what_decides_the_responses_is_in_their_key(data: Path, model_folder: Path, tmp_path: Path) -> None:
    sets = [problems.read(data)]

    def key(*overrides: str, model: Path = model_folder, exported: dict[str, Any] | None = None, **wishes: Any) -> str:
        asked = find(str(model))
        config = configure(asked, sets, Sampling(**wishes), ["+stack=cpu", *overrides])
        made_with = key_of(config, asked, sets[0], greedy=False, samples=4, exported=exported or {})
        return Store(tmp_path, "x", made_with, 4).key

    changed = shutil.copytree(model_folder, tmp_path / "changed")
    (changed / "tokenizer_config.json").write_text((changed / "tokenizer_config.json").read_text() + "\n")
    others = [
        key(model=changed),
        key(temperature=0.5),
        key(top_p=0.5),
        key(seed=1),
        key(max_tokens=7),
        key("++reward.reward_kwargs.timeout_s=9"),
        key("actor_rollout_ref.rollout.top_k=5"),
    ]
    assert len({key(), *others}) == len(others) + 1
    # How it is computed is not what.
    assert key("actor_rollout_ref.rollout.agent.num_workers=2", "actor_rollout_ref.rollout.max_num_seqs=8") == key()
