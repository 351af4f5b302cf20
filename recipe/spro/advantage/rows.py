"""Padded and jagged tensors in one form: a flat run of values, and where each row starts in it.

Legend: B rows (responses), T token positions, t_i the length of row i.
"""

from dataclasses import dataclass

import torch
from torch.nested._internal.nested_tensor import NestedTensor
from torch.nested._internal.ops import extract_kwargs

from recipe.spro.advantage import buffers


@dataclass(frozen=True)
class Rows:
    """The rows of one tensor, padded (B, T) or jagged (B, t_i)."""

    values: torch.Tensor  # 1-D, dense
    count: int  # B
    width: int  # T, if padded
    step: int  # from the start of one row to the next, if padded
    offsets: torch.Tensor | None = None  # (B+1,), if jagged
    holes: torch.Tensor | None = None  # (B,) the lengths, if jagged with values that belong to no row
    like: torch.Tensor | None = None  # the jagged tensor

    @classmethod
    def of(cls, x: torch.Tensor) -> "Rows":
        """Of a 2-D tensor; nothing is copied where a row's values lie side by side."""
        if x.is_nested:
            # What x.values() gives, without the fifteen microseconds of its dispatch.
            values = x._values.detach()
            return cls(values.contiguous(), len(x.offsets()) - 1, 0, 0, x.offsets(), x.lengths(), x)
        x = x.detach()
        count, width = x.shape
        if width > 1 and x.stride(1) != 1:
            # One row that stands for all stays one row.
            x = x[:1].contiguous().expand(count, width) if count and x.stride(0) == 0 else x.contiguous()
        step = x.stride(0)
        span = (count - 1) * step + width if count * width else 0
        return cls(x.as_strided((span,), (1,), x.storage_offset()), count, width, step)

    def starts(self) -> torch.Tensor:
        """(B,) int64 where each row begins in `values`, far beyond 2^31 in large batches."""
        if self.offsets is not None:
            return self.offsets[:-1].long()
        return torch.arange(self.count, device=self.values.device) * self.step

    def lengths(self) -> torch.Tensor:
        """(B,) int64 the number of tokens of each row, masked ones included."""
        if self.offsets is None:
            return torch.full((self.count,), self.width, device=self.values.device)
        return (self.offsets.diff() if self.holes is None else self.holes).long()

    def padded(self) -> torch.Tensor:
        """(B, T) the values, 0 behind the end of a row."""
        if self.offsets is None:
            return self.values.as_strided((self.count, self.width), (self.step, 1))
        inside, places = self._places()
        padded = self.values.new_zeros(inside.shape)
        padded[inside] = self.values[places]
        return padded

    def in_layout(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T), as `padded` gives it, in the layout of these rows."""
        if self.offsets is None:
            return x
        inside, places = self._places()
        rows = self.empty_like(x.dtype)
        rows.values[places] = x[inside]
        return rows.tensor()

    def _places(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T) bool: the place exists in its jagged row; and where in `values` those that do lie, row by row."""
        lengths = self.lengths()
        columns = torch.arange(int(lengths.max()) if self.count else 0, device=lengths.device)
        inside = columns < lengths[:, None]
        return inside, (self.starts()[:, None] + columns)[inside]

    def size(self) -> int:
        """How many values `empty_like` has."""
        return self.count * self.width if self.offsets is None else len(self.values)

    def empty_like(self, dtype: torch.dtype = torch.float32) -> "Rows":
        """Dense rows of the same lengths, for a result that every place of a row is written to."""
        size = self.size()
        if self.holes is not None:
            # Values that belong to no row are nobody's to write.
            values = torch.zeros(size, dtype=dtype, device=self.values.device)
        elif dtype == torch.float32 and self.values.device.type == "cpu":
            values = buffers.empty(size)
        else:
            values = torch.empty(size, dtype=dtype, device=self.values.device)
        return self.over(values)

    def over(self, values: torch.Tensor) -> "Rows":
        """Dense rows of the same lengths over these values, `size` of them."""
        if self.offsets is None:
            return Rows(values, self.count, self.width, self.width)
        return Rows(values, self.count, 0, 0, self.offsets, self.holes, self.like)

    def tensor(self) -> torch.Tensor:
        """As padded or jagged tensor, for rows of `empty_like`; a jagged one has the very offsets of the original."""
        if self.offsets is None:
            return self.values.view(self.count, self.width)
        # As torch makes the result of an operation on it: with the same offsets, and with what is known of its longest
        # row, without which torch pads to the sum of all lengths.
        return NestedTensor(self.values, **extract_kwargs(self.like))


def row_sums(values: torch.Tensor, like: torch.Tensor | None = None) -> torch.Tensor:
    """(B,) the sum of each row, padded or jagged; of flat values with the rows of ``like``, where that is jagged."""
    jagged = values if like is None else like
    if not jagged.is_nested:
        return values.sum(dim=-1)
    flat = values.values() if values.is_nested else values
    # Not values.sum(-1), which pads.
    return torch.segment_reduce(flat, "sum", lengths=jagged.offsets().diff(), unsafe=True)
