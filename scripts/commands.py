"""The command line of a tool with several commands."""

from __future__ import annotations

import importlib
from collections.abc import Mapping


def dispatch(doc: str | None, commands: Mapping[str, str], arguments: list[str]) -> int:
    """Hand the rest of the command line to one command; returns the exit code, 2 where none of them is named.

    Args:
        doc: printed where no command is named.
        commands: module of each, with a ``main(arguments) -> int``. Imported when chosen, so that one command does not
            need what another does.
        arguments: without the program's name.
    """
    if arguments and arguments[0] in commands:
        return importlib.import_module(commands[arguments[0]]).main(arguments[1:])
    print((doc or "").strip())
    return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
