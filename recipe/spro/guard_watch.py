"""The guard in training: watches the metrics of V1's trainers, and warns, bounds or stops.

With any estimator: runs without a process term are watched by entropy, truncation and whatever else they log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from recipe.spro.guard import Guard, Reading, evidence
from recipe.spro.guard_settings import GuardSettings
from recipe.spro.guard_signals import WATCHED
from recipe.spro.requirements_check import watches
from verl_ext.notices import warn
from verl_ext.step_watch import EndRun, Rows, StepWatch, save_checkpoint

_PREFIX = "spro/guard/"

_BOUND = "algorithm.spro.max_process_share"


class GuardStop(EndRun):
    """The guard ended the run; the message shows the evidence and what to do."""


def bound_process_term(config: Any, share: float) -> float:
    """The brake of action=bound: from the next step on the process term has at most this share.

    Args:
        config: verl's whole config, from which the estimator reads its settings at each step.

    Returns:
        what is in force: a tighter bound that the run has already stays.
    """
    present = OmegaConf.select(config, _BOUND)
    in_force = share if present is None else min(share, present)
    OmegaConf.update(config, _BOUND, in_force, force_add=True)
    return in_force


class GuardWatch(StepWatch):
    """One run under guard."""

    name = "spro_guard"
    reads = WATCHED

    def __init__(self, settings: GuardSettings) -> None:
        self.settings = settings
        self.guard = Guard(settings)
        self.bound: float | None = None

    def resume(self, trainer: Any, rows: Rows) -> None:
        """Replay what came before; a bound that was on is on again.

        Raises:
            GuardStop: action=stop, and the last step before belonged to an alarm.
        """
        for step, metrics in rows:
            self.guard.update(step, metrics)
        if self.guard.onsets and self.settings.action == "bound":
            self.bound = bound_process_term(trainer.config, self.settings.bound_share)
            print(f"The guard bounded this run at step {self.guard.onsets[0].step}: {_BOUND}={self.bound:g} stays on.")
        if self.guard.alarm and self.settings.action == "stop":
            raise GuardStop(f"The guard stopped this run before it was resumed. {self._message()}")

    def watch(self, trainer: Any, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """The signals of this step, as metrics; whether the bound was on when it trained."""
        reading = self.guard.update(step, metrics)
        logged = {f"{_PREFIX}{name}": value for name, value in reading.signals.items()}
        logged[f"{_PREFIX}alarm"] = float(reading.alarm)
        if self.settings.action == "bound":
            logged[f"{_PREFIX}bound"] = float(self.bound is not None)
        return logged

    def act(self, trainer: Any) -> None:
        """Warn, bound or stop, once an alarm.

        Raises:
            GuardStop: action=stop.
        """
        reading = self.guard.readings[-1]
        if not reading.onset:
            return
        if self.settings.action == "stop":
            folder = save_checkpoint(trainer)
            raise GuardStop(f"{self._message()}\nThe checkpoint of this step: {folder}")
        if self.settings.action == "bound":
            self.bound = bound_process_term(trainer.config, self.settings.bound_share)
            warn(f"{self._message()}\nFrom the next step on: {_BOUND}={self.bound:g}.")
        else:
            warn(self._message())

    def _message(self) -> str:
        onset = self.guard.onsets[-1]
        return (
            f"spro guard: this run looks like those that destroyed themselves, since step {onset.step}: "
            f"{_beyond(onset, self.settings)}.\n{evidence(self.guard)}\n{_advice(onset)}"
        )


def _beyond(reading: Reading, settings: GuardSettings) -> str:
    return ", ".join(
        f"{name} {reading.signals[name]:.3g} is above algorithm.spro.guard.{name}={settings.limits[name]:g}"
        for name in reading.fired
    )


def _advice(onset: Reading) -> str:
    has_process_term = "process_share" in onset.signals or "cpr_growth" in onset.signals
    mend = (
        "lower algorithm.spro.beta, or bound the process term (algorithm.spro.max_process_share=0.03, or "
        "algorithm.spro.guard.action=bound)"
        if has_process_term
        else "lower actor_rollout_ref.actor.optim.lr"
    )
    return (
        "Look at held-out accuracy and responses. If they are worse than before, go back to an earlier checkpoint "
        f"(trainer.resume_mode=resume_path trainer.resume_from_path=.../global_step_N) and {mend}. If they are fine, "
        "go on with algorithm.spro.guard.action=warn, or raise the threshold that fired."
    )


def make_watch(config: Any) -> GuardWatch | None:
    """A watch for a run with one of our estimators, or with a group `algorithm.spro`, unless the guard is off."""
    settings = GuardSettings.from_config(OmegaConf.select(config, "algorithm.spro.guard"))
    return GuardWatch(settings) if watches(config) and settings.action != "off" else None
