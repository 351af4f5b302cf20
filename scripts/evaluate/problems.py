"""The problems of a data file in verl's form (see `scripts.data`), and the categories that they are counted by."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.data.sets import SETS
from scripts.evaluate.errors import BadInput

# Of a row or its extra_info, where they are there.
CATEGORIES = ("category", "subject", "level", "type", "difficulty")

# More values than that are names, not categories.
_MOST = 60

COLUMNS = ("data_source", "prompt", "reward_model")


@dataclass(frozen=True)
class Problems:
    """The first rows of one file.

    Attributes:
        name: of the file, without its ending.
        prompts: messages, one list a problem.
        categories: by column, the value of each problem ("" where it has none).
        digest: of all that decides prompts and verdicts.
    """

    name: str
    path: Path
    prompts: list[Any] = field(repr=False)
    categories: dict[str, list[str]] = field(repr=False)
    digest: str

    def __len__(self) -> int:
        return len(self.prompts)


def files(given: list[str]) -> list[Path]:
    """The data files: themselves, and of a folder the evaluation sets that `scripts.data` wrote into it.

    Raises:
        BadInput: nothing is there; two of one name.
    """
    found: list[Path] = []
    for path in map(Path, given):
        if path.is_dir():
            sets = [path / f"{name}.parquet" for name, each in SETS.items() if each.use == "eval"]
            there = [file for file in sets if file.is_file()]
            if not there:
                raise BadInput(
                    f"DATA {path}: the folder holds no evaluation set. Write one: python -m scripts.data prepare eval "
                    f"--out {path}; or give files of your own."
                )
            found += there
        elif path.is_file() and path.suffix == ".parquet":
            found.append(path)
        elif path.is_file():
            raise BadInput(f"DATA {path}: not a .parquet file. Write it with python -m scripts.data prepare.")
        else:
            raise BadInput(f"DATA {path}: there is no such file. Write it with python -m scripts.data prepare.")
    names = [path.stem for path in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(
            f"DATA: more than one file is called {', '.join(twice)}, and results go by the name. Rename one."
        )
    return found


def read(path: Path, limit: int | None = None) -> Problems:
    """The problems of a file, or its first ``limit``.

    Raises:
        BadInput: the file is not in verl's form.
    """
    import pyarrow.lib
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()[:limit]
    except (OSError, pyarrow.lib.ArrowInvalid) as error:
        raise BadInput(f"DATA {path}: is no parquet file that can be read ({error}). Write it again.") from None
    if not rows:
        raise BadInput(f"DATA {path}: the file has no rows. Write it again.")
    if missing := [column for column in COLUMNS if column not in rows[0]]:
        raise BadInput(
            f"DATA {path}: no column {', '.join(missing)}; it has {', '.join(rows[0])}. Write it in verl's form: "
            "python -m scripts.data prepare"
        )
    content = json.dumps(rows, sort_keys=True, default=str, ensure_ascii=True)
    return Problems(
        path.stem,
        path,
        [row["prompt"] for row in rows],
        _categories(rows),
        hashlib.sha256(content.encode()).hexdigest(),
    )


def _categories(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Those that tell at least two kinds of problems apart."""
    found = {"data_source": [str(row["data_source"]) for row in rows]}
    for name in CATEGORIES:
        values = [row.get(name, (row.get("extra_info") or {}).get(name)) for row in rows]
        found[name] = ["" if value is None else str(value) for value in values]
    return {name: values for name, values in found.items() if 2 <= len(set(values)) <= _MOST}
