"""Responses as they come, in chunks that are only ever added: an interrupted evaluation goes on where it stopped.

One folder holds the responses of one way of asking one set: its name ends in the key, a digest of the model's weights,
the data and the sampling. What decides the responses is in the key, so no folder can hold those of another model.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.evaluate.errors import BadInput
from scripts.files import write

FORMAT = 1
"""Counts up when responses of older versions must not be taken for new ones."""

_ENDING = ".jsonl.gz"
_MADE_WITH = "made_with.json"


@dataclass(frozen=True)
class Response:
    """One graded response.

    Attributes:
        problem: row of the data file, from 0.
        sample: 0 to n - 1.
        tokens: of the response, its end-of-sequence token included.
        truncated: it does not end by itself.
        kind: of the verdict (`verl_ext.rewards.verdict.Kind`).
        extracted, detail: what the verifier looked at, and why.
    """

    problem: int
    sample: int
    text: str
    tokens: int
    truncated: bool
    kind: str
    score: float
    extracted: str = ""
    detail: str = ""


class Store:
    """The responses of one way (``name``) of asking one set."""

    def __init__(self, out: Path, name: str, made_with: dict[str, Any], samples: int) -> None:
        self.made_with = {"format": FORMAT, **made_with}
        self.samples = samples
        content = json.dumps(self.made_with, sort_keys=True)
        self.key = hashlib.sha256(content.encode()).hexdigest()[:16]
        self.folder = out / "responses" / f"{name}-{self.key}"

    @property
    def chunks(self) -> list[Path]:
        """In the order in which they were written."""
        return sorted(self.folder.glob(f"[0-9]*{_ENDING}"))

    def add(self, responses: list[Response]) -> None:
        """Writes a chunk, whole or not at all."""
        if not self.chunks:
            content = json.dumps(self.made_with, indent=1, sort_keys=True) + "\n"
            write(self.folder / _MADE_WITH, content.encode())
        lines = "".join(json.dumps(asdict(each), ensure_ascii=True) + "\n" for each in responses)
        last = int(self.chunks[-1].name.removesuffix(_ENDING)) if self.chunks else -1
        # No time in it: the same responses are the same bytes.
        write(self.folder / f"{last + 1:06d}{_ENDING}", gzip.compress(lines.encode(), mtime=0))

    def responses(self) -> dict[int, list[Response]]:
        """By problem, all its samples. Of a problem that was asked again, the last answers.

        Raises:
            BadInput: a chunk cannot be read.
        """
        found: dict[int, list[Response]] = {}
        for path in self.chunks:
            try:
                rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
                chunk = [Response(**row) for row in rows]
            except (OSError, EOFError, ValueError, TypeError) as error:
                raise BadInput(f"{path}: cannot be read ({error}). Delete it: what it held is asked again.") from None
            fresh: dict[int, list[Response]] = {}
            for each in chunk:
                fresh.setdefault(each.problem, []).append(each)
            found.update(fresh)
        return {problem: found[problem] for problem in sorted(found) if len(found[problem]) == self.samples}

    def missing(self, problems: int) -> list[int]:
        """Problems without all their answers, and those of which one was never looked at by the verifier."""
        done = self.responses()
        return [n for n in range(problems) if n not in done or any(each.kind == "infra_error" for each in done[n])]
