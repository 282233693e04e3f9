"""The penalty, squared and not: worked by hand, the gradient, and its laws."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adalora_ref import Factors, orthogonality_norm, orthogonality_penalty
from adalora_ref.array import dtype_name, to_numpy
from adalora_ref.conformance import oracles
from tests.conftest import Library, same

SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 3))
"""d_out, d_in, r."""
TINY = 2.0**-200
"""Length of the imaginary step: what it neglects is of relative size 2^-400."""
BOTH = pytest.mark.parametrize("penalty", [orthogonality_penalty, orthogonality_norm])

# BY HAND


def test_the_squared_penalty_by_hand(library: Library) -> None:
    """BᵀB − I = [[4, 2], [2, 0]], so ‖·‖² = 24 and dB = 4 B (BᵀB − I); AAᵀ − I = [[0, 0], [0, 3]], so 9 and 12 · 2."""
    R, (dB, ds, dA) = orthogonality_penalty(library.factors([[2, 1], [1, 0]], [5, 7], [[1, 0], [0, 2]]))
    assert float(R) == 24 + 9
    assert same(dB, 4 * np.asarray([[2.0 * 4 + 2, 4.0], [4.0, 2.0]]))
    assert same((ds, dA), (np.zeros(2), np.asarray([[0.0, 0.0], [0.0, 24.0]])))


def test_the_norm_by_hand(library: Library) -> None:
    """BᵀB − I = diag(3, 0), so its norm is 3 and dB = 2 · 2 · 3 / 3; A is orthonormal: 0, and its gradient 0."""
    R, (dB, ds, dA) = orthogonality_norm(library.factors([[2, 0], [0, 1]], [5, 7], [[0, 1], [1, 0]]))
    assert float(R) == 3
    assert same(dB, np.asarray([[4.0, 0.0], [0.0, 0.0]]))
    assert same((ds, dA), (np.zeros(2), np.zeros((2, 2))))


def test_each_norm_divides_its_own_gradient_by_hand(library: Library) -> None:
    """‖BᵀB − I‖ = 3 and ‖AAᵀ − I‖ = 9 + 16 − 1 = 24; dB = 2 · 2 and dA = 2 · (3, 4), each freed of its own norm."""
    R, gradient = orthogonality_norm(library.factors([[2]], [5], [[3, 4]]))
    assert float(R) == 27
    assert same(gradient, (np.asarray([[4.0]]), np.zeros(1), np.asarray([[6.0, 8.0]])))


# IS THE GRADIENT


@given(seed=SEEDS, sizes=SIZES)
def test_the_squared_penalty_has_its_gradient(library: Library, seed: int, sizes: tuple[int, int, int]) -> None:
    """R is a polynomial of degree 4 along a line: its central difference, freed of the cubic term, is ⟨gradient, h⟩."""
    rng = np.random.default_rng(seed)
    factors, step = library.eighth_factors(rng, *sizes), library.eighth_factors(rng, *sizes)
    _, gradient = orthogonality_penalty(factors)

    def at(t: float) -> float:
        return float(orthogonality_penalty(Factors(*(w + t * h for w, h in zip(factors, step, strict=True))))[0])

    slope = (8 * (at(0.5) - at(-0.5)) - (at(1.0) - at(-1.0))) / 6
    expected = sum(float(np.sum(to_numpy(g) * to_numpy(h))) for g, h in zip(gradient, step, strict=True))
    assert slope == expected


@BOTH
@given(seed=SEEDS, sizes=SIZES)
def test_the_oracle_has_this_derivative(library: Library, penalty: Any, seed: int, sizes: tuple[int, int, int]) -> None:
    """A complex step of the oracle along a random direction in B, s and A together is ⟨gradient, direction⟩."""
    rng = np.random.default_rng(seed)
    factors, way = library.draw_factors(rng, *sizes), library.draw_factors(rng, *sizes)
    R, gradient = penalty(factors)
    stepped = tuple((to_numpy(w) + 1j * TINY * to_numpy(h)).tolist() for w, h in zip(factors, way, strict=True))
    moved = complex(getattr(oracles, penalty.__name__)(stepped)[0])
    terms = np.concatenate([np.ravel(to_numpy(g) * to_numpy(h)) for g, h in zip(gradient, way, strict=True)])
    assert math.isclose(float(R), moved.real, rel_tol=1e-13)
    assert abs(moved.imag / TINY - np.sum(terms)) <= 1e-12 * np.sum(np.abs(terms))


@given(seed=SEEDS, sizes=SIZES, side=st.sampled_from("BA"))
def test_the_norm_has_the_gradient_of_a_root(
    library: Library, seed: int, sizes: tuple[int, int, int], side: str
) -> None:
    """With B or A alone off orthonormality, R² is the squared penalty, and 2 R ∇R the gradient of that."""
    d_out, d_in, r = sizes
    r = min(r, d_in, d_out)
    B, s, A = library.eighth_factors(np.random.default_rng(seed), d_out, d_in, r)
    U, V = library.floats(np.eye(d_out, r)), library.floats(np.eye(r, d_in))
    factors = Factors(B, s, V) if side == "B" else Factors(U, s, A)
    (squared, of_square), (R, of_norm) = orthogonality_penalty(factors), orthogonality_norm(factors)
    assert math.isclose(float(R) ** 2, float(squared), rel_tol=1e-14)
    pairs = list(zip(of_norm, of_square, strict=True))
    assert all(np.allclose(2 * float(R) * to_numpy(a), to_numpy(b), rtol=1e-13, atol=0) for a, b in pairs)


# LAWS


@BOTH
@given(seed=SEEDS, sizes=SIZES)
def test_it_is_zero_for_orthonormal_factors_alone(
    library: Library, penalty: Any, seed: int, sizes: tuple[int, int, int]
) -> None:
    """R ≥ 0; it is 0, with gradient 0, for signed unit vectors; whatever s is, it plays no part."""
    d_out, d_in, r = sizes
    rng = np.random.default_rng(seed)
    B, s, A = library.eighth_factors(rng, d_out, d_in, r)
    R, (dB, ds, dA) = penalty(Factors(B, s, A))
    other = penalty(Factors(B, 2.0 * s - 1.0, A))
    assert float(R) >= 0
    assert same((R, dB, ds, dA), (other[0], *other[1]))
    assert not np.any(to_numpy(ds))
    if r <= min(d_out, d_in):
        places, signs = (rng.permutation(d)[:r] for d in (d_out, d_in)), rng.choice([-1.0, 1.0], r)
        rows, columns = places
        U, V = np.eye(d_out)[:, rows] * signs, np.eye(d_in)[columns]
        zero, gradient = penalty(library.factors(U, np.ones(r), V))
        assert float(zero) == 0
        assert not any(np.any(to_numpy(g)) for g in gradient)


@BOTH
@given(seed=SEEDS, sizes=SIZES)
def test_turning_the_space_turns_the_gradient(
    library: Library, penalty: Any, seed: int, sizes: tuple[int, int, int]
) -> None:
    """Permuting and mirroring the rows of B leaves R, and does the same to dB."""
    rng = np.random.default_rng(seed)
    B, s, A = library.eighth_factors(rng, *sizes)
    order, signs = rng.permutation(sizes[0]), rng.choice([-1.0, 1.0], (sizes[0], 1))
    R, (dB, _, dA) = penalty(Factors(B, s, A))
    turned, (dB_turned, _, dA_turned) = penalty(Factors(library.floats((signs * to_numpy(B))[order]), s, A))
    assert float(R) == float(turned)
    assert same((dB_turned, dA_turned), ((signs * to_numpy(dB))[order], to_numpy(dA)))


@BOTH
@given(seed=SEEDS, sizes=SIZES)
def test_both_halves_are_one_rule(library: Library, penalty: Any, seed: int, sizes: tuple[int, int, int]) -> None:
    """Aᵀ and Bᵀ in the places of B and A leave R, and the gradients change places with them."""
    B, s, A = library.eighth_factors(np.random.default_rng(seed), *sizes)
    R, (dB, ds, dA) = penalty(Factors(B, s, A))
    other, gradient = penalty(Factors(A.T, s, B.T))
    assert float(R) == float(other)
    assert same(gradient, (dA.T, ds, dB.T))


@BOTH
@given(seed=SEEDS, sizes=SIZES)
def test_the_order_of_triplets_is_irrelevant(
    library: Library, penalty: Any, seed: int, sizes: tuple[int, int, int]
) -> None:
    """Permuting triplets leaves R, and permutes the gradient."""
    rng = np.random.default_rng(seed)
    B, s, A = (to_numpy(a) for a in library.eighth_factors(rng, *sizes))
    order = rng.permutation(sizes[2])
    R, (dB, ds, dA) = penalty(library.factors(B, s, A))
    permuted, gradient = penalty(library.factors(B[:, order], s[order], A[order]))
    assert float(R) == float(permuted)
    assert same(gradient, (to_numpy(dB)[:, order], to_numpy(ds)[order], to_numpy(dA)[order]))


@BOTH
def test_nothing_given_is_changed(library: Library, penalty: Any) -> None:
    """The factors keep every bit, and give the same again."""
    factors = library.draw_factors(np.random.default_rng(4), 4, 3, 2)
    before = [to_numpy(a).tobytes() for a in factors]
    first, second = penalty(factors), penalty(factors)
    assert [to_numpy(a).tobytes() for a in factors] == before
    assert same(first, second)


def test_near_orthonormality_the_gradient_of_the_norm_is_noise() -> None:
    """Over B orthonormal up to rounding the norm stays below 1e-14, while its gradient is of the order of 1.

    The squared penalty is quiet there.
    """
    largest, norms, quiet = 0.0, [], 0.0
    for seed in range(20):
        Q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((8, 3)))
        factors = Factors(Q, np.ones(3), np.eye(3, 8))
        R, gradient = orthogonality_norm(factors)
        norms.append(float(R))
        largest = max(largest, float(np.max(np.abs(gradient.B))))
        quiet = max(quiet, float(np.max(np.abs(orthogonality_penalty(factors)[1].B))))
    assert 0 < max(norms) < 1e-14
    assert largest > 0.5
    assert quiet < 1e-14


@BOTH
def test_the_widest_dtype_wins(library: Library, penalty: Any) -> None:
    """One float64 array among float32 ones makes R and gradient float64, computed in float64."""
    narrow, wide = (library.draw_factors(np.random.default_rng(5), 4, 3, 2, dtype=d) for d in ("float32", "float64"))
    R, gradient = penalty(Factors(narrow.B, narrow.s, wide.A))
    expected, of_wide = penalty(Factors(library.floats(to_numpy(narrow.B)), wide.s, wide.A))
    assert {dtype_name(a) for a in (R, *gradient)} == {"float64"}
    assert {dtype_name(a) for a in penalty(narrow)[1]} == {"float32"}
    assert same((R, *gradient), (expected, *of_wide))


@BOTH
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_16_bits_are_computed_in_float32_and_rounded_once(penalty: Any, dtype: Any) -> None:
    """R and gradient are the float32 ones, rounded."""
    rng = np.random.default_rng(1)
    held = Factors(*(rng.standard_normal(shape).astype(dtype) for shape in ((3, 2), (2,), (2, 4))))
    wide = penalty(Factors(*(a.astype(np.float32) for a in held)))
    found = penalty(held)
    assert {np.asarray(a).dtype for a in (found[0], *found[1])} == {np.dtype(dtype)}
    assert same((found[0], *found[1]), tuple(np.asarray(a).astype(dtype) for a in (wide[0], *wide[1])))
