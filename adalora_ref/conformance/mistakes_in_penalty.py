"""Known mistakes in the penalty, squared and not.

Each is a drop-in for the public function of its stage, on NumPy arrays, written from the reference with the one
difference that its sentence states.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import adalora_ref as ref
from adalora_ref.conformance.known import Deviation
from adalora_ref.factors import Factors, map_factors


def _norm(change: Callable[[Any, Factors, Factors], tuple[Any, Factors]]) -> Callable[..., Any]:
    """The unsquared penalty, its result altered."""
    return lambda factors, /: change(*ref.orthogonality_norm(factors), factors)


def _penalty(change: Callable[[Any, Factors, Factors], tuple[Any, Factors]]) -> Callable[..., Any]:
    """A squared penalty whose result *change* has altered."""

    def penalty(factors: Factors, /) -> Any:
        return change(*ref.orthogonality_penalty(factors), factors)

    return penalty


def _grams(factors: Factors) -> tuple[Any, Any]:
    return factors.B.T @ factors.B, factors.A @ factors.A.T


def _of_grams(change: Callable[[Any], Any]) -> Callable[..., Any]:
    """A squared penalty of what *change* makes of the Gram matrices BᵀB and AAᵀ in place of BᵀB − I and AAᵀ − I."""

    def penalty(factors: Factors, /) -> Any:
        B, s, A = factors
        P, Q = (change(gram) for gram in _grams(factors))
        return (P * P).sum() + (Q * Q).sum(), Factors(4 * B @ P, 0 * s, 4 * Q @ A)

    return penalty


def _of_B_alone(factors: Factors, /) -> Any:
    B, s, A = factors
    P = B.T @ B - np.eye(s.shape[0], dtype=s.dtype)
    return (P * P).sum(), Factors(4 * B @ P, 0 * s, 0 * A)


def _without_diagonal(gram: Any) -> Any:
    return gram - np.diag(np.diag(gram))


def _gap_transposed(factors: Factors, /) -> Any:
    B, s, A = factors
    P, Q = (gram - np.eye(s.shape[0], dtype=s.dtype) for gram in _grams(factors))
    return (P * P).sum() + (Q * Q).sum(), Factors(4 * B @ P.T, 0 * s, 4 * Q.T @ A)


def _traces(R: Any, grads: Factors, factors: Factors) -> tuple[Any, Factors]:
    B, s, A = factors
    return (B * B).sum() + (A * A).sum() - 2 * R.dtype.type(s.shape[0]), Factors(2 * B, 0 * s, 2 * A)


def _upper_triangles(R: Any, grads: Factors, factors: Factors) -> tuple[Any, Factors]:
    (B, s, A), (P, Q) = factors, _grams(factors)
    unit = np.eye(s.shape[0], dtype=s.dtype)
    return R, Factors(4 * B @ np.triu(P - unit), 0 * s, 4 * np.triu(Q - unit).T @ A)


def _norm_of_grams(factors: Factors, /) -> Any:
    (B, s, A), (P, Q) = factors, _grams(factors)
    norms = [np.sqrt((gram * gram).sum()) for gram in (P, Q)]
    over = [norm if norm > 0 else norm + 1 for norm in norms]
    return norms[0] + norms[1], Factors(2 * B @ P / over[0], 0 * s, 2 * Q @ A / over[1])


IN_PENALTY: tuple[Deviation, ...] = (
    Deviation(
        "penalty_is_not_squared",
        "orthogonality_penalty",
        "the Frobenius norms are added without squaring, as in the released code",
        ref.orthogonality_norm,
    ),
    Deviation(
        "penalty_is_a_mean",
        "orthogonality_penalty",
        "the two norms are averaged instead of added",
        _penalty(lambda R, grads, _: (R / 2, map_factors(lambda g: g / 2, grads))),
    ),
    Deviation(
        "penalty_gradient_is_halved",
        "orthogonality_penalty",
        "the gradient is 2 B (BᵀB − I), half of what it should be",
        _penalty(lambda R, grads, _: (R, map_factors(lambda g: g / 2, grads))),
    ),
    Deviation(
        "penalty_lacks_the_identity",
        "orthogonality_penalty",
        "the penalty is ‖BᵀB‖² + ‖AAᵀ‖², without − I",
        _of_grams(lambda gram: gram),
    ),
    Deviation(
        "penalty_of_the_off_diagonal",
        "orthogonality_penalty",
        "the diagonals of BᵀB and AAᵀ are left out: orthogonal, but not of unit length",
        _of_grams(_without_diagonal),
    ),
    Deviation(
        "gap_is_transposed",
        "orthogonality_penalty",
        "the gradient multiplies by the transpose of BᵀB − I",
        _gap_transposed,
        equivalent="BᵀB − I is symmetric",
    ),
    Deviation("penalty_of_B_alone", "orthogonality_penalty", "A is left out of the penalty", _of_B_alone),
    Deviation(
        "penalty_is_squared",
        "orthogonality_norm",
        "the Frobenius norms are squared, as in the paper's equation (4)",
        ref.orthogonality_penalty,
    ),
    Deviation(
        "norm_is_a_mean",
        "orthogonality_norm",
        "the two norms are averaged instead of added",
        _norm(lambda R, grads, _: (R / 2, map_factors(lambda g: g / 2, grads))),
    ),
    Deviation(
        "norm_has_the_gradient_of_the_square",
        "orthogonality_norm",
        "the gradient is that of the squared norms",
        _norm(lambda R, grads, factors: (R, ref.orthogonality_penalty(factors)[1])),
    ),
    Deviation(
        "penalty_is_a_trace",
        "orthogonality_penalty",
        "R is tr(BᵀB − I) + tr(AAᵀ − I), without squares: the lengths alone, and negative where they are short",
        _penalty(_traces),
    ),
    Deviation(
        "penalty_gradient_of_the_upper_triangle",
        "orthogonality_penalty",
        "the gradient takes the upper triangles of BᵀB − I and AAᵀ − I alone",
        _penalty(_upper_triangles),
    ),
    Deviation(
        "norm_lacks_the_identity",
        "orthogonality_norm",
        "R is ‖BᵀB‖ + ‖AAᵀ‖, without − I",
        _norm_of_grams,
    ),
)
