"""From arrays to the oracles' nested lists of numbers, and from their results to arrays with bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from adalora_ref.budget import BudgetSchedule
from adalora_ref.conformance.bounds import ARITHMETIC, DIGITS, Bounded, Number, number, rounded, scalar
from adalora_ref.conformance.target import leaves
from adalora_ref.conformance.verdict import Expected, deviation
from adalora_ref.factors import Factors

OUTWARDS = 1 + 2.0**-20
"""Room for the rounding errors of the bounds themselves."""


def lift(
    value: Any, element: Callable[[float], Number], hyperparameter: Callable[[float], Number] | None = None
) -> Any:
    """Return *value* with every array as nested lists, each floating number x in them as ``element(x)``.

    Factors become tuples (B, s, A); tuples, lists and mappings keep their form; other dataclasses become namespaces.
    Python floats become ``hyperparameter(x)``, by default ``element(x)``. Integers, schedules, functions and
    what is a number of the oracles already stay.
    """
    again = partial(lift, element=element, hyperparameter=hyperparameter)
    if isinstance(value, np.ndarray | np.generic):
        return _nested((value if value.dtype.kind in "biu" else value.astype(np.float64)).tolist(), element)
    if isinstance(value, float):
        return (hyperparameter or element)(value)
    if isinstance(value, Factors | tuple | list):
        items = [again(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, Mapping):
        return {key: again(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, BudgetSchedule | Bounded | type):
        return SimpleNamespace(**{f.name: again(getattr(value, f.name)) for f in fields(value)})
    return value


def evaluate(oracle: Callable[..., Any], /, *args: Any, working: str, like: Any, **options: Any) -> dict[str, Expected]:
    """Run *oracle* on `Bounded` numbers; return what each result should be, under the path that `leaves` gives it.

    Parameters
    ----------
    args, options
        The arguments of the oracle, as NumPy arrays, `Factors`, and what is made of them.
    working
        Name of the dtype in which the results are computed.
    like
        The form of the results: arrays of their shapes and dtypes. What is narrower than *working* is rounded once
        more; what is not floating is exact.
    """
    return expected(bounded(oracle, *args, working=working, **options), like)


def moments_first(made: dict[str, Expected]) -> dict[str, Expected]:
    """The results of an optimiser in the order in which they are made: the weights last."""
    return dict(sorted(made.items(), key=lambda item: "[weights]" in item[0]))


def bounded(oracle: Callable[..., Any], /, *args: Any, working: str, **options: Any) -> Any:
    """Run *oracle* on `Bounded` numbers of the dtype *working*; return its result as it is."""
    kinds = (partial(kind, arithmetic=ARITHMETIC[working]) for kind in (number, scalar))
    args, options = lift((args, options), *kinds)
    return oracle(*args, **options)


def expected(result: Any, like: Any) -> dict[str, Expected]:
    """Give the result of an oracle the form of *like*: what each array should be, under the path of `leaves`."""
    return {path: _expected(r, np.asarray(a)) for (path, a), r in zip(leaves(like), _tensors(result), strict=True)}


def ratio(got: Any, expected: Expected, /) -> Any:
    """|got − expected| over its bound, element by element: 0/0 is 0, x/0 and NaN are infinite.

    Raises
    ------
    ValueError
        If the shapes differ: nothing is broadcast.
    """
    got = np.asarray(got)
    if got.shape != expected.high.shape:
        raise ValueError(f"the result must have shape {expected.high.shape}; got {got.shape}")
    return np.nan_to_num(deviation(got, expected)[1], nan=math.inf, posinf=math.inf)


def _nested(value: Any, element: Callable[[float], Number]) -> Any:
    if isinstance(value, list):
        return [_nested(item, element) for item in value]
    return element(value) if isinstance(value, float) else value


def _tensors(result: Any) -> Iterator[Any]:
    if isinstance(result, tuple | dict):
        for item in result.values() if isinstance(result, dict) else result:
            yield from _tensors(item)
    elif result is not None:
        yield result


def _flat(result: Any) -> list[Any]:
    return [entry for item in result for entry in _flat(item)] if isinstance(result, list) else [result]


def _expected(result: Any, like: Any) -> Expected:
    name = like.dtype.name
    if name not in ARITHMETIC:
        return Expected.exact(np.asarray(result, dtype=like.dtype).reshape(like.shape), name)
    numbers = [rounded(entry, ARITHMETIC[name]) for entry in _flat(result)]
    values = [DIGITS.mpf(entry.value if isinstance(entry, Bounded) else entry) for entry in numbers]
    columns = (
        [float(v) for v in values],
        [float(v - float(v)) for v in values],
        [OUTWARDS * getattr(entry, "bound", 0.0) for entry in numbers],
        [OUTWARDS * getattr(entry, "sharp", 0.0) for entry in numbers],
    )
    high, low, error, sharp = (np.asarray(column, dtype=np.float64).reshape(like.shape) for column in columns)
    return Expected(high, low, error, sharp, name)
