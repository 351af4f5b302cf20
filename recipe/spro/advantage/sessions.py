"""Several outputs of one session, such as an agent that starts a fresh context: each session counts once.

verl's V1 trainer lets an agent loop return several outputs for one response to a prompt, each a row with tokens of
its own, and gives its GRPO this rule: the session's last output speaks for it. So here:

- outcome: mean and std of a group are those of the sessions' final rows, and every row of a session gets the
  outcome advantage of its final row;
- process term: each row is a trajectory of its own. Its CPR starts at 0 with the row's first token, and the baseline
  at a step is over all rows of the group that have it, whichever session and output they are.

`spro_advantage` does that, given the row that speaks for each row's session (`final_rows`).

Legend: B rows, S sessions.
"""

from __future__ import annotations

import numpy as np
import torch


def final_row_of(session_ids: np.ndarray, final_outputs: np.ndarray) -> torch.Tensor:
    """The row that speaks for each row's session.

    Args:
        session_ids: (B,) which session a row belongs to, any order.
        final_outputs: (B,) bool: the row is its session's last output.

    Returns:
        (B,) int64, for `spro_advantage(final_rows=...)`.

    Raises:
        ValueError: a session without a final row, or with several; names the session.
    """
    names, session_B = np.unique(session_ids.astype(str), return_inverse=True)
    finals_S = np.bincount(session_B, weights=final_outputs, minlength=len(names))
    if len(wrong := np.flatnonzero(finals_S != 1)):
        name, finals = str(names[wrong[0]]), int(finals_S[wrong[0]])
        raise ValueError(f"session {name!r} has {finals} final outputs, it must have one")
    row_S = np.empty(len(names), dtype=np.int64)
    row_S[session_B[final_outputs]] = np.flatnonzero(final_outputs)
    return torch.from_numpy(row_S[session_B])
