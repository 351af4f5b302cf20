"""Data for training and evaluation, in verl's form.

python -m scripts.data list              # the sets that are known
python -m scripts.data prepare --help    # write them as parquet files, every row checked
"""

from __future__ import annotations

import sys

from scripts.commands import dispatch

COMMANDS = {"list": "scripts.data.list", "prepare": "scripts.data.prepare"}


def main(arguments: list[str]) -> int:
    """One command; its exit code."""
    return dispatch(__doc__, COMMANDS, arguments)


# The verifier's workers are spawned: they import this file.
if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
