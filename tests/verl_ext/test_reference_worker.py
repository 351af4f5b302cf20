"""A reference that moves, in verl's own workers over FSDP2: on one rank and on two, full fine-tuning and LoRA."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from verl.workers import engine_workers
from verl.workers.engine.fsdp import transformer_impl

from tests.support import free_ports, on_cpu
from tests.verl_ext import reference_ranks
from tests.verl_ext.reference_ranks import DECAY, KINDS
from verl_ext import reference_worker
from verl_ext.patching import PatchError

pytestmark = on_cpu

Seen = list[dict[str, Any]]


@pytest.fixture(scope="module", params=[1, 2], ids=["1 rank", "2 ranks"])
def ranks(request: pytest.FixtureRequest, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """What each rank saw, by kind of model."""
    folder = tmp_path_factory.mktemp("ranks")
    (port,) = free_ports(1)
    reference_ranks.run(reference_ranks.rank_main, request.param, port, model_folder, folder)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(request.param)]


@pytest.fixture(params=list(KINDS))
def seen(ranks: list[dict[str, Any]], request: pytest.FixtureRequest) -> Seen:
    if request.param not in ranks[0]:
        pytest.skip("on one rank only")
    return [of_rank[request.param] for of_rank in ranks]


def is_lora(one: dict[str, Any]) -> bool:
    return one["start"]["reference"] is None


def squares(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    return sum(float((left[name].double() - right[name].double()).square().sum()) for name in left)


def start_of(one: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The reference's weights before the first update, in whose place LoRA has none: a second factor of 0."""
    if not is_lora(one):
        return one["start"]["reference"]
    return {
        name: torch.zeros_like(weight) if ".lora_B." in name else weight
        for name, weight in one["changed"]["actor"].items()
    }


def test_at_first_it_is_the_first_model(seen: Seen) -> None:
    for one in seen:
        assert torch.equal(one["start"]["reference_log_probs"], one["changed"]["reference_log_probs"])
        assert torch.equal(one["start"]["reference_log_probs"], one["start"]["actor_log_probs"])
        assert not torch.equal(one["changed"]["reference_log_probs"], one["changed"]["actor_log_probs"])


def test_an_average_is_that_of_the_weights(seen: Seen) -> None:
    for one in seen:
        start, actor, averaged = start_of(one), one["changed"]["actor"], one["averaged"]["reference"]
        assert averaged.keys() == actor.keys()
        for name, weight in averaged.items():
            expected = DECAY * start[name].double() + (1 - DECAY) * actor[name].double()
            torch.testing.assert_close(weight.double(), expected, rtol=0, atol=1e-7)
        # ... and it is what the reference's log-probs are computed with.
        for other in ("actor_log_probs", "reference_log_probs"):
            assert (one["averaged"]["reference_log_probs"] - one["changed"][other]).abs().max() > 1e-3


def test_a_copy_is_the_actor_to_the_last_bit(seen: Seen) -> None:
    for one in seen:
        for name, weight in one["copied"]["reference"].items():
            assert torch.equal(weight, one["copied"]["actor"][name])
        assert torch.equal(one["copied"]["reference_log_probs"], one["copied"]["actor_log_probs"])
        assert not torch.equal(one["copied"]["reference_log_probs"], one["averaged"]["reference_log_probs"])


def test_distances_are_those_before_the_update(seen: Seen) -> None:
    for one in seen:
        count = sum(weight.numel() for weight in one["start"]["actor"].values())
        first, second = one["distance"], one["distance to the next"]
        assert first.count == second.count == count
        assert first.squares == pytest.approx(squares(start_of(one), one["changed"]["actor"]), rel=1e-5)
        assert second.squares == pytest.approx(squares(one["averaged"]["reference"], one["copied"]["actor"]), rel=1e-5)
    # The shards of all ranks are the whole model.
    total = seen[0]["distance"]
    for one in seen[1:]:
        total += one["distance"]
    assert total.rms == pytest.approx(math.sqrt(total.squares / total.count))


def test_the_actor_does_not_notice(seen: Seen) -> None:
    for one in seen:
        for name, weight in one["changed"]["actor"].items():
            assert torch.equal(weight, one["averaged"]["actor"][name])
        assert torch.equal(one["changed"]["actor_log_probs"], one["averaged"]["actor_log_probs"])
        assert one["rollout is given the same"]
        assert one["optimizer"] == 0


def test_what_was_saved_comes_back(seen: Seen) -> None:
    for one in seen:
        assert one["updates"] == 2
        assert not torch.equal(one["moved on"]["reference_log_probs"], one["copied"]["reference_log_probs"])
        assert torch.equal(one["loaded"]["reference_log_probs"], one["copied"]["reference_log_probs"])
        assert torch.equal(one["loaded"]["actor_log_probs"], one["moved on"]["actor_log_probs"])
        for name, weight in one["loaded"]["reference"].items():
            assert torch.equal(weight, one["copied"]["reference"][name])


class Sharded(torch.Tensor):
    """Stands in for a DTensor of some layout."""

    placements: tuple[str, ...] = ("Shard(0)",)
    device_mesh = "one of four ranks"


def test_unlike_models_and_unlike_shards_are_refused() -> None:
    one, other = torch.zeros(2, 3), torch.zeros(2, 3).as_subclass(Sharded)
    assert reference_worker._pairs({"w": one}, {"w": one, "head": one}) == [(one, one)]
    with pytest.raises(RuntimeError, match="the reference's weight w is none of the actor's"):
        reference_worker._pairs({"w": one}, {"v": one})
    with pytest.raises(RuntimeError, match=r"Shard both alike: actor_rollout_ref\.ref\.fsdp_config\.fsdp_size as"):
        reference_worker._pairs({"w": other}, {"w": one})
    with pytest.raises(RuntimeError, match=r"weight w is of shape \(2, 3\) where \(3, 2\) is expected"):
        reference_worker._copy({"w": one}, {"w": one.T})
    with pytest.raises(RuntimeError, match=r"weight v is of shape None where \(2, 3\)"):
        reference_worker._copy({}, {"v": one})


@pytest.mark.parametrize("others", [{}, {"modules_to_save": 1}, {"lora_magnitude_vector": 1}])
def test_adapters_that_are_more_than_lora_are_refused(others: dict[str, int]) -> None:
    module = torch.nn.Module()
    for name in others or {"weight": 1}:
        module.register_parameter(name, torch.nn.Parameter(torch.zeros(2), requires_grad=bool(others)))
    with pytest.raises(RuntimeError, match=r"plain LoRA is all that is trained; this model (trains|has no)"):
        reference_worker.adapter_of(module)


def test_references_of_removed_checkpoints_go_and_others_stay(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        (tmp_path / f"global_step_{step}" / "reference").mkdir(parents=True)
    (tmp_path / "global_step_2" / "actor").mkdir()
    reference_worker.remove_orphans(tmp_path / "global_step_3" / "reference")
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*"))
    assert left == ["global_step_2/actor", "global_step_2/reference", "global_step_3/reference"]


def test_another_number_of_ranks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    with pytest.raises(FileNotFoundError, match=r"world_size_2_rank_1\.pt is not there: .* on the number of ranks"):
        reference_worker._load(SimpleNamespace(), str(tmp_path))


def test_it_fails_loudly_when_its_targets_have_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in (transformer_impl.FSDPEngine, transformer_impl.BaseEngine):
        monkeypatch.delattr(engine, "disable_adapter")
    with pytest.raises(PatchError, match=r"FSDPEngine\.disable_adapter"):
        reference_worker.patch_engine(transformer_impl)
    monkeypatch.delattr(engine_workers, "ActorRolloutRefWorker")
    with pytest.raises(PatchError, match="ActorRolloutRefWorker"):
        reference_worker.patch_workers(engine_workers)
