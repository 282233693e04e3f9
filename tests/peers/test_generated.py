"""Generated arrays of torch and JAX, which need these: the way to the host and back, and what they cannot have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adalora_ref import strategies
from adalora_ref.array import backend, like_host, require_floating, to_numpy

LIBRARIES = ("torch", "jax")


def installed(name: str) -> Any:
    """The namespace of that library; the test is skipped where it is missing."""
    try:
        return backend(name)
    except RuntimeError as error:
        return pytest.skip(str(error))


@pytest.mark.parametrize("name", LIBRARIES)
@given(a=strategies.arrays((2, 3), dtype=strategies.dtypes("float64", "float32")))
@settings(max_examples=5)
def test_there_and_back_is_the_identity(name: str, a: Any) -> None:
    """Host values as an array of the library and back are what they were, dtype and every bit."""
    xp = installed(name)
    back = to_numpy(like_host(a, xp.zeros((1,), dtype=getattr(xp, a.dtype.name))))
    assert (back.dtype, back.tobytes()) == (a.dtype, np.ascontiguousarray(a).tobytes())


@pytest.mark.parametrize("name", LIBRARIES)
@given(shape=st.lists(st.integers(0, 3), max_size=3), dtype=st.sampled_from(["float16", "bfloat16"]))
@settings(max_examples=5)
def test_16_bit_is_refused(name: str, shape: list[int], dtype: str) -> None:
    """A 16-bit array of another library than NumPy and CuPy is refused, whatever its shape."""
    xp = installed(name)
    with pytest.raises(TypeError, match=f"on NumPy and CuPy alone; got .*{dtype}"):
        require_floating(xp.ones(tuple(shape), dtype=getattr(xp, dtype)))
