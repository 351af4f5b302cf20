"""verl's padding mask, kept from the attention of Megatron-core's own layers.

verl's mask ``(B, T)`` is true where a token is; it is meant for Transformer Engine's causal attention, which needs
none. Megatron-core's own attention hides what is true, and builds the causal mask itself only where it is given none:
with verl's it attends to what it should not, without a word. Padding is on the right, where a causal mask never looks.
Waits for upstream: verl giving Megatron-core's own attention no mask.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from verl_ext.patching import on_import, target, wrap


def _causal(original: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: Any, query: Any, key: Any, value: Any, attention_mask: Any, *args: Any, **kwargs: Any) -> Any:
        if attention_mask is not None and attention_mask.dim() == 2:
            attention_mask = None
        return original(self, query, key, value, attention_mask, *args, **kwargs)

    return forward


def _apply(module: ModuleType) -> None:
    attention = target(module, "DotProductAttention", __name__)
    wrap(attention, "forward", _causal, patch=__name__, parameters=("query", "key", "value", "attention_mask"))


def install() -> None:
    on_import("megatron.core.transformer.dot_product_attention", _apply)
