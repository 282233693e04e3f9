"""On which inputs a wrong quantity hangs: each of them is perturbed in turn, before the target and the reference."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from adalora_ref.conformance.cases import Inputs

Answer: TypeAlias = Callable[[Inputs], bytes | None]
"""What a quantity is for given inputs, by `bits`; None where they are refused."""

Found: TypeAlias = dict[str, tuple[bool, bool]]
"""Of every input whether it moved theirs, and whether it moved ours."""

SECONDS = 30.0
"""Time for all questions about one quantity."""


class Asked(NamedTuple):
    """Inputs for which a quantity is wrong, and whom to ask what it is for others: the target and the reference."""

    inputs: Inputs
    theirs: Answer
    ours: Answer


def bits(value: Any) -> bytes:
    """An array bit for bit, but that −0 is 0: the sign of a zero is no dependence."""
    return bytes((value + value.dtype.type(0)).tobytes())


def dependence(quantity: str, asked: Sequence[Asked], *, smooth: bool, seconds: float = SECONDS) -> str:
    """Say on which inputs a wrong quantity does and does not depend, found by perturbing each of them.

    Parameters
    ----------
    quantity
        Its name in the sentence.
    smooth
        Whether every input that the right quantity depends on moves it at once; of what may stay as it is, like a mask
        or a count, is said what was seen and no more.
    """
    if len({asked[0].theirs(asked[0].inputs) for _ in range(3)}) > 1:
        return f"{quantity} differs from call to call with the same arguments"
    found: Found = {}
    until = time.monotonic() + seconds
    for place, case in enumerate(asked):
        further = _perturbed(found, case, until)
        if further is None and place == 0:
            return f"on which inputs {quantity} hangs is not known: to perturb them took over {seconds:g} s"
        if further is None:
            break
        found = further
    return _depends(quantity, found) if smooth else _moved_with(quantity, found)


def _perturbed(found: Found, case: Asked, until: float) -> Found | None:
    """What is found with one more case, None where time is up before its end; what either refuses says nothing."""
    found = dict(found)
    before = case.theirs(case.inputs), case.ours(case.inputs)
    for name, perturbed in perturbations(case.inputs):
        if time.monotonic() > until:
            return None
        moved = found.get(name, (False, False))
        if all(moved) or (ours := case.ours(perturbed)) is None or (theirs := case.theirs(perturbed)) is None:
            continue
        found[name] = (moved[0] or theirs != before[0], moved[1] or ours != before[1])
    return found


def _sorted(found: Found) -> tuple[str, str, str]:
    """What moved both, theirs alone, ours alone."""
    both, beyond, lacking = (
        together([name for name, moved in found.items() if moved == sort], found)
        for sort in ((True, True), (True, False), (False, True))
    )
    return both, beyond, lacking


def _depends(quantity: str, found: Found) -> str:
    both, beyond, lacking = _sorted(found)
    if not both and not beyond:
        should = f"though it should on {lacking}" if lacking else "as it should"
        return f"{quantity} depends on none of its inputs, {should}"
    on = [both] if both else []
    on += [f"{beyond}, though it should not"] if beyond else []
    said = f"{quantity} depends on {', and on '.join(on)}"
    said += f", but not on {lacking}, though it should" if lacking else ""
    return said if beyond or lacking else f"{said}, the same inputs as it should"


def _moved_with(quantity: str, found: Found) -> str:
    both, beyond, lacking = _sorted(found)
    moved = [both] if both else []
    moved += [f"{beyond}, where the right one stayed"] if beyond else []
    said = f"{quantity} moved with {', and with '.join(moved) or 'none of its inputs'}"
    said += f", and stayed where {lacking} moved the right one" if lacking else ""
    return f"{said}, as the right one did" if both and not (beyond or lacking) else said


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
    if others := _others(value):
        yield from (("", other) for other in others)
        return
    for path, item, remade in parts(value):
        for further, changed in _changes(item):
            if (whole := remade(changed)) is not value:  # it is where the rules refuse the change
                yield path + further, whole


def _others(value: Any) -> list[Any]:
    """Other values in place of what is moved as a whole: an array, a number, a list of whole numbers."""
    if isinstance(value, np.ndarray):
        return _other_arrays(value)
    if isinstance(value, float):
        return [0.625 * value + 0.117, 2 * value + 1.3]  # a share stays one by the first; none that is drawn stays
    if _is_whole(value):
        return [value + 1, value - 1, 2 * value + 5]
    if isinstance(value, list) and all(map(_is_whole, value)):
        return [list(others) for others in zip(*map(_others, value), strict=True)]
    return []


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


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


def _other_arrays(a: Any) -> list[Any]:
    """Moved, and the same numbers in the opposite order, four times as large: what is selected changes too."""
    turned = np.flip(a)
    if a.dtype.kind == "b":
        return [~a, turned.copy()]
    if a.dtype.kind in "iu":
        return [a + 1, a - 1, turned.copy()]
    wide = a.astype(np.float64)
    size = max(float(np.max(np.abs(wide), initial=0.0)), 2.0**-40)
    ramp = np.arange(1, a.size + 1).reshape(a.shape) / (a.size or 1)
    return [(wide + 0.25 * size * ramp).astype(a.dtype), (4.0 * turned.astype(np.float64)).astype(a.dtype)]
