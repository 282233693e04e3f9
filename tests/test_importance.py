"""Importance: sensitivity, its average and uncertainty, and the scores."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adalora_ref import Factors, Importance, init_importance, map_factors, triplet_scores, update_importance
from adalora_ref.array import dtype_name, to_numpy
from tests.conftest import Library, eighths, same

SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 3))
"""d_out, d_in, r."""
BETAS = st.sampled_from([0.0, 0.25, 0.5, 0.875])


def one(library: Library, value: float) -> Factors:
    """One triplet of one matrix, every entry the same."""
    return library.factors([[value]], [value], [[value]])


def drawn(library: Library, seed: int, sizes: tuple[int, int, int]) -> tuple[Importance, Factors, Factors]:
    """A state without negative entries, weights and a gradient, in eighths."""
    rng = np.random.default_rng(seed)
    state = Importance(*(map_factors(abs, library.eighth_factors(rng, *sizes)) for _ in range(2)))
    return state, library.eighth_factors(rng, *sizes), library.eighth_factors(rng, *sizes)


# BY HAND


def test_an_update_by_hand(library: Library) -> None:
    """I = |−2 · 3| = 6; Ī = ½ · 2 + ½ · 6 = 4; Ū = ¼ · 1 + ¾ · |6 − 4| = 1.75, where the old Ī would give 3.25."""
    state = Importance(one(library, 2), one(library, 1))
    mean, uncertainty = update_importance(state, one(library, -2), one(library, 3), beta1=0.5, beta2=0.25)
    assert same(mean, one(library, 4))
    assert same(uncertainty, one(library, 1.75))


def test_the_first_update_by_hand(library: Library) -> None:
    """From zero, without bias correction: Ī = ½ · 6 = 3, Ū = ¾ · |6 − 3| = 2.25."""
    start = init_importance(one(library, 5))
    mean, uncertainty = update_importance(start, one(library, 2), one(library, 3), beta1=0.5, beta2=0.25)
    assert same(mean, one(library, 3))
    assert same(uncertainty, one(library, 2.25))


def test_scores_by_hand(library: Library) -> None:
    """s: 2 · 3 = 6; B: (1 · 1 + 3 · 1) / 2 = 2; A: (4 · 2 + 0 · 5) / 2 = 4; 12 in all. The second triplet is zero."""
    mean = library.factors([[1, 0], [3, 0]], [2, 0], [[4, 0], [0, 0]])
    uncertainty = library.factors([[1, 9], [1, 9]], [3, 9], [[2, 5], [9, 9]])
    assert same(triplet_scores(Importance(mean, uncertainty)), np.asarray([12.0, 0.0]))


# LAWS


@given(seed=SEEDS, sizes=SIZES, beta1=BETAS, beta2=BETAS)
def test_the_averages_are_those_of_fractions(
    library: Library, seed: int, sizes: tuple[int, int, int], beta1: float, beta2: float
) -> None:
    """Entry by entry, for B, s and A alike, the averages are the rational ones, without rounding."""
    state, w, g = drawn(library, seed, sizes)
    found = update_importance(state, w, g, beta1=beta1, beta2=beta2)
    b1, b2 = Fraction(beta1), Fraction(beta2)

    def exactly(I_bar: float, U_bar: float, w: float, g: float) -> tuple[float, float]:
        I = abs(Fraction(w) * Fraction(g))
        mean = b1 * Fraction(I_bar) + (1 - b1) * I
        return float(mean), float(b2 * Fraction(U_bar) + (1 - b2) * abs(I - mean))

    for part in range(3):
        arrays = [np.ravel(to_numpy(tuple(held)[part])).tolist() for held in (*state, w, g)]
        expected = [exactly(*entries) for entries in zip(*arrays, strict=True)]
        got = [np.ravel(to_numpy(tuple(held)[part])).tolist() for held in found]
        assert [list(pair) for pair in zip(*got, strict=True)] == [list(pair) for pair in expected]


@given(seed=SEEDS, sizes=SIZES)
def test_signs_are_irrelevant(library: Library, seed: int, sizes: tuple[int, int, int]) -> None:
    """w and g count by |w · g| alone; averages never become negative."""
    state, w, g = drawn(library, seed, sizes)
    rng = np.random.default_rng(seed + 1)
    signs = Factors(*(library.floats(rng.choice([-1.0, 1.0], a.shape)) for a in w))
    flipped = update_importance(state, map_factors(lambda a, b: a * b, w, signs), g, beta1=0.5, beta2=0.75)
    found = update_importance(state, w, g, beta1=0.5, beta2=0.75)
    assert same(found, flipped)
    assert all(np.all(to_numpy(a) >= 0) for held in found for a in held)


@given(seed=SEEDS, sizes=SIZES)
def test_scores_scale_with_the_square_of_the_loss(library: Library, seed: int, sizes: tuple[int, int, int]) -> None:
    """A loss four times as large makes Ī and Ū four times and the scores sixteen times as large, bit for bit."""
    _, w, g = drawn(library, seed, sizes)
    start = init_importance(w)
    once = update_importance(start, w, g, beta1=0.85, beta2=0.85)
    scaled = update_importance(start, w, map_factors(lambda a: 4.0 * a, g), beta1=0.85, beta2=0.85)
    assert same(scaled, tuple(map_factors(lambda a: 4.0 * a, held) for held in once))
    assert same(triplet_scores(scaled), 16.0 * to_numpy(triplet_scores(once)))


@given(seed=SEEDS, sizes=SIZES)
def test_each_triplet_is_scored_by_itself(library: Library, seed: int, sizes: tuple[int, int, int]) -> None:
    """Permuting triplets permutes their scores."""
    state, _, _ = drawn(library, seed, sizes)
    order = np.random.default_rng(seed).permutation(sizes[2])
    taken = Importance(*(
        library.factors(to_numpy(B)[:, order], to_numpy(s)[order], to_numpy(A)[order]) for B, s, A in state
    ))  # fmt: skip
    assert np.array_equal(to_numpy(triplet_scores(taken)), to_numpy(triplet_scores(state))[order])


@given(seed=SEEDS, sizes=SIZES)
def test_doubling_a_matrix_leaves_its_scores(library: Library, seed: int, sizes: tuple[int, int, int]) -> None:
    """B and A count by their means: writing each row of B and each column of A twice changes no score."""
    state, _, _ = drawn(library, seed, sizes)
    twice = Importance(*(
        library.factors(np.repeat(to_numpy(B), 2, axis=0), to_numpy(s), np.repeat(to_numpy(A), 2, axis=1))
        for B, s, A in state
    ))  # fmt: skip
    assert np.allclose(to_numpy(triplet_scores(twice)), to_numpy(triplet_scores(state)), rtol=1e-15, atol=0)


def test_small_scores_are_not_lost(library: Library) -> None:
    """With factors of 0.02 and gradients of 1e-7 scores are near 1e-18, and exact to the last places in float32."""
    w, g = (library.factors([[value]], [value], [[value]], "float32") for value in (0.02, 1e-7))
    held = update_importance(init_importance(w), w, g, beta1=0.85, beta2=0.85)
    I = float(np.float32(0.02)) * float(np.float32(1e-7))
    expected = 3 * (0.15 * I) * (0.15 * 0.85 * I)
    assert abs(float(to_numpy(triplet_scores(held))[0]) / expected - 1) < 1e-6


def test_nothing_given_is_changed(library: Library) -> None:
    """State, weights and gradient stay as they were."""
    state, w, g = drawn(library, 3, (3, 2, 2))
    inputs = [*state.sensitivity, *state.uncertainty, *w, *g]
    before = [to_numpy(a).tobytes() for a in inputs]
    triplet_scores(update_importance(state, w, g, beta1=0.85, beta2=0.85))
    assert [to_numpy(a).tobytes() for a in inputs] == before


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_16_bit_weights_have_float32_averages(dtype: Any) -> None:
    """The average of 1000 equal sensitivities arrives, where a bfloat16 average would stick on the way."""
    w = Factors(*(np.full(shape, 0.5).astype(dtype) for shape in ((1, 1), (1,), (1, 1))))
    state = init_importance(w)
    for _ in range(1000):
        state = update_importance(state, w, w, beta1=0.995, beta2=0.995)
    assert {dtype_name(a) for held in state for a in held} == {"float32"}
    assert abs(float(state.sensitivity.s[0]) / (0.25 * (1 - 0.995**1000)) - 1) < 1e-4
    assert dtype_name(triplet_scores(state)) == "float32"


def test_state_keeps_the_dtype_that_it_replaces() -> None:
    """float32 averages stay float32 under float64 weights, rounded from a float64 computation."""
    rng = np.random.default_rng(4)
    wide = Factors(*(eighths(rng, *shape) / 3 for shape in ((2, 1), (1,), (1, 3))))
    narrow = map_factors(lambda a: np.abs(a).astype(np.float32), wide)
    found = update_importance(Importance(narrow, narrow), wide, wide, beta1=0.85, beta2=0.85)
    mean = map_factors(lambda m, w: 0.85 * m.astype(np.float64) + (1 - 0.85) * np.abs(w * w), narrow, wide)
    assert same(found.sensitivity, map_factors(lambda a: a.astype(np.float32), mean))
