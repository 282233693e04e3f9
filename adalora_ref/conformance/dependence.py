"""On which inputs a wrong quantity hangs: each of them is perturbed in turn, before the target and the reference."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from adalora_ref.budget import BudgetSchedule
from adalora_ref.conformance.cases import Inputs

Answer: TypeAlias = Callable[[Inputs], bytes | None]
"""What a quantity is for given inputs, bit for bit; None where they are refused."""

SECONDS = 30.0
"""Time for all questions about one quantity."""


class Asked(NamedTuple):
    """Inputs for which a quantity is wrong, and whom to ask what it is for others: the target and the reference."""

    inputs: Inputs
    theirs: Answer
    ours: Answer


def dependence(quantity: str, asked: Sequence[Asked], *, smooth: bool, seconds: float = SECONDS) -> str:
    """Say on which inputs a wrong quantity does and does not depend, found by perturbing each of them.

    Parameters
    ----------
    quantity
        Its name in the sentence.
    smooth
        Whether every input that the right quantity depends on moves it at once; what is not may stay as it is.
    """
    if len({asked[0].theirs(asked[0].inputs) for _ in range(3)}) > 1:
        return f"{quantity} differs from call to call with the same arguments"
    theirs: dict[str, bool] = {}
    ours: dict[str, bool] = {}
    until = time.monotonic() + seconds
    for case in asked:
        for found, answer in ((theirs, case.theirs), (ours, case.ours)):
            _perturb(found, answer, case.inputs, until)
    if time.monotonic() > until:
        return f"on which inputs {quantity} hangs is not known: to perturb them took over {seconds:g} s"
    return _said(quantity, theirs, ours, smooth=smooth)


def _perturb(found: dict[str, bool], answer: Answer, inputs: Inputs, until: float) -> None:
    """Note of every input whether it moves the quantity, but of none that is refused: this says nothing."""
    before = answer(inputs)
    for name, perturbed in perturbations(inputs):
        if time.monotonic() > until:
            return
        if not found.get(name) and (after := answer(perturbed)) is not None:
            found[name] = after != before


def _said(quantity: str, theirs: dict[str, bool], ours: dict[str, bool], *, smooth: bool) -> str:
    names = theirs | ours
    found_on = together([name for name in theirs if theirs[name]], names)
    lacking = together([name for name in ours if ours[name] and theirs.get(name) is False], names)
    beyond = together([name for name in theirs if theirs[name] and ours.get(name) is False], names)
    if not smooth:
        said = f"{quantity} moved with {found_on or 'none of its inputs'}"
        return f"{said}, and stayed where {lacking} moved the right one" if lacking else said
    if not found_on:
        should = f", though it should depend on {lacking}" if lacking else ", just as it should"
        return f"{quantity} depends on none of its inputs{should}"
    said = f"{quantity} depends on {found_on}"
    said += f", but not on {lacking}, on which it should" if lacking else ""
    said += f", though it should not depend on {beyond}" if beyond else ""
    return said + ("" if lacking or beyond else ", just as it should")


def together(names: Sequence[str], among: Collection[str]) -> str:
    """Names in one line: a whole for all its parts, and one with [*] for those that differ in their brackets alone."""

    def whole(name: str) -> str:
        tokens = re.findall(r"\[[^\[\]]*\]|\.?[^.\[]+", name)
        for prefix in ("".join(tokens[:number]) for number in range(1, len(tokens))):
            if all(other in names for other in among if other.startswith((f"{prefix}.", f"{prefix}["))):
                return prefix
        alike = [other for other in among if _starred(other) == _starred(name)]
        return _starred(name) if len(alike) > 1 and all(other in names for other in alike) else name

    return ", ".join(dict.fromkeys(map(whole, names)))


def _starred(name: str) -> str:
    return re.sub(r"\[[^\[\]]*\]", "[*]", name)


# PERTURBING


def perturbations(inputs: Any) -> Iterator[tuple[str, Any]]:
    """Every input by name, with copies of all of them in which that one is another."""
    for name, value in inputs.items():
        for path, changed in _changes(value):
            yield f"{name}{path}", {**inputs, name: changed}


def _changes(value: Any) -> Iterator[tuple[str, Any]]:
    """The ways to change a value: itself, or one of its parts, with the path of the part."""
    if isinstance(value, np.ndarray):
        yield "", _moved(value)
        yield "", _turned(value)
    elif isinstance(value, float):
        yield "", 0.625 * value + 0.125  # a share stays one, and no number stays what it is
    elif isinstance(value, BudgetSchedule):
        yield from _each_field(value, lambda held: held + 1)
    else:
        for path, item, remade in parts(value):
            yield from ((path + further, remade(changed)) for further, changed in _changes(item))


def parts(value: Any) -> Iterator[tuple[str, Any, Callable[[Any], Any]]]:
    """Every part of a value, with its path, and how to make the whole again with another in its place."""
    if is_dataclass(value) and not isinstance(value, type):
        for name in (field.name for field in fields(value)):
            yield f".{name}", getattr(value, name), partial(_with, value, name)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield f"[{key}]", item, partial(_with_item, value, key)
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            name = f".{value._fields[place]}" if hasattr(value, "_fields") else f"[{place}]"
            yield name, item, partial(_with_place, value, place)


def _with(value: Any, name: str, changed: Any) -> Any:
    try:
        return replace(value, **{name: changed})
    except (ValueError, TypeError):  # a configuration that the rules refuse: left as it was
        return value


def _with_item(value: dict[Any, Any], key: Any, changed: Any) -> dict[Any, Any]:
    return {**value, key: changed}


def _with_place(value: Any, place: int, changed: Any) -> Any:
    parts = [*value[:place], changed, *value[place + 1 :]]
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)


def _moved(a: Any) -> Any:
    if a.dtype.kind == "b":
        return ~a
    if a.dtype.kind in "iu":
        return a
    size = max(float(np.max(np.abs(a.astype(np.float64)), initial=0.0)), 2.0**-40)
    ramp = np.arange(1, a.size + 1).reshape(a.shape) / (a.size or 1)
    return (a.astype(np.float64) + 0.25 * size * ramp).astype(a.dtype)


def _turned(a: Any) -> Any:
    """The same numbers in the opposite order, four times as large: what is selected among them changes too."""
    return np.flip(a).copy() if a.dtype.kind in "biu" else (4.0 * np.flip(a).astype(np.float64)).astype(a.dtype)


def _each_field(value: Any, change: Callable[[Any], Any]) -> Iterator[tuple[str, Any]]:
    for field in fields(value):
        try:
            yield f".{field.name}", replace(value, **{field.name: change(getattr(value, field.name))})
        except ValueError:  # a schedule that the rules refuse
            continue
