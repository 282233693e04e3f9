"""The rules on what is no array: what steers is an integer, what scales is finite, what is by matrix is complete."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Mapping
from numbers import Real
from typing import Any, TypeVar

T = TypeVar("T")


def count(name: str, value: Any, *, least: int = 0) -> int:
    """Return *value* as an ``int``; TypeError for what is no integer (bool is none), ValueError below *least*."""
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
    """Return *value* as a finite ``float``; TypeError for what is no real number, ValueError outside [least, below)."""
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


def instance(name: str, value: Any, kind: type) -> None:
    """Refuse, with TypeError, a *value* that is no *kind*."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be of type {kind.__name__}; got {type(value).__name__}")


def items(name: str, value: Iterable[T]) -> Iterator[T]:
    """Return an iterator over *value*; TypeError for what has no items."""
    try:
        return iter(value)
    except TypeError:
        raise TypeError(f"{name} must be iterable; got {type(value).__name__}") from None


def every(name: str, value: Any, matrices: Iterable[str]) -> None:
    """Refuse a *value* that is no mapping (TypeError), or that lacks one of the *matrices* (ValueError)."""
    instance(name, value, Mapping)
    if missing := [matrix for matrix in matrices if matrix not in value]:
        raise ValueError(f"{name} must name every matrix; got {list(value)}, without {missing}")


def _brief(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"an array of shape {tuple(shape)}" if isinstance(shape, tuple) else repr(value)
