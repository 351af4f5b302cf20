"""Which weights wrote each response: for estimators under verl's asynchronous trainers.

Where rollout and training overlap, a response may be older than the policy that is about to be updated, and the policy
may have moved while it was written. verl's rollout servers stamp each response with the version of the weights that
began and that ended it. An estimator that names ``weight_versions`` in its signature gets them: see `estimator_inputs`.

It is None where nothing can be stale (``trainer_mode=sync`` and the old trainer), and where no response has a stamp.

Waits for upstream: these stamps among an estimator's fields, with one meaning in all trainers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from verl_ext.estimator_inputs import provide
from verl_ext.patching import PatchError, on_import, target, wrap

if TYPE_CHECKING:
    import numpy as np

NAME = "weight_versions"

# Modes of the V1 trainers in which a response may be older than the policy.
_OVERLAPPING = ("colocate_async", "separate_async")

# verl's names of them: of the weights that began and that ended a response.
_STAMPS = ("min_global_steps", "max_global_steps")

# Of a row without a stamp: verl's padding, and an agent loop of one's own that drops it.
UNKNOWN = -1


@dataclass(frozen=True)
class WeightVersions:
    """How often the rollout's weights had been replaced when each response was written.

    Version 0 is the model that training started from; the policy of the trainer is at ``current``.
    """

    first: np.ndarray
    """(B,) int64, of the response's first attempt; `UNKNOWN` without a stamp

    An attempt that was interrupted before it had a token counts: such a response is wholly of later weights.
    """
    last: np.ndarray
    """(B,) int64, of its last token"""
    current: int
    """of the weights that `old_log_probs` are recomputed with"""

    @property
    def known(self) -> np.ndarray:
        """(B,) bool: the row has a stamp."""
        return self.first != UNKNOWN

    @property
    def fresh(self) -> np.ndarray:
        """(B,) bool: the whole response is the current policy's."""
        return self.first == self.current

    @property
    def moved(self) -> np.ndarray:
        """(B,) bool: the weights were replaced while it was written."""
        return self.known & (self.first != self.last)

    @property
    def continued(self) -> np.ndarray:
        """(B,) bool: earlier weights began the response, and the current ones ended it."""
        return self.moved & (self.last == self.current)

    @property
    def of_the_first_model(self) -> np.ndarray:
        """(B,) bool: the whole response is version 0's."""
        return self.last == 0


# Of the advantage under way, by a function of verl's DataProto.
_reader: ContextVar[Callable[[Any], WeightVersions | None] | None] = ContextVar("verl_ext_versions", default=None)


def _read(data: Any) -> WeightVersions | None:
    reader = _reader.get()
    return None if reader is None else reader(data)


def _versions(stamps: list[tuple[Any, ...]], current: int) -> WeightVersions | None:
    import numpy as np

    known = [(UNKNOWN, UNKNOWN) if None in stamp else stamp for stamp in stamps]
    first, last = np.array(known, dtype=np.int64).reshape(-1, 2).T
    versions = WeightVersions(first, last, current)
    return versions if versions.known.any() else None


def _reading(read: Callable[[Any, Any, Any], WeightVersions | None]) -> Callable[..., Callable[..., Any]]:
    """A wrapper for a trainer's method on a batch: ``read(trainer, batch, data)`` is the source meanwhile."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def method(self: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
            token = _reader.set(lambda data: read(self, batch, data))
            try:
                return original(self, batch, *args, **kwargs)
            finally:
                _reader.reset(token)

        return method

    return make


def _of_v1(trainer: Any, batch: Any, data: Any) -> WeightVersions | None:
    """V1 stamps with the training step whose update made the weights."""
    if OmegaConf.select(trainer.config, "trainer.v1.trainer_mode") not in _OVERLAPPING:
        return None
    if len(batch.tags) != len(data):
        raise PatchError(f"{__name__}: the batch has {len(data)} rows and the trainer {len(batch.tags)} tags.")
    real = [{} if tag.get("is_padding", False) else tag for tag in batch.tags]
    return _versions([tuple(tag.get(name) for name in _STAMPS) for tag in real], trainer.global_steps - 1)


def _of_separation(trainer: Any, batch: Any, data: Any) -> WeightVersions | None:
    """fully_async counts its synchronisations; one_step_off stamps with the step that the weights are sent in."""
    del batch
    fields = data.non_tensor_batch
    if not set(_STAMPS) <= fields.keys():
        return None
    stamps = list(zip(*(fields[name] for name in _STAMPS), strict=True))
    if hasattr(trainer, "current_param_version"):
        return _versions(stamps, trainer.current_param_version)
    # What is sent in step s has had s - 1 updates; what is sent before the first step is stamped 0 and has had none.
    # (After a resume the first batch is stamped one too low.)
    updates = [tuple(v if v is None else max(v - 1, 0) for v in stamp) for stamp in stamps]
    return _versions(updates, trainer.global_steps - 1)


def _patch_v1(module: ModuleType) -> None:
    trainer = target(module, "PPOTrainer", __name__)
    wrap(trainer, "_compute_advantage", _reading(_of_v1), patch=__name__, parameters=("batch", "metrics"))


def _patch_separation(module: ModuleType) -> None:
    trainer = target(module, "SeparateRayPPOTrainer", __name__)
    wrap(trainer, "_fit_compute_advantage", _reading(_of_separation), patch=__name__, parameters=("batch",))


def install() -> None:
    provide(NAME, _read)
    on_import("verl.trainer.ppo.v1.trainer_base", _patch_v1)
    on_import("verl.experimental.separation.ray_trainer", _patch_separation)
