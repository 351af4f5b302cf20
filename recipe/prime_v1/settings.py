"""`algorithm.prime`: typed, validated, and every error names the key, the value and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf

from recipe.prime_v1.advantage.options import FORMS, GRANULARITIES, NORMS
from verl_ext.settings_group import SettingsGroup, is_number

_GROUP = "algorithm.prime"


class SettingsError(ValueError):
    """A key or value of `algorithm.prime` that is not allowed."""


_SETTINGS = SettingsGroup(_GROUP, SettingsError, example="beta_train=0.05")
_MODEL = SettingsGroup(f"{_GROUP}.model", SettingsError, example="path=null")
_OPTIM = SettingsGroup(f"{_GROUP}.optim", SettingsError, example="lr=1e-6")

# Allowed values. Upstream's update styles `none` and `reverse` and its losses `dpo` and `bon_*` are not ported: its own
# configuration says that only `ce` is supported.
_CHOICES = {
    "form": FORMS,
    "update": ("before", "after"),
    "ref_type": ("freeze", "policy"),
    "loss_type": ("ce",),
    "prime_granularity": GRANULARITIES,
}


def _require_number(group: SettingsGroup, owner: Any, key: str, *, above: float | None = None) -> None:
    value = getattr(owner, key)
    if above is None:
        group.require(is_number(value) and value >= 0, key, value, "a finite number >= 0")
    else:
        group.require(is_number(value) and value > above, key, value, f"a finite number > {above:g}")


@dataclass(frozen=True)
class ModelSettings:
    """Which model the reward model starts from.

    Attributes:
        path: of its weights, with the actor's tokenizer; None: ``actor_rollout_ref.model.path``.
    """

    path: str | None = None

    def __post_init__(self) -> None:
        fine = self.path is None or (isinstance(self.path, str) and bool(self.path))
        _MODEL.require(fine, "path", self.path, "null (the actor's) or a path")


@dataclass(frozen=True)
class OptimSettings:
    """The reward model's optimiser; what is not here is the actor's.

    Attributes:
        lr: learning rate.
        lr_warmup_steps: steps of warm-up; below 0: by the ratio.
        lr_warmup_steps_ratio: of all steps.
        lr_scheduler_type: after the warm-up: ``constant`` or ``cosine``.
        weight_decay: AdamW's.
        grad_clip: norm to which the gradient is clipped.
    """

    lr: float = 1e-6
    lr_warmup_steps: int = -1
    lr_warmup_steps_ratio: float = 0.0
    lr_scheduler_type: str = "constant"
    weight_decay: float = 0.0
    grad_clip: float = 10.0

    def __post_init__(self) -> None:
        for key in ("lr", "lr_warmup_steps_ratio", "weight_decay"):
            _require_number(_OPTIM, self, key)
        _require_number(_OPTIM, self, "grad_clip", above=0)
        steps = self.lr_warmup_steps
        _OPTIM.require(isinstance(steps, int) and not isinstance(steps, bool), "lr_warmup_steps", steps, "an integer")
        kinds = ("constant", "cosine")
        _OPTIM.require(
            self.lr_scheduler_type in kinds, "lr_scheduler_type", self.lr_scheduler_type, f"one of {', '.join(kinds)}"
        )


@dataclass(frozen=True)
class PrimeSettings:
    """The knobs of PRIME, by the names of verl-recipe's `prime` and with its defaults.

    Attributes:
        form: the advantage of verl-recipe's code (``upstream``) or of the paper's equations (``paper``).
        update: train the reward model on a batch ``before`` it scores it, or ``after``.
        model: what it starts from.
        ref_path: of the reference; None or the actor's path, whose reference policy serves.
        ref_type: ``freeze``: the reference policy; ``policy``: the actor before its update.
        beta_train: weight of the log-ratio in the implicit reward and in the loss, a number > 0.
        loss_type: ``ce``.
        prime_granularity: a reward per ``token``, or their sum on the last one (``whole``).
        prime_norm: ``batch_norm`` or ``none``; None: what the form asks for.
        reward_dpo_coef, reward_gt_coef: weights of the implicit rewards and of the outcome, not both 0.
        mini_batch_size: prompts in an update of the reward model; None: the actor's.
        micro_batch_size_per_gpu: rows in one pass of it; None: the actor's.
        optim: its optimiser.
        fsdp_config: what differs from the actor's.
        filter_accuracy: prefer prompts whose mean outcome lies within the bounds, both included.
        accuracy_lower_bound, accuracy_upper_bound: those bounds.
        filter_truncate: prefer prompts none of whose responses were cut off.
        oversample_factor: at most so many times the batch is generated in a step, a number >= 1.
    """

    form: str = "upstream"
    update: str = "before"
    model: ModelSettings = field(default_factory=ModelSettings)
    ref_path: str | None = None
    ref_type: str = "freeze"
    beta_train: float = 0.05
    loss_type: str = "ce"
    prime_granularity: str = "token"
    prime_norm: str | None = None
    reward_dpo_coef: float = 5.0
    reward_gt_coef: float = 5.0
    mini_batch_size: int | None = None
    micro_batch_size_per_gpu: int | None = None
    optim: OptimSettings = field(default_factory=OptimSettings)
    fsdp_config: dict[str, Any] = field(default_factory=dict)
    filter_accuracy: bool = True
    accuracy_lower_bound: float = 0.2
    accuracy_upper_bound: float = 0.8
    filter_truncate: bool = True
    oversample_factor: float = 4.0

    def __post_init__(self) -> None:
        for key, allowed in _CHOICES.items():
            value = getattr(self, key)
            _SETTINGS.require(isinstance(value, str) and value in allowed, key, value, f"one of {', '.join(allowed)}")
        _require_number(_SETTINGS, self, "beta_train", above=0)
        for key in ("reward_dpo_coef", "reward_gt_coef"):
            _require_number(_SETTINGS, self, key)
        for key in ("mini_batch_size", "micro_batch_size_per_gpu"):
            value = getattr(self, key)
            fine = value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0)
            _SETTINGS.require(fine, key, value, "null (the actor's) or a whole number above 0")
        for key in ("filter_accuracy", "filter_truncate"):
            _SETTINGS.require(isinstance(getattr(self, key), bool), key, getattr(self, key), "true or false")
        _SETTINGS.require(
            isinstance(self.fsdp_config, Mapping),
            "fsdp_config",
            self.fsdp_config,
            "a group, such as ++algorithm.prime.fsdp_config.param_offload=true",
        )
        if self.reward_dpo_coef == 0 and self.reward_gt_coef == 0:
            raise SettingsError(
                f"{_GROUP}.reward_dpo_coef=0 and {_GROUP}.reward_gt_coef=0 leave no reward. Set one of them above 0."
            )
        self._check_form()
        self._check_band()

    def _check_form(self) -> None:
        norm = self.prime_norm
        _SETTINGS.require(
            norm is None or (isinstance(norm, str) and norm in NORMS),
            "prime_norm",
            norm,
            f"one of {', '.join(NORMS)}, or null",
        )
        if self.form != "paper":
            return
        for key, value, fine in (
            ("prime_norm", self.norm, "none"),
            ("prime_granularity", self.prime_granularity, "token"),
        ):
            if value != fine:
                raise SettingsError(
                    f"{_GROUP}.{key}={value!r}: that is upstream's alone. Set {_GROUP}.{key}={fine} with "
                    f"{_GROUP}.form=paper, or {_GROUP}.form=upstream"
                )

    def _check_band(self) -> None:
        low, high = self.accuracy_lower_bound, self.accuracy_upper_bound
        for key in ("accuracy_lower_bound", "accuracy_upper_bound"):
            value = getattr(self, key)
            _SETTINGS.require(is_number(value) and 0 <= value <= 1, key, value, "a number from 0 to 1")
        _SETTINGS.require(low <= high, "accuracy_lower_bound", low, f"at most accuracy_upper_bound={high!r}")
        factor = self.oversample_factor
        _SETTINGS.require(is_number(factor) and factor >= 1, "oversample_factor", factor, "a finite number >= 1")

    @property
    def norm(self) -> str:
        """`prime_norm` of this form."""
        return self.prime_norm or ("none" if self.form == "paper" else "batch_norm")

    @property
    def filters(self) -> bool:
        """Whether prompts are preferred over others, so that more are generated than trained on."""
        return self.filter_accuracy or self.filter_truncate

    @property
    def reference_field(self) -> str:
        """The field of V1's batch that holds the reference's log-probs."""
        return "old_log_probs" if self.ref_type == "policy" else "ref_log_prob"

    @classmethod
    def from_config(cls, group: Any) -> PrimeSettings:
        """Read the group `algorithm.prime` (a mapping, Hydra's or a plain one, or None for all defaults).

        Raises:
            SettingsError: an unknown key or a bad value.
        """
        if OmegaConf.is_config(group):
            group = OmegaConf.to_container(group, resolve=True)
        if isinstance(group, Mapping):
            group = {
                **group,
                "model": _MODEL.read(group.get("model"), ModelSettings),
                "optim": _OPTIM.read(group.get("optim"), OptimSettings),
            }
        return _SETTINGS.read(group, cls)
