"""Compare methods over seeds.

python -m scripts.compare run --help       # train methods over seeds
python -m scripts.compare report RUNS...   # a report on finished verl runs
"""

from __future__ import annotations

import sys

from scripts.commands import dispatch

COMMANDS = {"run": "scripts.compare.run", "report": "scripts.compare.report"}


def main(arguments: list[str]) -> int:
    """One command; its exit code."""
    return dispatch(__doc__, COMMANDS, arguments)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
