"""One batch through verl's own workers with FSDP2 and with Megatron, without Ray and rollout: what each makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.verl_ext.reference_ranks import environment, make_worker, worker_overrides

MEGATRON = "actor_rollout_ref.actor.megatron."

# The overrides of each engine, and the ranks that it is looked at on.
ENGINES: dict[str, list[str]] = {
    "fsdp2": ["+stack=cpu"],
    "megatron": ["model_engine=megatron", "+stack=cpu_megatron"],
}
TENSOR_PARALLEL = [f"{MEGATRON}tensor_model_parallel_size=2"]
# As the launchers set them
RECOMPUTE = [
    f"{MEGATRON}override_transformer_config.recompute_granularity=full",
    f"{MEGATRON}override_transformer_config.recompute_method=uniform",
    f"{MEGATRON}override_transformer_config.recompute_num_layers=1",
]

GROUPS, RESPONSES, TEMPERATURE, BETA = 2, 4, 0.7, 0.5
PROMPTS, LENGTHS = (5, 9), (3, 11, 7, 1, 6, 6, 2, 8)

# Megatron decays no norms and no biases, FSDP's optimizer all weights: without decay both do the same.
OPTIMIZER = [
    "actor_rollout_ref.actor.optim.lr=1e-3",
    "actor_rollout_ref.actor.optim.weight_decay=0.0",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2",
    f"actor_rollout_ref.actor.ppo_mini_batch_size={GROUPS}",
]
REWARD_MODEL = ["algorithm.prime.optim.lr=1e-3", f"actor_rollout_ref.rollout.n={RESPONSES}"]

OUTCOMES = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0])

# As verl's trainer asks for an update: of the whole batch, in micro-batches of two rows.
UPDATE: dict[str, Any] = {
    "global_batch_size": GROUPS * RESPONSES,
    "mini_batch_size": GROUPS * RESPONSES,
    "epochs": 1,
    "seed": 42,
    "dataloader_kwargs": {"shuffle": False},
}


def jagged(rows: list[torch.Tensor]) -> torch.Tensor:
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def make_fields(vocabulary: int) -> dict[str, torch.Tensor]:
    """Two prompts with four responses each, of unlike lengths."""
    generator = torch.Generator().manual_seed(0)

    def draw(length: int) -> torch.Tensor:
        return torch.randint(vocabulary, (length,), generator=generator)

    prompts = [prompt for length in PROMPTS for prompt in [draw(length)] * RESPONSES]
    responses = [draw(length) for length in LENGTHS]
    rows = [torch.cat(pair) for pair in zip(prompts, responses, strict=True)]
    mask = jagged([torch.ones_like(response) for response in responses])
    return {
        "prompts": jagged(prompts),
        "responses": jagged(responses),
        "response_mask": mask,
        "loss_mask": mask,
        "input_ids": jagged(rows),
        "position_ids": jagged([torch.arange(len(row)) for row in rows]),
    }


def _batch(fields: dict[str, torch.Tensor], **info: Any) -> Any:
    from verl.utils import tensordict_utils

    return tensordict_utils.get_tensordict(dict(fields), {"temperature": TEMPERATURE, **info})


def _on_every_rank(output: Any, names: list[str]) -> list[torch.Tensor]:
    """The first rank has the outputs of a tensor-parallel model; verl hands them to all of its ranks."""
    shared = [None if output is None else [output[name].unbind() for name in names]]
    torch.distributed.broadcast_object_list(shared, src=0)
    assert shared[0] is not None
    return [jagged([row.clone() for row in rows]) for rows in shared[0]]


def step(worker: Any, fields: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Old and reference log-probs, SPRO's advantages from them, and one update of the actor."""
    from verl.workers.utils.padding import response_from_nested

    from recipe.spro.advantage import spro_advantage

    asked = {"calculate_entropy": True, "compute_loss": False}
    old, entropy = _on_every_rank(worker.compute_log_prob(_batch(fields, **asked)), ["log_probs", "entropy"])
    (reference,) = _on_every_rank(worker.compute_ref_log_prob(_batch(fields, **asked)), ["log_probs"])
    mask = fields["response_mask"]
    old, entropy, reference = (response_from_nested(each, mask) for each in (old, entropy, reference))
    uids = torch.arange(GROUPS).repeat_interleave(RESPONSES)
    advantages = spro_advantage(old, reference, mask, OUTCOMES, uids, beta=BETA)
    trained = {**fields, "old_log_probs": old, "advantages": advantages}
    output = worker.update_actor(_batch(trained, calculate_entropy=True, **UPDATE))
    seen: dict[str, Any] = {"old": old, "reference": reference, "entropy": entropy, "advantages": advantages}
    if output is not None:
        seen["metrics"] = output["metrics"]
    # Collective, and under the names that vLLM is given.
    weights, _ = worker.actor.engine.get_per_tensor_param()
    seen["weights"] = {name: weight.detach().clone() for name, weight in weights}
    return seen


def observe(model_folder: Path, overrides: list[str]) -> list[dict[str, Any]]:
    """Two steps, at the first of which the policy is the reference, and PRIME's reward model."""
    from transformers import AutoConfig

    worker = make_worker(model_folder, [*overrides, *OPTIMIZER])
    fields = make_fields(AutoConfig.from_pretrained(model_folder).vocab_size)
    steps = [step(worker, fields) for _ in range(2)]
    return [*steps, reward_model_step(model_folder, overrides, fields, steps[0]["reference"])]


def reward_model_step(
    model_folder: Path, overrides: list[str], fields: dict[str, torch.Tensor], reference: torch.Tensor
) -> dict[str, Any]:
    """PRIME's reward model, made as in a run: one update on the outcomes, and its log-probs after it."""
    from verl.workers.engine_workers import TrainingWorker
    from verl.workers.utils.padding import response_from_nested

    from recipe.prime_v1.reward_model import COMPANION
    from tests.support import composed

    config = composed(*worker_overrides(model_folder), *overrides, *OPTIMIZER, "+method=prime", *REWARD_MODEL)
    worker = TrainingWorker(COMPANION.worker_config(config))
    worker.reset()
    worker.set_loss_fn(COMPANION.loss(config))
    scores = [
        torch.nn.functional.pad(outcome[None], (length - 1, 0))
        for outcome, length in zip(OUTCOMES, LENGTHS, strict=True)
    ]
    output = worker.train_mini_batch(
        _batch({**fields, "rm_scores": jagged(scores), "ref_log_prob": reference}, **UPDATE)
    )
    after = worker.infer_batch(_batch(fields, calculate_entropy=False, compute_loss=False))
    (log_probs,) = _on_every_rank(after, ["log_probs"])
    log_probs = response_from_nested(log_probs, fields["response_mask"])
    return {"log_probs": log_probs, "metrics": None if output is None else output["metrics"]}


def rank_main(rank: int, ranks: int, port: int, model_folder: Path, folder: Path) -> None:
    """What each process runs: every engine that is looked at on so many ranks, one after another."""
    import os

    os.environ.update(environment(rank, ranks, port))
    torch.set_num_threads(1)

    import verl  # noqa: F401 (loads the plugins)

    import recipe.spro.plugin  # noqa: F401

    if ranks == 1:
        # Megatron recomputes its layers in the backward pass, as in the launchers.
        kinds = {"fsdp2": ENGINES["fsdp2"], "megatron": [*ENGINES["megatron"], *RECOMPUTE]}
    else:
        kinds = {"megatron": [*ENGINES["megatron"], *TENSOR_PARALLEL]}
    seen = {name: observe(model_folder, overrides) for name, overrides in kinds.items()}
    if rank == 0:
        torch.save(seen, folder / f"{ranks}.pt")
    torch.distributed.destroy_process_group()
