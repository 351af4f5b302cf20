"""Compare methods over seeds.

python -m scripts.compare run --help       # train methods over seeds
python -m scripts.compare report RUNS...   # a report on finished verl runs
"""

from __future__ import annotations

import importlib
import sys

COMMANDS = {"run": "scripts.compare.run", "report": "scripts.compare.report"}


def main(arguments: list[str]) -> int:
    """Hand the rest of the command line to one command; each has a ``main(arguments) -> int``."""
    if arguments and arguments[0] in COMMANDS:
        # Imported late: a report needs nothing that a training needs.
        return importlib.import_module(COMMANDS[arguments[0]]).main(arguments[1:])
    print((__doc__ or "").strip())
    return 0 if arguments[:1] in (["-h"], ["--help"]) else 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
