"""verl's Megatron engine on the host: FSDP2's numbers on the same batch, on one rank and on two (tensor-parallel)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from verl.workers.config import McoreEngineConfig

from tests.support import free_ports, on_cpu
from tests.verl_ext import reference_ranks
from tests.verl_ext.cpu import engine_ranks
from verl_ext.cpu import megatron_device

pytest.importorskip("megatron.core", reason="megatron-core is not installed (requirements-cpu.txt has it)")
pytest.importorskip("mbridge", reason="mbridge is not installed (requirements-cpu.txt has it)")
pytestmark = on_cpu

# The largest difference that is accepted, in log-probs, advantages, metrics and weights alike.
CLOSE = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The arithmetic model, untrained; its 259 tokens padded to what two ranks can share."""
    from examples.arithmetic.make_model import make_model, make_tokenizer

    folder = tmp_path_factory.mktemp("model")
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    model = make_model(tokenizer)
    model.resize_token_embeddings(pad_to_multiple_of=2)
    model.save_pretrained(folder)
    return folder


def ran(ranks: int, model_folder: Path, folder: Path) -> dict[str, list[dict[str, Any]]]:
    (port,) = free_ports(1)
    reference_ranks.run(engine_ranks.rank_main, ranks, port, model_folder, folder)
    return torch.load(folder / f"{ranks}.pt", weights_only=False)


@pytest.fixture(scope="module")
def one_rank(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    return ran(1, folder, tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module", params=["1 rank", "tensor parallel 2"])
def pair(
    request: pytest.FixtureRequest,
    folder: Path,
    one_rank: dict[str, list[dict[str, Any]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What FSDP2 saw, and what Megatron saw: two steps and PRIME's reward model."""
    seen = one_rank if request.param == "1 rank" else ran(2, folder, tmp_path_factory.mktemp("two"))
    return one_rank["fsdp2"], seen["megatron"]


Pair = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def close(left: torch.Tensor, right: torch.Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("name", ["old", "reference", "entropy", "advantages"])
def test_log_probs_and_advantages_agree(pair: Pair, name: str) -> None:
    for fsdp, megatron in zip(pair[0][:2], pair[1][:2], strict=True):
        close(megatron[name].values(), fsdp[name].values())


def test_the_second_step_has_a_process_term(pair: Pair) -> None:
    """Or the agreement of the advantages would say nothing of the log-probs."""
    for steps in pair:
        assert torch.equal(steps[0]["old"].values(), steps[0]["reference"].values())
        assert (steps[1]["old"].values() - steps[1]["reference"].values()).abs().max() > 0.1
        assert (steps[1]["advantages"].values() - steps[0]["advantages"].values()).abs().max() > 0.1


def test_the_updates_agree(pair: Pair) -> None:
    for fsdp, megatron in zip(pair[0][:2], pair[1][:2], strict=True):
        for name in ("loss", "actor/pg_loss", "actor/ppo_kl", "grad_norm", "lr"):
            assert megatron["metrics"][name] == pytest.approx(fsdp["metrics"][name], rel=CLOSE, abs=CLOSE), name
        # FSDP's export names the tied head too.
        assert megatron["weights"].keys() == fsdp["weights"].keys() - {"lm_head.weight"}
        for name, weight in megatron["weights"].items():
            close(weight, fsdp["weights"][name])
    start, end = pair[1][0]["weights"], pair[1][1]["weights"]
    assert all((end[name] - start[name]).abs().max() > CLOSE for name in end)


def test_primes_reward_model_agrees(pair: Pair) -> None:
    fsdp, megatron = pair[0][2], pair[1][2]
    for name in ("loss", "grad_norm", "lr"):
        assert megatron["metrics"][name] == pytest.approx(fsdp["metrics"][name], rel=CLOSE, abs=CLOSE), name
    close(megatron["log_probs"].values(), fsdp["log_probs"].values())


def test_within_a_call_cuda_is_the_host_and_outside_it_is_not() -> None:
    asked = torch.cuda.current_device
    with megatron_device.on_host():
        assert torch.zeros(2, device="cuda").device.type == "cpu"
        assert torch.zeros(2, device=torch.cuda.current_device()).device.type == "cpu"
        assert torch.zeros(2).cuda().type() == "torch.cuda.FloatTensor"
        assert torch.nn.Linear(1, 1).cuda(torch.cuda.current_device()).weight.is_cpu
    assert torch.cuda.current_device is asked
    assert torch.zeros(2).type() == "torch.FloatTensor"
    with pytest.raises((AssertionError, RuntimeError)):
        torch.zeros(2, device="cuda")


def test_random_states_are_kept_apart() -> None:
    from megatron.core.tensor_parallel import random

    tracker = random.CudaRNGStatesTracker()
    tracker.add("one", 1)
    tracker.add("two", 2)
    with pytest.raises(ValueError, match="the name 'one' or the seed 3 already"):
        tracker.add("one", 3)
    before = torch.get_rng_state()
    draws: dict[str, list[float]] = {}
    for name in ("one", "two", "one"):
        with tracker.fork(name):
            draws.setdefault(name, []).append(float(torch.rand(())))
    assert torch.equal(torch.get_rng_state(), before)
    generator = torch.Generator().manual_seed(1)
    assert draws["one"] == [float(torch.rand((), generator=generator)) for _ in range(2)]
    assert draws["two"] != draws["one"][:1]


def test_float32_is_accepted_and_other_checks_stay() -> None:
    config = McoreEngineConfig(dtype="float32")
    assert config.dtype == "float32"
    assert config.sequence_parallel is False
    with pytest.raises(AssertionError, match="dtype float64"):
        McoreEngineConfig(dtype="float64")
    with pytest.raises(ValueError, match="max_seqlen_per_dp_cp_rank"):
        McoreEngineConfig(dtype="float32", dynamic_context_parallel=True)
