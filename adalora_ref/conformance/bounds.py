"""Numbers that know how far a correct computation of them may be off.

A `Bounded` holds a value to 50 digits and a worst-case bound of the rounding error of *every* correct way to compute
it in the arithmetic it belongs to: any order of summation and of a product chain, fused multiply-add, blocking,
underflow that is gradual or flushed. The model is |fl(a ∘ b) − a ∘ b| ≤ u · |a ∘ b| + η, η the smallest normal number.

How one pass covers every order. Multiplied out, an expression is a sum of monomials such as x_i · A_ki · s_k · B_jk.
Whatever the order, each monomial meets at most one rounding for each product in it and one for each other monomial
that it is added to, K in all, so the error is at most Σ |monomial| · ((1 + u)^K − 1). `Bounded` carries Σ |monomial|
as its *magnitude*, free of cancellation, and how many monomials there are as its *terms*; the rules for products and
for `total` add up just that. Merged weights, x (W + ΔW)ᵀ, the gradients by dyᵀ x and one sum over all indices at once
reorder the same monomials.

Two places need more care:

- What is really formed before a nonlinear use (BᵀB − I before it is squared, Ī before |I − Ī|) is known better than
  by its monomials: from there on the magnitude is |value| + error. `settle` says so, and so do + and −, which stand
  for one operation on two numbers that are formed. A sum that may be taken in any order is written `total`.
- Where every number is a multiple of some 2⁻ᵍ, and no intermediate result of any order can need more digits than
  there are, nothing is rounded: the bound is 0.

The functions below accept any other type of number too (`Fraction`, `complex`, mpmath's `mpf`), for which `total` is
a sum and `settle` does nothing, so that one oracle serves them all.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import mpmath

Number: TypeAlias = Any
"""A `Bounded`, a `Fraction`, an mpf, a complex or plain number."""

DIGITS = mpmath.MPContext()
"""The context of all values; its own, so that nobody's `mpmath.mp` is changed."""
DIGITS.dps = 50

LIBRARY = 8.0
"""Roundings that exp, log, tanh and powers may cost: four units in the last place, as NumPy promises."""


class Arithmetic(NamedTuple):
    """A floating-point format: unit roundoff u, smallest normal number η, largest number."""

    unit: float
    tiny: float
    largest: float

    def holds(self, value: float) -> bool:
        """Whether *value* is a number of the format, but for its range."""
        return (math.frexp(value)[0] / self.unit).is_integer()

    def growth(self, roundings: int) -> float:
        """How much so many roundings may change a number, relatively; infinite where the format has not the digits."""
        worst = roundings * self.unit
        return worst / (1.0 - worst) if worst < 0.1 else math.inf


ARITHMETIC = {
    "float64": Arithmetic(2.0**-53, 2.0**-1022, (2 - 2.0**-52) * 2.0**1023),
    "float32": Arithmetic(2.0**-24, 2.0**-126, (2 - 2.0**-23) * 2.0**127),
    "bfloat16": Arithmetic(2.0**-8, 2.0**-126, (2 - 2.0**-7) * 2.0**127),
    "float16": Arithmetic(2.0**-11, 2.0**-14, 65504.0),
}


@dataclass(slots=True, eq=False, repr=False)
class Bounded:
    """A value and the error that a correct computation of it may have.

    Attributes
    ----------
    value
        To 50 digits.
    magnitude
        The same expression with absolute values everywhere.
    error
        Worst case of the relative roundings alone; `bound` is what to hold a result against.
    variance
        Sum of the squares of the single roundings, for the sharp tier.
    peak
        Like magnitude, every factor counting as max(1, |factor|): no intermediate result of any order is larger, and
        an η that is lost makes at most peak · η of the result.
    depth
        How many operations in a row may lose η.
    terms
        How many monomials, or formed numbers, it is a sum of; 0 for what is exactly zero.
    grid
        2⁻ᵍ if every number so far is a multiple of it, else 0.
    """

    arithmetic: Arithmetic
    value: Any
    magnitude: float
    error: float
    variance: float
    peak: float
    depth: int
    terms: int
    grid: float

    @property
    def exact(self) -> bool:
        """Whether no order of evaluation rounds anything."""
        return not self.terms or self.peak * self.arithmetic.unit <= self.grid

    @property
    def bound(self) -> float:
        """How far a correct result may lie from *value*; infinite where it may overflow."""
        # Twice, as a lost η, and a number near overflow, may grow by what is rounded later.
        if self.may_overflow:
            return math.inf
        if self.exact:
            return 0.0
        worst = self.error + 2.0 * self.arithmetic.tiny * self.depth * self.peak
        return worst if worst >= 0.0 else math.inf

    @property
    def may_overflow(self) -> bool:
        """Whether an intermediate result of some order may: even a product with 0 is then no number."""
        return not 2.0 * self.peak <= self.arithmetic.largest

    @property
    def sharp(self) -> float:
        """6 · √(sum of the squared roundings): no worst case, but far beyond what is likely."""
        return min(self.bound, 6.0 * math.sqrt(self.variance) + 2.0 * self.arithmetic.tiny * self.depth * self.peak)

    @property
    def real(self) -> Any:
        """The value, by which numbers are compared."""
        return self.value

    def __mul__(self, other: Number) -> Bounded:
        b = other if type(other) is Bounded else scalar(other, self.arithmetic)
        if not (self.terms and b.terms):
            return _zero(self.arithmetic, self.peak * b.peak)
        m, n, e, d = self.magnitude, b.magnitude, self.error, b.error
        # One product, and the additions that multiplying out has beyond those of the two sums.
        roundings = 1 + (self.terms - 1) * (b.terms - 1)
        fresh = self.arithmetic.unit * m * n
        return Bounded(
            self.arithmetic,
            self.value * b.value,
            m * n,
            m * d + n * e + e * d + self.arithmetic.growth(roundings) * (m + e) * (n + d),
            m * m * b.variance + n * n * self.variance + roundings * fresh * fresh,
            self.peak * b.peak,
            self.depth + b.depth + 1,
            self.terms * b.terms,
            self.grid * b.grid,
        )

    __rmul__ = __mul__

    def __add__(self, other: Number) -> Bounded:
        b = other if type(other) is Bounded else scalar(other, self.arithmetic)
        both: Bounded = total([self, b])
        if both.exact or not (self and b):
            return _settled(both)
        error = self.bound + b.bound
        fresh = self.arithmetic.unit * (abs(float(both.value)) + error)
        return self.formed(both.value, error + fresh + self.arithmetic.tiny, self.variance + b.variance + fresh * fresh)

    __radd__ = __add__

    def __sub__(self, other: Number) -> Bounded:
        opposite: Bounded = -(other if type(other) is Bounded else scalar(other, self.arithmetic))
        return self + opposite

    def __rsub__(self, other: Number) -> Bounded:
        return scalar(other, self.arithmetic) - self

    def __neg__(self) -> Bounded:
        return replace(self, value=-self.value)

    def __abs__(self) -> Bounded:
        return replace(self, value=abs(self.value))

    def __truediv__(self, other: Number) -> Bounded:
        b = other if type(other) is Bounded else scalar(other, self.arithmetic)
        return self * b.reciprocal()

    def __rtruediv__(self, other: Number) -> Bounded:
        return scalar(other, self.arithmetic) * self.reciprocal()

    def __lt__(self, other: Number) -> bool:
        return bool(self.value < other.real)

    def __gt__(self, other: Number) -> bool:
        return bool(self.value > other.real)

    def __bool__(self) -> bool:
        """Whether it is anything but exactly zero."""
        return self.terms != 0

    def __repr__(self) -> str:
        return f"{float(self.value)!r} ± {self.bound:.1e}"

    def formed(self, value: Any, error: float, variance: float) -> Bounded:
        """Return a number of the same arithmetic that is formed with this error."""
        size = abs(float(value)) + error
        return Bounded(self.arithmetic, value, size, error, variance, max(1.0, size), 0, 1, 0.0)

    def applied(self, value: Any, slope: float, propagated: float, roundings: float) -> Bounded:
        """Return the result of a function that adds *roundings* of u to the error that it propagates."""
        u, eta = self.arithmetic.unit, self.arithmetic.tiny
        fresh = roundings * u * (abs(float(value)) + propagated)
        return self.formed(value, propagated + fresh + eta, slope * slope * self.variance + fresh * fresh)

    def reciprocal(self) -> Bounded:
        """Return 1 / self, rounded, since a division may multiply by that; unbounded where self may be 0."""
        size = abs(float(self.value))
        if self.exact and math.frexp(size)[0] == 0.5:
            return number(float(1 / self.value), self.arithmetic)
        least = size - self.bound
        if not least > 0.0:
            return self.formed(DIGITS.zero, math.inf, math.inf)
        return self.applied(1 / self.value, 1 / size / size, self.bound / size / least, 1.0)


def number(value: float, /, arithmetic: Arithmetic) -> Bounded:
    """Return an element of an array: exactly what it is."""
    value = float(value)
    size = abs(value)
    if not math.isfinite(size):
        return Bounded(arithmetic, DIGITS.mpf(value), size, math.inf, math.inf, math.inf, 0, 1, 0.0)
    # A subnormal element may be flushed to zero before it is used.
    depth = 1 if 0.0 < size < arithmetic.tiny else 0
    grid = math.ldexp(1.0, 1 - value.as_integer_ratio()[1].bit_length()) if depth == 0 else 0.0
    if not size:
        return _zero(arithmetic, 1.0)
    return Bounded(arithmetic, DIGITS.mpf(value), size, 0.0, 0.0, max(1.0, size), depth, 1, grid)


def _zero(arithmetic: Arithmetic, peak: float) -> Bounded:
    """Exactly 0, whatever it was multiplied by."""
    return Bounded(arithmetic, DIGITS.zero, 0.0, 0.0, 0.0, peak, 0, 0, 1.0)


@lru_cache(maxsize=1024)
def scalar(value: float, /, arithmetic: Arithmetic) -> Bounded:
    """Return a hyperparameter or constant, which may be rounded to the working dtype on arrival."""
    held = number(value, arithmetic)
    if not arithmetic.holds(held.magnitude):
        held.error = arithmetic.unit * held.magnitude
        held.variance, held.grid = held.error * held.error, 0.0
    return held


def total(terms: Iterable[Number], /) -> Number:
    """Add up *terms* in any order, even after multiplying each by what the sum is multiplied by."""
    terms = list(terms)
    first = next((t for t in terms if type(t) is Bounded), None)
    if first is None:
        return sum(terms)
    arithmetic = first.arithmetic
    terms = [t if type(t) is Bounded else scalar(t, arithmetic) for t in terms]
    live = [t for t in terms if t.terms or t.may_overflow] or terms[:1]
    if len(live) == 1:
        return live[0]
    magnitude, among = sum(t.magnitude for t in live), sum(t.terms for t in live)
    fresh = arithmetic.unit * magnitude
    return Bounded(
        arithmetic,
        DIGITS.fsum(t.value for t in live),
        magnitude,
        sum(t.error + arithmetic.growth(among - t.terms) * (t.magnitude + t.error) for t in live),
        sum(t.variance for t in live) + (among - max(t.terms for t in live)) * fresh * fresh,
        sum(t.peak for t in live),
        max(t.depth for t in live) + 1,
        among,
        min(t.grid for t in live),
    )


def mean(terms: Iterable[Number], /) -> Number:
    """Add up *terms* in any order, and divide by how many they are."""
    terms = list(terms)
    return total(terms) / len(terms)


def settle(a: Number, /) -> Number:
    """Return *a* as a number formed before it is used: from here on its magnitude is |value| + error."""
    return _settled(a) if isinstance(a, Bounded) else a


def _settled(a: Bounded) -> Bounded:
    if a.bound or not a.exact:
        return a.formed(a.value, a.bound, a.variance)
    size = abs(float(a.value))
    if not size:
        return _zero(a.arithmetic, 1.0)
    return Bounded(a.arithmetic, a.value, size, 0.0, 0.0, max(1.0, size), 0, 1, a.grid)


def allow(a: Number, roundings: int, /) -> Number:
    """Grant *a* as many roundings more, for another correct form that has them."""
    if not isinstance(a, Bounded) or not a:
        return a
    fresh = roundings * a.arithmetic.unit * (a.magnitude + a.error)
    return replace(a, error=a.error + fresh, variance=a.variance + fresh * fresh, grid=0.0)


def either(a: Number, b: Number, /) -> Number:
    """Return *a*, which another correct formula computes as *b*: whichever of the two may be off further."""
    if not (isinstance(a, Bounded) and isinstance(b, Bounded)):
        return a
    widest = {name: max(getattr(a, name), getattr(b, name)) for name in ("magnitude", "error", "variance", "peak")}
    return replace(a, **widest, depth=max(a.depth, b.depth), terms=max(a.terms, b.terms), grid=min(a.grid, b.grid))


def rounded(a: Number, arithmetic: Arithmetic, /) -> Number:
    """Round *a* once more, to a narrower format."""
    if type(a) is not Bounded or arithmetic.unit <= a.arithmetic.unit:
        return a
    size, error = abs(float(a.value)), a.bound
    if error == 0.0 and arithmetic.holds(size) and (size == 0.0 or arithmetic.tiny <= size <= arithmetic.largest):
        return a
    fresh = arithmetic.unit * (size + error)
    error = error + fresh + arithmetic.tiny if size + error + fresh <= arithmetic.largest else math.inf
    return a.formed(a.value, error, a.variance + fresh * fresh + arithmetic.tiny * arithmetic.tiny)


def sqrt(a: Number, /) -> Number:
    """Return √a, correctly rounded."""
    if not isinstance(a, Bounded):
        return cmath.sqrt(a) if isinstance(a, complex) else DIGITS.sqrt(a)
    if not a:
        return a
    root, bound = DIGITS.sqrt(abs(a.value)), a.bound
    size = float(root)
    least_root = math.sqrt(max(float(a.value) - bound, 0.0))
    propagated = min(math.sqrt(bound), bound / (size + least_root)) if size else math.sqrt(bound)
    return a.applied(root, 0.5 / size if size else math.inf, propagated, 1.0)


def exp(a: Number, /) -> Number:
    """Return e to the power of *a*."""
    if not isinstance(a, Bounded):
        return cmath.exp(a) if isinstance(a, complex) else DIGITS.exp(a)
    value, bound = DIGITS.exp(a.value), a.bound
    propagated = float(value) * math.expm1(bound) if bound < 700 else math.inf
    return a.applied(value, float(value), propagated, LIBRARY)


def log(a: Number, /) -> Number:
    """Return the natural logarithm of *a*."""
    if not isinstance(a, Bounded):
        return cmath.log(a) if isinstance(a, complex) else DIGITS.log(a)
    size, bound = float(a.value), a.bound
    if not size > bound:
        return a.formed(DIGITS.zero, math.inf, math.inf)
    return a.applied(DIGITS.log(a.value), 1 / size, bound / (size - bound), LIBRARY)


def tanh(a: Number, /) -> Number:
    """Return the hyperbolic tangent of *a*."""
    if not isinstance(a, Bounded):
        return cmath.tanh(a) if isinstance(a, complex) else DIGITS.tanh(a)
    return a.applied(DIGITS.tanh(a.value), 1.0, a.bound, LIBRARY)


def power(a: Number, exponent: int, /) -> Number:
    """Return the scalar *a* to the power of a natural number of at least 1, by a library function."""
    if not isinstance(a, Bounded):
        return a**exponent
    if not a:
        return a
    value = a.value**exponent
    growth = exponent * math.log1p(a.bound / abs(float(a.value)))
    propagated = float(abs(value)) * math.expm1(growth) if growth < 700 else math.inf
    return a.applied(value, propagated / (a.bound or 1.0), propagated, LIBRARY)


def least(a: Number, b: Number, /) -> Number:
    """Return the smaller one, which may be either where their bounds overlap."""
    small, large = sorted((a, b), key=lambda candidate: candidate.real)
    if not (isinstance(small, Bounded) or isinstance(large, Bounded)):
        return small
    arithmetic = (small if isinstance(small, Bounded) else large).arithmetic
    small, large = (n if isinstance(n, Bounded) else scalar(n, arithmetic) for n in (small, large))
    overlap = float(large.value - small.value) < small.bound + large.bound
    error = max(small.bound, large.bound) if overlap else small.bound
    return small.formed(small.value, error, max(small.variance, large.variance)) if error else small
