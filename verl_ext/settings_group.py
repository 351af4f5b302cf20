"""Reading a group of the configuration into a dataclass; every error names the key, its value and what is allowed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from omegaconf import OmegaConf

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class SettingsGroup:
    """One group, such as `algorithm.spro`."""

    name: str
    error: type[ValueError]
    """what is raised"""
    example: str = ""
    """a setting of the group, for the message to whoever gave something else"""

    def read(self, values: Any, settings: type[Settings]) -> Settings:
        """The dataclass ``settings`` of ``values``: a mapping, Hydra's or a plain one, or None for all defaults.

        Raises:
            error: no mapping, or an unknown key; and whatever the dataclass raises for a bad value.
        """
        if OmegaConf.is_config(values):
            values = OmegaConf.to_container(values, resolve=True)
        if values is None:
            return settings()
        if not isinstance(values, Mapping):
            such_as = f", such as {self.name}.{self.example}" if self.example else ""
            raise self.error(f"{self.name}={values!r}: must be a group of settings{such_as}.")
        known = [field.name for field in fields(settings)]  # type: ignore[arg-type]
        for key in values:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1)
                hint = f" Did you mean {self.name}.{close[0]}?" if close else ""
                raise self.error(
                    f"{self.name}.{key}={values[key]!r}: there is no such setting.{hint} Allowed: {', '.join(known)}."
                )
        return settings(**{str(key): values[key] for key in values})

    def require(self, fine: bool, key: str, value: object, allowed: str) -> None:
        """Raise `error` unless the value is fine."""
        if not fine:
            raise self.error(f"{self.name}.{key}={value!r}: must be {allowed}.")


def is_number(value: object) -> bool:
    """A finite int or float; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
