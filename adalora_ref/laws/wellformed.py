"""The form of an answer: present, of the target's library, in shape and dtype as the reference's own answer is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from adalora_ref.conformance.cases import Inputs
from adalora_ref.conformance.deviations import reference
from adalora_ref.conformance.stages import Stage
from adalora_ref.conformance.target import Lane, Target, on_host, spoken
from adalora_ref.factors import Factors


@cache
def the_reference() -> Target:
    """The reference as a target on NumPy, whose answers show the form."""
    return Target("the reference", reference())


def form_as_of_the_reference(stage: Stage, inputs: Inputs, lane: Lane, returned: dict[str, Any]) -> str:
    """What is wrong with the form of what a target returned, in one sentence, or nothing."""
    try:
        with np.errstate(all="ignore"):
            right = stage.call(the_reference(), inputs, lane)
    except Exception:  # noqa: BLE001  a case that the reference refuses shows no form, in whichever way it does
        return ""
    return unlike(stage.name, returned, right)


def unlike(function: str, got: Any, right: Any, path: str = "") -> str:
    """Where *got* has not the form of *right*, which the function named must return; results go by name."""
    what = f"{spoken(path)} of {function}" if path else f"what {function} returns"
    if isinstance(right, dict):
        return _unlike_by_name(function, got, right, path) if isinstance(got, Mapping) else _must(what, "a dict", got)
    names = tuple("BsA") if isinstance(right, Factors) else getattr(right, "_fields", None)
    if names is not None:
        return _unlike_in_parts(function, got, right, path, names)
    if right is None:
        return "" if got is None else _must(what, "None", got)
    if not hasattr(got, "shape") and not isinstance(got, bool | int | float):
        return _must(what, "an array", got)
    a, b = on_host(got), on_host(right)
    if a.shape != b.shape:
        return f"{what} must have shape {b.shape}; got {a.shape}"
    return "" if a.dtype == b.dtype else f"{what} must have dtype {b.dtype.name}; got {a.dtype.name}"


def _unlike_by_name(function: str, got: Mapping[Any, Any], right: dict[Any, Any], path: str) -> str:
    for these, those, word in ((right, got, "lacks"), (got, right, "must not have")):
        if beyond := [str(name) for name in these if name not in those]:
            return f"{spoken(path)} of {function} {word} {', '.join(beyond)}"
    found = (unlike(function, got[name], item, f"{path}[{name}]") for name, item in right.items())
    return next(filter(None, found), "")


def _unlike_in_parts(function: str, got: Any, right: Any, path: str, names: tuple[str, ...]) -> str:
    if isinstance(got, Factors) != isinstance(right, Factors) or any(not hasattr(got, name) for name in names):
        return _must(f"{spoken(path)} of {function}", type(right).__name__, got)
    found = (unlike(function, getattr(got, name), getattr(right, name), f"{path}.{name}") for name in names)
    return next(filter(None, found), "")


def _must(what: str, form: str, got: Any) -> str:
    return f"{what} must be {form}; got {type(got).__name__}"
