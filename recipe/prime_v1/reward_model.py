"""PRIME's implicit reward model: a language model beside the actor that is trained on each batch's outcomes."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from recipe.prime_v1.loss import RewardModelLoss
from recipe.prime_v1.settings import PrimeSettings
from verl_ext.companion_model import Companion

NAME = "reward_model"

# The field in which the advantage finds the reward model's log-probs.
LOG_PROBS = "rm_log_probs"


def _settings(config: Any) -> PrimeSettings:
    return PrimeSettings.from_config(config.algorithm.get("prime", None))


def _applies(config: Any) -> bool:
    return config.algorithm.adv_estimator == "prime"


def mini_batch_rows(config: Any) -> int:
    """Rows of one update of the reward model, over all ranks."""
    prompts = _settings(config).mini_batch_size or config.actor_rollout_ref.actor.ppo_mini_batch_size
    return prompts * config.actor_rollout_ref.rollout.n


def _plain(config: Any) -> Any:
    """A copy to change, without references into the rest of the configuration."""
    return OmegaConf.create(OmegaConf.to_container(config, resolve=True))


def worker_config(config: Any) -> Any:
    """verl's TrainingWorkerConfig: the actor's, but for what `algorithm.prime` says."""
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.config import TrainingWorkerConfig

    settings, rollout = _settings(config), config.actor_rollout_ref.rollout
    model, actor = _plain(config.actor_rollout_ref.model), _plain(config.actor_rollout_ref.actor)
    if settings.model.path is not None:
        model.path = settings.model.path
    # Heads that predict several tokens are of no use to it.
    model.mtp.enable = False
    optim = settings.optim
    # FSDP's and Megatron's optimisers name it differently, and mean the same by constant and cosine.
    schedule = "lr_decay_style" if actor.strategy == "megatron" else "lr_scheduler_type"
    actor.optim.update(
        {
            "lr": optim.lr,
            "lr_warmup_steps": optim.lr_warmup_steps,
            "lr_warmup_steps_ratio": optim.lr_warmup_steps_ratio,
            "weight_decay": optim.weight_decay,
            "clip_grad": optim.grad_clip,
            schedule: optim.lr_scheduler_type,
        }
    )
    if settings.fsdp_config:
        actor.fsdp_config = OmegaConf.merge(actor.fsdp_config, settings.fsdp_config)
    actor_config = omega_conf_to_dataclass(actor)
    engine = actor_config.engine
    # What verl's ActorRolloutRefWorker.init_model sets for the actor.
    engine.use_dynamic_bsz = actor.use_dynamic_bsz
    engine.max_token_len_per_gpu = actor.ppo_max_token_len_per_gpu
    engine.infer_max_token_len_per_gpu = rollout.log_prob_max_token_len_per_gpu
    own = settings.micro_batch_size_per_gpu
    engine.micro_batch_size_per_gpu = own or actor.ppo_micro_batch_size_per_gpu
    engine.infer_micro_batch_size_per_gpu = own or rollout.log_prob_micro_batch_size_per_gpu
    return TrainingWorkerConfig(
        model_type="language_model",
        model_config=omega_conf_to_dataclass(model),
        engine_config=engine,
        optimizer_config=actor_config.optim,
        checkpoint_config=actor_config.checkpoint,
    )


def _loss(config: Any) -> RewardModelLoss:
    settings = _settings(config)
    return RewardModelLoss(beta=settings.beta_train, reference_field=settings.reference_field)


def _with_info(batch: Any, **info: Any) -> Any:
    """The same rows with information of this stage only: verl's stages leave theirs in the batch."""
    from transfer_queue import KVBatchMeta

    return KVBatchMeta(keys=batch.keys, tags=batch.tags, partition_id=batch.partition_id, extra_info=info)


def _outcomes(batch: Any) -> Any:
    """(B,) the outcomes of a batch in the TransferQueue."""
    import torch
    import transfer_queue

    where = {"keys": batch.keys, "partition_id": batch.partition_id}
    scores = transfer_queue.kv_batch_get(**where, select_fields=["rm_scores"])["rm_scores"]
    return torch.stack([row.sum() for row in scores.unbind()])


def check_outcomes(outcomes: Any) -> None:
    """Raise ValueError unless every outcome, (B,), is a probability, as cross-entropy needs it."""
    bad = ~((outcomes >= 0) & (outcomes <= 1))
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"algorithm.prime.loss_type=ce: the outcome of row {row} is {float(outcomes[row]):g}, and PRIME's reward "
            "model learns a probability. Use a reward function whose scores lie in [0, 1] (reward.reward_manager.name, "
            "reward.custom_reward_function.path)."
        )


def _train(trainer: Any, group: Any, batch: Any, metrics: dict[str, Any]) -> None:
    from verl.utils.metric import reduce_metrics

    config = trainer.config
    rows = mini_batch_rows(config)
    output = group.train_mini_batch(
        _with_info(
            batch,
            global_batch_size=rows,
            mini_batch_size=rows,
            epochs=1,
            seed=config.actor_rollout_ref.actor.data_loader_seed,
            dataloader_kwargs={"shuffle": False},
            temperature=config.actor_rollout_ref.rollout.temperature,
        )
    ).get()
    reduced = reduce_metrics(dict(output["metrics"]))
    metrics.update({f"{NAME}/{name}": reduced[name] for name in ("loss", "grad_norm", "lr")})
    if "mfu" in reduced:
        metrics[f"perf/mfu/{NAME}"] = reduced["mfu"]


def _score(trainer: Any, group: Any, batch: Any) -> None:
    """Write the reward model's log-probs of each response into the TransferQueue."""
    import ray
    import transfer_queue
    from verl.workers.utils.padding import response_from_nested

    # With the temperature of the policy's and the reference's log-probs, of which the rewards are differences.
    temperature = trainer.config.actor_rollout_ref.rollout.temperature
    output = group.infer_batch(_with_info(batch, compute_loss=False, calculate_entropy=False, temperature=temperature))
    ray.get(output.futures)
    where = {"keys": batch.keys, "partition_id": batch.partition_id}
    data = transfer_queue.kv_batch_get(**where, select_fields=["log_probs", "response_mask"])
    data[LOG_PROBS] = response_from_nested(data.pop("log_probs"), data["response_mask"])
    transfer_queue.kv_batch_put(**where, fields=data.select(LOG_PROBS))


def _before_advantage(trainer: Any, group: Any, batch: Any, metrics: dict[str, Any]) -> None:
    check_outcomes(_outcomes(batch))
    if _settings(trainer.config).update == "before":
        _train(trainer, group, batch, metrics)
        _score(trainer, group, batch)
    else:
        _score(trainer, group, batch)
        _train(trainer, group, batch, metrics)


COMPANION = Companion(
    name=NAME,
    applies=_applies,
    worker_config=worker_config,
    loss=_loss,
    before_advantage=_before_advantage,
    batch_multiple=mini_batch_rows,
)
