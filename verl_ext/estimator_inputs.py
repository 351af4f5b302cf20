"""Hands an advantage estimator the batch fields that its signature names.

verl 0.9 gives a registered estimator the rewards, the mask, the config and the uids, although the
batch holds more at that moment (``old_log_probs``, ``ref_log_prob``, ...). With this extension

    @register_adv_est("mine")
    def mine(token_level_rewards, response_mask, old_log_probs, ref_log_prob, **kwargs): ...

gets the two log-probs as well. It knows no estimator by name. Tensors come from ``data.batch``,
numpy arrays from ``data.non_tensor_batch``. A parameter without a default that the batch does not
hold is an error that says what the batch has. `provide` adds names that stand for something else
(see `estimator_context`); a field of that name wins.

Waits for upstream: verl pull request 7473, which asks for the same. Where verl passes a field
itself, its value wins, so this becomes a no-op then.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from verl_ext.patching import on_import, wrap

# Modules that bind the name `compute_advantage`; the first one defines it.
COMPUTE_ADVANTAGE_IN = (
    "verl.trainer.ppo.ray_trainer",
    "verl.trainer.ppo.v1.utils",
    "verl.experimental.separation.ray_trainer",
)

# What verl passes by itself, whatever the batch holds under the same name.
_PASSED_BY_VERL = frozenset(
    {"token_level_rewards", "response_mask", "config", "index", "reward_baselines", "non_tensor_batch", "batch"}
)

# The batch of the `compute_advantage` call under way, if any.
_batch_in_hand: ContextVar[Any] = ContextVar("verl_ext_batch_in_hand", default=None)

# Sources of what is no field of a batch, by name: a function of the DataProto, None where there is nothing.
_provided: dict[str, Callable[[Any], Any]] = {}


def provide(name: str, source: Callable[[Any], Any]) -> None:
    """Give estimators that name ``name`` the value of ``source(data)``; where that is None, nothing."""
    _provided[name] = source


def fields_named_by(estimator: Callable[..., Any], data: Any) -> dict[str, Any]:
    """The fields of ``data`` (a verl ``DataProto``), and what is provided, that ``estimator``'s signature names."""
    fields = {}
    for name in _named_fields(estimator):
        if name in data.batch.keys():  # noqa: SIM118 (a TensorDict has no `in` of its own)
            fields[name] = data.batch[name]
        elif name in data.non_tensor_batch:
            fields[name] = data.non_tensor_batch[name]
        elif name in _provided and (value := _provided[name](data)) is not None:
            fields[name] = value
    return fields


def _named_fields(estimator: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return {
        name: parameter
        for name, parameter in inspect.signature(estimator).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) and name not in _PASSED_BY_VERL
    }


def _require_all(estimator: Callable[..., Any], given: Mapping[str, Any], data: Any) -> None:
    """Raise KeyError for a parameter without a default that neither verl nor the batch provides."""
    for name, parameter in _named_fields(estimator).items():
        if name in given or parameter.default is not parameter.empty:
            continue
        held = sorted([*data.batch.keys(), *data.non_tensor_batch])
        hint = ""
        if name == "ref_log_prob":
            hint = " Switch the reference policy on: algorithm.use_kl_in_reward=True algorithm.kl_ctrl.kl_coef=0.0"
        raise KeyError(
            f"advantage estimator {estimator.__name__!r} asks for {name!r}, which this batch does not hold. "
            f"It holds: {', '.join(held)}.{hint}"
        )


def _remember_batch(original: Callable[..., Any]) -> Callable[..., Any]:
    def compute_advantage(data: Any, *args: Any, **kwargs: Any) -> Any:
        token = _batch_in_hand.set(data)
        try:
            return original(data, *args, **kwargs)
        finally:
            _batch_in_hand.reset(token)

    return compute_advantage


def _bind_fields(original: Callable[..., Any]) -> Callable[..., Any]:
    def get_adv_estimator_fn(name_or_enum: Any) -> Any:
        estimator = original(name_or_enum)
        data = _batch_in_hand.get()
        if data is None:
            return estimator

        def with_fields(**passed_by_verl: Any) -> Any:
            given = {**fields_named_by(estimator, data), **passed_by_verl}
            _require_all(estimator, given, data)
            return estimator(**given)

        return with_fields

    return get_adv_estimator_fn


def _patch_compute_advantage(module: ModuleType) -> None:
    wrap(module, "compute_advantage", _remember_batch, patch=__name__, parameters=("data", "adv_estimator", "config"))


def _patch_registry(module: ModuleType) -> None:
    wrap(module, "get_adv_estimator_fn", _bind_fields, patch=__name__)


def install() -> None:
    on_import("verl.trainer.ppo.core_algos", _patch_registry)
    for module in COMPUTE_ADVANTAGE_IN:
        on_import(module, _patch_compute_advantage)
