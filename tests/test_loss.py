"""The losses: worked by hand, the gradient, and their laws."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adalora_ref import cross_entropy, mean_square
from adalora_ref.array import dtype_name, to_numpy
from adalora_ref.conformance import oracles
from tests.conftest import Library, close, eighths, same

SEEDS = st.integers(0, 2**32 - 1)
TINY = 2.0**-200
"""Length of the imaginary step: what it neglects is of relative size 2^-400."""

# BY HAND


def test_even_odds_by_hand(library: Library) -> None:
    """With two equal logits the loss is log 2 and the gradient ±½."""
    loss, gradient = cross_entropy(library.floats([[3, 3]]), library.array([1]))
    assert math.isclose(float(loss), math.log(2), rel_tol=1e-15)
    assert same(gradient, np.asarray([[0.5, -0.5]]))


def test_odds_of_three_to_one_by_hand(library: Library) -> None:
    """Logits log 3 and 0 make chances ¾ and ¼; over two samples the gradient is halved."""
    logits = library.floats([[math.log(3), 0], [math.log(3), 0]])
    loss, gradient = cross_entropy(logits, library.array([0, 1]))
    assert math.isclose(float(loss), (math.log(4 / 3) + math.log(4)) / 2, rel_tol=1e-15)
    assert close(gradient, np.asarray([[-1 / 8, 1 / 8], [3 / 8, -3 / 8]]), within=1e-15)


def test_mean_square_by_hand(library: Library) -> None:
    """(2² + 0² + 1² + 1²) / 4, and 2 / 4 of the differences."""
    loss, gradient = mean_square(library.floats([[3, 1], [0, 5]]), library.floats([[1, 1], [1, 4]]))
    assert float(loss) == 1.5
    assert same(gradient, np.asarray([[1.0, 0.0], [-0.5, 0.5]]))


# IS THE GRADIENT


@given(seed=SEEDS, shape=st.sampled_from([(4,), (3, 5), (2, 2, 3), (1, 1)]))
def test_mean_square_gradient(library: Library, seed: int, shape: tuple[int, ...]) -> None:
    """loss(o + h) − loss(o) = ⟨gradient, h⟩ + mean h², exactly, since the loss is a square."""
    rng = np.random.default_rng(seed)
    output, target, step = (4 * eighths(rng, *shape) for _ in range(3))
    loss, gradient = mean_square(library.floats(output), library.floats(target))
    moved, _ = mean_square(library.floats(output + step), library.floats(target))
    change = np.sum(to_numpy(gradient) * step) + np.mean(step * step)
    assert math.isclose(float(moved) - float(loss), change, rel_tol=1e-12, abs_tol=1e-12)


@given(seed=SEEDS, shape=st.sampled_from([(1,), (3,), (2, 2)]), classes=st.integers(1, 5))
def test_cross_entropy_gradient(library: Library, seed: int, shape: tuple[int, ...], classes: int) -> None:
    """A complex step of the oracle along a random direction is ⟨gradient, direction⟩."""
    rng = np.random.default_rng(seed)
    logits, way = rng.standard_normal((2, *shape, classes))
    labels = rng.integers(0, classes, shape)
    loss, gradient = cross_entropy(library.floats(logits), library.array(labels))
    stepped = (logits + 1j * TINY * way).reshape(-1, classes)
    moved, _ = oracles.cross_entropy(stepped.tolist(), np.ravel(labels).tolist())
    assert math.isclose(float(loss), moved.real, rel_tol=1e-13, abs_tol=1e-15)
    terms = to_numpy(gradient) * way
    assert abs(moved.imag / TINY - np.sum(terms)) <= 1e-12 * np.sum(np.abs(terms))


# LAWS


@given(seed=SEEDS, shift=st.sampled_from([-700.0, 0.0, 8.0, 1e4]))
def test_cross_entropy_sees_differences_alone(library: Library, seed: int, shift: float) -> None:
    """Adding a number to all logits of a sample, to each its own, changes nothing; a sample's gradients add up to 0."""
    rng = np.random.default_rng(seed)
    logits, labels = eighths(rng, 4, 3), library.array(rng.integers(0, 3, 4))
    one, two = (
        cross_entropy(library.floats(z), labels) for z in (logits, logits + shift * np.asarray([[1], [-1], [0], [2]]))
    )
    assert same(one, two)
    assert np.all(np.abs(to_numpy(one[1]).sum(axis=-1)) <= 1e-16)


def test_certainty_costs_nothing_and_error_its_margin(library: Library) -> None:
    """A logit 1000 above the others costs 0 if right and 1000 if wrong; nothing overflows."""
    logits = library.floats([[1000.0, 0.0, 0.0]])
    right, wrong = (cross_entropy(logits, library.array([label])) for label in (0, 2))
    assert (float(right[0]), float(wrong[0])) == (0.0, 1000.0)
    assert same(right[1], np.asarray([[0.0, 0.0, 0.0]]))
    assert same(wrong[1], np.asarray([[1.0, 0.0, -1.0]]))


@given(seed=SEEDS)
def test_leading_axes_are_samples(library: Library, seed: int) -> None:
    """Labels of shape (2, 3) are six samples."""
    rng = np.random.default_rng(seed)
    logits, labels = rng.standard_normal((2, 3, 4)), rng.integers(0, 4, (2, 3))
    loss, gradient = cross_entropy(library.floats(logits), library.array(labels))
    flat = cross_entropy(library.floats(logits.reshape(6, 4)), library.array(labels.reshape(6)))
    assert (float(loss), tuple(gradient.shape)) == (float(flat[0]), (2, 3, 4))
    assert np.array_equal(to_numpy(gradient).reshape(6, 4), to_numpy(flat[1]))


@given(seed=SEEDS)
def test_the_order_of_classes_is_irrelevant(library: Library, seed: int) -> None:
    """Renaming the classes leaves the loss and renames the gradient, up to the order of a sum."""
    rng = np.random.default_rng(seed)
    logits, labels, order = eighths(rng, 5, 4), rng.integers(0, 4, 5), rng.permutation(4)
    loss, gradient = cross_entropy(library.floats(logits), library.array(labels))
    renamed = cross_entropy(library.floats(logits[:, order]), library.array(np.argsort(order)[labels]))
    assert close(renamed, (loss, to_numpy(gradient)[:, order]), within=1e-15)


@pytest.mark.parametrize("integer", ["int16", "int32", "int64"])
def test_labels_are_integers_of_any_width(library: Library, integer: str) -> None:
    """The label alone counts, not the dtype that holds it."""
    logits, labels = library.draw(np.random.default_rng(1), 3, 4), np.asarray([3, 0, 2])
    found = cross_entropy(logits, library.array(labels.astype(integer)))
    assert same(found, cross_entropy(logits, library.array(labels)))


def test_nothing_given_is_changed(library: Library) -> None:
    """Output, logits, target and labels keep every bit."""
    rng = np.random.default_rng(2)
    output, target, labels = library.draw(rng, 3, 4), library.draw(rng, 3, 4), library.array(rng.integers(0, 4, 3))
    before = [to_numpy(a).tobytes() for a in (output, target, labels)]
    results = [(mean_square(output, target), cross_entropy(output, labels)) for _ in range(2)]
    assert [to_numpy(a).tobytes() for a in (output, target, labels)] == before
    assert same(*results)


def test_the_widest_dtype_wins(library: Library) -> None:
    """float32 with float64 is computed in float64; float32 alone stays float32."""
    rng = np.random.default_rng(3)
    narrow, wide = library.draw(rng, 3, 4, dtype="float32"), library.draw(rng, 3, 4)
    found = mean_square(narrow, wide)
    assert {dtype_name(a) for a in found} == {"float64"}
    assert same(found, mean_square(library.floats(to_numpy(narrow)), wide))
    assert {dtype_name(a) for a in cross_entropy(narrow, library.array([0, 1, 3]))} == {"float32"}


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_16_bits_are_computed_in_float32_and_rounded_once(dtype: Any) -> None:
    """Loss and gradient are the float32 ones, rounded."""
    rng = np.random.default_rng(0)
    output, target = rng.standard_normal((2, 4, 3)).astype(dtype)
    labels = rng.integers(0, 3, 4)
    for f, other in ((mean_square, target), (cross_entropy, labels)):
        wide = f(output.astype(np.float32), other if f is cross_entropy else other.astype(np.float32))
        found = f(output, other)
        assert [a.dtype for a in found] == [np.dtype(dtype)] * 2
        assert same(found, tuple(np.asarray(a).astype(dtype) for a in wide))
