"""Log-probs in blocks are the numbers that verl's own loop gives."""

from __future__ import annotations

import pytest
import torch
from verl.utils import torch_functional

from verl_ext.cpu import log_probs, no_accelerator

pytestmark = pytest.mark.skipif(not no_accelerator(), reason="there is an accelerator: the patch does not act")


@pytest.mark.parametrize("shape", [(1, 7), (log_probs.BLOCK + 1, 7), (3, 5, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equal_to_verls_own_to_the_bit(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    patched = torch_functional.logprobs_from_logits_v2
    assert "verl_ext.cpu.log_probs" in patched.__verl_ext_patch__
    generator = torch.Generator().manual_seed(0)
    logits = (20 * torch.randn(shape, generator=generator)).to(dtype)
    labels = torch.randint(0, shape[-1], shape[:-1], generator=generator)
    result = patched(logits, labels)
    assert torch.equal(result, patched.__wrapped__(logits, labels))
    assert result.dtype == dtype


def test_gradient_equals_verls_own() -> None:
    patched = torch_functional.logprobs_from_logits_v2
    logits = torch.randn(9, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(9) % 7
    gradients = []
    for function in (patched, patched.__wrapped__):
        leaf = logits.clone().requires_grad_()
        function(leaf, labels).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)
