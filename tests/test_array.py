"""Arrays: one library, one device, one dtype, and the way to and from the host."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from adalora_ref.array import (
    LIBRARIES,
    backend,
    cast,
    device,
    dtype_name,
    like_host,
    namespace,
    normal,
    promote,
    to_numpy,
)
from tests.conftest import Library, same

BFLOAT16 = ml_dtypes.bfloat16

# BY HAND


def test_the_namespace_is_the_library(library: Library) -> None:
    """Arrays of one library share its functions; None is passed over."""
    a = library.floats([1, 2])
    xp = namespace(a, None, a)
    assert same(xp.sum(a), np.asarray(3.0))


def test_what_comes_from_the_host_goes_back_to_it(library: Library) -> None:
    """Values keep dtype, shape, bits and device on the way there and back."""
    host = np.asarray([[0.1, -0.0, np.inf], [5e-324, np.nan, 1e308]])
    moved = library.floats(host)
    assert device(moved) == device(library.floats([1]))
    assert (to_numpy(moved).dtype, to_numpy(moved).tobytes()) == (host.dtype, host.tobytes())
    assert to_numpy(library.array([True, False])).tolist() == [True, False]
    assert to_numpy(library.array([3, -1])).tolist() == [3, -1]


def test_names_of_dtypes_are_bare(library: Library) -> None:
    """A dtype has one name in every library."""
    assert dtype_name(library.floats([1], "float32")) == "float32"
    assert dtype_name(library.array([True])) == "bool"


# LAWS


@pytest.mark.parametrize(
    ("given", "result", "computed"),
    [
        (("float32", "float32"), "float32", "float32"),
        (("float32", "float64"), "float64", "float64"),
        (("float16", "float16"), "float16", "float32"),
        (("bfloat16", "bfloat16"), "bfloat16", "float32"),
        (("bfloat16", "float32"), "float32", "float32"),
        (("float16", "float64"), "float64", "float64"),
    ],
)
def test_promotion(given: tuple[str, str], result: str, computed: str) -> None:
    """The result has the widest dtype; 16-bit results are computed in float32."""
    arrays = [np.ones(2, dtype=BFLOAT16 if name == "bfloat16" else name) for name in given]
    dtype, cast_arrays = promote(*arrays, None)
    assert np.dtype(dtype).name == result
    assert [None if a is None else a.dtype.name for a in cast_arrays] == [computed, computed, None]


def test_promotion_in_every_library(library: Library) -> None:
    """float32 with float64 is float64, the values as they were."""
    narrow = library.floats([0.1], "float32")
    dtype, (wide, _) = promote(narrow, library.floats([1.0]))
    assert "float64" in str(dtype)
    assert same(wide, np.asarray([0.1], np.float32).astype(np.float64))


def test_a_cast_rounds_each_element_once(library: Library) -> None:
    """float64 to float32 rounds to nearest; an array that has the dtype comes back itself."""
    a = library.floats([0.1, 1 + 2.0**-24, 1 + 2.0**-24 + 2.0**-50])
    found = cast(a, library.floats([1], "float32").dtype)
    assert to_numpy(found).tolist() == [float(np.float32(0.1)), 1.0, 1 + 2.0**-23]
    assert cast(a, a.dtype) is a


def test_16_bit_host_values_are_taken_as_they_are(library: Library) -> None:
    """bfloat16 values of the host arrive in float32, exactly."""
    host = np.asarray([1 / 3, -2.0, 0.0], dtype=BFLOAT16)
    assert same(like_host(host, library.floats([0], "float32")), host.astype(np.float32))


def test_normal_numbers_are_the_host_stream(library: Library) -> None:
    """std times the generator's stream, in float64, then moved and rounded once."""
    found = normal(np.random.default_rng(1), (3, 2), std=0.3, like=library.floats([0], "float32"))
    assert same(found, (0.3 * np.random.default_rng(1).standard_normal((3, 2))).astype(np.float32))


def test_every_library_is_known_by_one_name() -> None:
    """A known library is a namespace or a reason why not; NumPy and array-api-strict are here."""
    found = []
    for name in LIBRARIES:
        try:
            found.append((name, backend(name)))
        except RuntimeError as error:
            assert name in str(error)  # noqa: PT017
    assert {"numpy", "array_api_strict"} <= {name for name, xp in found if hasattr(xp, "matmul")}
