"""The inputs and results of a case for other languages: tensors by name, and everything else as plain JSON."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from adalora_ref.array import Array
from adalora_ref.conformance.cases import Inputs
from adalora_ref.conformance.target import leaves, spoken


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
