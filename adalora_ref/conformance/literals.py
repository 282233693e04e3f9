"""Values as Python text that a reader can follow and that gives back the same numbers, bit for bit."""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, NamedTuple

import numpy as np

WIDTH = 100


def literal(value: Any, indent: int = 0) -> str:
    """The text of a value; on one line if it fits, else a part on each."""
    opening, items, closing = _parts(value)
    if not items:
        return opening
    if flat := _flat(opening, items, closing, WIDTH - indent):
        return flat
    margin = " " * (indent + 4)
    lines = [f"{margin}{name}{literal(item, indent + 4)},\n" for name, item in items]
    return f"{opening}\n{''.join(lines)}{' ' * indent}{closing.removeprefix(',')}"


def _flat(opening: str, items: list[tuple[str, Any]], closing: str, room: int) -> str:
    """The text on one line, or nothing if it does not fit."""
    flat = opening
    for place, (name, item) in enumerate(items):
        flat += ", " * (place > 0) + name + literal(item)
        if "\n" in flat or len(flat) + len(closing) > room:
            return ""
    return flat + closing


def _parts(value: Any) -> tuple[str, list[tuple[str, Any]], str]:
    """What opens a value, its parts with what stands before each, and what closes it; or its whole text alone."""
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, Text):
        return value.text, [], ""
    if isinstance(value, dict) and value:
        return "{", [(f"{literal(key)}: ", item) for key, item in value.items()], "}"
    if is_dataclass(value) or hasattr(value, "_fields"):
        return f"{type(value).__name__}(", [(f"{name}=", item) for name, item in _told(value)], ")"
    if isinstance(value, list | tuple) and value:
        opening, closing = "[]" if isinstance(value, list) else "()"
        alone = isinstance(value, tuple) and len(value) == 1
        return opening, [("", item) for item in value], f",{closing}" if alone else closing
    return _text(value), [], ""


def _text(value: Any) -> str:
    """The text of a value that has no parts."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return number(value) if isinstance(value, float) else repr(value)


def _told(record: Any) -> list[tuple[str, Any]]:
    """The fields of a record that are not what they are by default."""
    defaults = record._field_defaults if hasattr(record, "_fields") else {f.name: f.default for f in fields(record)}
    names = record._fields if hasattr(record, "_fields") else list(defaults)
    held = [(name, getattr(record, name), defaults.get(name, MISSING)) for name in names]
    return [(n, value) for n, value, default in held if isinstance(value, np.ndarray) or value != default]


def _array(a: Any) -> tuple[str, list[tuple[str, Any]], str]:
    name = {"bool": "bool_"}.get(a.dtype.name, a.dtype.name)
    dtype = f"dtype={'ml_dtypes' if name == 'bfloat16' else 'np'}.{name}"
    if not a.size:
        return f"np.zeros({a.shape}, {dtype})", [], ""
    if a.ndim < 2:
        return f"np.array({_nested(a)}, {dtype})", [], ""
    return "np.array([", [("", Text(_nested(row))) for row in a], f"], {dtype})"


class Text(NamedTuple):
    """What stands as it is: a row of an array, or where an array is found."""

    text: str


def _nested(a: Any) -> str:
    if a.ndim:
        return f"[{', '.join(_nested(item) for item in a)}]"
    return repr(a.item()) if a.dtype.kind in "biu" else _shortest(a)


def _shortest(x: Any) -> str:
    """The shortest number that is rounded to this one."""
    wide = float(x)
    shorter = (float(f"{wide:.{digits}g}") for digits in range(1, 18 if math.isfinite(wide) else 0))
    return number(next((short for short in shorter if np.asarray(short).astype(x.dtype) == x), wide))


def number(x: float) -> str:
    """A float as Python text; what is not finite by NumPy's name."""
    if math.isfinite(x):
        return repr(float(x))
    return "np.nan" if math.isnan(x) else f"{'-' * (x < 0)}np.inf"
