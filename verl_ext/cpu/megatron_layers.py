"""Megatron-core's own layers in place of Transformer Engine's, which are CUDA's, and their names.

mbridge asks for Transformer Engine's, whose linear layers hold the norm in front of them: there the norm's weight has
another name.
Waits for upstream: mbridge asking for Megatron-core's own layers where Transformer Engine is not installed.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from verl_ext.patching import on_import, target, wrap

# Name of a norm of its own -> the name in Transformer Engine's layers.
_NORMS = {
    "input_layernorm.weight": "self_attention.linear_qkv.layer_norm_weight",
    "pre_mlp_layernorm.weight": "mlp.linear_fc1.layer_norm_weight",
}


def _own_layers(original: Callable[..., Any]) -> Callable[..., Any]:
    def get_gpt_decoder_block_spec(config: Any, use_transformer_engine: bool, **kwargs: Any) -> Any:
        del use_transformer_engine
        return original(config, use_transformer_engine=False, **kwargs)

    return get_gpt_decoder_block_spec


def _names(original: Callable[..., Any]) -> Callable[..., Any]:
    def _weight_name_mapping_mcore_to_hf(self: Any, mcore_weights_name: str) -> Any:
        for own, fused in _NORMS.items():
            if mcore_weights_name.endswith(f".{own}"):
                mcore_weights_name = mcore_weights_name.removesuffix(own) + fused
        return original(self, mcore_weights_name)

    return _weight_name_mapping_mcore_to_hf


def _ask(module: ModuleType) -> None:
    wrap(module, "get_gpt_decoder_block_spec", _own_layers, patch=__name__, parameters=("use_transformer_engine",))


def _rename(module: ModuleType) -> None:
    bridge = target(module, "Bridge", __name__)
    wrap(bridge, "_weight_name_mapping_mcore_to_hf", _names, patch=__name__, parameters=("mcore_weights_name",))


def install() -> None:
    on_import("mbridge.core.llm_bridge", _ask)
    on_import("mbridge.core.bridge", _rename)
