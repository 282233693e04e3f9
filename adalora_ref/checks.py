"""The rules on scalars: what steers is an integer, what scales is a finite real number."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any


def count(name: str, value: Any, *, least: int = 0) -> int:
    """Return *value* as an ``int`` of at least *least*; TypeError for what is no integer (bool is none), ValueError below."""
    rule = f"{name} must be an integer of at least {least}"
    if isinstance(value, bool):
        raise TypeError(f"{rule}; got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{rule}; got {value!r}") from None
    if number < least:
        raise ValueError(f"{rule}; got {value!r}")
    return number


def real(name: str, value: Any, *, least: float = -math.inf, below: float = math.inf) -> float:
    """Return *value* as a finite ``float`` in [least, below); TypeError for what is no real number, ValueError outside."""
    bounds = "" if (least, below) == (-math.inf, math.inf) else f" in [{least:g}, {below:g})"
    rule = f"{name} must be a finite real number{bounds}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{rule}; got {_brief(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not (math.isfinite(number) and least <= number < below):
        raise ValueError(f"{rule}; got {value!r}")
    return number


def _brief(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return repr(value) if shape is None else f"an array of shape {tuple(shape)}"
