"""Checked inputs in one padded form, for the oracle and plain torch; the fused kernels check while they compute.

Legend: B rows (responses), T token positions, t_i the length of row i, G groups (prompts).
"""

from dataclasses import dataclass

import numpy as np
import torch

from recipe.spro.advantage.arguments import check_arguments, first_true
from recipe.spro.advantage.rows import Rows


@dataclass(frozen=True)
class Ragged:
    """The places of a jagged tensor's tokens, to pad it and to go back."""

    offsets: torch.Tensor  # (B+1,)
    lengths: torch.Tensor | None  # (B,), only if the values have holes
    inside: torch.Tensor  # (B, T) bool: the place exists in the row
    places: torch.Tensor  # (sum t_i,) where in the values the tokens of `inside` lie, row by row
    size: int  # of the values, holes included

    @classmethod
    def of(cls, x: torch.Tensor) -> "Ragged":
        lengths = Rows.of(x).lengths()
        width = int(lengths.max()) if len(lengths) else 0
        columns = torch.arange(width, device=lengths.device)
        inside = columns < lengths[:, None]
        places = (x.offsets()[:-1, None] + columns)[inside]
        return cls(x.offsets(), x.lengths(), inside, places, len(x.values()))

    def pad(self, x: torch.Tensor) -> torch.Tensor:
        """Jagged (B, t_i) to zero-padded (B, T)."""
        padded = x.values().new_zeros(self.inside.shape)
        padded[self.inside] = x.values()[self.places]
        return padded

    def unpad(self, x: torch.Tensor) -> torch.Tensor:
        """Padded (B, T) to jagged (B, t_i) with these very offsets."""
        values = x.new_zeros(self.size)
        values[self.places] = x[self.inside]
        return torch.nested.nested_tensor_from_jagged(values, self.offsets, self.lengths)


@dataclass(frozen=True)
class Inputs:
    """Checked inputs: padded, detached, on the device of `log_probs`. Masked places hold anything."""

    log_probs: torch.Tensor  # (B, T) float32 or float64
    ref_log_probs: torch.Tensor  # (B, T)
    mask: torch.Tensor  # (B, T) bool
    rewards: torch.Tensor  # (B,) float64
    groups: torch.Tensor  # (B,) int64 in [0, G)
    final_rows: torch.Tensor  # (B,) int64 on the CPU, the row that speaks for each row's session
    step_ids: torch.Tensor | None  # (B, T) int64
    ragged: Ragged | None

    def in_layout(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T) in the layout in which `log_probs` came."""
        return x if self.ragged is None else self.ragged.unpad(x)


def check_inputs(
    log_probs: torch.Tensor,
    ref_log_probs: torch.Tensor,
    response_mask: torch.Tensor,
    outcome_rewards: torch.Tensor,
    group_ids: torch.Tensor | np.ndarray,
    step_ids: torch.Tensor | None,
    final_rows: torch.Tensor | None = None,
) -> Inputs:
    """Check the tensors, every token included, and bring them into one form.

    Raises:
        ValueError: shapes that differ; a mask that is not 0/1; a non-finite log-prob at a valid place or outcome
            anywhere; step ids that decrease. Names the argument and, where there is one, the row.
        TypeError: not a tensor; log-probs that are not float32 or float64.
    """
    arguments = check_arguments(
        log_probs, ref_log_probs, response_mask, outcome_rewards, group_ids, step_ids, final_rows
    )
    ragged = Ragged.of(log_probs.detach()) if log_probs.is_nested else None

    def padded(x: torch.Tensor) -> torch.Tensor:
        return x.detach() if ragged is None else Ragged.of(x.detach()).pad(x.detach())

    log_probs_BT, ref_log_probs_BT, mask_BT = padded(log_probs), padded(ref_log_probs), padded(response_mask)
    if (at := first_true((mask_BT != 0) & (mask_BT != 1))) is not None:
        raise ValueError(f"response_mask must be 0 or 1; row {at[0]}, position {at[1]} is {mask_BT[at].item()}")
    valid_BT = mask_BT.bool()
    for name, x in (("log_probs", log_probs_BT), ("ref_log_probs", ref_log_probs_BT)):
        if (at := first_true(valid_BT & ~x.isfinite())) is not None:
            raise ValueError(
                f"{name} must be finite where response_mask is 1; row {at[0]}, position {at[1]} is {x[at].item()}"
            )
    step_ids_BT = None if step_ids is None else _check_steps(padded(step_ids).long(), valid_BT)
    device = log_probs_BT.device
    groups_B, rewards_B = torch.from_numpy(arguments.groups.index).to(device), torch.from_numpy(arguments.rewards)
    own_B = torch.arange(len(rewards_B))
    final_B = own_B if arguments.final_rows is None else torch.from_numpy(arguments.final_rows)
    return Inputs(
        log_probs_BT, ref_log_probs_BT, valid_BT, rewards_B.to(device), groups_B, final_B, step_ids_BT, ragged
    )


def _check_steps(step_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    if step_ids.numel():
        highest = step_ids.masked_fill(~mask, torch.iinfo(torch.int64).min).cummax(1).values
        if (at := first_true(mask & (step_ids < highest))) is not None:
            raise ValueError(
                f"step_ids must not decrease over a row's valid tokens; "
                f"row {at[0]}, position {at[1]} is {step_ids[at].item()} after {highest[at].item()}"
            )
    return step_ids
