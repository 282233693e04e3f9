"""The rules on scalars: what passes, and as what. What is refused is in test_bad_input.py."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from adalora_ref.checks import count, every, instance, items, real


@pytest.mark.parametrize("value", [0, 7, 2**70, np.int64(7), np.uint8(0), np.asarray(7)])
def test_integers_of_any_kind_become_int(value: object) -> None:
    """Whatever `operator.index` takes is an integer, of any size."""
    found = count("n", value)
    assert type(found) is int
    assert found == int(value)  # type: ignore[call-overload]


@pytest.mark.parametrize("value", [0, 0.5, np.float32(0.5), np.float64(-0.0), Fraction(1, 4), 2**60])
def test_real_numbers_of_any_kind_become_float(value: object) -> None:
    """Whatever is a real number is a float."""
    found = real("x", value, least=0.0)
    assert type(found) is float
    assert found == value


def test_the_ends_of_a_range() -> None:
    """The least is allowed, the upper end is not."""
    assert real("x", 0.0, least=0.0, below=1.0) == 0.0
    assert count("n", 3, least=3) == 3
    with pytest.raises(ValueError, match=r"x must be a finite real number in \[0, 1\); got 1.0"):
        real("x", 1.0, least=0.0, below=1.0)
    with pytest.raises(ValueError, match="n must be an integer of at least 3; got 2"):
        count("n", 2, least=3)


def test_what_fits_passes_in_silence() -> None:
    """A value of the kind, something with items, and a mapping that names every matrix."""
    instance("x", 1, int)
    assert list(items("x", (1, 2))) == [1, 2]
    every("scales", {"q": 1, "v": 2, "more": 3}, ["q", "v"])
