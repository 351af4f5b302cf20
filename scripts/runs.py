"""A finished run: what it was made with and what it logged at each step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

# Steps up to this one pay for start-up (compilation, first weight sync) and are left out of the times.
WARM_AFTER = 2

# As the field writes them; another method is called what its settings call it.
METHOD_NAMES = {
    "dapo": "DAPO",
    "dr_grpo": "Dr.GRPO",
    "frpo": "FRPO",
    "grpo": "GRPO",
    "grpo_kl": "GRPO with KL",
    "grpo_neg_kl": "GRPO neg. KL",
    "prime": "PRIME",
    "reinforce_plus_plus": "REINFORCE++",
    "rloo": "RLOO",
    "spro": "SPRO",
    "spro_bounded": "SPRO bounded",
    "spro_centred": "SPRO centred",
    "spro_gated": "SPRO gated",
    "spro_leash": "SPRO on a leash",
    "spro_loo": "SPRO leave-one-out",
    "spro_negative": "SPRO negative",
    "spro_none": "SPRO without baseline",
    "spro_pooled": "SPRO pooled",
    "spro_process_only": "SPRO process only",
    "spro_shuffled": "SPRO shuffled",
    "spro_suffix": "SPRO suffix",
    "token": "Per-token log-ratio",
}


class BadRun(Exception):
    """A run cannot be read or used; the message names the file and the fix."""


@dataclass(frozen=True)
class Run:
    """One training: settings, and the numbers of each step.

    Attributes:
        name: of the file or folder, without its endings.
        source: path it was read from, as given.
        method, seed: what it is compared as.
        settings: the settings file; empty for a foreign run.
        provenance: commit, versions, hardware, exact overrides; None where they were not recorded.
        steps: ``{step: {metric: value}}``, finite numbers only, in order of steps.
    """

    name: str
    source: str
    method: str
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] | None = None
    steps: dict[int, dict[str, float]] = field(default_factory=dict)

    @property
    def beta(self) -> float | None:
        """The process term's strength: as `spro/beta` logged it, else of the settings; None without one."""
        logged = next((metrics["spro/beta"] for metrics in self.steps.values() if "spro/beta" in metrics), None)
        if logged is None and self.settings.get("beta") is not None:
            return float(self.settings["beta"])
        return logged

    @property
    def label(self) -> str:
        """What the run is a repetition of: the method, its beta if it has one, and what else was set for it."""
        parts = [METHOD_NAMES.get(self.method, self.method)]
        if self.beta is not None:
            parts.append(f"beta {self.beta:g}")
        parts += [f"{key} {value}" for key, value in self.settings.get("variables", {}).items()]
        return ", ".join(parts)

    def series(self, *keys: str) -> tuple[list[int], list[float]]:
        """Steps and values of the first of ``keys`` that any step logged."""
        key = self.first_logged(*keys)
        found = {step: metrics[key] for step, metrics in self.steps.items() if key in metrics} if key else {}
        return list(found), list(found.values())

    def first_logged(self, *keys: str) -> str | None:
        """The first of ``keys`` that any step logged."""
        return next((key for key in keys if any(key in metrics for metrics in self.steps.values())), None)

    def logged(self) -> set[str]:
        """Every metric that some step logged."""
        return set().union(*self.steps.values()) if self.steps else set()

    def training_steps(self) -> list[int]:
        """The steps that trained: those with a time, else all after step 0."""
        timed = [step for step, metrics in self.steps.items() if "timing_s/step" in metrics]
        return timed or [step for step in self.steps if step > 0]

    def warm_mean(self, key: str, absent: float | None = None) -> float | None:
        """Mean of a metric over the warm training steps; None where no step logged it.

        Args:
            absent: what a step without the metric counts as; None leaves such a step out.
        """
        rows = [self.steps[step] for step in self.training_steps() if step > WARM_AFTER]
        values = [row.get(key, absent) for row in rows]
        numbers = [value for value in values if value is not None]
        return fmean(numbers) if numbers and any(key in row for row in rows) else None

    def maximum(self, key: str) -> float | None:
        """Largest value that any step logged; None where none did."""
        return max(self.series(key)[1], default=None)


def numbers(data: dict[str, Any]) -> dict[str, float]:
    """What of a row is a finite number. Booleans are none."""
    kept = {key: value for key, value in data.items() if isinstance(value, (int, float)) and value is not True}
    return {key: float(value) for key, value in kept.items() if value is not False and math.isfinite(value)}
