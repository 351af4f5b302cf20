"""Every fault is told with key, value and remedy, before anything is started."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from omegaconf import open_dict

from tests.support import composed
from verl_ext import preflight
from verl_ext.config_checks import ConfigError
from verl_ext.preflight import check

ROWS = 6


def prompts(*lengths: int) -> list[list[dict[str, str]]]:
    """Chats of so many tokens: the tokenizer has one per character."""
    return [[{"role": "user", "content": "7" * length}] for length in lengths]


def write(path: Path, rows: list[Any], column: str = "prompt") -> str:
    pd.DataFrame({column: pd.Series(rows, dtype=object), "data_source": "test"}).to_parquet(path)
    return str(path)


@pytest.fixture
def config(tmp_path: Path, model_folder: Path) -> Any:
    """A run without faults."""
    config = composed("+stack=cpu", "data.train_batch_size=4", "data.max_prompt_length=16")
    config.actor_rollout_ref.model.path = str(model_folder)
    config.data.train_files = write(tmp_path / "train.parquet", prompts(*[10] * ROWS))
    config.data.val_files = write(tmp_path / "val.parquet", prompts(10, 12))
    return config


def refused(config: Any, *parts: str) -> str:
    """The message of the refusal, in which each of ``parts`` must stand."""
    with pytest.raises(ConfigError) as error:
        check(config)
    message = str(error.value)
    for part in parts:
        assert part in message, message
    return message


def test_a_run_without_faults(config: Any) -> None:
    check(config)


def test_a_missing_model_folder(config: Any, tmp_path: Path) -> None:
    config.actor_rollout_ref.model.path = str(tmp_path / "nowhere")
    refused(
        config, f"actor_rollout_ref.model.path={tmp_path}/nowhere: there is no such folder", "Give a model's folder"
    )


@pytest.mark.parametrize("path", ["./nowhere/model", "models/of/ours", "~/of/nobody"])
def test_a_path_that_cannot_be_a_name_on_the_hub(config: Any, path: str) -> None:
    config.actor_rollout_ref.model.path = path
    refused(config, "actor_rollout_ref.model.path=", "there is no such folder")


def test_a_folder_that_is_no_model(config: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    config.actor_rollout_ref.model.path = str(tmp_path / "empty")
    refused(config, f"actor_rollout_ref.model.path={tmp_path}/empty: this folder holds no config.json")


@pytest.mark.parametrize("path", ["somebody/some-model-7B", "hdfs://cluster/models/base", "s3://bucket/model"])
def test_what_only_the_network_knows_is_left_alone(config: Any, path: str) -> None:
    config.actor_rollout_ref.model.path = path
    check(config)
    # Without the tokenizer prompts cannot be measured either.
    config.data.max_prompt_length = 1
    check(config)


@pytest.mark.parametrize("key", ["train_files", "val_files"])
def test_a_missing_data_file(config: Any, tmp_path: Path, key: str) -> None:
    config.data[key] = str(tmp_path / "nowhere.parquet")
    refused(config, f"data.{key}={tmp_path}/nowhere.parquet: there is no such file", "Make the data first")


def test_one_missing_file_of_several(config: Any, tmp_path: Path) -> None:
    config.data.train_files = [config.data.train_files, str(tmp_path / "second.parquet")]
    refused(config, f"data.train_files={tmp_path}/second.parquet: there is no such file")


def test_remote_data_is_left_alone(config: Any) -> None:
    config.data.train_files = "hdfs://cluster/train.parquet"
    config.data.val_files = None
    check(config)


@pytest.mark.parametrize("key", ["train_files", "val_files"])
def test_an_empty_parquet(config: Any, tmp_path: Path, key: str) -> None:
    config.data[key] = write(tmp_path / "empty.parquet", [])
    refused(config, f"data.{key}={tmp_path}/empty.parquet: the file has no rows")


@pytest.mark.parametrize("content", ["", "\n", " \n\n"])
def test_an_empty_jsonl(config: Any, tmp_path: Path, content: str) -> None:
    (tmp_path / "empty.jsonl").write_text(content)
    config.data.val_files = str(tmp_path / "empty.jsonl")
    refused(config, f"data.val_files={tmp_path}/empty.jsonl: the file has no rows")


def test_a_whole_jsonl(config: Any, tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": prompt, "data_source": "test"}) for prompt in prompts(*[9] * ROWS)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n")
    config.data.train_files = str(tmp_path / "train.jsonl")
    check(config)
    config.data.max_prompt_length = 8
    config.data.filter_overlong_prompts = False
    refused(config, f"row 5 of {tmp_path}/train.jsonl has a prompt of 9 tokens")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("torn.parquet", b"PAR1 and then nothing of use"),
        ("empty_file.parquet", b""),
        ("torn.jsonl", b'{"prompt": [{"role"'),
    ],
)
def test_a_file_that_cannot_be_read(config: Any, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    config.data.train_files = str(tmp_path / name)
    refused(config, f"data.train_files={tmp_path}/{name}: cannot be read (", "Write the file again")


def test_a_parquet_that_was_cut_short(config: Any, tmp_path: Path) -> None:
    path = Path(config.data.train_files)
    path.write_bytes(path.read_bytes()[:-20])
    refused(config, f"data.train_files={path}: cannot be read (")


def test_a_form_that_verl_does_not_read(config: Any, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("prompt\n7\n")
    config.data.train_files = str(tmp_path / "train.csv")
    refused(config, f"data.train_files={tmp_path}/train.csv: verl reads .parquet, .json and .jsonl")


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_missing_column(config: Any, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"train.{kind}"
    if kind == "parquet":
        write(path, prompts(*[5] * ROWS), column="question")
    else:
        path.write_text('{"question": "7", "data_source": "test"}\n')
    config.data.train_files = str(path)
    refused(
        config, f"data.train_files={path}: no column 'prompt' (data.prompt_key); the file has question, data_source"
    )
    config.data.prompt_key = "question"
    config.data.train_batch_size = 1
    config.data.val_files = None
    check(config)


def test_fewer_rows_than_a_batch(config: Any) -> None:
    config.data.train_batch_size = ROWS + 1
    refused(
        config,
        f"data.train_batch_size=7: {config.data.train_files} has only 6 rows, not one batch",
        "Lower data.train_batch_size to 6 at most",
    )
    config.data.train_batch_size = ROWS
    check(config)


def test_the_validation_set_may_be_smaller_than_a_batch(config: Any, tmp_path: Path) -> None:
    config.data.val_files = write(tmp_path / "one.parquet", prompts(5))
    check(config)


def test_a_prompt_that_is_too_long(config: Any, tmp_path: Path) -> None:
    config.data.filter_overlong_prompts = False
    # The longest is told, so that one change is enough.
    config.data.train_files = write(tmp_path / "long.parquet", prompts(10, 17, 10, 21, 18, 10))
    refused(
        config,
        f"data.max_prompt_length=16: row 3 of {tmp_path}/long.parquet has a prompt of 21 tokens",
        "Raise data.max_prompt_length to 21",
        "data.filter_overlong_prompts=True",
    )
    config.data.max_prompt_length = 21
    check(config)
    config.data.max_prompt_length = 20
    config.data.filter_overlong_prompts = True
    check(config)


def test_plain_text_prompts_are_measured_too(config: Any, tmp_path: Path) -> None:
    config.data.filter_overlong_prompts = False
    config.data.train_files = write(tmp_path / "text.parquet", ["7" * 30, *["7" * 9] * 5])
    refused(config, f"row 0 of {tmp_path}/text.parquet has a prompt of 30 tokens")


def test_truncation_asked_for_is_no_fault(config: Any) -> None:
    config.data.filter_overlong_prompts = False
    config.data.max_prompt_length = 3
    config.data.truncation = "left"
    check(config)


def test_a_filter_that_would_leave_nothing(config: Any, tmp_path: Path) -> None:
    config.data.filter_overlong_prompts = True
    config.data.train_files = write(tmp_path / "long.parquet", prompts(20, 22, 21, 19, 20, 20))
    refused(
        config,
        f"data.max_prompt_length=16: every prompt of {tmp_path}/long.parquet is longer (up to 22 tokens)",
        "Raise data.max_prompt_length to 22",
    )
    config.data.train_files = write(tmp_path / "mixed.parquet", prompts(20, 22, 16, 19, 20, 20))
    check(config)


def test_only_the_longest_are_counted(config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_PROMPTS_COUNTED", 2)
    config.data.filter_overlong_prompts = False
    config.data.train_files = write(tmp_path / "long.parquet", prompts(10, 11, 12, 13, 14, 40))
    refused(config, "row 5", "40 tokens")


PORTS = [
    "ray_kwargs.ray_init.dashboard_port",
    "ray_kwargs.ray_init._metrics_export_port",
    "transfer_queue.metrics.port",
]


@pytest.mark.parametrize("key", PORTS)
def test_a_port_in_use(config: Any, key: str) -> None:
    *path, name = key.split(".")
    group = config
    for step in path:
        group = group[step]
    with socket.socket() as taken, open_dict(group):
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        group[name] = port
        if "metrics.port" in key:
            group["enabled"] = True
        message = refused(config, f"{key}={port}: the port is in use", "Choose another")
        assert re.search(r"\(Address already in use\)", message)
    check(config)
