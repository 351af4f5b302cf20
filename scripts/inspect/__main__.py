"""Look inside a run that trained with algorithm.spro.dump.every=N.

python -m scripts.inspect page RUN     # one HTML page: every token with what it was rewarded
python -m scripts.inspect stats RUN    # the same in numbers: tables and a figure

RUN is a run's folder, or its folder of dumps (step-*.parquet).
"""

from __future__ import annotations

import sys

from scripts.commands import dispatch

COMMANDS = {"page": "scripts.inspect.page", "stats": "scripts.inspect.stats"}


def main(arguments: list[str]) -> int:
    """One command; its exit code."""
    return dispatch(__doc__, COMMANDS, arguments)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
