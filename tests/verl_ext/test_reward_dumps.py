"""Verdicts reach verl's dumps of training, in the order in which it writes the rows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import transfer_queue
from omegaconf import OmegaConf
from tensordict import NonTensorStack, TensorDict

from verl_ext.reward_dumps import _with_verdicts


def dumped(monkeypatch: pytest.MonkeyPatch, manager: str) -> dict[str, list[Any]]:
    infos = [{"kind": "correct", "extracted": "1"}, {}, {"kind": "timeout", "detail": "slow"}]
    fields = NonTensorStack(*({"reward_extra_info": info} for info in infos))
    monkeypatch.setattr(transfer_queue, "kv_batch_get", lambda **_: TensorDict({"extra_fields": fields}, 3))
    written: dict[str, Any] = {}

    class Trainer:
        config = OmegaConf.create({"reward": {"reward_manager": {"name": manager}}})

        def _dump_generations(self, **given: Any) -> None:
            written.update(given)

    def original(self: Any, batch: Any, timing_raw: Any, rollout_data_dir: str) -> None:
        order = {"uid": ["c", "a", "b"]}
        self._dump_generations(inputs=[], reward_extra_infos_dict=order, dump_path=rollout_data_dir)

    trainer = Trainer()
    batch = SimpleNamespace(keys=["a", "b", "c"], partition_id="train")
    _with_verdicts(original)(trainer, batch, {}, "folder")
    assert "_dump_generations" not in vars(trainer)
    assert written["dump_path"] == "folder"
    return written["reward_extra_infos_dict"]


def test_in_the_order_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    got = dumped(monkeypatch, "spro")
    assert got["uid"] == ["c", "a", "b"]
    assert got["kind"] == ["timeout", "correct", None]
    assert got["detail"] == ["slow", None, None]
    assert got["extracted"] == [None, "1", None]


def test_other_managers_dumps_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(dumped(monkeypatch, "naive")) == {"uid"}
