"""The adapter: registers `spro` and its controls with verl and feeds `spro_advantage` from verl's batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from verl.trainer.ppo.core_algos import register_adv_est

from recipe.spro.advantage import Options, SproParts, SproStats, spro_advantage, spro_advantage_with_stats, torch_impl
from recipe.spro.advantage.brakes import clip_msa, share_scale
from recipe.spro.advantage.groups import Groups
from recipe.spro.advantage.rows import row_sums
from recipe.spro.advantage.sessions import final_row_of
from recipe.spro.beta_schedule import adapted_beta, beta_now
from recipe.spro.metrics import process_metrics
from recipe.spro.pooled import pool_msa
from recipe.spro.requirements_check import LOW_PRECISION, check_bypass_mode, uses_rollout_log_probs
from recipe.spro.settings import SproSettings
from recipe.spro.shuffled import derangement, shuffle_msa
from recipe.spro.staleness import complaint, staleness_metrics
from recipe.spro.step_ids import STEPS_OF_TOKENS, step_ids_of
from verl_ext import estimator_state
from verl_ext.estimator_context import extra_fields
from verl_ext.estimator_metrics import current_step, record
from verl_ext.jagged_advantage import takes_jagged
from verl_ext.notices import warn
from verl_ext.weight_versions import WeightVersions

# What an adaptive beta keeps from step to step, and over a resume.
_ADAPTED_BETA = "spro/adapted_beta"


def _settings(config: Any) -> SproSettings:
    return SproSettings.from_config(config.get("spro", None) if config is not None else None)


def _extra_fields(config: Any) -> tuple[str, ...]:
    return ("responses",) if _settings(config).step in STEPS_OF_TOKENS else ()


@dataclass(frozen=True)
class _Call:
    """One call of the advantage, its arguments read from verl's batch."""

    settings: SproSettings
    options: Options
    # As `spro_advantage` takes them: policy, reference, mask, outcome, group.
    inputs: tuple
    step_ids: torch.Tensor | None
    final_rows: torch.Tensor | None
    # What the self-test looks at besides: None where nothing can be stale, or the rollout gave no log-probs.
    versions: WeightVersions | None
    rollout_log_probs: torch.Tensor | None
    recomputed: bool

    def advantages(self) -> torch.Tensor:
        """(B, T) advantages; their metrics are recorded."""
        advantages, stats = spro_advantage_with_stats(
            *self.inputs, self.options, step_ids=self.step_ids, final_rows=self.final_rows
        )
        self._record(stats)
        return advantages

    def shuffled_advantages(self) -> torch.Tensor:
        """(B, T) advantages of the control, padded: each response gets the process term of another one of its group.

        Which row gives to which is drawn from ``algorithm.spro.shuffle_seed`` and the training step: a resumed run
        draws the same.
        """
        parts = self._parts()
        rng = np.random.default_rng([self.settings.shuffle_seed, current_step() or 0])
        msa = shuffle_msa(parts.msa, self.mask, derangement(self.groups, rng))
        return self._of_control(replace(parts, msa=msa))

    def pooled_advantages(self) -> torch.Tensor:
        """(B, T) advantages of the control, padded: the baseline is over all tokens of the group, not over a step."""
        parts = self._parts(baseline="none", max_process_share=None, max_token_msa=None)
        # A group behind a shut gate has only zeros, and keeps them.
        msa, clipped = clip_msa(pool_msa(parts.msa, self.mask, self.groups), self.options.max_token_msa)
        outcome = parts.outcome.double()[:, None].expand_as(msa)
        scale = share_scale(outcome[self.mask], msa[self.mask], self.options.max_process_share)
        return self._of_control(replace(parts, msa=scale * msa, scale=scale, clipped=clipped))

    def process_only_advantages(self) -> torch.Tensor:
        """(B, T) advantages of the control, padded: the process term alone, without an outcome."""
        return self._of_control(self._parts(), outcome_weight=0)

    @property
    def mask(self) -> torch.Tensor:
        """(B, T) bool, the valid tokens."""
        return self.inputs[2].bool()

    @property
    def groups(self) -> Groups:
        return Groups.of(self.inputs[-1])

    def _parts(self, **changed: Any) -> SproParts:
        """What the advantages are made of, with these options changed."""
        options = asdict(self.options) | {"return_parts": True} | changed
        _, parts = spro_advantage(*self.inputs, **options, step_ids=self.step_ids, final_rows=self.final_rows)
        return parts

    def _of_control(self, parts: SproParts, outcome_weight: float = 1) -> torch.Tensor:
        """(B, T) advantages made of these parts, padded; the metrics are of the parts as they are used."""
        self._record(torch_impl.stats(parts, self.mask))
        outcome = outcome_weight * parts.outcome[:, None]
        return torch.where(self.mask, outcome + self.settings.process_sign * parts.msa, 0.0).float()

    def _record(self, stats: SproStats) -> None:
        *_, outcome_rewards, index = self.inputs
        metrics = process_metrics(stats, outcome_rewards, index, beta=self.options.beta)
        record(metrics)
        target = self.settings.beta_schedule.target_share
        # Without an outcome there is no share to steer by.
        if target is not None and not metrics["spro/outcome_is_zero"]:
            share = metrics["spro/process_share"]
            adapted = adapted_beta(self.options.beta, share, target, self.settings.beta)
            estimator_state.put(_ADAPTED_BETA, adapted)
        self._test_itself(metrics["spro/cpr/abs_max"])

    def _test_itself(self, cpr_abs_max: float) -> None:
        """Where policy and reference are the same weights CPR has no signal: see `staleness.py`."""
        metrics, current = {}, None
        if self.versions is not None:
            current = self.versions.current
            old, ref, mask, *_ = self.inputs
            metrics = staleness_metrics(
                self.versions,
                old,
                ref,
                self.rollout_log_probs,
                mask,
                recomputed=self.recomputed,
                reference_stays=self.settings.ref_update.schedule is None,
            )
            record(metrics)
        if reason := complaint(metrics, cpr_abs_max, current_step(), current, recomputed=self.recomputed):
            warn(reason)


def _register(name: str, compute: Callable[[_Call], torch.Tensor]) -> Callable[..., Any]:
    """Register an estimator that reads verl's batch and then computes, under verl's rules for estimators."""

    def estimator(
        token_level_rewards: torch.Tensor,
        response_mask: torch.Tensor,
        index: np.ndarray,
        old_log_probs: torch.Tensor,
        ref_log_prob: torch.Tensor,
        token_level_scores: torch.Tensor,
        config: Any = None,
        responses: torch.Tensor | None = None,
        tokenizer: Any = None,
        session_ids: np.ndarray | None = None,
        final_outputs: np.ndarray | None = None,
        rollout_log_probs: torch.Tensor | None = None,
        weight_versions: WeightVersions | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Advantages from the fields that ``verl_ext.estimator_inputs`` hands over.

        Where (B, T) is a nested tensor of layout torch.jagged, as V1's trainers keep it, all of them are.

        Args:
            token_level_rewards: (B, T), not used: the outcome is the verifier's, without a KL penalty.
            response_mask: (B, T) integer, 1 where the policy chose the token.
            index: (B,) uid of each row's prompt, any order.
            old_log_probs: (B, T) float32, the actor's recomputed log-probs.
            ref_log_prob: (B, T) float32, the reference policy's.
            token_level_scores: (B, T), the verifier's score, on one token of each row.
            config: verl's `algorithm` config.
            responses: (B, T) token ids, for steps that are read from them.
            tokenizer: that made the ids; for the same steps.
            session_ids, final_outputs: (B,) see `verl_ext.estimator_context`. A session of several rows counts once in
                the outcome, by its final one (see `advantage/sessions.py`).
            rollout_log_probs: (B, T) the rollout engine's, for the self-test.
            weight_versions: whose responses these are, in verl's asynchronous trainers; for the same.

        Returns:
            advantages and returns, both (B, T) float32: one tensor, as from verl's GRPO.

        Raises:
            TypeError: log-probs below float32; the message names the overrides that mend it.
            ValueError: log-probs of the rollout engine that were not allowed; a non-finite value at a valid place;
                steps of tokens where the trainer gives no token ids or tokenizer.
        """
        del token_level_rewards
        for field, log_probs in (("old_log_probs", old_log_probs), ("ref_log_prob", ref_log_prob)):
            if log_probs.dtype in (torch.bfloat16, torch.float16):
                raise TypeError(f"{field} is {log_probs.dtype}. {LOW_PRECISION}")

        settings = _settings(config)
        # The configuration was checked before Ray started; an entry of one's own may have left that out.
        check_bypass_mode(config, settings)
        options = Options(
            beta=beta_now(settings.beta, settings.beta_schedule, current_step(), estimator_state.get(_ADAPTED_BETA)),
            baseline=settings.baseline,
            process=settings.process,
            process_sign=settings.process_sign,
            norm_by_std=bool(config.get("norm_adv_by_std_in_grpo", True)) if config is not None else True,
            gate_degenerate_groups=settings.gate_degenerate_groups,
            max_process_share=settings.max_process_share,
            max_token_msa=settings.max_token_msa,
        )
        outcome_rewards, final_rows = row_sums(token_level_scores), None
        if session_ids is not None and final_outputs is not None and not final_outputs.all():
            final_rows = final_row_of(session_ids, final_outputs)
            outcome_rewards = outcome_rewards[final_rows]
        inputs = (old_log_probs, ref_log_prob, response_mask, outcome_rewards, index)
        step_ids = step_ids_of(settings, response_mask, responses, tokenizer)
        recomputed = not uses_rollout_log_probs(config)
        advantages = compute(
            _Call(settings, options, inputs, step_ids, final_rows, weight_versions, rollout_log_probs, recomputed)
        )
        return advantages, advantages

    estimator.__name__ = estimator.__qualname__ = f"compute_{name}_advantage"
    return extra_fields(_extra_fields)(register_adv_est(name)(estimator))


compute_spro_advantage = takes_jagged(_register("spro", _Call.advantages))
"""SPRO (paper Eq. 13)."""

compute_shuffled_advantage = _register("spro_shuffled", _Call.shuffled_advantages)
"""The control: SPRO with the process term of another response (see `shuffled.py`)."""

compute_pooled_advantage = _register("spro_pooled", _Call.pooled_advantages)
"""The control: one baseline for all tokens of a group (see `pooled.py`)."""

compute_process_only_advantage = _register("spro_process_only", _Call.process_only_advantages)
"""The control: process_sign * M, without an outcome."""
