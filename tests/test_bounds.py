"""The rounding-error bounds: each rule by hand."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from adalora_ref.conformance import bounds
from adalora_ref.conformance.bounds import ARITHMETIC, allow, mean, number, rounded, scalar, settle, total
from adalora_ref.conformance.cases import NUMPY_DTYPES

F32 = ARITHMETIC["float32"]
U, ETA = F32.unit, F32.tiny
THIRD, FIFTH = (number(float(np.float32(1 / n)), F32) for n in (3, 5))
"""Two numbers that fill their float32."""


def test_formats_are_those_of_the_dtypes() -> None:
    """Unit roundoff is half the distance from 1 to the next number; η and the largest number are the format's."""
    for name, dtype in NUMPY_DTYPES.items():
        info = ml_dtypes.finfo(dtype)
        assert ARITHMETIC[name] == (float(info.eps) / 2, float(info.smallest_normal), float(info.max)), name


def test_a_product_rounds_once_and_carries_errors() -> None:
    """From exact factors the error is u · |ab|; errors of the factors are multiplied by the other one."""
    product = THIRD * FIFTH
    assert product.error == pytest.approx(U / 15, rel=1e-6)
    assert product.bound == product.error + 2 * ETA
    assert (product * FIFTH).error == pytest.approx(2 * U / 75, rel=1e-6)
    assert product.value == THIRD.value * FIFTH.value


def test_a_total_rounds_each_term_as_often_as_there_are_others() -> None:
    """K terms have the error (k − 1) u Σ|term|, cancellation or not; exact zeros are no terms."""
    held = total([THIRD, -THIRD, FIFTH, number(0.0, F32)])
    assert held.error == pytest.approx(2 * U * (2 / 3 + 1 / 5), rel=1e-6)
    assert held.magnitude == pytest.approx(2 / 3 + 1 / 5)
    assert held.value == FIFTH.value


def test_one_difference_rounds_its_result() -> None:
    """A − b of formed numbers has the error u · |a − b|, however close they are; from then on it is formed."""
    near = number(float(np.nextafter(np.float32(1 / 3), np.float32(1))), F32)
    assert (near - THIRD).bound <= U * abs(float(near.value - THIRD.value)) + ETA
    assert (near - THIRD).magnitude == pytest.approx(float(near.value - THIRD.value), rel=1e-3)
    assert (1 - THIRD).bound == pytest.approx(U * 2 / 3, rel=1e-3)


def test_dyadic_numbers_of_few_digits_do_not_round() -> None:
    """The bound is 0 as long as no order can need more digits than there are, and not one digit longer."""
    eighth = number(0.375, F32)
    assert (eighth * eighth * 3).bound == (total([eighth * 2, 5, -eighth]) / 4).bound == mean([eighth] * 2).bound == 0.0
    assert (number(2.0**22, F32) + 0.5).bound == 0.0
    assert (number(2.0**24, F32) + 0.5).bound > 0.0
    assert total([number(2.0**24, F32), 1, -(number(2.0**24, F32))]).bound > 0.0
    assert (eighth * THIRD).bound > 0.0
    assert mean([eighth] * 3).bound > 0.0


def test_exact_zero_stays_exact() -> None:
    """Whatever is multiplied by exactly 0 is 0 in every order, without even an underflow."""
    zero = THIRD * 0.0 * scalar(0.1, F32)
    assert (zero.bound, bool(zero)) == (0.0, False)
    assert total([zero, THIRD]).bound == 0.0
    assert not number(1.0, F32) - 1.0
    assert bounds.sqrt(zero) is zero


def test_underflow_is_charged_to_the_other_factors() -> None:
    """What is flushed in one product may be multiplied by all that follows; a subnormal input may itself be flushed."""
    small, large = number(2.0**-100, F32), number(2.0**90, F32)
    assert (small * small * large * large).bound >= ETA * 2.0**180
    assert (number(2.0**-130, F32) * large).bound >= 2.0**-130 * 2.0**90
    assert number(2.0**-130, F32).bound >= 2.0**-130
    assert number(3e-308, ARITHMETIC["float64"]).bound == 0.0


def test_hyperparameters_may_be_rounded_on_arrival() -> None:
    """A scalar has the error u · |c| unless the format holds it."""
    assert scalar(0.1, F32).bound == pytest.approx(U / 10)
    assert scalar(0.375, F32).bound == scalar(0.1, ARITHMETIC["float64"]).bound == 0.0


def test_functions_propagate_errors() -> None:
    """√ halves a relative error and rounds once; exp, log and tanh take their slopes and eight roundings."""
    held = THIRD * FIFTH
    root = bounds.sqrt(held)
    assert root.bound == pytest.approx(1.5 * U * float(root.value), rel=1e-3)
    assert bounds.exp(held).bound == pytest.approx(float(bounds.exp(held).value) * (held.bound + 8 * U), rel=1e-3)
    logarithm = float(bounds.log(held).value)
    assert bounds.log(held).bound == pytest.approx(held.bound * 15 + 8 * U * abs(logarithm), rel=1e-3)
    assert bounds.tanh(held).bound == pytest.approx(held.bound + 8 * U * float(bounds.tanh(held).value), rel=1e-3)
    assert bounds.power(scalar(0.5, F32), 3).bound == pytest.approx(8 * U / 8, rel=1e-3)
    assert (THIRD / FIFTH).bound == pytest.approx(2 * U * 5 / 3, rel=1e-3)
    assert allow(held, 3).bound == pytest.approx(4 * held.bound, rel=1e-3)


def test_root_of_what_may_be_zero_is_bounded() -> None:
    """Near 0 the root's error is that of √error, and a quotient by what may be 0 has no bound."""
    gap = total([THIRD, -THIRD])
    assert math.sqrt(gap.bound) <= bounds.sqrt(gap).bound <= 1.01 * math.sqrt(gap.bound)
    assert (THIRD / gap).bound == math.inf
    assert bounds.log(gap * gap).bound == math.inf


def test_settling_forgets_cancelled_monomials() -> None:
    """After `settle` roundings count by the value and its error, not by what cancelled; other numbers pass through."""
    gap = total([THIRD, FIFTH, -THIRD])
    assert settle(gap).bound == gap.bound
    assert settle(gap).magnitude == pytest.approx(0.2, rel=1e-5)
    assert settle(0.25) == 0.25


def test_the_smaller_of_two_may_be_either_where_they_overlap() -> None:
    """The bound covers both candidates."""
    one, near = number(1.0, F32), (THIRD * 3 + number(0.0, F32)) * (1 + 2.0**-10)
    assert bounds.least(1, THIRD) is THIRD
    assert bounds.least(1, THIRD * 9).bound == 0.0
    assert bounds.least(one, THIRD * 3).bound >= (THIRD * 3).bound > 0.0
    assert bounds.least(one, near).value == 1
    assert bounds.least(THIRD, 1).value == bounds.least(1, THIRD).value == THIRD.value
    assert bounds.least(0.5, 0.25) == 0.25


def test_what_cannot_be_bounded_is_infinite() -> None:
    """Overflow, too many terms for the format, and inputs that are not finite have no bound."""
    half = ARITHMETIC["float16"]
    assert (number(60000.0, half) * number(1.1, half)).bound == math.inf
    assert total([number(0.3, half)] * 300).bound == math.inf
    assert bounds.power(scalar(0.9, half), 10**7).bound == math.inf
    assert bounds.exp(number(720.0, ARITHMETIC["float64"])).bound == math.inf
    assert total([number(0.3, half)] * 150).bound < math.inf
    for bad in (math.nan, math.inf, -math.inf):
        assert (number(bad, F32) * THIRD).bound == number(bad, F32).bound == math.inf
        assert total([number(bad, F32), THIRD]).bound == math.inf


def test_a_narrower_result_is_rounded_once_more() -> None:
    """Rounding to 16 bits adds u of that format, nothing where the format holds the result; overflow has no bound."""
    half = ARITHMETIC["float16"]
    assert rounded(THIRD, half).bound == pytest.approx(half.unit / 3 + half.tiny, rel=1e-3)
    assert rounded(number(0.375, F32), half).bound == 0.0
    assert rounded(number(70000.0, F32), half).bound == math.inf
    assert rounded(THIRD, ARITHMETIC["float64"]) is THIRD


def test_sharp_tier_lies_below_the_worst_case() -> None:
    """It is 6 √(sum of squared roundings), never above the bound, and far below it for long sums."""
    held = total([THIRD * FIFTH] * 400)
    assert 0.0 < held.sharp < held.bound / 3
    assert (THIRD * FIFTH).sharp == (THIRD * FIFTH).bound
