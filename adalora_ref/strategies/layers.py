"""Strategies of numbers, arrays, factors and the layer's arguments, and of matrices with a property."""

from __future__ import annotations

import math
import operator
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from adalora_ref.array import Array
from adalora_ref.factors import Factors
from adalora_ref.strategies.arguments import (
    DTYPES,
    LAYOUTS,
    Given,
    Kind,
    a_dtype,
    a_layout,
    a_shape,
    an_entry,
    array_of,
    as_strategy,
    checked,
    chosen,
    finite,
    integer,
    kinds,
    or_default,
    placed,
    typed,
)

Cases: TypeAlias = SearchStrategy[dict[str, Any]]

# NUMBERS


def sizes(least: Given[int] = 1, most: Given[int] = 3) -> SearchStrategy[int]:
    """Numbers of rows, columns, triplets or samples; it shrinks to the least."""
    return chosen(_sizes, checked(integer("least"), least), checked(integer("most"), most))


def _sizes(least: int, most: int) -> SearchStrategy[int]:
    return st.integers(least, integer("most", least)(most))


def dtypes(*names: Given[str]) -> SearchStrategy[str]:
    """Names of real floating dtypes, by default of all four; it shrinks to the first.

    Examples
    --------
    >>> DTYPES
    ('float64', 'float32', 'float16', 'bfloat16')
    """
    return st.one_of([as_strategy(a_dtype, name) for name in names or DTYPES])


def layouts(*names: Given[str]) -> SearchStrategy[str]:
    """How an array lies in memory: C, Fortran, strided, read-only (on NumPy), or of size zero; it shrinks to C."""
    return st.one_of([as_strategy(a_layout, name) for name in names or LAYOUTS])


def eighths(most: Given[int] = 16) -> SearchStrategy[float]:
    """k/8 for k from −*most* to *most*: sums and products of a few of them are exact, in float32 too.

    It shrinks to 1 where *most* allows it, then to other whole numbers, then to halves, so that what is left can be
    worked by hand and is not all zeros.
    """
    return chosen(_eighths, checked(integer("most"), most))


def _eighths(most: int) -> SearchStrategy[float]:
    values = sorted(range(-most, most + 1), key=lambda k: (8 // math.gcd(k, 8), abs(abs(k) - 8), k < 0))
    return st.sampled_from([k / 8 for k in values])


EIGHTHS, SIZES, RANKS = eighths(), sizes(), sizes(0)


def ordinary() -> SearchStrategy[float]:
    """Numbers that no arithmetic keeps exact, of magnitude 2⁻¹⁰ to 2, now and then zero; it shrinks to 1."""
    signs = st.sampled_from([1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 0.0])
    return st.builds(operator.mul, signs, st.floats(2.0**-10, 2.0, width=64))


def realistic(typical: Given[float] = 0.02) -> SearchStrategy[float]:
    """Numbers of the order of *typical*, to which it shrinks: in training 0.02 for factors, 1e-7 for gradients."""
    return st.builds(lambda scale, z: scale * z, as_strategy(finite("typical"), typical), ordinary())


# ARRAYS


def drawn_entries(given: Given[float] | None) -> SearchStrategy[float]:
    """What is drawn for an entry, by default eighths; a strategy as it is, since every entry is held to its rule."""
    if given is None:
        return EIGHTHS
    return given if isinstance(given, SearchStrategy) else as_strategy(an_entry, given)


def arrays(
    shape: Given[tuple[int, ...]],
    *,
    dtype: Given[str] = "float64",
    entries: Given[float] | None = None,
    layout: Given[str] = "C",
    xp: Given[Any] = np,
) -> SearchStrategy[Array]:
    """Arrays of one shape, each entry drawn by itself and rounded once to *dtype*; what overflows is refused."""
    kind = kinds(dtype=dtype, entries=drawn_entries(entries), layout=layout, xp=xp)
    return _arrays(as_strategy(a_shape, shape), kind)


@st.composite
def _arrays(draw: DrawFn, shape: SearchStrategy[tuple[int, ...]], kind: SearchStrategy[Kind]) -> Array:
    return array_of(draw, draw(shape), draw(kind))


def factors(
    *,
    d_out: Given[int] | None = None,
    d_in: Given[int] | None = None,
    r: Given[int] | None = None,
    dtype: Given[str] = "float64",
    entries: Given[float] | None = None,
    layout: Given[str] = "C",
    xp: Given[Any] = np,
) -> SearchStrategy[Factors]:
    """B (d_out, r), s (r,) and A (r, d_in); sizes are by default 1 to 3, and r may be 0."""
    lengths = st.tuples(
        or_default(SIZES, integer("d_out", 1), d_out), or_default(SIZES, integer("d_in", 1), d_in),
        or_default(RANKS, integer("r"), r),
    )  # fmt: skip
    return _factors(lengths, kinds(dtype=dtype, entries=drawn_entries(entries), layout=layout, xp=xp))


@st.composite
def _factors(draw: DrawFn, lengths: SearchStrategy[tuple[int, int, int]], kind: SearchStrategy[Kind]) -> Factors:
    return factors_of(draw, *draw(lengths), draw(kind))


def factors_of(draw: DrawFn, d_out: int, d_in: int, r: int, kind: Kind) -> Factors:
    """Draw B, s and A; of layout zero-size they have no triplets."""
    if kind.layout == "zero-size":
        r, kind = 0, kind._replace(layout="C")
    return Factors(*(array_of(draw, shape, kind) for shape in ((d_out, r), (r,), (r, d_in))))


def gradients(
    like: Given[Factors],
    *,
    entries: Given[float] | None = None,
    dtype: Given[str] = "float64",
    xp: Given[Any] = np,
) -> SearchStrategy[Factors]:
    """Factors in the shapes of *like*, by default of eighths; `realistic(1e-7)` gives the magnitudes of training."""
    kind = kinds(dtype=dtype, entries=drawn_entries(entries), xp=xp)
    return _factors(as_strategy(typed("like", Factors), like).map(lengths_of), kind)


def lengths_of(like: Factors) -> tuple[int, int, int]:
    """d_out, d_in and r."""
    return like.B.shape[0], like.A.shape[1], like.s.shape[0]


def linear_cases(
    *,
    n: Given[int] | None = None,
    d_out: Given[int] | None = None,
    d_in: Given[int] | None = None,
    r: Given[int] | None = None,
    scale: Given[float] | None = None,
    bias: Given[bool] | None = None,
    dropout: Given[bool] | None = None,
    dtype: Given[str] = "float64",
    entries: Given[float] | None = None,
    layout: Given[str] = "C",
    xp: Given[Any] = np,
) -> Cases:
    """Arguments of a forward and a backward pass: x, W, factors, scale, bias, dropout_mask and dy."""
    lengths = (("d_out", d_out, 1), ("d_in", d_in, 1), ("n", n, 0), ("r", r, 0))
    return _linear_cases(
        tuple(or_default(SIZES, integer(name, least), given) for name, given, least in lengths),
        or_default(st.sampled_from([1.0, 2.0, -0.5, 0.375]), finite("scale"), scale),
        tuple(or_default(st.booleans(), typed(k, bool), v) for k, v in (("bias", bias), ("dropout", dropout))),
        kinds(dtype=dtype, entries=drawn_entries(entries), layout=layout, xp=xp),
    )


@st.composite
def _linear_cases(
    draw: DrawFn,
    lengths: tuple[SearchStrategy[int], ...],
    scale: SearchStrategy[float],
    options: tuple[SearchStrategy[bool], ...],
    kind: SearchStrategy[Kind],
) -> dict[str, Any]:
    d_out, d_in, n, r = map(draw, lengths)  # one by one: from a tuple of all Hypothesis shrinks ten times as slowly
    held, (bias, dropout) = draw(kind), options
    weights = factors_of(draw, d_out, d_in, r, held)
    n, held = (0, held._replace(layout="C")) if held.layout == "zero-size" else (n, held)
    twos = held._replace(entries=st.sampled_from([2.0, 0.0]))
    return {
        "x": array_of(draw, (n, d_in), held),
        "W": array_of(draw, (d_out, d_in), held),
        "factors": weights,
        "scale": draw(scale),
        "bias": array_of(draw, (d_out,), held) if draw(bias) else None,
        "dropout_mask": array_of(draw, (n, d_in), twos) if draw(dropout) else None,
        "dy": array_of(draw, (n, d_out), held),
    }


# MATRICES WITH A PROPERTY


def orthogonal(n: Given[int], *, dtype: Given[str] = "float64", xp: Given[Any] = np) -> SearchStrategy[Array]:
    """Square matrices Q with Q Qᵀ = I exactly: signed permutations; in four dimensions also halves of ±1 all over."""
    return _orthogonal(as_strategy(integer("n"), n), kinds(dtype=dtype, entries=EIGHTHS, xp=xp))


@st.composite
def _orthogonal(draw: DrawFn, n: SearchStrategy[int], kind: SearchStrategy[Kind]) -> Array:
    size = draw(n)
    order = draw(st.permutations(range(size)))
    signs = draw(st.lists(st.sampled_from([1.0, -1.0]), min_size=size, max_size=size))
    matrix = np.eye(size)[list(order)] * np.asarray(signs).reshape(-1, 1)
    if size == 4 and draw(st.booleans()):
        pair = np.asarray([[1.0, 1.0], [1.0, -1.0]])
        matrix = matrix @ np.kron(pair, pair) / 2
    return placed(matrix, draw(kind))


def conditioned(
    *,
    rows: Given[int] | None = None,
    columns: Given[int] | None = None,
    kappa: Given[float],
    dtype: Given[str] = "float64",
    xp: Given[Any] = np,
) -> SearchStrategy[Array]:
    """Matrices whose singular values run from 1 down to 1/κ, evenly on a logarithmic scale: ``conditioned(kappa=1e6)``.

    Both sides of the diagonal matrix are reflected in vectors of small whole numbers, in fractions, and each entry is
    rounded once: κ is exact but for this rounding, by a relative ε κ of the dtype. It shrinks to the diagonal matrix.
    There are by default 2 or 3 rows and columns; with one of either, κ can be nothing but 1.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(conditioned(kappa=10.0), lambda matrix: True)
    array([[1. , 0. ],
           [0. , 0.1]])
    """
    shape = (or_default(sizes(2), integer(name, 1), given) for name, given in (("rows", rows), ("columns", columns)))
    condition = as_strategy(finite("kappa", least=1.0), kappa)
    return _conditioned(st.tuples(*shape), condition, kinds(dtype=dtype, entries=EIGHTHS, xp=xp))


@st.composite
def _conditioned(
    draw: DrawFn,
    shape: SearchStrategy[tuple[int, ...]],
    kappa: SearchStrategy[float],
    kind: SearchStrategy[Kind],
) -> Array:
    (rows, columns), condition = draw(shape), draw(kappa)
    rank = min(rows, columns)
    if rank == 1 and condition > 1:
        raise ValueError(f"kappa must be 1 for a single row or column; got {condition} for {(rows, columns)}")
    steps = [Fraction(condition ** (-i / max(1, rank - 1))) for i in range(rank)]
    matrix = np.full((rows, columns), Fraction(0))
    matrix[range(rank), range(rank)] = [*steps[:-1], 1 / Fraction(condition)]
    matrix = _reflected(draw, _reflected(draw, matrix).T).T
    return placed(matrix.astype(np.float64), draw(kind))


def _reflected(draw: DrawFn, matrix: Any) -> Any:
    """(I − 2 v vᵀ / vᵀv) M for up to two vectors v of whole numbers, in fractions; v = 0 leaves M."""
    size, digits = len(matrix), st.sampled_from([0, 1, -1, 2, -2])
    for v in draw(st.lists(st.lists(digits, min_size=size, max_size=size).map(np.asarray), max_size=2)):
        if square := int(v @ v):
            matrix = matrix - np.outer(v, v @ matrix) * Fraction(2, square)
    return matrix
