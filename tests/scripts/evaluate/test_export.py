"""The round trip: an actor of verl's saves a checkpoint, and the exported model says what the actor said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from scripts.evaluate.errors import BadInput
from scripts.evaluate.export import export
from scripts.evaluate.subject import find
from tests.scripts.evaluate import checkpoint_ranks
from tests.support import free_ports, on_cpu
from tests.verl_ext import reference_ranks

pytestmark = on_cpu


@pytest.fixture(scope="module")
def saved(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a kind, each with the checkpoint and what each rank saw."""
    folder = tmp_path_factory.mktemp("saved")
    (port,) = free_ports(1)
    reference_ranks.run(checkpoint_ranks.rank_main, 2, port, model_folder, folder)
    return folder


def seen_by(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(path, weights_only=False) for path in sorted(folder.glob("rank-*.pt"))]


def log_probs(model: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """Of each token after the first."""
    with torch.no_grad():
        found = torch.log_softmax(model(input_ids[None]).logits[0, :-1].float(), dim=-1)
    return found.gather(-1, input_ids[1:, None])[:, 0]


@pytest.mark.parametrize("kind", list(checkpoint_ranks.KINDS))
def test_it_says_what_the_actor_said(saved: Path, kind: str, model_folder: Path, tmp_path: Path) -> None:
    folder = export(
        find(str(saved / kind / "checkpoints" / "global_step_3")),
        tmp_path / "model",
        base=str(model_folder) if kind == "adapter" else None,
    )
    model = AutoModelForCausalLM.from_pretrained(folder)
    # By itself: readers go by the dtype in config.json.
    assert model.dtype == torch.float32
    assert model.config.tie_word_embeddings == AutoConfig.from_pretrained(model_folder).tie_word_embeddings
    weights = model.state_dict()
    for one in seen_by(saved / kind):
        for name, sent in one["sent"].items():
            # What vLLM was given, to the last bit; merged LoRA verl rounds to bfloat16 on its way there.
            torch.testing.assert_close(
                weights[name], sent, rtol=0, atol=0 if kind == "full" else 2e-3, check_dtype=kind == "full"
            )
        for input_ids, said in zip(one["input_ids"], one["log_probs"], strict=True):
            torch.testing.assert_close(log_probs(model, input_ids), said[: len(input_ids) - 1], rtol=0, atol=2e-5)


def test_it_moved(saved: Path, model_folder: Path) -> None:
    """The tests above would pass for the first model otherwise."""
    first = AutoModelForCausalLM.from_pretrained(model_folder)
    for kind in checkpoint_ranks.KINDS:
        (one, *_) = seen_by(saved / kind)
        input_ids, said = one["input_ids"][0], one["log_probs"][0]
        assert (log_probs(first, input_ids) - said[: len(input_ids) - 1]).abs().max() > 1e-2


def test_another_precision_is_asked_for(saved: Path, tmp_path: Path) -> None:
    folder = export(find(str(saved / "full" / "checkpoints" / "global_step_3")), tmp_path / "model", dtype="bfloat16")
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.bfloat16


def test_the_tokenizer_is_in_it(saved: Path, model_folder: Path, tmp_path: Path) -> None:
    folder = export(find(str(saved / "full" / "checkpoints" / "global_step_3" / "actor")), tmp_path / "model")
    there, here = (AutoTokenizer.from_pretrained(path) for path in (folder, model_folder))
    assert there.get_vocab() == here.get_vocab()
    assert there.chat_template == here.chat_template


def test_an_export_is_made_once(saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    checkpoint = find(str(saved / "full" / "checkpoints" / "global_step_3"))
    stamp = (export(checkpoint, out) / "config.json").stat().st_mtime_ns
    assert (export(checkpoint, out) / "config.json").stat().st_mtime_ns == stamp
    with pytest.raises(BadInput, match="exists, and is not this checkpoint's model"):
        export(find(str(saved / "lora" / "checkpoints" / "global_step_3")), out)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_cannot_be_merged(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"holds the adapter only.*--base MODEL"):
        export(find(str(saved / "adapter" / "checkpoints" / "global_step_3")), tmp_path / "model")
    copy = shutil.copytree(saved / "lora" / "checkpoints" / "global_step_3", tmp_path / "global_step_3")
    (copy / "actor" / "lora_train_meta.json").unlink()
    with pytest.raises(BadInput, match=r"lora_train_meta.json.*rank and alpha, is missing"):
        export(find(str(copy)), tmp_path / "model")
    # Nothing half is left.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["global_step_3"]


def test_where_a_checkpoint_is_found(saved: Path) -> None:
    checkpoints = saved / "full" / "checkpoints"
    (checkpoints / "latest_checkpointed_iteration.txt").write_text("3")
    for given in (checkpoints, checkpoints / "global_step_3", checkpoints / "global_step_3" / "actor"):
        found = find(str(given))
        assert (found.label, found.step, found.run) == ("global_step_3", 3, saved / "full")
        assert found.folder == checkpoints / "global_step_3" / "actor"
    (checkpoints / "latest_checkpointed_iteration.txt").write_text("7")
    with pytest.raises(BadInput, match="names step 7, and there is no global_step_7"):
        find(str(checkpoints))
    (checkpoints / "latest_checkpointed_iteration.txt").unlink()


def test_a_missing_shard(saved: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(saved / "full" / "checkpoints" / "global_step_3", tmp_path / "global_step_3")
    ranks = json.loads((copy / "actor" / "fsdp_config.json").read_text())["world_size"]
    (copy / "actor" / f"model_world_size_{ranks}_rank_{ranks - 1}.pt").unlink()
    with pytest.raises(BadInput, match=f"lacks model_world_size_{ranks}_rank_{ranks - 1}.pt"):
        find(str(copy))
