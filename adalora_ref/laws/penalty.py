"""Laws of the orthogonality penalty."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from adalora_ref import strategies
from adalora_ref.conformance.cases import Inputs
from adalora_ref.factors import Factors
from adalora_ref.laws.asking import Asked
from adalora_ref.laws.law import Law
from adalora_ref.laws.measured import Numbers, at_least, dot, equal, exact
from adalora_ref.laws.turning import turned

PENALTY = ("orthogonality_penalty",)

# CASES


@st.composite
def some_factors(draw: DrawFn, /, dtype: str, **fixed: Any) -> Inputs:
    """Factors of eighths or of ordinary numbers."""
    entries = draw(st.sampled_from([strategies.EIGHTHS, strategies.ordinary()]))
    return {"factors": draw(strategies.factors(dtype=dtype, entries=entries, **fixed))}


@st.composite
def orthonormal_factors(draw: DrawFn, /, dtype: str) -> Inputs:
    """Columns of a signed permutation for B, rows of another for A, and any s."""
    B, s, A = draw(strategies.factors(dtype=dtype, d_out=strategies.sizes(1, 4), d_in=strategies.sizes(1, 4)))
    r = min(s.shape[0], B.shape[0], A.shape[1])
    P, Q = (draw(strategies.orthogonal(size, dtype=dtype)) for size in (B.shape[0], A.shape[1]))
    return {"factors": Factors(P[:, :r], s[:r], Q[:r])}


@st.composite
def nearly_orthonormal_factors(draw: DrawFn, /, dtype: str) -> Inputs:
    """Factors of which B, or A, or neither is orthonormal."""
    held, other = draw(orthonormal_factors(dtype))["factors"], draw(st.sampled_from(["A", "B", "both"]))
    drawn = draw(strategies.gradients(held, dtype=dtype))
    return {"factors": Factors(held.B if other == "A" else drawn.B, held.s, held.A if other == "B" else drawn.A)}


@st.composite
def turned_factors(draw: DrawFn, /, dtype: str) -> Inputs:
    """Factors of eighths, and four orthogonal matrices; in half of the cases of four triplets."""
    r = draw(strategies.sizes(1, 2) | st.just(4))
    held = draw(strategies.factors(r=r, dtype=dtype))
    sizes = {"left": held.B.shape[0], "right": held.A.shape[1], "of B": r, "of A": r}
    return {"factors": held} | {name: draw(strategies.orthogonal(size, dtype=dtype)) for name, size in sizes.items()}


@st.composite
def factors_and_a_way(draw: DrawFn, /, dtype: str, ways: int = 1) -> Inputs:
    """Factors of eighths, and directions in their space."""
    held = draw(strategies.factors(dtype=dtype, d_out=strategies.sizes(1, 2), d_in=strategies.sizes(1, 2),
                                   r=strategies.sizes(1, 2)))  # fmt: skip
    return {"factors": held, "ways": [draw(strategies.gradients(held, dtype=dtype)) for _ in range(ways)]}


def is_orthonormal(factors: Factors) -> bool:
    """Whether B's columns and A's rows are orthonormal exactly."""
    B, _, A = map(exact, factors)
    unit = np.eye(B.shape[1], dtype=int)
    return bool(np.all(unit == B.T @ B) and np.all(unit == A @ A.T)) if B.shape[1] else True


# LAWS


def penalty_is_not_negative(it: Asked, case: Inputs) -> None:
    """R ≥ 0, whatever the factors."""
    at_least("R", it("orthogonality_penalty", case).R, "0", 0)


def penalty_is_zero_where_orthonormal(it: Asked, case: Inputs) -> None:
    """Where B's columns and A's rows are orthonormal, R = 0 and its gradient is zero."""
    found = it("orthogonality_penalty", case)
    equal("R", found.R, "0", 0)
    for part, gradient in zip("BsA", found.d, strict=True):
        equal(f"d{part}", gradient, "0", 0 * plain_zeros(gradient))


def penalty_is_positive_elsewhere(it: Asked, case: Inputs) -> None:
    """R > 0 unless B's columns and A's rows are orthonormal; of eighths it is then at least (1/64)²."""
    if not is_orthonormal(case["factors"]):
        at_least("R", it("orthogonality_penalty", case).R, "(1/64)²", Fraction(1, 64**2))


def penalty_is_turned_freely(it: Asked, case: Inputs) -> None:
    """R is invariant under orthogonal turns on both sides of B and of A: R(P B Q, O A S) = R(B, A)."""
    B, s, A = case["factors"]
    moved = Factors(turned(case["left"], B, case["of B"]), s, turned(case["of A"], A, case["right"]))
    here, there = (it("orthogonality_penalty", {"factors": held}).R for held in (case["factors"], moved))
    equal("R of the turned", there, "R", here)


def penalty_has_a_floor(it: Asked, case: Inputs) -> None:
    """More columns than rows cannot be orthonormal: R ≥ (r − d_out)₊ + (r − d_in)₊."""
    d_out, r = case["factors"].B.shape
    floor = max(0, r - d_out) + max(0, r - case["factors"].A.shape[1])
    at_least("R", it("orthogonality_penalty", case).R, "(r − d_out)₊ + (r − d_in)₊", floor)


def penalty_gradient_is_the_slope(it: Asked, case: Inputs) -> None:
    """⟨∇R, v⟩ is the slope of R along v, by five points: (R(−2v) − 8 R(−v) + 8 R(v) − R(2v)) / 12, R being quartic."""
    (way,) = case["ways"]
    values = {t: it("orthogonality_penalty", {"factors": along(case["factors"], way, t)}).R for t in (-2, -1, 1, 2)}
    slope = values[-2] - 8 * values[-1] + 8 * values[1] - values[2]
    gradient = it("orthogonality_penalty", case).d
    projected = sum(dot(g, exact(v)) for g, v in zip(gradient, way, strict=True))
    equal("12 ⟨∇R, v⟩", 12 * projected, "R(−2v) − 8 R(−v) + 8 R(v) − R(2v)", slope)


def penalty_is_symmetric_in_second_order(it: Asked, case: Inputs) -> None:
    """Over B, s and A jointly the second derivatives of R are symmetric: ⟨u, D∇R[v]⟩ = ⟨v, D∇R[u]⟩."""
    u, v = case["ways"]
    left, right = (
        sum(dot(slope, exact(a)) for slope, a in zip(_slopes(it, case["factors"], way), other, strict=True))
        for way, other in ((v, u), (u, v))
    )
    equal("⟨u, D∇R[v]⟩", left, "⟨v, D∇R[u]⟩", right)


def _slopes(it: Asked, factors: Factors, way: Factors) -> list[Numbers]:
    """Twelve times the derivative of ∇R along *way*, by five points; ∇R is cubic."""
    weights = {-2: 1, -1: -8, 1: 8, 2: -1}
    found = {t: it("orthogonality_penalty", {"factors": along(factors, way, t)}).d for t in weights}
    return [sum(w * getattr(found[t], part) for t, w in weights.items()) for part in "BsA"]


def norm_is_the_root(it: Asked, case: Inputs) -> None:
    """Where A is orthonormal, the penalty is the square of the norm form: (‖BᵀB − I‖)² = ‖BᵀB − I‖²."""
    norm, squared = (it(name, case).R for name in ("orthogonality_norm", "orthogonality_penalty"))
    equal("norm²", norm * norm, "penalty", squared)


def norm_is_zero_where_orthonormal(it: Asked, case: Inputs) -> None:
    """Where B's columns and A's rows are orthonormal, the norm form is 0 and its gradient is zero."""
    found = it("orthogonality_norm", case)
    equal("R", found.R, "0", 0)
    for part, gradient in zip("BsA", found.d, strict=True):
        equal(f"d{part}", gradient, "0", 0 * plain_zeros(gradient))


def plain_zeros(like: Numbers) -> Numbers:
    """Zeros in the shape of *like*."""
    return np.zeros(np.shape(like), dtype=int)


def along(factors: Factors, way: Factors, t: int) -> Factors:
    """*factors* moved by t times *way*, exactly where both are eighths."""
    return Factors(*((a + a.dtype.type(t) * v).astype(a.dtype) for a, v in zip(factors, way, strict=True)))


@st.composite
def with_orthonormal_A(draw: DrawFn, /, dtype: str) -> Inputs:
    """Factors of eighths whose A has orthonormal rows."""
    held = draw(orthonormal_factors(dtype))["factors"]
    return {"factors": Factors(draw(strategies.arrays(held.B.shape, dtype=dtype)), held.s, held.A)}


PENALTY_LAWS: tuple[Law, ...] = (
    Law(penalty_is_not_negative, PENALTY, some_factors, "penalty_is_a_trace"),
    Law(penalty_is_zero_where_orthonormal, PENALTY, orthonormal_factors, "penalty_lacks_the_identity"),
    Law(penalty_is_positive_elsewhere, PENALTY, nearly_orthonormal_factors, "penalty_of_B_alone"),
    Law(penalty_is_turned_freely, PENALTY, turned_factors, "penalty_of_the_off_diagonal"),
    Law(penalty_has_a_floor, PENALTY, some_factors, "penalty_of_the_off_diagonal"),
    Law(penalty_gradient_is_the_slope, PENALTY, factors_and_a_way, "penalty_gradient_is_halved"),
    Law(
        penalty_is_symmetric_in_second_order, PENALTY, lambda dtype: factors_and_a_way(dtype, 2),
        "penalty_gradient_of_the_upper_triangle",
    ),
    Law(
        norm_is_the_root, ("orthogonality_norm", "orthogonality_penalty"), with_orthonormal_A, "norm_is_a_mean",
    ),
    Law(
        norm_is_zero_where_orthonormal, ("orthogonality_norm",), orthonormal_factors,
        "norm_lacks_the_identity",
    ),
)  # fmt: skip
