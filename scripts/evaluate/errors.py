"""The command's own error."""

from __future__ import annotations


class BadInput(Exception):
    """What was asked for cannot be evaluated; the message names the option, the value and the fix."""
