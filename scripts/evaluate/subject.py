"""What is evaluated: a model in Hugging Face form, or a checkpoint folder of verl's, and the digest of its weights."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from scripts.evaluate.errors import BadInput

LATEST = "latest_checkpointed_iteration.txt"

# What changes the answers, beside weights: the configuration, the tokenizer with its chat template, how to stop.
_TEXTS = (".json", ".jinja", ".model", ".txt", ".tiktoken", ".py")
_WEIGHTS = (".safetensors", ".bin")

# Of a model of the hub: not its weights in other frameworks' formats.
_WANTED = [f"*{ending}" for ending in (*_TEXTS, *_WEIGHTS)]


@dataclass(frozen=True)
class Subject:
    """A model or a checkpoint.

    Attributes:
        label: what it is called in tables.
        source: as it was given.
        folder: of its files.
        is_checkpoint: verl's shards, which no server reads: `export` makes a model of them.
        step: the training step of a checkpoint.
        run: the folder of the training run that a checkpoint belongs to.
    """

    label: str
    source: str
    folder: Path
    is_checkpoint: bool = False
    step: int | None = None
    run: Path | None = None

    @property
    def texts(self) -> Path:
        """The folder of configuration and tokenizer."""
        return self.folder / "huggingface" if self.is_checkpoint else self.folder

    @cached_property
    def digest(self) -> str:
        """Of all that decides what it answers, weights included; seconds a gigabyte, hence computed once."""
        return digest(self._files())

    def _files(self) -> list[Path]:
        texts = [path for path in sorted(self.texts.iterdir()) if path.suffix in _TEXTS]
        if self.is_checkpoint:
            adapter = self.folder / "lora_train_meta.json"
            return [*shards(self.folder), *texts, *([adapter] if adapter.is_file() else [])]
        return [*sorted(path for path in self.folder.iterdir() if path.suffix in _WEIGHTS), *texts]


def digest(files: Iterable[Path]) -> str:
    """SHA-256 over names and contents."""
    files = list(files)
    with ThreadPoolExecutor(8) as threads:
        contents = list(threads.map(_sha256, files))
    lines = (f"{path.name} {content}" for path, content in zip(files, contents, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shards(folder: Path) -> list[Path]:
    """The weights of a checkpoint of verl's FSDP engine, by rank.

    Raises:
        BadInput: some are missing.
    """
    ranks = int(json.loads((folder / "fsdp_config.json").read_text())["world_size"])
    paths = [folder / f"model_world_size_{ranks}_rank_{rank}.pt" for rank in range(ranks)]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise BadInput(
            f"MODEL {folder}: the checkpoint of {ranks} rank(s) lacks {', '.join(missing)}. Copy the files of every "
            "node into one folder; a checkpoint without 'model' in actor.checkpoint.save_contents cannot be evaluated."
        )
    return paths


def find(given: str, label: str | None = None) -> Subject:
    """The subject that MODEL names: a model's folder, its name on the hub, or a checkpoint (see `_checkpoint`).

    Raises:
        BadInput: it is none of them.
    """
    path = Path(given).expanduser()
    if not path.exists():
        return _of_the_hub(given, label)
    actor = _checkpoint(path)
    if actor is not None:
        step = _step(actor)
        owner = actor.parent if step is not None else actor
        name = owner.name if step is not None else actor.resolve().name
        found = Subject(label or name, given, actor, True, step, _run(owner) if step is not None else None)
        shards(actor)
    else:
        if not (path / "config.json").is_file():
            raise BadInput(
                f"MODEL {given}: neither a model (no config.json in it) nor a checkpoint of verl's (no global_step_N, "
                "no actor/fsdp_config.json). Give the folder of one, or a model's name on the hub (owner/name)."
            )
        found = Subject(label or path.resolve().name, given, path)
        if not any(file.suffix in _WEIGHTS for file in path.iterdir()):
            raise BadInput(f"MODEL {given}: the folder holds no weights (*.safetensors). Give one that does.")
    return found


def _checkpoint(path: Path) -> Path | None:
    """The actor's folder of a checkpoint: of itself, of ``global_step_N``, or of the latest under a folder of them."""
    if (path / LATEST).is_file():
        step = (path / LATEST).read_text().strip()
        if not (path / f"global_step_{step}").is_dir():
            raise BadInput(
                f"MODEL {path}: {LATEST} names step {step}, and there is no global_step_{step}. Name a step."
            )
        path = path / f"global_step_{step}"
    for folder in (path, path / "actor"):
        if (folder / "fsdp_config.json").is_file():
            return folder
        if (folder / "model" / "huggingface").is_dir() or (folder / "dist_ckpt").is_dir():
            raise BadInput(
                f"MODEL {folder}: a checkpoint of Megatron's. Make a model of it with verl first, and give that: "
                f"python -m verl.model_merger merge --backend megatron --local_dir {folder} --target_dir DIR"
            )
    return None


def _step(actor: Path) -> int | None:
    match = re.fullmatch(r"global_step_(\d+)", actor.resolve().parent.name)
    return int(match[1]) if match else None


def _run(global_step: Path) -> Path:
    """The run's own folder: around ``checkpoints``, or the folder of the checkpoints itself."""
    folder = global_step.resolve().parent
    return folder.parent if folder.name == "checkpoints" else folder


def _of_the_hub(given: str, label: str | None) -> Subject:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", given):
        raise BadInput(f"MODEL {given}: there is no such folder. Give a model's or checkpoint's, or a name on the hub.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(given, allow_patterns=_WANTED)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise BadInput(
            f"MODEL {given}: there is no such folder, and the hub does not give it ({reason}). Correct the path."
        ) from None
    return Subject(label or given.partition("/")[2], given, Path(folder))
