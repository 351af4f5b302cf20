"""An evaluation as JSON: written by `python -m scripts.evaluate`, read by `scripts.compare report`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scripts.compare.statistics import Estimate
from scripts.evaluate.errors import BadInput
from scripts.evaluate.scores import Lengths, Scores
from scripts.files import write

FORMAT = 1

Groups = dict[str, dict[str, Scores]]


@dataclass(frozen=True)
class Asked:
    """One way of asking a set.

    Attributes:
        key: of the folder of its responses.
        sampling: temperature, top_p, samples, ...
        categories: by column and value.
    """

    key: str
    sampling: dict[str, Any]
    scores: Scores
    categories: Groups = field(default_factory=dict)


@dataclass(frozen=True)
class SetResult:
    """One set; ``greedy`` and ``sampled`` where they were asked for."""

    name: str
    problems: int
    greedy: Asked | None
    sampled: Asked | None


@dataclass(frozen=True)
class Evaluation:
    """Of one model on some sets.

    Attributes:
        label: what the model is called.
        model: source, step and digest of the weights.
        made_with: versions and overrides.
    """

    label: str
    model: dict[str, Any]
    sets: list[SetResult]
    made_with: dict[str, Any]

    def write(self, path: Path) -> None:
        """JSON, the same bytes for the same evaluation."""
        content = {"format": FORMAT, **_plain(asdict(self))}
        write(path, (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> Evaluation:
        """What `write` wrote.

        Raises:
            BadInput: another file, or one of another version.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']!r} instead of {FORMAT}")
            sets = [
                SetResult(each["name"], each["problems"], _asked(each["greedy"]), _asked(each["sampled"]))
                for each in content["sets"]
            ]
            return cls(content["label"], content["model"], sets, content["made_with"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(
                f"{path}: is no evaluation that can be read ({type(error).__name__}: {error}). "
                "Make it again with python -m scripts.evaluate, which keeps the responses."
            ) from None

    @property
    def ks(self) -> Sequence[int]:
        """All k of pass@k of its sets."""
        return sorted({k for each in self.sets if each.sampled for k in each.sampled.scores.pass_at})


def _plain(value: Any) -> Any:
    """JSON has no numbers that are none."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _asked(content: dict[str, Any] | None) -> Asked | None:
    if content is None:
        return None
    categories = {
        column: {value: _scores(each) for value, each in values.items()}
        for column, values in content["categories"].items()
    }
    return Asked(content["key"], content["sampling"], _scores(content["scores"]), categories)


def _scores(content: dict[str, Any]) -> Scores:
    return Scores(
        **{
            **content,
            "accuracy": _estimate(content["accuracy"]),
            "bounds": tuple(content["bounds"]) if content["bounds"] else None,
            "pass_at": {int(k): _estimate(each) for k, each in content["pass_at"].items()},
            "lengths": Lengths(**content["lengths"]),
        }
    )


def _estimate(content: dict[str, Any]) -> Estimate:
    return Estimate(**{**content, "mean": math.nan if content["mean"] is None else content["mean"]})
