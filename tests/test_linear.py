"""The adapted layer: worked by hand, the gradient, and its laws."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adalora_ref import Factors, increment, linear_backward, linear_forward, map_factors, merge, unmerge
from adalora_ref.array import to_numpy
from adalora_ref.conformance import oracles
from tests.conftest import Library, close, eighths, same

SIZES = st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(1, 4), st.integers(0, 3))
"""n, d_in, d_out, r."""
SEEDS = st.integers(0, 2**32 - 1)
SCALES = st.sampled_from([0.0, 1.0, -0.5, 2.0])


def layer(library: Library, seed: int, sizes: tuple[int, int, int, int]) -> tuple[Any, Any, Factors, Any]:
    """x, W, factors and dy in eighths."""
    (n, d_in, d_out, r), rng = sizes, np.random.default_rng(seed)
    x, W, dy = (library.eighths(rng, *shape) for shape in ((n, d_in), (d_out, d_in), (n, d_out)))
    return x, W, library.eighth_factors(rng, d_out, d_in, r), dy


# BY HAND


def test_one_triplet_by_hand(library: Library) -> None:
    """u = 3, z = 9, y = x + ½ · 9 · (2, 1); backward from dy = (2, 4): dz = 4, du = 12, ds = 12."""
    x, W = library.floats([[1, 2]]), library.floats([[1, 0], [0, 1]])
    y, cache = linear_forward(x, W, library.factors([[2], [1]], [3], [[1, 1]]), scale=0.5)
    assert same(y, np.asarray([[10.0, 6.5]]))
    dx, grads = linear_backward(library.floats([[2, 4]]), cache)
    assert same(dx, np.asarray([[2.0 + 12, 4 + 12]]))
    assert same(grads, (np.asarray([[9.0], [18.0]]), np.asarray([12.0]), np.asarray([[12.0, 24.0]])))


def test_two_triplets_with_bias_and_mask_by_hand(library: Library) -> None:
    """The mask (2, 0) doubles the first input of the adapter and drops the second; W sees x as it is."""
    x, W = library.floats([[1, 3]]), library.floats([[1, 1]])
    factors = library.factors([[1, 2]], [1, -1], [[1, 5], [2, 7]])
    bias, mask = library.floats([10]), library.floats([[2, 0]])
    y, cache = linear_forward(x, W, factors, scale=2.0, bias=bias, dropout_mask=mask)
    assert same(y, np.asarray([[4.0 + 10 + 2 * (2 * 1 - 4 * 2)]]))  # u = (2, 4), z = (2, −4)
    dx, grads = linear_backward(library.floats([[1]]), cache)  # dz = (2, 4), du = (2, −4)
    assert same(grads, (np.asarray([[4.0, -8.0]]), np.asarray([4.0, 16.0]), np.asarray([[4.0, 0.0], [-8.0, 0.0]])))
    assert same(dx, np.asarray([[1.0 + (2 - 8) * 2, 1.0]]))


def test_merging_by_hand(library: Library) -> None:
    """ΔW = ½ · 2 · 3 · (1, 4) = (3, 12)."""
    factors, W = library.factors([[2]], [3], [[1, 4]]), library.floats([[1, 1]])
    assert same(increment(factors, scale=0.5), np.asarray([[3.0, 12.0]]))
    assert same(merge(W, factors, scale=0.5), np.asarray([[4.0, 13.0]]))
    assert same(unmerge(W, factors, scale=0.5), np.asarray([[-2.0, -11.0]]))


# IS THE GRADIENT


@given(seed=SEEDS, sizes=SIZES, scale=SCALES, masked=st.booleans())
def test_backward_is_the_gradient(
    library: Library, *, seed: int, sizes: tuple[int, int, int, int], scale: float, masked: bool
) -> None:
    """Σ dy · y is linear in each of x, B, s and A alone, so a whole step in one changes it by gradient times step."""
    x, W, factors, dy = layer(library, seed, sizes)
    rng = np.random.default_rng(seed + 1)
    mask = library.floats(2.0 * rng.integers(0, 2, x.shape)) if masked else None

    def weighed(x: Any, factors: Factors) -> float:
        y, _ = linear_forward(x, W, factors, scale=scale, dropout_mask=mask)
        return float(np.sum(to_numpy(dy) * to_numpy(y)))

    dx, grads = linear_backward(dy, linear_forward(x, W, factors, scale=scale, dropout_mask=mask)[1])
    step = library.eighths(rng, *x.shape)
    assert weighed(x + step, factors) - weighed(x, factors) == np.sum(to_numpy(dx) * to_numpy(step))
    for place, gradient in enumerate(grads):
        parts = list(factors)
        step = library.eighths(rng, *gradient.shape)
        parts[place] = parts[place] + step
        change = weighed(x, Factors(*parts)) - weighed(x, factors)
        assert change == np.sum(to_numpy(gradient) * to_numpy(step)), "BsA"[place]


@given(seed=SEEDS, sizes=SIZES)
def test_the_oracle_has_this_derivative(library: Library, seed: int, sizes: tuple[int, int, int, int]) -> None:
    """A complex step of the oracle along a random direction in x, B, s and A together is ⟨gradient, direction⟩."""
    (n, d_in, d_out, r), rng, tiny = sizes, np.random.default_rng(seed), 2.0**-200
    W, bias, mask = rng.standard_normal((d_out, d_in)), rng.standard_normal(d_out), 2.0 * rng.integers(0, 2, (n, d_in))
    shapes = ((n, d_in), (d_out, r), (r,), (r, d_in))
    (x, *parts), way = ([rng.standard_normal(shape) for shape in shapes] for _ in range(2))
    given_W, given_bias, given_mask, dy = map(library.floats, (W, bias, mask, rng.standard_normal((n, d_out))))
    options: Any = {"scale": 1 / 3, "bias": given_bias, "dropout_mask": given_mask}
    y, cache = linear_forward(library.floats(x), given_W, library.factors(*parts), **options)
    dx, grads = linear_backward(dy, cache)
    at, *factors = ((a + 1j * tiny * h).tolist() for a, h in zip((x, *parts), way, strict=True))
    options = {"scale": 1 / 3, "bias": bias.tolist(), "dropout_mask": mask.tolist()}
    moved = np.asarray(oracles.linear_forward(at, W.tolist(), tuple(factors), **options), complex).reshape(n, d_out)
    terms = np.concatenate([np.ravel(to_numpy(g) * h) for g, h in zip((dx, *grads), way, strict=True)])
    assert close(y, moved.real, within=1e-13)
    assert abs(np.sum(to_numpy(dy) * moved.imag) / tiny - np.sum(terms)) <= 1e-12 * np.sum(np.abs(terms))


@given(seed=SEEDS, sizes=SIZES, scale=SCALES)
def test_each_triplet_sees_only_the_product(
    library: Library, seed: int, sizes: tuple[int, int, int, int], scale: float
) -> None:
    """Σ_j B_ji dB_ji = s_i ds_i = Σ_j A_ij dA_ij, since y depends on B[:, i] · s[i] · A[i, :] alone."""
    x, W, (B, s, A), dy = layer(library, seed, sizes)
    _, (dB, ds, dA) = linear_backward(dy, linear_forward(x, W, Factors(B, s, A), scale=scale)[1])
    of_B, of_s, of_A = (to_numpy(w) * to_numpy(g) for w, g in ((B, dB), (s, ds), (A, dA)))
    assert np.array_equal(of_B.sum(axis=0), of_s)
    assert np.array_equal(of_A.sum(axis=1), of_s)


# LAWS


@given(seed=SEEDS, sizes=SIZES, scale=SCALES)
def test_the_merged_weight_does_what_the_layer_does(
    library: Library, seed: int, sizes: tuple[int, int, int, int], scale: float
) -> None:
    """x (W + ΔW)ᵀ = y, W + ΔW is merge, and unmerge takes it out again."""
    x, W, factors, _ = layer(library, seed, sizes)
    merged = merge(W, factors, scale=scale)
    assert np.array_equal(to_numpy(merged), to_numpy(W) + to_numpy(increment(factors, scale=scale)))
    assert np.array_equal(to_numpy(x @ merged.T), to_numpy(linear_forward(x, W, factors, scale=scale)[0]))
    assert np.array_equal(to_numpy(unmerge(merged, factors, scale=scale)), to_numpy(W))


@given(seed=SEEDS, sizes=SIZES, scale=SCALES)
def test_y_is_linear_in_x(library: Library, seed: int, sizes: tuple[int, int, int, int], scale: float) -> None:
    """y(x + 2 x′) = y(x) + 2 y(x′); a bias is added to it once, whatever the scale."""
    x, W, factors, _ = layer(library, seed, sizes)
    other, bias = layer(library, seed + 1, sizes)[0], library.eighths(np.random.default_rng(seed), sizes[2])
    y, y_other, both = (linear_forward(a, W, factors, scale=scale)[0] for a in (x, other, x + 2.0 * other))
    assert same(both, y + 2.0 * y_other)
    assert same(linear_forward(x, W, factors, scale=scale, bias=bias)[0], y + bias)


@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (2, 0, 3), (1, 2, 1)])
def test_leading_axes_are_rows(library: Library, leading: tuple[int, ...]) -> None:
    """Any leading shape, of x, mask and dy alike, gives what its rows give, in that shape."""
    rng = np.random.default_rng(3)
    W, factors, bias = library.eighths(rng, 4, 5), library.eighth_factors(rng, 4, 5, 2), library.eighths(rng, 4)
    x, mask, dy = eighths(rng, *leading, 5), 2.0 * rng.integers(0, 2, (*leading, 5)), eighths(rng, *leading, 4)
    results = []
    for shape in (leading, (-1,)):
        given_x, given_mask, given_dy = (library.floats(a.reshape(*shape, a.shape[-1])) for a in (x, mask, dy))
        y, cache = linear_forward(given_x, W, factors, scale=0.5, bias=bias, dropout_mask=given_mask)
        results.append((y, *linear_backward(given_dy, cache)))
    (y, dx, grads), (y_rows, dx_rows, grads_rows) = results
    assert (tuple(y.shape), tuple(dx.shape)) == ((*leading, 4), (*leading, 5))
    assert np.array_equal(to_numpy(y).reshape(-1, 4), to_numpy(y_rows))
    assert np.array_equal(to_numpy(dx).reshape(-1, 5), to_numpy(dx_rows))
    assert same(grads, grads_rows)


@given(seed=SEEDS, sizes=SIZES)
def test_rows_are_added_up(library: Library, seed: int, sizes: tuple[int, int, int, int]) -> None:
    """The gradients of factors are sums over rows: those of two parts add up to those of the whole."""
    x, W, factors, dy = layer(library, seed, sizes)
    cut = x.shape[0] // 2

    def grads(rows: slice) -> Factors:
        return linear_backward(dy[rows, :], linear_forward(x[rows, :], W, factors, scale=0.5)[1])[1]

    total = map_factors(lambda a, b: a + b, grads(slice(0, cut)), grads(slice(cut, x.shape[0])))
    assert same(total, grads(slice(0, x.shape[0])))


@given(seed=SEEDS, sizes=SIZES)
def test_the_order_of_triplets_is_irrelevant(library: Library, seed: int, sizes: tuple[int, int, int, int]) -> None:
    """Permuting triplets leaves y and dx, and permutes the gradients."""
    x, W, (B, s, A), dy = layer(library, seed, sizes)
    order = np.random.default_rng(seed).permutation(s.shape[0])
    taken = Factors(*(library.floats(a) for a in (to_numpy(B)[:, order], to_numpy(s)[order], to_numpy(A)[order])))
    one, two = (linear_forward(x, W, held, scale=-0.5) for held in (Factors(B, s, A), taken))
    assert np.array_equal(to_numpy(one[0]), to_numpy(two[0]))
    (dx, (dB, ds, dA)), (dx_taken, grads) = (linear_backward(dy, cache) for _, cache in (one, two))
    assert np.array_equal(to_numpy(dx), to_numpy(dx_taken))
    assert same(grads, (to_numpy(dB)[:, order], to_numpy(ds)[order], to_numpy(dA)[order]))


def test_nothing_given_is_changed(library: Library) -> None:
    """Forward and backward leave their arguments and the cache as they were."""
    rng = np.random.default_rng(5)
    x, W, factors = library.draw(rng, 3, 4), library.draw(rng, 2, 4), library.draw_factors(rng, 2, 4, 2)
    bias, mask, dy = library.draw(rng, 2), library.draw(rng, 3, 4), library.draw(rng, 3, 2)
    inputs = (x, W, *factors, bias, mask, dy)
    before = [to_numpy(a).tobytes() for a in inputs]
    _, cache = linear_forward(x, W, factors, scale=0.5, bias=bias, dropout_mask=mask)
    first = linear_backward(dy, cache)
    assert same(linear_backward(dy, cache), first)
    assert [to_numpy(a).tobytes() for a in inputs] == before


# DTYPES


def test_the_widest_dtype_wins(library: Library) -> None:
    """One float64 array among float32 ones makes results float64, computed in float64."""
    rng = np.random.default_rng(6)
    x, W = library.draw(rng, 3, 4, dtype="float32"), library.draw(rng, 2, 4, dtype="float32")
    narrow, wide = library.draw_factors(rng, 2, 4, 2, dtype="float32"), library.draw_factors(rng, 2, 4, 2)
    assert str(linear_forward(x, W, narrow, scale=1 / 3)[0].dtype).endswith("float32")
    y, cache = linear_forward(x, W, wide, scale=1 / 3)
    expected, _ = linear_forward(library.floats(to_numpy(x)), library.floats(to_numpy(W)), wide, scale=1 / 3)
    assert str(y.dtype).endswith("float64")
    assert same(y, expected)
    assert str(linear_backward(library.draw(rng, 3, 2, dtype="float32"), cache)[0].dtype).endswith("float64")


def test_a_wide_dy_makes_wide_gradients(library: Library) -> None:
    """A float64 dy is not rounded to the float32 of the forward pass, and every gradient is float64."""
    (x, W, factors, _), dy = layer(library, 8, (3, 4, 2, 2)), library.draw(np.random.default_rng(8), 3, 2)
    narrow = [library.floats(to_numpy(a), "float32") for a in (x, W, *factors)]  # eighths, so nothing is rounded
    dx, grads = linear_backward(dy, linear_forward(*narrow[:2], Factors(*narrow[2:]), scale=0.5)[1])
    assert all(str(a.dtype).endswith("float64") for a in (dx, *grads))
    assert same((dx, grads), linear_backward(dy, linear_forward(x, W, factors, scale=0.5)[1]))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_16_bits_are_computed_in_float32_and_rounded_once(dtype: Any) -> None:
    """Every 16-bit result is the float32 result, rounded."""
    rng = np.random.default_rng(7)
    narrow = [
        rng.standard_normal(shape).astype(dtype) for shape in ((5, 4), (3, 4), (3, 2), (2,), (2, 4), (3,), (5, 3))
    ]
    results = []
    for x, W, B, s, A, bias, dy in (narrow, [a.astype(np.float32) for a in narrow]):
        y, cache = linear_forward(x, W, Factors(B, s, A), scale=1 / 3, bias=bias)
        dx, (dB, ds, dA) = linear_backward(dy, cache)
        results.append([y, dx, dB, ds, dA, merge(W, Factors(B, s, A), scale=1 / 3)])
    assert len(results[0]) == 6
    for rounded, wide in zip(*results, strict=True):
        assert (rounded.dtype, wide.dtype) == (np.dtype(dtype), np.float32)
        assert np.array_equal(rounded, wide.astype(dtype))


def test_close_to_the_limits_of_float64_nothing_is_lost(library: Library) -> None:
    """Entries of 1e-150 and 1e150 meet in one product and give ordinary numbers."""
    factors = library.factors([[1e150]], [1e-150], [[1.0]])
    y, _ = linear_forward(library.floats([[1.0]]), library.floats([[0.0]]), factors, scale=1.0)
    assert close(y, np.asarray([[1.0]]), within=1e-15)
