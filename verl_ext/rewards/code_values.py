"""Values on their way between the verifier and the sandbox: scalars and tagged lists, as JSON.

Used on both sides, so it imports nothing that costs time.
"""

from __future__ import annotations

from typing import Any

MAX_INT = 2**63
NUMBERS = ("decimal.Decimal", "fractions.Fraction")
MAX_ITEMS = 100_000
"""of a generator or another iterator that a program returns"""


class Opaque:
    """Stands for an object that cannot leave its process; equal to nothing."""

    def __init__(self, name: str) -> None:
        self.name = name

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return False


def encode(value: Any) -> Any:
    """A value as scalars and tagged lists.

    Looks at the data of the builtin types and never at the methods of a subclass: an object that claims to equal
    everything arrives as what it holds, or as the name of its type.
    """
    kind = type(value)
    if value is None or kind is bool or kind is float or kind is str:
        return value
    if issubclass(kind, int):
        value = int.__add__(value, 0)
        return value if -MAX_INT < value < MAX_INT else ["i", hex(value)]
    if issubclass(kind, float):
        return float.__float__(value)
    if issubclass(kind, str):
        return str.__str__(value)
    for base, tag in ((list, "l"), (tuple, "t"), (set, "s"), (frozenset, "f")):
        if issubclass(kind, base):
            return [tag, [encode(x) for x in base.__iter__(value)]]
    if issubclass(kind, dict):
        return ["d", [[encode(k), encode(v)] for k, v in dict.items(value)]]
    if issubclass(kind, bytes | bytearray):
        return ["b", bytes(value).hex()]
    if issubclass(kind, complex):
        return ["c", complex.__complex__(value).real, complex.__complex__(value).imag]
    origin = f"{kind.__module__}.{kind.__qualname__}"
    if origin in NUMBERS:
        return ["n", origin, str(value)]
    if hasattr(kind, "__next__") or kind in (range, type({}.keys()), type({}.values()), type({}.items())):
        items: list[Any] = []
        for item in value:
            if len(items) == MAX_ITEMS:
                raise ValueError(f"an iterator of more than {MAX_ITEMS} items was returned")
            items.append(encode(item))
        return ["it", items]
    return ["o", origin[:100]]


def decode(value: Any) -> Any:
    """The value that `encode` was given; a subclass comes back as its builtin type, an unknown object as `Opaque`."""
    if type(value) is not list:
        return value
    tag, *rest = value
    if tag in ("l", "t", "s", "f", "it"):
        make: Any = {"l": list, "t": tuple, "s": set, "f": frozenset, "it": iter}[tag]
        return make([decode(x) for x in rest[0]])
    if tag == "d":
        return {decode(k): decode(v) for k, v in rest[0]}
    if tag == "i":
        return int(rest[0], 16)
    if tag == "b":
        return bytes.fromhex(rest[0])
    if tag == "c":
        return complex(rest[0], rest[1])
    if tag == "n" and rest[0] in NUMBERS:
        module, _, name = rest[0].rpartition(".")
        return getattr(__import__(module), name)(rest[1])
    return Opaque(rest[0])


def to_json(value: Any) -> str:
    """JSON of scalars and lists; the json package would cost 4 ms of imports."""
    if value is None:
        return "null"
    kind = type(value)
    if kind is bool:
        return "true" if value else "false"
    if kind is int:
        return str(value)
    if kind is float:
        return {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}.get(repr(value), repr(value))
    if kind is str:
        import _json

        return _json.encode_basestring_ascii(value)
    return "[" + ",".join([to_json(x) for x in value]) + "]"
