"""The loss by which the implicit reward model learns: cross-entropy of the outcome, one term per response.

The logit of a response is ``beta * sum_t (log pi_phi - log pi_ref)`` over the tokens that the policy chose, the target
its outcome in [0, 1] (PRIME, arXiv 2502.01456: the online update of the implicit reward model).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from tensordict import TensorDict


def outcome_cross_entropy(
    log_probs: torch.Tensor,
    ref_log_probs: torch.Tensor,
    response_mask: torch.Tensor,
    outcome_rewards: torch.Tensor,
    *,
    beta: float,
) -> torch.Tensor:
    """The loss of each response, in nats.

    Args:
        log_probs: (B, T) the reward model's.
        ref_log_probs: (B, T) the reference's.
        response_mask: (B, T) 1 where the policy chose the token; what stands elsewhere has no effect.
        outcome_rewards: (B,) in [0, 1].
        beta: weight of the log-ratios.

    Returns:
        (B,) float32; 0 for a row without a chosen token, which has no outcome (verl's padding rows are such).
    """
    mask = response_mask.bool()
    log_ratios = torch.where(mask, log_probs.float() - ref_log_probs.float(), 0.0)
    logits = beta * log_ratios.sum(-1)
    losses = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, outcome_rewards.to(logits.dtype), reduction="none"
    )
    return torch.where(mask.any(-1), losses, 0.0)


@dataclass(frozen=True)
class RewardModelLoss:
    """The loss function of verl's ``TrainingWorker``; picklable.

    The sum over a micro-batch is divided by the rows of the global mini-batch and multiplied by the number of
    data-parallel ranks, over which FSDP averages: so neither micro-batches nor ranks change the gradient.

    Attributes:
        beta: weight of the log-ratios.
        reference_field: field of the batch with the reference's log-probs.
    """

    beta: float
    reference_field: str

    def __call__(
        self, model_output: dict[str, torch.Tensor], data: TensorDict, dp_group: Any = None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Loss and no metrics of its own: verl logs the loss."""
        del dp_group
        # Loaded in the worker, where verl is.
        from verl.workers.utils.padding import no_padding_2_padding

        log_probs = no_padding_2_padding(model_output["log_probs"], data)
        fields = data.select("response_mask", "rm_scores", self.reference_field).to_padded_tensor()
        losses = outcome_cross_entropy(
            log_probs,
            fields[self.reference_field],
            fields["response_mask"],
            fields["rm_scores"].sum(-1),
            beta=self.beta,
        )
        return losses.sum() / data["global_batch_size"] * data["dp_size"], {}
