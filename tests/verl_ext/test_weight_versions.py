"""The versions of the weights that wrote a response reach an estimator, with one meaning in all of verl's trainers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import transfer_queue as tq
from verl.experimental.separation.ray_trainer import SeparateRayPPOTrainer
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

from tests.support import composed
from verl_ext import weight_versions
from verl_ext.estimator_inputs import fields_named_by
from verl_ext.patching import PatchError
from verl_ext.weight_versions import WeightVersions


def estimator(weight_versions: Any = None) -> None: ...


def data(first: list[Any] | None = None, last: list[Any] | None = None, rows: int = 4) -> Any:
    """A DataProto, as far as it is looked at."""
    stamps = {} if first is None or last is None else {"min_global_steps": first, "max_global_steps": last}
    fields = {name: np.array(values, dtype=object) for name, values in stamps.items()}

    class Data(SimpleNamespace):
        def __len__(self) -> int:
            return rows

    return Data(batch={}, non_tensor_batch=fields)


def tag(first: int | None, last: int | None, **more: Any) -> dict[str, Any]:
    return {"min_global_steps": first, "max_global_steps": last, **more}


def given(batch: Any) -> WeightVersions | None:
    return fields_named_by(estimator, batch).get("weight_versions")


def in_v1(tags: list[dict[str, Any]], *, step: int, mode: str = "separate_async", rows: int = 4) -> Any:
    config = composed(f"trainer.v1.trainer_mode={mode}")
    batch = tq.KVBatchMeta(keys=[f"{n}_0_0" for n in range(len(tags))], tags=tags, partition_id="train")
    found = []
    read = weight_versions._reading(weight_versions._of_v1)
    read(lambda self, batch: found.append(given(data(rows=rows))))(
        SimpleNamespace(config=config, global_steps=step), batch
    )
    return found[0]


def in_separation(trainer: Any, batch: Any) -> Any:
    read = weight_versions._reading(weight_versions._of_separation)
    found = []
    read(lambda self, batch: found.append(given(batch)))(trainer, batch)
    return found[0]


def test_v1_counts_the_updates_before_the_step() -> None:
    # The weights of step 6's update are version 6; what step 7 is about to change is version 6 too.
    tags = [tag(6, 6), tag(5, 6), tag(5, 5), tag(0, 0, is_padding=True)]
    versions = in_v1(tags, step=7)
    assert versions.current == 6
    assert versions.known.tolist() == [True, True, True, False]
    assert versions.fresh.tolist() == [True, False, False, False]
    assert versions.moved.tolist() == [False, True, False, False]
    assert versions.of_the_first_model.tolist() == [False] * 4


def test_of_the_first_model_is_who_was_neither_begun_nor_ended_by_another() -> None:
    versions = in_v1([tag(0, 0), tag(0, 1), tag(1, 1), tag(None, None)], step=2)
    assert versions.of_the_first_model.tolist() == [True, False, False, False]
    assert versions.known.tolist() == [True, True, True, False]


def test_there_are_none_where_nothing_can_be_stale_or_nothing_is_stamped() -> None:
    tags = [tag(0, 0)] * 4
    assert in_v1(tags, step=1, mode="sync") is None
    assert in_v1(tags, step=1, mode="colocate_async") is not None
    assert in_v1([{}] * 4, step=1) is None
    assert in_separation(SimpleNamespace(global_steps=1), data()) is None
    # Outside a trainer.
    assert given(data()) is None


def test_rows_that_are_not_the_trainers_are_an_error() -> None:
    with pytest.raises(PatchError, match="4 rows and the trainer 3 tags"):
        in_v1([tag(0, 0)] * 3, step=1)


def test_fully_async_counts_its_synchronisations() -> None:
    trainer = SimpleNamespace(global_steps=9, current_param_version=4)
    versions = in_separation(trainer, data([4, 3, 3, None], [4, 4, 3, None]))
    assert versions.current == 4
    assert versions.fresh.tolist() == [True, False, False, False]
    assert versions.moved.tolist() == [False, True, False, False]


def test_one_step_off_stamps_before_the_update_of_the_step() -> None:
    """Step 1 trains on what was sent before it; step 2 on what step 1 sent, which has had no update either."""
    first = in_separation(SimpleNamespace(global_steps=1), data([0] * 4, [0] * 4))
    assert first.current == 0
    assert first.fresh.all()
    second = in_separation(SimpleNamespace(global_steps=2), data([1] * 4, [1] * 4))
    assert second.current == 1
    assert second.of_the_first_model.all()
    assert not second.fresh.any()
    assert in_separation(SimpleNamespace(global_steps=5), data([4] * 4, [4] * 4)).first.tolist() == [3] * 4


def test_verls_trainers_are_patched() -> None:
    for trainer, name in ((PPOTrainer, "_compute_advantage"), (SeparateRayPPOTrainer, "_fit_compute_advantage")):
        assert weight_versions.__name__ in getattr(trainer, name).__verl_ext_patch__
