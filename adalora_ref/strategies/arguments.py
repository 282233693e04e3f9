"""What the strategies are told: values or strategies, each by its rule, and the arrays that are made as they say."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from numbers import Real
from typing import Any, NamedTuple, TypeAlias, TypeVar

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from adalora_ref.array import HALF, Array, cast, has_half, like_host
from adalora_ref.checks import count, instance, real

T = TypeVar("T")
Given: TypeAlias = T | SearchStrategy[T]
"""A plain value, or a strategy that draws one."""

DTYPES = ("float64", "float32", "float16", "bfloat16")

LAYOUTS = ("C", "Fortran", "strided", "read-only", "zero-size")

Rule: TypeAlias = Callable[[Any], Any]
"""Returns a value that keeps it, and refuses another with one sentence."""

# VALUES AND STRATEGIES


def as_strategy(rule: Callable[..., T], *given: Any) -> SearchStrategy[T]:
    """What *rule* makes of the values given or drawn; where all are plain, it refuses them at once."""
    if any(isinstance(value, SearchStrategy) for value in given):
        return st.builds(rule, *(value if isinstance(value, SearchStrategy) else st.just(value) for value in given))
    return st.just(rule(*given))


def checked(rule: Rule, given: Any) -> Any:
    """A plain value by its rule at once, or a strategy whose values are held to it when they are drawn."""
    return given.map(rule) if isinstance(given, SearchStrategy) else rule(given)


def chosen(make: Callable[..., SearchStrategy[T]], *given: Any) -> SearchStrategy[T]:
    """Draws from the strategy that *make* returns for the values given or drawn."""
    if any(isinstance(value, SearchStrategy) for value in given):
        return as_strategy(make, *given).flatmap(lambda strategy: strategy)
    return make(*given)


def or_default(default: SearchStrategy[Any], rule: Rule, given: Any) -> SearchStrategy[Any]:
    """What is given, by its rule; the default for None."""
    return default if given is None else as_strategy(rule, given)


# RULES


def integer(name: str, least: int = 0) -> Rule:
    """An integer of at least *least*."""
    return partial(count, name, least=least)


def finite(name: str, *, least: float = -math.inf, below: float = math.inf) -> Rule:
    """A finite real number in [least, below)."""
    return partial(real, name, least=least, below=below)


def typed(name: str, kind: type) -> Rule:
    """A value of that type."""

    def rule(value: Any) -> Any:
        instance(name, value, kind)
        return value

    return rule


def one_of(name: str, names: tuple[str, ...]) -> Rule:
    """One of these names."""

    def rule(value: Any) -> Any:
        if value not in names:
            raise ValueError(f"the {name} must be one of {', '.join(names)}; got {value!r}")
        return value

    return rule


a_dtype, a_layout = one_of("dtype", DTYPES), one_of("layout", LAYOUTS)


def a_shape(value: Any) -> tuple[int, ...]:
    """A tuple of lengths."""
    instance("shape", value, tuple)
    return tuple(count("a length of the shape", length) for length in value)


def shapes_by_name(value: Any) -> dict[str, tuple[int, int]]:
    """A mapping from names to (d_out, d_in)."""
    instance("shapes", value, Mapping)
    for name, shape in value.items():
        if len(a_shape(shape)) != 2 or 0 in shape:
            raise ValueError(f"the shape of a matrix must be (d_out, d_in), both at least 1; got {shape} for {name}")
    return dict(value)


def a_namespace(xp: Any) -> Any:
    """A namespace of the array API."""
    if not all(callable(getattr(xp, name, None)) for name in ("asarray", "zeros", "stack")):
        raise TypeError(f"xp must be a namespace of the array API, such as numpy; got {xp!r}")
    return xp


def an_entry(value: Any) -> float:
    """A real number, finite or not."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"entries must be real numbers; got {value!r}")
    return float(value)


# ARRAYS


class Kind(NamedTuple):
    """How arrays are made.

    Attributes
    ----------
    dtype
        The name of their dtype.
    layout
        How they lie in memory.
    xp
        Their library.
    entries
        What is drawn for each entry, before it is rounded.
    """

    dtype: str
    layout: str
    xp: Any
    entries: SearchStrategy[float]


def kinds(*, dtype: Given[str], xp: Any, entries: SearchStrategy[float], layout: Given[str] = "C") -> Any:
    """A strategy of kinds, each argument by its rule; 16-bit dtypes are refused where a library has none."""
    return as_strategy(
        partial(_kind, entries=entries), checked(a_dtype, dtype), checked(a_layout, layout), checked(a_namespace, xp)
    )


def _kind(dtype: str, layout: str, xp: Any, *, entries: SearchStrategy[float]) -> Kind:
    if dtype in HALF and not has_half(xp):
        raise TypeError(f"16-bit dtypes are supported on NumPy and CuPy alone; got {dtype} of {xp.__name__}")
    return Kind(dtype, layout, xp, entries)


def array_of(draw: DrawFn, shape: tuple[int, ...], kind: Kind) -> Array:
    """Draw an array, entry by entry."""
    values = [an_entry(draw(kind.entries)) for _ in range(math.prod(shape))]
    return placed(np.asarray(values, dtype=np.float64).reshape(shape), kind)


def placed(host: Any, kind: Kind) -> Array:
    """Doubles on the host as an array of that kind, each rounded once."""
    values = rounded(host, kind.dtype)
    if kind.xp is np:
        return _laid_out(values, kind)
    wide = "float32" if kind.dtype in HALF else kind.dtype
    moved = like_host(values, kind.xp.zeros((1,), dtype=getattr(kind.xp, wide)))
    return _laid_out(cast(moved, values.dtype) if kind.dtype in HALF else moved, kind)


def host_dtype(name: str) -> Any:
    """The dtype on the host, where bfloat16 is that of ml_dtypes."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def rounded(host: Any, dtype: str) -> Any:
    """Doubles in a dtype, each rounded once; ValueError for what overflows."""
    if dtype == "bfloat16":
        host = _to_eight_digits(host)
    with np.errstate(over="ignore"):
        values = host.astype(host_dtype(dtype))
    if np.any(over := np.isinf(values) & np.isfinite(host)):
        raise ValueError(f"entries must lie in the range of {dtype}; got {host[over].flat[0]}")
    return values


def _to_eight_digits(host: Any) -> Any:
    # NumPy takes doubles to bfloat16 by way of float32, which rounds twice; eight binary digits pass as they are.
    exponent = np.frexp(host)[1]
    unit = np.ldexp(1.0, np.maximum(exponent - 8, -133))
    return np.asarray(np.rint(host / unit) * unit)


def _laid_out(a: Array, kind: Kind) -> Array:
    """The same numbers, elsewhere in memory."""
    xp = kind.xp
    ways: dict[str, Callable[[], Array]] = {
        "C": lambda: a,
        "Fortran": lambda: _by_columns(a, xp),
        "strided": lambda: xp.stack([a, xp.zeros_like(a)], axis=-1)[..., 0],
        "read-only": lambda: _locked(a),
        "zero-size": lambda: _emptied(a),
    }
    return ways[kind.layout]()


def _locked(a: Array) -> Array:
    if isinstance(a, np.ndarray):
        a.setflags(write=False)
    return a


def _emptied(a: Array) -> Array:
    if not a.shape:
        raise ValueError("an array of layout zero-size must have an axis; got shape ()")
    return a[:0, ...]


def _by_columns(a: Array, xp: Any) -> Array:
    """A matrix whose columns lie one after the other; what has no columns has no other order."""
    if len(a.shape) != 2 or 0 in a.shape:
        return a
    return xp.stack([a[:, j] for j in range(a.shape[1])]).T
