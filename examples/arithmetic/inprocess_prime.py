"""PRIME in the in-process loop: its accuracy band around sampling, and its reward model before the advantage.

What is the product's: settings and checks, the band's rules, the reward model's loss, its optimiser and the order of
training and scoring (recipe/prime_v1). What stands in, besides plain torch for FSDP2: groups are generated in waves,
where the product asks for more while others are still being generated, and so may generate a few more than it needs.

Legend: B responses, T positions of a response.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from verl import DataProto
from verl.workers.config.optimizer import build_optimizer

from examples.arithmetic.sampling import Responses, Rollout, joined, log_probs, update
from recipe.prime_v1.band import PREFERRED, Band, Rank, band_metrics, choose, prompts_to_add
from recipe.prime_v1.loss import outcome_cross_entropy
from recipe.prime_v1.reward_model import LOG_PROBS, NAME, check_outcomes, mini_batch_rows, worker_config
from recipe.prime_v1.settings import PrimeSettings
from verl_ext.generated_tokens import METRIC as GENERATED_TOKENS

# What a run of PRIME takes for granted, as `inprocess._DONE`.
DONE: dict[str, tuple[Any, ...]] = {
    "algorithm.prime.optim.lr_scheduler_type": (None, "constant"),
    "algorithm.prime.optim.lr_warmup_steps": (None, -1, 0),
    "algorithm.prime.optim.lr_warmup_steps_ratio": (None, 0),
    "trainer.v1.sampler.custom_sampler.path": (None, "pkg://recipe.prime_v1.sampler"),
}


class Prime:
    """What a run of PRIME has besides a policy and a reference.

    Attributes:
        model: the reward model.
        band: which groups a batch prefers.
    """

    def __init__(self, config: Any, load: Callable[[str], Any]) -> None:
        """Load the reward model by ``load`` of its path; ``config`` is composed and checked."""
        self.config = config
        self.settings = PrimeSettings.from_config(config.algorithm.get("prime", None))
        self.band = Band(**dict(config.trainer.v1.sampler.sampler_kwargs or {}))
        self.optim = worker_config(config).optimizer_config
        self.model = load(self.settings.model.path or config.actor_rollout_ref.model.path)
        self.optimizer = build_optimizer(self.model.parameters(), self.optim)
        # Of the uids, by which the band breaks ties: the same seed gives the same run.
        self._random = random.Random(config.data.seed)

    def rollout(self, generate: Callable[[int], Rollout]) -> tuple[Rollout, dict[str, float]]:
        """A batch, its preferred groups first; and what it took.

        Args:
            generate: so many further prompts, with their responses.
        """
        size = self.config.data.train_batch_size
        if not self.settings.filters:
            return generate(size), {}
        groups: dict[str, Rollout] = {}
        ranks: dict[str, Rank] = {}
        while add := prompts_to_add(
            preferred=sum(rank == PREFERRED for rank in ranks.values()),
            seen=len(ranks),
            in_flight=0,
            generated=len(ranks),
            batch_size=size,
            limit=self.band.limit(size),
        ):
            for group in generate(add).groups():
                uid = f"{self._random.getrandbits(128):032x}"
                groups[uid] = group
                lengths = group.responses.mask.sum(-1).tolist()
                ranks[uid] = self.band.rank([score for score, _ in group.scored], lengths)
        chosen = choose(ranks, size)
        metrics: dict[str, float] = dict(band_metrics(ranks, chosen, len(ranks)))
        metrics[GENERATED_TOKENS] = sum(int(group.responses.mask.sum()) for group in groups.values())
        return joined([groups[uid] for uid in chosen]), metrics

    def before_advantage(self, responses: Responses, batch: DataProto) -> dict[str, float]:
        """Train the reward model on a batch and give the batch its log-probs, in the order of the settings.

        Raises:
            ValueError: an outcome that is no probability.
        """
        check_outcomes(batch.batch["token_level_scores"].sum(-1))
        if self.settings.update == "before":
            metrics = self._train(responses, batch)
            self._score(responses, batch)
        else:
            self._score(responses, batch)
            metrics = self._train(responses, batch)
        return metrics

    def _log_probs(self, responses: Responses) -> torch.Tensor:
        # With the temperature of the policy's and the reference's, of which the rewards are differences.
        return log_probs(self.model, responses, temperature=self.config.actor_rollout_ref.rollout.temperature)[0]

    @torch.no_grad()
    def _score(self, responses: Responses, batch: DataProto) -> None:
        batch.batch[LOG_PROBS] = self._log_probs(responses)

    def _train(self, responses: Responses, batch: DataProto) -> dict[str, float]:
        size, losses, norms = mini_batch_rows(self.config), [], []
        for start in range(0, len(batch), size):
            part = slice(start, start + size)
            fields = batch.batch[part]
            loss = outcome_cross_entropy(
                self._log_probs(responses.rows(part)),
                fields[self.settings.reference_field],
                fields["response_mask"],
                fields["token_level_scores"].sum(-1),
                beta=self.settings.beta_train,
            ).mean()
            norms.append(update(self.model, self.optimizer, loss, self.optim.clip_grad))
            losses.append(loss.item())
        means = {"loss": sum(losses) / len(losses), "grad_norm": sum(norms) / len(norms), "lr": self.optim.lr}
        return {f"{NAME}/{name}": value for name, value in means.items()}
