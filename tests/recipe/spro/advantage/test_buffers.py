"""The memory of a large result is used again, and never while somebody can still see it."""

from collections.abc import Iterator

import pytest
import torch

from recipe.spro.advantage import buffers, spro_advantage

SIZE = 1 << 20


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    buffers.release()
    yield
    buffers.release()


def test_used_again_once_it_is_free() -> None:
    first = buffers.empty(SIZE)
    place = first.data_ptr()
    del first
    assert buffers.empty(SIZE).data_ptr() == place
    # A little shorter, as batches are.
    assert buffers.empty(SIZE - 1000).data_ptr() == place


@pytest.mark.parametrize(
    "hold",
    [
        lambda x: x,
        lambda x: x[5:7],
        lambda x: x.view(2, -1)[1],
        lambda x: x.numpy(),
        lambda x: x.untyped_storage(),
        lambda x: memoryview(x.numpy()),
        lambda x: torch.from_dlpack(x),
        lambda x: torch.nested.nested_tensor_from_jagged(x, torch.tensor([0, 5, SIZE])),
    ],
)
def test_not_while_anything_refers_to_it(hold) -> None:
    first = buffers.empty(SIZE)
    place = first.data_ptr()
    held = hold(first)
    del first
    assert buffers.empty(SIZE).data_ptr() != place
    del held


@pytest.mark.parametrize("size", [SIZE, SIZE + 3, 5 * SIZE])
def test_it_begins_with_a_cache_line(size: int) -> None:
    assert buffers.empty(size).data_ptr() % 64 == 0


def test_two_results_are_two() -> None:
    x = torch.randn(64, SIZE // 64)
    arguments = (x, x * 2, torch.ones_like(x, dtype=torch.bool), torch.arange(64.0), torch.arange(64) // 8)
    first = spro_advantage(*arguments, beta=0.1)
    before = first.clone()
    second = spro_advantage(*arguments, beta=0.7)
    assert torch.equal(first, before)
    assert not torch.equal(first, second)


def test_what_does_not_fit_is_not_used() -> None:
    small = buffers.empty(SIZE)
    length = len(small)
    del small
    assert len(buffers.empty(4 * length)) == 4 * length
    assert len(buffers.empty(10)) == 10


def test_a_large_buffer_does_not_stay_for_small_results() -> None:
    large = buffers.empty(8 * SIZE)
    del large
    buffers.empty(SIZE)
    assert len(buffers._kept) < 2 * SIZE
