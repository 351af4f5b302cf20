"""How this package changes somebody else's module: at its import, once, and never silently.

A patch names a module and is applied right after that module has been imported (now, if it
already is), so that loading the plugin stays cheap. If what the patch expects is not there, it
raises `PatchError`: a moved target must end the run, not change its meaning.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import wrapt

_MARK = "__verl_ext_patch__"

# Every module that a patch waits for, for `check_modules_exist`.
_awaited: set[str] = set()


class PatchError(RuntimeError):
    """What a patch waits for is not where it was: the installed version is not one we know."""


def on_import(module: str, apply: Callable[[ModuleType], None]) -> None:
    """Call ``apply(module)`` when ``module`` is imported, or now if it already is."""
    _awaited.add(module)
    wrapt.register_post_import_hook(apply, module)


def check_modules_exist() -> None:
    """Raise `PatchError` if a module that a patch waits for is gone: its import would never come.

    Looks for files, so that nothing is imported. Packages that are not installed are left out.
    """
    for module in sorted(_awaited):
        package, *inner = module.split(".")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        paths = [Path(location, *inner) for location in spec.submodule_search_locations]
        if not any(path.is_dir() or path.with_suffix(".py").is_file() for path in paths):
            raise PatchError(
                f"a patch of verl_ext waits for the module {module}, which the installed {package} does not have. "
                "Install the versions of requirements.txt, or update the patch."
            )


def target(owner: Any, name: str, patch: str) -> Any:
    """Return ``owner.name``; raise `PatchError` naming the patch if it has moved."""
    try:
        return getattr(owner, name)
    except AttributeError:
        where = getattr(owner, "__name__", repr(owner))
        raise PatchError(
            f"{patch} patches {where}.{name}, which is not there any more. "
            "Install the versions of requirements.txt, or update the patch."
        ) from None


def require_parameters(function: Callable[..., Any], names: tuple[str, ...], patch: str) -> None:
    """Raise `PatchError` unless ``function`` takes every parameter in ``names``."""
    present = inspect.signature(function).parameters
    missing = [name for name in names if name not in present]
    if missing:
        raise PatchError(
            f"{patch} patches {function.__module__}.{function.__qualname__}, which no longer takes "
            f"{', '.join(missing)} (it takes {', '.join(present)})."
        )


def wrap(
    owner: Any,
    name: str,
    make: Callable[[Callable[..., Any]], Callable[..., Any]],
    *,
    patch: str,
    parameters: tuple[str, ...] = (),
) -> None:
    """Replace ``owner.name`` by ``make(original)``, once per patch.

    Args:
        owner: module or class that holds the function.
        make: takes the original function, returns its replacement.
        patch: name of the calling module, for messages and to tell our wrapper from others'.
        parameters: what the original must take, or `PatchError`.
    """
    original = target(owner, name, patch)
    # A module that imported the function by name after we wrapped it holds our wrapper already.
    if patch in getattr(original, _MARK, ()):
        return
    if parameters:
        require_parameters(original, parameters, patch)
    replacement = functools.wraps(original)(make(original))
    setattr(replacement, _MARK, (*getattr(original, _MARK, ()), patch))
    setattr(owner, name, replacement)
