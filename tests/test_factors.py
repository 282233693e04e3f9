"""Factors: their form, their rule, and how they start."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adalora_ref import Factors, init_factors, map_factors
from adalora_ref.array import dtype_name, to_numpy
from adalora_ref.factors import promote_factors, wide_zeros, with_dtypes_of
from tests.conftest import Library, same

# BY HAND


def test_a_rule_is_applied_to_the_three(library: Library) -> None:
    """w − ½ g, entry by entry, in B, s and A."""
    w, g = library.factors([[4], [6]], [2], [[1, 3]]), library.factors([[2], [2]], [4], [[2, 0]])
    found = map_factors(lambda w, g: w - 0.5 * g, w, g)
    assert same(found, (np.asarray([[3.0], [5.0]]), np.asarray([0.0]), np.asarray([[0.0, 3.0]])))


def test_factors_unpack_as_they_are_named(library: Library) -> None:
    """B, s, A = factors."""
    held = library.factors([[1], [2]], [3], [[4, 5]])
    B, s, A = held
    assert (B is held.B, s is held.s, A is held.A) == (True, True, True)


def test_factors_cannot_be_reassigned(library: Library) -> None:
    """The three are fixed once they have been checked."""
    held = library.factors([[1]], [3], [[4]])
    with pytest.raises(AttributeError):
        held.s = held.s  # type: ignore[misc]


# LAWS


@given(seed=st.integers(0, 2**32 - 1), d_out=st.integers(1, 5), d_in=st.integers(1, 5), r=st.integers(0, 4))
def test_the_start_is_drawn_on_the_host_B_before_A(library: Library, seed: int, d_out: int, d_in: int, r: int) -> None:
    """B, then A, are std times the generator's stream, rounded once to the dtype asked for; s is 0."""
    like = library.floats([0], "float32")
    held = init_factors(np.random.default_rng(seed), d_out, d_in, r, std=0.5, like=like)
    stream = np.random.default_rng(seed)
    B, A = (0.5 * stream.standard_normal(shape) for shape in ((d_out, r), (r, d_in)))
    assert same(held, (B.astype(np.float32), np.zeros(r, np.float32), A.astype(np.float32)))
    assert {dtype_name(a) for a in held} == {"float32"}


def test_one_generator_serves_matrix_after_matrix(library: Library) -> None:
    """The generator moves on: a second matrix starts from other numbers, and the same seed gives both again."""
    like, streams = library.floats([0]), [np.random.default_rng(3) for _ in range(2)]
    (one, two), again = ([init_factors(rng, 2, 3, 2, like=like) for _ in range(2)] for rng in streams)
    assert same((one, two), tuple(again))
    assert not same(one, two)


def test_the_default_spread_is_that_of_the_release() -> None:
    """Without std the standard deviation is 0.02; with std = 0 everything is 0."""
    like = np.zeros(1)
    held = init_factors(np.random.default_rng(0), 200, 200, 50, like=like)
    assert abs(float(np.std(held.B)) / 0.02 - 1) < 0.02
    assert not np.any(init_factors(np.random.default_rng(0), 3, 3, 2, std=0.0, like=like).B)


def test_zeros_of_state_are_wide(library: Library) -> None:
    """Zeros for state keep float32 and float64."""
    for dtype in ("float32", "float64"):
        zeros = wide_zeros(library.factors([[1, 1]], [1, 1], [[1], [1]], dtype))
        assert {dtype_name(a) for a in zeros} == {dtype}
        assert same(zeros, (np.zeros((1, 2)), np.zeros(2), np.zeros((2, 1))))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_16_bit_factors_have_float32_state_and_keep_their_dtype(dtype: type) -> None:
    """Zeros are float32, computing is in float32, and what replaces a 16-bit array is rounded to it."""
    held = Factors(*(np.full(shape, 1 / 3).astype(dtype) for shape in ((2, 1), (1,), (1, 3))))
    assert {a.dtype.name for a in wide_zeros(held)} == {"float32"}
    (wide,) = promote_factors(held)
    assert {a.dtype.name for a in wide} == {"float32"}
    replaced = with_dtypes_of(held, map_factors(lambda a: a * np.float32(1.01), wide))
    assert same(replaced, map_factors(lambda a: (a.astype(np.float32) * np.float32(1.01)).astype(dtype), held))


def test_all_factors_of_a_call_meet_in_one_dtype(library: Library) -> None:
    """float32 with float64 makes all of them float64, the values as they were."""
    narrow, wide = library.factors([[0.1]], [0.1], [[0.1]], "float32"), library.factors([[0.1]], [0.1], [[0.1]])
    one, two = promote_factors(narrow, wide)
    assert {dtype_name(a) for held in (one, two) for a in held} == {"float64"}
    assert same(one, map_factors(lambda a: library.floats(to_numpy(a)), narrow))
    assert same(two, wide)
