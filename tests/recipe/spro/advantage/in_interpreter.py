"""A pytest plugin: `spro_advantage` runs its Triton kernels in Triton's interpreter, on the CPU.

For a process of its own, because Triton looks at the variable once, when it is imported: `test_triton.py` starts it.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"

from typing import Any

import pytest
import torch

from recipe.spro.advantage import dispatch, fused_triton, spro_advantage_naive

# Small, so that short rows have several tiles and parts. None: by length.
tiling: fused_triton.Tiling | None = None


def _fused(device_type: str) -> Any:
    def advantage(arguments: Any, options: Any, *, with_stats: bool = False) -> Any:
        width = int(arguments.log_probs.lengths().max()) if arguments.log_probs.count else 0
        small = fused_triton.Tiling(16, 1) if width <= 200 else fused_triton.Tiling(128, 2)
        return fused_triton.advantage(arguments, options, with_stats=with_stats, tiling=tiling or small)

    return advantage


dispatch._fused = _fused  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results and scratch begin as what nobody expects, so that a place nobody writes is seen."""
    empty = torch.empty

    def poisoned(*args: Any, **kwargs: Any) -> torch.Tensor:
        x = empty(*args, **kwargs)
        return x.fill_(float("nan") if x.dtype.is_floating_point else -77)

    monkeypatch.setattr(torch, "empty", poisoned)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves out what is not about the kernels, and what takes the interpreter minutes.

    That is the grid that `triton_cases` thins out, all seeds but one, and a case of the CPU kernel's float64 sums, in
    place of which `triton_cases` has one for this kernel.
    """

    def concerns_kernels(item: pytest.Item) -> bool:
        arguments = item.callspec.params if hasattr(item, "callspec") else {}
        return (
            arguments.get("advantage") is not spro_advantage_naive
            and arguments.get("seed", 0) == 0
            and item.name.partition("[")[0]
            not in ("test_fast_equals_oracle", "test_options", "test_long_sums_stay_accurate")
        )

    items[:] = [item for item in items if concerns_kernels(item)]
