"""What the laws of the layer are about: arguments of a forward and a backward pass, with something beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from adalora_ref import strategies
from adalora_ref.conformance.cases import Inputs
from adalora_ref.factors import Factors

FORWARD, BACKWARD = ("linear_forward",), ("linear_backward", "linear_forward")

ARGUMENTS = ("x", "W", "factors", "scale", "bias", "dropout_mask", "dy")

ENTRIES = st.sampled_from([strategies.EIGHTHS, strategies.EIGHTHS, strategies.ordinary(), strategies.realistic()])
"""Half of the cases are of eighths, to which all shrink."""


@st.composite
def layers(draw: DrawFn, /, dtype: str, *, only_eighths: bool = False, **fixed: Any) -> Inputs:
    """Arguments of a forward and a backward pass."""
    entries = strategies.EIGHTHS if only_eighths else draw(ENTRIES)
    return draw(strategies.linear_cases(dtype=dtype, entries=entries, **fixed))


def with_second(*names: str, **fixed: Any) -> Any:
    """Cases of eighths with a second value beside each of *names*, which add up without rounding."""

    @st.composite
    def cases(draw: DrawFn, /, dtype: str) -> Inputs:
        case = draw(layers(dtype, only_eighths=True, **fixed))
        more = {}
        for name in names:
            held: Any = dict(zip("BsA", case["factors"], strict=True)).get(name, case.get(name))
            more[f"other {name}"] = draw(strategies.arrays(held.shape, dtype=dtype))
        return case | more

    return cases


def with_order(name: str, **fixed: Any) -> Any:
    """Cases with an order of what *name* counts: samples, rows of the output, or triplets."""

    @st.composite
    def cases(draw: DrawFn, /, dtype: str) -> Inputs:
        case = draw(layers(dtype, **fixed))
        lengths = {"n": case["x"].shape[0], "d_out": case["W"].shape[0], "r": case["factors"].s.shape[0]}
        return case | {"order": list(draw(st.permutations(range(lengths[name]))))}

    return cases


def cut(size: str) -> Any:
    """Cases whose *size* is at least 2, with a place at which to cut."""

    @st.composite
    def cases(draw: DrawFn, /, dtype: str) -> Inputs:
        length = draw(strategies.sizes(2, 3))
        return draw(layers(dtype, **dict[str, Any]({size: length}))) | {"cut": draw(st.integers(1, length - 1))}

    return cases


def with_keep(dtype: str) -> Any:
    """Cases with who is kept."""

    @st.composite
    def cases(draw: DrawFn) -> Inputs:
        case = draw(layers(dtype))
        r = case["factors"].s.shape[0]
        return case | {"keep": np.asarray(draw(st.lists(st.booleans(), min_size=r, max_size=r)), dtype=bool)}

    return cases()


@st.composite
def turned_inputs(draw: DrawFn, /, dtype: str) -> Inputs:
    """Cases of eighths without bias and mask, with an orthogonal matrix over the inputs."""
    case = draw(layers(dtype, only_eighths=True, d_in=strategies.sizes(1, 4), bias=False, dropout=False))
    return case | {"turn": draw(strategies.orthogonal(case["x"].shape[1], dtype=dtype))}


@st.composite
def with_signs(draw: DrawFn, /, dtype: str) -> Inputs:
    """Cases with a sign for each triplet."""
    case = draw(layers(dtype))
    r = case["factors"].s.shape[0]
    signs = draw(st.lists(st.sampled_from([-1.0, 1.0]), min_size=r, max_size=r))
    return case | {"signs": np.asarray(signs).astype(case["x"].dtype)}


@st.composite
def with_more_ranks(draw: DrawFn, /, dtype: str) -> Inputs:
    """Cases with further triplets."""
    case = draw(layers(dtype))
    (d_out, _), (_, d_in) = case["factors"].B.shape, case["factors"].A.shape
    return case | {"more": draw(strategies.factors(d_out=d_out, d_in=d_in, dtype=dtype))}


@st.composite
def two_ways(draw: DrawFn, /, dtype: str) -> Inputs:
    """Cases of eighths with two directions over all arguments jointly."""
    once = with_second("x", "B", "s", "A", "dy", n=1, d_out=strategies.sizes(1, 2), d_in=strategies.sizes(1, 2),
                       r=strategies.sizes(1, 2), bias=False)  # fmt: skip
    case: Inputs = draw(once(dtype))
    more = {
        name.replace("other", "third"): draw(strategies.arrays(a.shape, dtype=dtype))
        for name, a in case.items()
        if name.startswith("other")
    }
    return case | more


def given(case: Inputs, **changed: Any) -> Inputs:
    """The arguments of a pass, some of them changed."""
    return {name: changed.get(name, case[name]) for name in ARGUMENTS}


def replaced(factors: Factors, **parts: Any) -> Factors:
    """Factors with some of the three replaced."""
    return Factors(*(parts.get(name, a) for name, a in zip("BsA", factors, strict=True)))


def weight_of(case: Inputs, **changed: Any) -> Inputs:
    """The arguments of increment, merge and unmerge."""
    return {name: changed.get(name, case[name]) for name in ("W", "factors", "scale")}
