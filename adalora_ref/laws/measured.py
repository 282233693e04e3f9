"""Answers as exact numbers, each with how far it may lie from the truth: what both sides of a law are made of.

A law is an identity between exact functions. An implementation's answer lies within its rounding-error bound of the
exact one, so both sides may differ by what their bounds add up to, and by nothing where these are 0. Sums and products
of answers are formed here in exact arithmetic and carry the bounds along: no law has a tolerance of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from adalora_ref.conformance.expectations import Undecided

Numbers: TypeAlias = Any
"""A NumPy array of objects: `Measured`, `Fraction` or both."""


class Broken(AssertionError):
    """A law that does not hold; the message names both sides.

    Attributes
    ----------
    apart
        How far apart the sides lie, over the larger of them; infinite where they are no numbers.
    """

    apart: float = math.inf


class Measured:
    """A number known to lie within *slack* of the exact one."""

    __slots__ = ("slack", "value")

    def __init__(self, value: Fraction, slack: Fraction) -> None:
        self.value = value
        self.slack = slack

    def __add__(self, other: Any) -> Measured:
        b = measured(other)
        return Measured(self.value + b.value, self.slack + b.slack)

    __radd__ = __add__

    def __mul__(self, other: Any) -> Measured:
        b = measured(other)
        slack = abs(self.value) * b.slack + abs(b.value) * self.slack + self.slack * b.slack
        return Measured(self.value * b.value, slack)

    __rmul__ = __mul__

    def __neg__(self) -> Measured:
        return Measured(-self.value, self.slack)

    def __sub__(self, other: Any) -> Measured:
        return self + -measured(other)

    def __rsub__(self, other: Any) -> Measured:
        return measured(other) - self

    def __abs__(self) -> Measured:
        return Measured(abs(self.value), self.slack)

    def __repr__(self) -> str:
        return spelled(self)


def measured(number: Any) -> Measured:
    """*number* itself, or what is exactly it."""
    return number if isinstance(number, Measured) else Measured(Fraction(number), Fraction(0))


def exact(a: Any) -> Numbers:
    """The entries of a floating array as fractions."""
    return _each(lambda value: Fraction(float(value)), np.asarray(a))


def within(name: str, got: Any, error: Any) -> Numbers:
    """The entries of an answer, each with its bound, or a single number; what is not finite breaks every law."""
    wide = np.asarray(got).astype(np.float64)
    if not np.all(np.isfinite(wide)):
        raise Broken(f"{name} must be finite; got {wide[~np.isfinite(wide)][0]}")
    if not np.all(np.isfinite(error)):
        raise Undecided(f"the bound of {name} is not finite")
    found = np.empty(wide.shape, dtype=object)
    for place in np.ndindex(wide.shape):
        found[place] = Measured(Fraction(float(wide[place])), Fraction(float(error[place])))
    return found[()]


def plain(a: Numbers) -> Numbers:
    """The numbers of an answer as they are, taken for exact: what it is when it is handed over once more."""
    return _each(lambda number: measured(number).value, np.asarray(a, dtype=object))


def dot(a: Numbers, b: Numbers) -> Any:
    """Σ a ⊙ b over all entries."""
    return np.sum(np.asarray(a, dtype=object) * b)


# CLAIMS


def equal(left_name: str, left: Any, right_name: str, right: Any) -> None:
    """Demand left = right, up to what their bounds add up to."""
    for place, a, b in _pairs(left_name, left, right_name, right):
        if abs(a.value - b.value) > a.slack + b.slack:
            raise _broken(left_name, a, "=", right_name, b, place)


def at_least(left_name: str, left: Any, right_name: str, right: Any) -> None:
    """Demand left ≥ right, up to what their bounds add up to."""
    for place, a, b in _pairs(left_name, left, right_name, right):
        if a.value + a.slack + b.slack < b.value:
            raise _broken(left_name, a, "≥", right_name, b, place)


def same(left_name: str, left: Any, right_name: str, right: Any) -> None:
    """Demand that two plain things, lists or numbers, are equal."""
    if left != right:
        raise Broken(f"{left_name} must be {right_name}, {right}; got {left}")


def demand(holds: object, message: str) -> None:
    """Demand what is said in words."""
    if not holds:
        raise Broken(message)


def separated(scores: dict[str, Numbers]) -> bool:
    """Whether no two scores could change places within their bounds; ties of exact numbers are settled by the rule."""
    ranked = sorted((measured(s) for row in scores.values() for s in row), key=lambda s: s.value)
    pairs = list(pairwise(ranked))
    return all(b.value - a.value > a.slack + b.slack or not (a.slack or b.slack) for a, b in pairs)


# FORM


def spelled(number: Any) -> str:
    """The number as a double would print it, with its bound where there is one."""
    held = measured(number)
    return f"{float(held.value)!r}" + (f" ± {float(held.slack):.1e}" if held.slack else "")


def _each(f: Callable[[Any], Any], a: Any) -> Numbers:
    found = np.empty(a.shape, dtype=object)
    for place in np.ndindex(a.shape):
        found[place] = f(a[place])
    return found


def _pairs(left_name: str, left: Any, right_name: str, right: Any) -> Iterator[tuple[tuple[int, ...], Any, Any]]:
    a, b = (np.asarray(side, dtype=object) for side in (left, right))
    if a.shape != b.shape:
        raise Broken(f"{left_name} must have the shape of {right_name}, {b.shape}; got {a.shape}")
    for place in np.ndindex(a.shape):
        yield place, measured(a[place]), measured(b[place])


def _broken(left_name: str, a: Measured, relation: str, right_name: str, b: Measured, place: tuple[int, ...]) -> Broken:
    where = f"[{', '.join(map(str, place))}]" if place else ""
    slack, apart, largest = a.slack + b.slack, abs(a.value - b.value), max(abs(a.value), abs(b.value))
    bound = f"up to {float(slack):.1e}, what their bounds add up to" if slack else "exactly, since nothing rounds here"
    close = slack or float(a.value) == float(b.value)
    error = Broken(
        f"{left_name} {relation} {right_name} must hold {bound}; "
        f"got ({left_name}){where} = {float(a.value)!r} and ({right_name}){where} = {float(b.value)!r}"
        + (f", which lie {float(apart):.1e} apart" if close else "")
    )
    error.apart = float(apart / largest) if largest else 0.0
    return error
