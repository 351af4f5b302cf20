"""Write the RL training set and the held-out set as parquet files in verl's form.

    python -m examples.arithmetic.make_data --out outputs/data

The two are disjoint by the unordered pair of operands (``task.partition``), whatever the seed and the sizes.
"""

import argparse
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from examples.arithmetic import task

FORMAT = 1
"""Counts up when the files change for the same settings, so that old ones are not taken for new ones."""


def draw_pairs(split: str, rng: random.Random) -> Iterator[tuple[int, int]]:
    """Endless ordered pairs ``(a, b)`` of one partition, uniform, with repeats."""
    while True:
        a, b = rng.randint(task.LOWEST, task.HIGHEST), rng.randint(task.LOWEST, task.HIGHEST)
        if task.partition(a, b) == split:
            yield a, b


def distinct_pairs(split: str, count: int, seed: int) -> list[tuple[int, int]]:
    """``count`` ordered pairs of one partition, no two with the same operands in either order."""
    numbers = task.HIGHEST - task.LOWEST + 1
    # The smallest partition has about a tenth of all unordered pairs; half of that keeps the drawing short.
    if not 0 < count <= numbers * (numbers + 1) // 2 // 20:
        raise ValueError(f"{split}: cannot draw {count} distinct pairs")
    chosen: dict[tuple[int, int], tuple[int, int]] = {}
    for a, b in draw_pairs(split, random.Random(f"{split}-{seed}")):
        chosen.setdefault((min(a, b), max(a, b)), (a, b))
        if len(chosen) == count:
            break
    return list(chosen.values())


def rows(split: str, pairs: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """verl's columns, one row a pair."""
    return [
        {
            "data_source": task.DATA_SOURCE,
            "prompt": [{"role": "user", "content": task.prompt(a, b)}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(a + b)},
            "extra_info": {"split": split, "index": index, "a": a, "b": b},
        }
        for index, (a, b) in enumerate(pairs)
    ]


def make_data(out: Path, train: int = 4096, heldout: int = 1000, seed: int = 0) -> bool:
    """Write ``train.parquet``, ``heldout.parquet`` and ``meta.json``; False when they were there already.

    Raises:
        FileExistsError: ``out`` holds data made with other settings.
    """
    meta = {"format": FORMAT, "train": train, "heldout": heldout, "seed": seed}
    meta_path = out / "meta.json"
    if meta_path.exists():
        found = json.loads(meta_path.read_text())
        if found != meta:
            raise FileExistsError(f"{out} holds data made with {found}, not {meta}: choose another --out")
        return False
    out.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("heldout", heldout)):
        scratch = out / f".{split}.{os.getpid()}.tmp"
        pd.DataFrame(rows(split, distinct_pairs(split, count, seed))).to_parquet(scratch)
        os.replace(scratch, out / f"{split}.parquet")
    # Last: its presence says that both files are whole.
    scratch = out / f".meta.{os.getpid()}.tmp"
    scratch.write_text(json.dumps(meta) + "\n")
    os.replace(scratch, meta_path)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the parquet files")
    parser.add_argument("--train", type=int, default=4096, help="training problems (default %(default)s)")
    parser.add_argument("--heldout", type=int, default=1000, help="held-out problems (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which problems are drawn (default %(default)s)")
    args = parser.parse_args()
    try:
        made = make_data(args.out, args.train, args.heldout, args.seed)
    except (FileExistsError, ValueError) as error:
        raise SystemExit(f"make_data: {error}") from None
    print(f"{args.out}: {args.train} training and {args.heldout} held-out problems{'' if made else ', already there'}")


if __name__ == "__main__":
    main()
