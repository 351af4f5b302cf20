"""One setting of a study: what tells its runs from those of another, whichever stack they are made by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scripts.runs import METHOD_NAMES

INPROCESS, VERL = "inprocess", "verl"

# What run.sh and the loop evaluate on unless they are told otherwise.
HELDOUT_N = 1000


@dataclass(frozen=True)
class Variant:
    """A method with its settings; seeds are apart.

    Attributes:
        method: a name of ``+method=``.
        beta: as it is given (``0.03``); empty for a method without one.
        lr: learning rate, as it is given.
        tag: names the overrides in file names; empty without any.
        overrides: Hydra's, beyond the method's.
        name: as tables show it; empty: the method and its beta.
        rm_lr: learning rate of PRIME's reward model, as it is given; empty: the one that its runs have.
    """

    method: str
    beta: str = ""
    lr: str = "1e-4"
    tag: str = ""
    overrides: tuple[str, ...] = ()
    name: str = ""
    rm_lr: str = ""

    def __post_init__(self) -> None:
        if bool(self.tag) != bool(self.overrides):
            raise ValueError(f"{self.key}: overrides and the tag that names them come together")

    @property
    def key(self) -> str:
        """Of its files, without the seed."""
        beta = f"-beta{self.beta}" if self.beta else ""
        tag = f"-{self.tag}" if self.tag else ""
        rm_lr = f"-rm{self.rm_lr}" if self.rm_lr else ""
        return f"{self.method}{beta}{rm_lr}{tag}-lr{self.lr}"

    @property
    def label(self) -> str:
        """As tables and figures show it."""
        if self.name:
            return self.name
        method = METHOD_NAMES.get(self.method, self.method)
        return f"{method}, beta {self.beta}" if self.beta else method

    def environment(self, seed: int, steps: int) -> dict[str, str]:
        """What `run.sh` and the in-process loop are told a run by."""
        strengths = {"BETA": self.beta, "RM_LR": self.rm_lr}
        told = {"METHOD": self.method, "LR": self.lr, "SEED": str(seed), "STEPS": str(steps)}
        return told | {name: value for name, value in strengths.items() if value}

    def fits(self, settings: dict[str, Any]) -> bool:
        """Whether a run with these settings (its ``run.json``) is one of this variant's.

        Beta and PRIME's second learning rate are compared where the variant names them; besides these, overrides tell
        runs apart. Other numbers of ranks or of held-out problems are other runs, and so are those whose length hangs
        on what became of them.
        """
        usual = settings.get("ranks", 1) == 1 and settings.get("heldout_n", HELDOUT_N) == HELDOUT_N
        usual = usual and not settings.get("until_decided")
        named = (("beta", self.beta), ("rm_lr", self.rm_lr))
        same_strength = all(
            not value or (settings.get(key) is not None and float(settings[key]) == float(value))
            for key, value in named
        )
        # The sweep's first runs recorded no overrides: there were none.
        same_overrides = sorted(settings.get("overrides") or []) == sorted(self.overrides)
        return (
            settings.get("method") == self.method
            and float(settings.get("lr", "nan")) == float(self.lr)
            and same_strength
            and same_overrides
            and usual
        )


@dataclass(frozen=True)
class Wanted:
    """Runs that a study needs: of one variant, over seeds."""

    variant: Variant
    seeds: tuple[int, ...]
    steps: int
    snapshots: int = 0
