"""The inputs and results of a case for other languages: tensors by name, and everything else as plain JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from adalora_ref.adamw import AdamState
from adalora_ref.array import Array
from adalora_ref.budget import BudgetSchedule
from adalora_ref.conformance.cases import Inputs
from adalora_ref.conformance.target import leaves, spoken
from adalora_ref.conformance.untrusted import printable
from adalora_ref.factors import Factors
from adalora_ref.importance import Importance
from adalora_ref.records import Config, TrainState


def tensors_of(inputs: Inputs) -> dict[str, Array]:
    """Every array of a case under the name that `spoken` gives it: ``factors.B``, ``state.masks[first]``."""
    return {spoken(path): a for path, a in leaves(inputs) if isinstance(a, np.ndarray)}


def plain_of(inputs: Inputs) -> dict[str, Any]:
    """The arguments of a case as JSON; an array stands there as ``{"tensor": name}``."""
    return {name: _plain(value, name) for name, value in inputs.items()}


def _plain(value: Any, path: str) -> Any:
    if isinstance(value, np.ndarray):
        return {"tensor": path}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name), f"{path}.{field.name}") for field in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item, f"{path}[{key}]") for key, item in value.items()}
    if hasattr(value, "_fields"):
        return {name: _plain(getattr(value, name), f"{path}.{name}") for name in value._fields}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{path}[{place}]") for place, item in enumerate(value)]
    return value


def with_normals(inputs: Inputs) -> Inputs:
    """The inputs; where they have a seed of NumPy's generator, with the standard normals that it gives, B before A.

    Other languages have other generators, so they take the numbers.
    """
    if "seed" not in inputs:
        return inputs
    rng = np.random.default_rng(inputs["seed"])
    if "d_out" in inputs:
        return inputs | {"normals": _drawn(rng, inputs["d_out"], inputs["d_in"], inputs["r"])}
    r = inputs["config"].initial_rank
    return inputs | {"normals": {name: _drawn(rng, W.shape[0], W.shape[1], r) for name, W in inputs["weights"].items()}}


def _drawn(rng: np.random.Generator, d_out: int, d_in: int, r: int) -> dict[str, Array]:
    return {"B": rng.standard_normal((d_out, r)), "A": rng.standard_normal((r, d_in))}


def path_of(name: str) -> str:
    """The path of a result, from the name that it is spoken of by: ``state.first.B`` is [state].first.B."""
    return re.sub(r"^[^.\[]+", lambda first: f"[{first.group()}]", name)


# THE WAY BACK

STRUCTURES: dict[frozenset[str], Callable[..., Any]] = {
    frozenset(names): kind
    for kind, names in (
        (Factors, ("B", "s", "A")),
        *((kind, kind._fields) for kind in (Importance, AdamState, TrainState)),
        *((kind, tuple(field.name for field in fields(kind))) for kind in (BudgetSchedule, Config)),
    )
}
"""What an object of JSON with these names is."""


LONGEST_RUN = 2**20
"""Steps of a schedule: some diagnoses walk through all of them."""


def inputs_of(plain: Mapping[str, Any], tensors: Mapping[str, Array]) -> Inputs:
    """Return the arguments that `plain_of` wrote; a list in a list is a pair, such as those of a batch.

    Raises
    ------
    ValueError
        If a tensor is lacking, the arguments do not fit together, or a size is not that of the normals given with it.
    """
    try:
        inputs = {name: _typed(value, tensors) for name, value in plain.items()}
        _require_sizes(inputs)
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"the arguments do not fit together: {printable(str(error), 200)}") from None
    return inputs


def _typed(value: Any, tensors: Mapping[str, Array]) -> Any:
    if isinstance(value, list):
        parts = [_typed(item, tensors) for item in value]
        return [tuple(part) if isinstance(part, list) else part for part in parts]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"tensor"}:
        return tensors[value["tensor"]]
    items = {name: _typed(item, tensors) for name, item in value.items()}
    kind = STRUCTURES.get(frozenset(items))
    made = items if kind is None else kind(**items)
    if isinstance(made, BudgetSchedule) and made.total > LONGEST_RUN:
        raise ValueError(f"a schedule must have at most {LONGEST_RUN} steps; got {made.total}")
    return made


def _require_sizes(inputs: Inputs) -> None:
    """Where normals are drawn, those given must have the sizes that are asked for: nobody should draw a billion."""
    if "seed" not in inputs:
        return
    if "d_out" in inputs:
        wanted = [(inputs["d_out"], inputs["d_in"], inputs["r"], inputs["normals"])]
    else:
        r = inputs["config"].initial_rank
        wanted = [(*W.shape, r, inputs["normals"][name]) for name, W in inputs["weights"].items()]
    for d_out, d_in, r, drawn in wanted:
        if (drawn["B"].shape, drawn["A"].shape) != ((d_out, r), (r, d_in)):
            raise ValueError(f"the normals must be those of {d_out} × {d_in} at rank {r}")
