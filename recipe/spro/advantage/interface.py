"""What goes into an SPRO advantage and what comes out: every implementation shares these checks and messages.

Legend: B rows (responses), T token positions, t_i the length of row i, G groups (prompts).
"""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch

BASELINES = ("group", "loo", "none")
PROCESSES = ("prefix", "token", "suffix")
SIGNS = (1, -1)


@dataclass(frozen=True)
class SproParts:
    """What an advantage is made of: A = outcome + process_sign * msa at every valid token.

    (B, T) stands for the layout of `log_probs`, padded or jagged; all of these are 0 at masked places.
    The dtype is the implementation's: float32, or float64 from the oracle.
    """

    cpr: torch.Tensor
    """(B, T) cumulative process reward (Eq. 11), one per token whatever a step is; nats times beta."""
    msa: torch.Tensor
    """(B, T) masked step advantage (Eq. 12) as used: after the gate and `scale`, before process_sign.

    The unbounded term is msa / scale; where scale is 0 it cannot be recovered.
    """
    outcome: torch.Tensor
    """(B,) the group-relative outcome."""
    alive: torch.Tensor
    """(B, T) int64: how many rows of the group, oneself included, have this token's step."""
    scale: torch.Tensor
    """() the factor of `max_process_share`, in [0, 1]; 1 without a bound."""


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
        lengths = x.offsets().diff() if x.lengths() is None else x.lengths()
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
    groups: torch.Tensor  # (B,) int64 in [0, G), numbered by first appearance
    step_ids: torch.Tensor | None  # (B, T) int64
    ragged: Ragged | None

    def in_layout(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T) in the layout in which `log_probs` came."""
        return x if self.ragged is None else self.ragged.unpad(x)


def check_options(
    *,
    beta: float,
    baseline: str,
    process: str,
    process_sign: int,
    norm_by_std: bool,
    gate_degenerate_groups: bool,
    max_process_share: float | None,
    return_parts: bool,
) -> None:
    """Raise ValueError, naming the option, its value and what is allowed."""
    _check_amount("beta", beta)
    if max_process_share is not None:
        _check_amount("max_process_share", max_process_share, " or None")
    choices: list[tuple[str, object, tuple]] = [
        ("baseline", baseline, BASELINES),
        ("process", process, PROCESSES),
        ("process_sign", process_sign, SIGNS),
        ("norm_by_std", norm_by_std, (True, False)),
        ("gate_degenerate_groups", gate_degenerate_groups, (True, False)),
        ("return_parts", return_parts, (True, False)),
    ]
    for name, value, allowed in choices:
        # The type as well: True is no sign, and 1 is no flag.
        if not any(type(value) is type(one) and value == one for one in allowed):
            raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, allowed))}")


def check_inputs(
    log_probs: torch.Tensor,
    ref_log_probs: torch.Tensor,
    response_mask: torch.Tensor,
    outcome_rewards: torch.Tensor,
    group_ids: torch.Tensor | np.ndarray,
    step_ids: torch.Tensor | None,
) -> Inputs:
    """Check the tensors and bring them into one form.

    Raises:
        ValueError: shapes that differ; a mask that is not 0/1; a non-finite log-prob at a valid place or outcome
            anywhere; step ids that decrease. Names the argument and, where there is one, the row.
        TypeError: not a tensor; log-probs that are not float32 or float64.
    """
    _check_tensors(log_probs=log_probs, ref_log_probs=ref_log_probs, response_mask=response_mask)
    _check_tensors(outcome_rewards=outcome_rewards)
    if step_ids is not None:
        _check_tensors(step_ids=step_ids)
    _check_precision("log_probs", log_probs)
    _check_precision("ref_log_probs", ref_log_probs)
    if log_probs.dim() != 2:
        raise ValueError(f"log_probs must be 2-D (B, T), got shape {tuple(log_probs.shape)}")

    if log_probs.is_nested and log_probs.layout != torch.jagged:
        raise ValueError(f"log_probs must be padded or of layout torch.jagged, got layout {log_probs.layout}")
    ragged = Ragged.of(log_probs.detach()) if log_probs.is_nested else None

    def padded(name: str, x: torch.Tensor) -> torch.Tensor:
        return _padded_like(log_probs, ragged, name, x.detach())

    log_probs_BT = padded("log_probs", log_probs)
    ref_log_probs_BT = padded("ref_log_probs", ref_log_probs)
    mask_BT = padded("response_mask", response_mask)
    step_ids_BT = None if step_ids is None else padded("step_ids", step_ids)

    if (at := _first((mask_BT != 0) & (mask_BT != 1))) is not None:
        raise ValueError(f"response_mask must be 0 or 1; row {at[0]}, position {at[1]} is {mask_BT[at].item()}")
    valid_BT = mask_BT.bool()
    for name, x in (("log_probs", log_probs_BT), ("ref_log_probs", ref_log_probs_BT)):
        if (at := _first(valid_BT & ~x.isfinite())) is not None:
            raise ValueError(
                f"{name} must be finite where response_mask is 1; row {at[0]}, position {at[1]} is {x[at].item()}"
            )
    if step_ids_BT is not None:
        step_ids_BT = _check_steps(step_ids_BT, valid_BT)

    rows, device = len(log_probs_BT), log_probs_BT.device
    if tuple(outcome_rewards.shape) != (rows,):
        raise ValueError(f"outcome_rewards must have shape ({rows},), got {tuple(outcome_rewards.shape)}")
    rewards_B = outcome_rewards.detach().to(device, torch.float64)
    if (at := _first(~rewards_B.isfinite())) is not None:
        raise ValueError(f"outcome_rewards must be finite; row {at[0]} is {rewards_B[at].item()}")

    groups_B = torch.tensor(_group_index(group_ids, rows), dtype=torch.int64, device=device)
    return Inputs(log_probs_BT, ref_log_probs_BT, valid_BT, rewards_B, groups_B, step_ids_BT, ragged)


def _check_amount(name: str, value: Any, otherwise: str = "") -> None:
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{name}={value!r} is not allowed: it must be a finite number >= 0{otherwise}")


def _check_tensors(**arguments: Any) -> None:
    for name, x in arguments.items():
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")


def _check_precision(name: str, x: torch.Tensor) -> None:
    if x.dtype in (torch.bfloat16, torch.float16):
        raise TypeError(
            f"{name} is {x.dtype}, float32 is needed: summed over thousands of tokens, log-ratios of this precision "
            "are quantisation noise. Have the log-probs computed in float32; a cast afterwards does not help."
        )
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must be float32 (or float64), got {x.dtype}")


def _padded_like(log_probs: torch.Tensor, ragged: Ragged | None, name: str, x: torch.Tensor) -> torch.Tensor:
    """x as a padded (B, T) tensor, if it has the layout and the shape of `log_probs`."""
    if x.is_nested != log_probs.is_nested or x.layout != log_probs.layout:
        raise ValueError(f"{name} has layout {x.layout}, log_probs has {log_probs.layout}: give both in one layout")
    if ragged is None:
        if x.shape != log_probs.shape:
            raise ValueError(f"{name} has shape {tuple(x.shape)}, log_probs has {tuple(log_probs.shape)}")
        return x
    if x.dim() != 2 or len(x) != len(log_probs):
        # Each jagged tensor prints its ragged dimension as a symbol of its own.
        raise ValueError(f"{name} has shape {tuple(x.shape)}, log_probs has {tuple(log_probs.shape)}")
    own, lengths = Ragged.of(x), ragged.inside.sum(1)
    if (at := _first(own.inside.sum(1) != lengths)) is not None:
        raise ValueError(
            f"{name} has {int(own.inside[at].sum())} tokens in row {at[0]}, log_probs has {int(lengths[at])}"
        )
    return own.pad(x)


def _check_steps(step_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    if step_ids.is_floating_point() or step_ids.is_complex() or step_ids.dtype == torch.bool:
        raise ValueError(f"step_ids must be integers, got {step_ids.dtype}")
    step_ids = step_ids.long()
    if step_ids.numel():
        highest = step_ids.masked_fill(~mask, torch.iinfo(torch.int64).min).cummax(1).values
        if (at := _first(mask & (step_ids < highest))) is not None:
            raise ValueError(
                f"step_ids must not decrease over a row's valid tokens; "
                f"row {at[0]}, position {at[1]} is {step_ids[at].item()} after {highest[at].item()}"
            )
    return step_ids


def _group_index(group_ids: torch.Tensor | np.ndarray, rows: int) -> list[int]:
    """The number of each row's group, in order of first appearance; a uid may be any hashable object."""
    if not isinstance(group_ids, torch.Tensor | np.ndarray):
        raise TypeError(f"group_ids must be a torch.Tensor or a numpy.ndarray, got {type(group_ids).__name__}")
    if tuple(group_ids.shape) != (rows,):
        raise ValueError(f"group_ids must have shape ({rows},), got {tuple(group_ids.shape)}")
    if isinstance(group_ids, torch.Tensor) and (group_ids.is_floating_point() or group_ids.is_complex()):
        raise ValueError(f"group_ids must be integers, got {group_ids.dtype}")
    number_of: dict[Any, int] = {}
    return [number_of.setdefault(uid, len(number_of)) for uid in group_ids.tolist()]


def _first(bad: torch.Tensor) -> tuple[int, ...] | None:
    """The index of the first True, or None."""
    return tuple(bad.nonzero()[0].tolist()) if bad.any() else None
