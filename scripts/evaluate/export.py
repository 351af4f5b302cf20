"""A model in Hugging Face form from a checkpoint of verl's FSDP engine: in its own precision, LoRA merged.

verl's own merger does the work. As it is, it rounds every weight to bfloat16 (a run in float32 then gives other logits)
and writes a LoRA beside its base instead of into it; those two steps are replaced here.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from scripts.evaluate.errors import BadInput
from scripts.evaluate.subject import Subject

RECORD = "exported.json"
"""What an exported model was made from: written last, so that it marks a whole one."""

DTYPES = ("float32", "bfloat16", "float16")


def export(subject: Subject, out: Path, *, dtype: str | None = None, base: str | None = None) -> Path:
    """Writes the checkpoint as a model; what is there already from the same weights is kept.

    Args:
        dtype: of the weights; None: the checkpoint's own.
        base: model of an adapter that was saved alone (verl's ``save_lora_only``).

    Returns:
        ``out``.

    Raises:
        BadInput: ``out`` holds something else; the adapter cannot be merged.
    """
    wanted = {"checkpoint": subject.digest, "dtype": dtype, "base": base}
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if (out / RECORD).is_file() and json.loads((out / RECORD).read_text()) == wanted:
            return out
        raise BadInput(f"--export {out}: exists, and is not this checkpoint's model. Give another folder.")
    scratch = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        # Its messages are no output of the command.
        with redirect_stdout(sys.stderr):
            _merger(subject, scratch, dtype, base).merge_and_save()
        (scratch / RECORD).write_text(json.dumps(wanted) + "\n")
        if out.is_dir():
            out.rmdir()
        os.replace(scratch, out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return out


def _merger(subject: Subject, target: Path, dtype: str | None, base: str | None) -> Any:
    import torch
    from verl.model_merger.base_model_merger import ModelMergerConfig
    from verl.model_merger.fsdp_model_merger import FSDPModelMerger, merge_non_dtensor_shards

    class Merger(FSDPModelMerger):
        """verl's merger, which keeps the precision and merges LoRA."""

        def _load_and_merge_state_dicts(
            self, world_size: int, total_shards: int, mesh_shape: tuple[int, ...], mesh_dim_names: tuple[str, ...]
        ) -> dict[str, torch.Tensor]:
            if len(mesh_shape) != 1:
                raise NotImplementedError(f"checkpoint of a mesh {mesh_dim_names}: only FSDP's dimension is merged")
            paths = [subject.folder / f"model_world_size_{world_size}_rank_{rank}.pt" for rank in range(total_shards)]
            # Whole pickles: the shards are DTensors. A checkpoint is as trusted as the code that wrote it.
            ranks = [torch.load(path, map_location="cpu", weights_only=False, mmap=True) for path in paths]
            merged = {}
            for name in sorted(ranks[0]):
                parts = [rank.pop(name) for rank in ranks]
                if isinstance(parts[0], torch.distributed.tensor.DTensor):
                    # With replicas the last dimension of the mesh is the sharded one.
                    merged[name] = self._merge_by_placement([p._local_tensor for p in parts], parts[0].placements[-1])
                else:
                    merged[name] = merge_non_dtensor_shards(name, parts)
            return merged

        def save_hf_model_and_tokenizer(self, state_dict: dict[str, torch.Tensor]) -> None:
            state_dict = self._checked(_with_adapter_merged(self, state_dict, subject, base))
            kind = getattr(torch, dtype) if dtype else next(iter(state_dict.values())).dtype
            super().save_hf_model_and_tokenizer({name: weight.to(kind) for name, weight in state_dict.items()})
            # verl's says bfloat16, and readers go by it.
            self.model_config.dtype = kind
            self.model_config.save_pretrained(target)

        def _checked(self, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            self.empty_model().load_state_dict(state_dict, strict=True, assign=True)
            return state_dict

        def empty_model(self) -> Any:
            """The model without weights."""
            with torch.device("meta"):
                return self.get_transformers_auto_model_class().from_config(
                    self.model_config, trust_remote_code=self.config.trust_remote_code
                )

    config = ModelMergerConfig(
        operation="merge",
        backend="fsdp",
        local_dir=str(subject.folder),
        target_dir=str(target),
        hf_model_config_path=str(subject.texts),
    )
    target.mkdir(parents=True)
    return Merger(config)


def _with_adapter_merged(merger: Any, state_dict: dict[str, Any], subject: Subject, base: str | None) -> dict[str, Any]:
    """The weights of the model itself, by peft; as they are where there is no adapter.

    Raises:
        BadInput: rank and alpha, or the base, are not known.
    """
    adapted = sorted({name.partition(".lora_")[0] for name in state_dict if ".lora_" in name})
    if not adapted:
        return state_dict
    import peft

    meta = merger._load_lora_train_meta() or {}
    if not meta.get("r") or not meta.get("lora_alpha"):
        raise BadInput(
            f"MODEL {subject.source}: lora_train_meta.json, which tells the adapter's rank and alpha, is missing or "
            "torn. Copy it beside the shards, where verl wrote it."
        )
    model = merger.empty_model()
    prefix = "base_model.model."
    if all(".lora_" in name for name in state_dict):
        if base is None:
            raise BadInput(
                f"MODEL {subject.source}: the checkpoint holds the adapter only. Give the model that it was trained "
                "on: --base MODEL"
            )
        model = type(model).from_pretrained(base, dtype=next(iter(state_dict.values())).dtype)
    config = peft.LoraConfig(
        r=meta["r"],
        lora_alpha=meta["lora_alpha"],
        target_modules=[name.removeprefix(prefix) for name in adapted],
    )
    adapter = peft.get_peft_model(model, config)
    missing, unexpected = adapter.load_state_dict(state_dict, strict=False, assign=True)
    # Of an adapter that was saved alone, the base has all the others.
    missing = [name for name in missing if base is None or ".lora_" in name]
    if missing or unexpected:
        raise BadInput(
            f"MODEL {subject.source}: its adapter is no plain LoRA of linear layers (missing: {missing[:3]}, "
            f"unexpected: {unexpected[:3]}). Merge it where it was trained."
        )
    # Shards hold a tied weight under both its names, and peft would call them two.
    model.tie_weights()
    return adapter.merge_and_unload().state_dict()
