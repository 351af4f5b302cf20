"""What a step is: `step_ids` for `spro_advantage`, from the response mask, the token ids and the tokenizer.

| step | ends |
|---|---|
| token | at every token (the paper); `step_ids` is None |
| line | with a token whose text holds a newline |
| sentence | with a token that ends a sentence: `.`, `!` or `?` with white space or nothing after it; `。`, `！`, `？` |
| turn | where the response mask does: a run of valid tokens is a step (multi-turn, tools) |
| delimiter | with one of the token sequences given (`vocabulary.tokenize_delimiters` makes them of texts) |

Common to all of them:

- Only valid tokens count. A newline or a delimiter that a tool wrote ends nothing.
- A token is never split: a merged one (`")\\n"`, `".\\n\\n"`) belongs as a whole to the step that it closes.
- A step has something to say. A stretch of nothing but delimiters, white space (of a line), punctuation (of a sentence)
  or special tokens (end of sequence) makes no step of its own: it belongs to the step before it, at the beginning of
  a row to the first step. So `"a\\n" "\\n" "\\n" "b" <eos>` has two lines.
- A masked span (a tool's output) does not end a line or a sentence that goes on behind it; but no sequence of
  delimiters matches across it, and a `.` right before it has nothing after it.

Steps are numbered 0, 1, 2, ... in each row, so that the rows of a group are compared line by line, turn by turn.

What this does not see: abbreviations ("e.g. this" ends a sentence, "3.14" and "a.b" do not); a CJK full stop that the
vocabulary splits into bytes; a closing quote or bracket that is a token of its own ("why?" ")"); a delimiter that is
cut into tokens in another way than by itself (they are compared as token ids).

Legend: B rows, T token positions, t_i the length of row i, N valid tokens of the batch (row by row), V vocabulary size,
P pieces: what lies between two ends, before empty ones are given to their neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from recipe.spro.advantage.vocabulary import TokenTable

STEPS = ("token", "line", "sentence", "turn", "delimiter")


def make_step_ids(
    step: str,
    response_mask: torch.Tensor,
    token_ids: torch.Tensor | None = None,
    *,
    table: TokenTable | None = None,
    delimiters: Sequence[Sequence[int]] | None = None,
) -> torch.Tensor | None:
    """The step of each token, for `spro_advantage`.

    (B, T) may also be a nested tensor of layout torch.jagged, (B, t_i); then mask and ids both are, with equal lengths.

    Args:
        step: one of `STEPS`; this module's documentation says where each ends.
        response_mask: (B, T) bool or 0/1: 1 where the policy chose the token. Zeros may stand anywhere.
        token_ids: (B, T) integers, the response's tokens; what stands at masked places has no effect. Not needed
            for token and turn.
        table: of the tokenizer that made the ids. Needed for line and sentence; for delimiter it says which tokens are
            special.
        delimiters: for delimiter: token sequences, each of one id or more.

    Returns:
        None for token. Otherwise (B, T) int64 in the layout and on the device of the mask: at valid tokens the number
        of the step in its row, from 0, never decreasing and without a gap; 0 at masked places.

    Raises:
        ValueError: an unknown step; something missing that it needs; delimiters given to another step, none of them,
            or an empty one; shapes or layouts that differ; ids that are not integers.
    """
    if step not in STEPS:
        raise ValueError(f"step={step!r} is not one of {', '.join(map(repr, STEPS))}")
    if (delimiters is not None) != (step == "delimiter"):
        raise ValueError(
            f"step={step!r} and delimiters={delimiters!r}: step='delimiter' needs them, no other takes them"
        )
    if step == "token":
        return None
    valid = _Valid.of(response_mask)
    if step == "turn":
        return valid.spread(_ordinal_in_row(_begins_run(valid), valid.rows))
    if token_ids is None:
        raise ValueError(f"step={step!r} needs token_ids")
    ids_N = valid.pick("token_ids", token_ids)
    if step == "delimiter":
        assert delimiters is not None
        ends_N, empty_N = _find_delimiters(ids_N, valid, delimiters)
        if table is not None:
            # Special tokens, and white space between two delimiters.
            empty_N |= _look_up(table.blank, ids_N)
    elif table is None:
        raise ValueError(f"step={step!r} needs the table of the tokenizer: TokenTable.of(tokenizer)")
    elif step == "line":
        ends_N, empty_N = _look_up(table.ends_line, ids_N), _look_up(table.blank, ids_N)
    else:
        ends_N, empty_N = _find_sentence_ends(ids_N, valid, table), _look_up(table.marks_only, ids_N)
    return valid.spread(_number_steps(ends_N, empty_N, valid.rows))


@dataclass(frozen=True)
class _Valid:
    """Where a batch's valid tokens are, in either layout."""

    rows: torch.Tensor  # (N,)
    columns: torch.Tensor  # (N,)
    mask: torch.Tensor  # as it came

    @classmethod
    def of(cls, mask: torch.Tensor) -> _Valid:
        if mask.dim() != 2:
            raise ValueError(f"response_mask must be 2-D (B, T), got shape {tuple(mask.shape)}")
        if not mask.is_nested:
            rows, columns = mask.bool().nonzero(as_tuple=True)
            return cls(rows, columns, mask)
        if mask.layout != torch.jagged:
            raise ValueError(f"response_mask must be padded or of layout torch.jagged, got layout {mask.layout}")
        lengths = _lengths(mask)
        rows = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
        columns = torch.arange(len(rows), device=rows.device) - (lengths.cumsum(0) - lengths)[rows]
        chosen = mask.values()[mask.offsets()[rows] + columns].bool()
        return cls(rows[chosen], columns[chosen], mask)

    def pick(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """(N,) int64: the values of x at the valid tokens."""
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise ValueError(f"{name} must be integers, got {x.dtype}")
        if x.is_nested != self.mask.is_nested or x.layout != self.mask.layout:
            raise ValueError(f"{name} has layout {x.layout}, response_mask has {self.mask.layout}: give both in one")
        if not x.is_nested:
            if x.shape != self.mask.shape:
                raise ValueError(f"{name} has shape {tuple(x.shape)}, response_mask has {tuple(self.mask.shape)}")
            return x[self.rows, self.columns].long()
        own, lengths = _lengths(x), _lengths(self.mask)
        if len(own) != len(lengths):
            raise ValueError(f"{name} has {len(own)} rows, response_mask has {len(lengths)}")
        if bool((own != lengths).any()):
            row = int((own != lengths).nonzero()[0])
            raise ValueError(f"{name} has {own[row]} tokens in row {row}, response_mask has {lengths[row]}")
        return x.values()[x.offsets()[self.rows] + self.columns].long()

    def spread(self, x_N: torch.Tensor) -> torch.Tensor:
        """int64 in the mask's layout: x at the valid tokens, 0 elsewhere."""
        if not self.mask.is_nested:
            padded = torch.zeros(self.mask.shape, dtype=torch.int64, device=self.mask.device)
            padded[self.rows, self.columns] = x_N
            return padded
        offsets = self.mask.offsets()
        values = torch.zeros(len(self.mask.values()), dtype=torch.int64, device=self.mask.device)
        values[offsets[self.rows] + self.columns] = x_N
        return torch.nested.nested_tensor_from_jagged(values, offsets, self.mask.lengths())


def _lengths(x: torch.Tensor) -> torch.Tensor:
    """(B,) the lengths of a jagged tensor's rows."""
    return x.offsets().diff() if x.lengths() is None else x.lengths()


def _begins_row(rows_N: torch.Tensor) -> torch.Tensor:
    """(N,) bool: the first valid token of its row."""
    begins_N = torch.ones_like(rows_N, dtype=torch.bool)
    begins_N[1:] = rows_N[1:] != rows_N[:-1]
    return begins_N


def _begins_run(valid: _Valid) -> torch.Tensor:
    """(N,) bool: the token before it is masked, or of another row."""
    begins_N = _begins_row(valid.rows)
    begins_N[1:] |= valid.columns[1:] != valid.columns[:-1] + 1
    return begins_N


def _ordinal_in_row(counted_N: torch.Tensor, rows_N: torch.Tensor) -> torch.Tensor:
    """(N,) how many are counted in the row up to and including each, less one."""
    total_N = counted_N.long().cumsum(0)
    first_N = _begins_row(rows_N)
    # What the rows before had, by the row's number among those that have a valid token.
    before = (total_N - counted_N.long())[first_N]
    return total_N - before[first_N.long().cumsum(0) - 1] - 1


def _number_steps(ends_N: torch.Tensor, empty_N: torch.Tensor, rows_N: torch.Tensor) -> torch.Tensor:
    """(N,) the step of each valid token: ends close a piece, and a piece of empty tokens joins its neighbour."""
    begins_N = _begins_row(rows_N)
    begins_N[1:] |= ends_N[:-1]
    piece_N = begins_N.long().cumsum(0) - 1
    says_something_P = torch.zeros(int(begins_N.sum()), dtype=torch.bool, device=rows_N.device)
    says_something_P[piece_N[~empty_N]] = True
    # Below 0 are the empty pieces before a row's first step.
    step_P = _ordinal_in_row(says_something_P, rows_N[begins_N]).clamp(min=0)
    return step_P[piece_N]


def _look_up(table_V: torch.Tensor, ids_N: torch.Tensor) -> torch.Tensor:
    """(N,) bool: what the table says of each id; False for ids that it does not hold."""
    if not len(table_V):
        return torch.zeros_like(ids_N, dtype=torch.bool)
    known_N = (ids_N >= 0) & (ids_N < len(table_V))
    return table_V.to(ids_N.device)[ids_N.clamp(0, len(table_V) - 1)] & known_N


def _find_sentence_ends(ids_N: torch.Tensor, valid: _Valid, table: TokenTable) -> torch.Tensor:
    nothing_follows_N = torch.ones_like(ids_N, dtype=torch.bool)
    nothing_follows_N[:-1] = _begins_run(valid)[1:] | _look_up(table.lets_sentence_end, ids_N[1:])
    may_end_N = _look_up(table.may_end_sentence, ids_N)
    return _look_up(table.ends_sentence, ids_N) | (may_end_N & nothing_follows_N)


def _find_delimiters(
    ids_N: torch.Tensor, valid: _Valid, delimiters: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) bool: the last token of a delimiter; and any token of one."""
    if not delimiters:
        raise ValueError("delimiters must hold at least one token sequence")
    for number, delimiter in enumerate(delimiters):
        if not len(delimiter):
            raise ValueError(f"delimiters[{number}] is empty")
    # Of one token each there may be thousands: all that hold a text.
    single = [delimiter[0] for delimiter in delimiters if len(delimiter) == 1]
    ends_N = torch.isin(ids_N, torch.tensor(single, dtype=torch.int64, device=ids_N.device))
    inside_N = ends_N.clone()
    run_N = _begins_run(valid).long().cumsum(0)
    for delimiter in delimiters:
        length = len(delimiter)
        if length == 1:
            continue
        starts = max(len(ids_N) - length + 1, 0)
        # By the place of the first token; the last one must belong to the same run of valid tokens.
        found = run_N[:starts] == run_N[length - 1 :]
        for place, token in enumerate(delimiter):
            found = found & (ids_N[place : place + starts] == token)
        ends_N[length - 1 :] |= found
        for place in range(length):
            inside_N[place : place + starts] |= found
    return ends_N, inside_N
