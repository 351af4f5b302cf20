"""Checked inputs in one padded form, for the oracle and plain torch; the fused kernels check while they compute.

Legend: B rows (responses), T token positions, G groups (prompts).
"""

from dataclasses import dataclass

import torch

from recipe.spro.advantage.arguments import Arguments, first_true


@dataclass(frozen=True)
class Inputs:
    """Checked arguments; those of tokens padded, on the device of `log_probs`. Masked places hold anything."""

    arguments: Arguments
    log_probs: torch.Tensor  # (B, T) float32 or float64
    ref_log_probs: torch.Tensor  # (B, T)
    mask: torch.Tensor  # (B, T) bool
    step_ids: torch.Tensor | None  # (B, T) int64

    @property
    def groups(self) -> torch.Tensor:
        """(B,) int64 in [0, G): the group of each row."""
        return torch.from_numpy(self.arguments.groups.index).to(self.mask.device)

    def in_layout(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T) in the layout in which `log_probs` came."""
        return self.arguments.log_probs.in_layout(x)


def check_inputs(arguments: Arguments) -> Inputs:
    """Check every token and bring the arguments into one form.

    Raises:
        ValueError: a mask that is not 0/1; a non-finite log-prob at a valid place; step ids that decrease. Names the
            argument, the row and the position.
    """
    log_probs_BT, ref_log_probs_BT = arguments.log_probs.padded(), arguments.ref_log_probs.padded()
    mask_BT = arguments.mask.padded()
    if (at := first_true((mask_BT != 0) & (mask_BT != 1))) is not None:
        raise ValueError(f"response_mask must be 0 or 1; row {at[0]}, position {at[1]} is {mask_BT[at].item()}")
    valid_BT = mask_BT.bool()
    for name, x in ((arguments.name, log_probs_BT), ("ref_log_probs", ref_log_probs_BT)):
        if (at := first_true(valid_BT & ~x.isfinite())) is not None:
            raise ValueError(
                f"{name} must be finite where response_mask is 1; row {at[0]}, position {at[1]} is {x[at].item()}"
            )
    steps = arguments.step_ids
    step_ids_BT = None if steps is None else _check_steps(steps.padded().long(), valid_BT)
    return Inputs(arguments, log_probs_BT, ref_log_probs_BT, valid_BT, step_ids_BT)


def _check_steps(step_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    if step_ids.numel():
        highest = step_ids.masked_fill(~mask, torch.iinfo(torch.int64).min).cummax(1).values
        if (at := first_true(mask & (step_ids < highest))) is not None:
            raise ValueError(
                f"step_ids must not decrease over a row's valid tokens; "
                f"row {at[0]}, position {at[1]} is {step_ids[at].item()} after {highest[at].item()}"
            )
    return step_ids
