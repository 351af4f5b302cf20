"""Megatron's "cuda" is the host while verl's Megatron engine works.

Megatron-core asks for the device by ``torch.cuda.current_device()``, by the literal ``device="cuda"`` and by
``.cuda()``, in some forty places on the way of one update. A mode of torch's own dispatch answers all of them,
for as long as a call of the engine lasts.
Waits for upstream: Megatron-core asking one function for its device, or verl's platform.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from verl_ext.patching import on_import, target, wrap

# Of the engine: whatever touches the model, its gradients or its optimizer.
_METHODS = (
    "__init__",
    "initialize",
    "forward_backward_batch",
    "optimizer_zero_grad",
    "optimizer_step",
    "lr_scheduler_step",
    "to",
    "get_per_tensor_param",
    "save_checkpoint",
    "load_checkpoint",
)


def _is_cuda(device: Any) -> bool:
    """Of what torch takes for a device: a name, a `torch.device` or an index."""
    return str(device).startswith("cuda") or (isinstance(device, int) and not isinstance(device, bool))


@contextmanager
def on_host() -> Iterator[None]:
    """Within it "cuda" means "cpu"."""
    import torch
    from torch.overrides import TorchFunctionMode

    from verl_ext.cpu import device

    class HostForCuda(TorchFunctionMode):
        def __torch_function__(
            self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            if func is torch.Tensor.cuda:
                return args[0]
            if func is torch.Tensor.type and len(args) == 1 and not kwargs:
                # The optimizer knows its weights by these names.
                return func(*args).replace("torch.", "torch.cuda.")
            if kwargs and _is_cuda(kwargs.get("device")):
                kwargs = {**kwargs, "device": "cpu"}
            return func(*args, **(kwargs or {}))

    asked = torch.cuda.current_device
    torch.cuda.current_device = device.current_device
    try:
        with HostForCuda():
            yield
    finally:
        torch.cuda.current_device = asked


def _hosted(original: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        with on_host():
            return original(self, *args, **kwargs)

    return method


def _apply(module: ModuleType) -> None:
    engine = target(module, "MegatronEngine", __name__)
    for name in _METHODS:
        wrap(engine, name, _hosted, patch=__name__)


def install() -> None:
    on_import("verl.workers.engine.megatron.transformer_impl", _apply)
