"""The program in a response, found in linear time and without parsing it: a hostile text can crash a parser."""

from __future__ import annotations

import builtins
import functools
import importlib
import re

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([^\s`]*)[^\n]*$", re.M)
_PYTHON = ("python", "py", "python3", "python2")
_NAME = re.compile(r"[A-Za-z_]\w*")
# What verl's prime_code imports for a program: `from x import *` of each, then the modules by their names.
_STARS = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics", "itertools",
    "functools", "operator", "io", "sys", "json", "builtins", "typing",
)  # fmt: skip


def last_block(response: str) -> tuple[str, bool] | None:
    """The last ```python block, or else the last fenced block, and whether it was closed; None without a fence.

    A block cut off by the end of the response counts. A fence is closed by the next fence line without a language.
    """
    blocks: list[tuple[str, str, bool]] = []
    start: int | None = None
    language = fence = ""
    for match in _FENCE.finditer(response):
        if start is None:
            fence, language, start = match[1], match[2].lower(), match.end() + 1
        elif match[1][0] == fence[0] and len(match[1]) >= len(fence) and not match[2]:
            blocks.append((language, response[start : match.start()], True))
            start = None
    if start is not None and response[start:].strip():
        blocks.append((language, response[start:], False))
    for wanted in (_PYTHON, None):
        for language, text, closed in reversed(blocks):
            if text.strip() and (wanted is None or language in wanted):
                return text, closed
    return None


@functools.cache
def _known_names() -> dict[str, tuple[str, str]]:
    """Each name of the imports above: (module, attribute), the attribute empty for a module."""
    names: dict[str, tuple[str, str]] = {}
    for origin in _STARS:
        module = importlib.import_module(origin)
        public = getattr(module, "__all__", None) or [x for x in vars(module) if not x.startswith("_")]
        names.update({name: (origin, name) for name in public if hasattr(module, name)})
    names.update({origin: (origin, "") for origin in _STARS if origin not in ("builtins", "typing")})
    return {name: where for name, where in names.items() if not hasattr(builtins, name)}


def prelude(program: str) -> list[tuple[str, str, str]]:
    """The imports that prime_code would have made and that a program may use: (name, module, attribute).

    By the words of the text, so that a program pays for few imports: all of them take 20 ms.
    """
    known = _known_names()
    return sorted((word, *known[word]) for word in set(_NAME.findall(program)) if word in known)
