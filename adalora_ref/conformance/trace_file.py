"""A run that a program on another machine recorded: one safetensors file, read and written.

The tensors are named ``step/quantity/matrix``, those of factors with ``/B``, ``/s`` or ``/A`` after it; the metadata
says under which configuration and convention the run was made, and the forward order of the matrices, by which ties are
decided. docs/verify/trace.md has the table of quantities.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from adalora_ref.adamw import AdamState
from adalora_ref.array import Array
from adalora_ref.budget import BudgetSchedule
from adalora_ref.conformance.tensor_files import read, write
from adalora_ref.conformance.trace import Judge, Step
from adalora_ref.convention import convention
from adalora_ref.factors import Factors
from adalora_ref.importance import Importance
from adalora_ref.records import Config

FORMAT = "adalora-ref trace 1"

LARGEST = 2**20
"""Numbers that a trace may hold: each is checked by itself, in 50 digits, which takes about 0.1 ms."""

FACTORS = ("weights", "gradient", "clipped", "moved", "after")
PAIRS = {"importance": ("sensitivity", "uncertainty"), "optimizer": ("first", "second")}
VECTORS = {"scores": "scores", "masks": "keep"}
NUMBERS = ("budget", "due")
QUANTITIES = {*FACTORS, *VECTORS.values(), *NUMBERS, *(name for pair in PAIRS.values() for name in pair)}


def write_trace(path: Path, steps: Sequence[Step], judge: Judge) -> None:
    """Write a recorded run to one file."""
    tensors = {f"{step.number}/{name}": np.asarray(a) for step in steps for name, a in _named(step)}
    metadata = {
        "format": FORMAT,
        "convention": judge.convention.name,
        "dtype": judge.working,
        "config": json.dumps(asdict(judge.config)),
        "matrices": json.dumps(list(steps[0].weights or steps[0].masks or ())),
    }
    write(path, tensors, metadata)


def read_trace(path: Path) -> tuple[list[Step], Judge]:
    """Read a recorded run, and under what it is to be judged.

    Raises
    ------
    ValueError
        If the file is no trace of this version, a tensor has a name or a shape that means nothing here, or the
        configuration is none.
    """
    tensors, metadata = read(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} must have the metadata format: {FORMAT!r}; got {metadata.get('format')!r}"[:400])
    if lacking := [key for key in ("convention", "dtype", "config", "matrices") if key not in metadata]:
        raise ValueError(f"{path} must have the metadata {', '.join(lacking)}")
    if metadata["dtype"] not in ("float64", "float32"):
        raise ValueError(f"the dtype of a trace must be float64 or float32; got {metadata['dtype'][:80]!r}")
    if (numbers := sum(a.size for a in tensors.values())) > LARGEST:
        raise ValueError(
            f"a trace may hold at most {LARGEST} numbers, as each is checked by itself; {path} has {numbers}: "
            f"record a smaller model, or fewer steps"
        )
    judge = Judge(read_config(metadata["config"]), convention(metadata["convention"][:80]), metadata["dtype"])
    order = _matrices(metadata["matrices"])
    steps = [_ordered(_step(number, held), order) for number, held in sorted(_by_step(tensors).items())]
    if not steps:
        raise ValueError(f"{path} has no tensor")
    _require_one_form(steps)
    _require_what_is_told(steps, judge)
    return steps, judge


def read_config(text: str) -> Config:
    """Return the configuration that is written as JSON; ValueError says what is wrong with it."""
    try:
        held = json.loads(text)
        return Config(**{**held, "schedule": BudgetSchedule(**held["schedule"])})
    except (TypeError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"the configuration must be that of adalora_ref.Config as JSON: {error}"[:400]) from None


# WRITING


def _named(step: Step) -> list[tuple[str, Any]]:
    """Every array of a step under its name."""
    found: list[tuple[str, Any]] = []
    for quantity in FACTORS:
        found += _factors(quantity, getattr(step, quantity))
    for field, names in PAIRS.items():
        states = getattr(step, field) or {}
        for name in names:
            found += _factors(name, {matrix: getattr(state, name) for matrix, state in states.items()})
    for field, name in VECTORS.items():
        found += [(f"{name}/{matrix}", a) for matrix, a in (getattr(step, field) or {}).items()]
    return found + [(name, getattr(step, name)) for name in NUMBERS if getattr(step, name) is not None]


def _factors(quantity: str, held: Mapping[str, Factors] | None) -> list[tuple[str, Array]]:
    parts = [(matrix, part) for matrix in held or {} for part in "BsA"]
    return [(f"{quantity}/{matrix}/{part}", getattr((held or {})[matrix], part)) for matrix, part in parts]


# READING


def _by_step(tensors: Mapping[str, Array]) -> dict[int, dict[str, dict[str, Array]]]:
    """Tensors by step, by quantity, and by the rest of their name."""
    held: dict[int, dict[str, dict[str, Array]]] = {}
    for name, a in tensors.items():
        number, quantity, rest = [*name.split("/", 2), "", ""][:3]
        is_number = number.isdecimal() and number.isascii() and len(number) < 10 and number == str(int(number))
        if not is_number or quantity not in QUANTITIES:
            known = ", ".join(sorted(QUANTITIES))
            raise ValueError(f"a tensor is named step/quantity/matrix, the quantity among {known}; got {name[:120]!r}")
        held.setdefault(int(number), {}).setdefault(quantity, {})[rest] = a
    return held


def _step(number: int, held: dict[str, dict[str, Array]]) -> Step:
    fields: dict[str, Any] = {name: _read_factors(number, name, held[name]) for name in FACTORS if name in held}
    for field, names in PAIRS.items():
        if set(names) <= held.keys():
            first, second = (_read_factors(number, name, held[name]) for name in names)
            if first.keys() != second.keys():
                raise ValueError(f"step {number}: {' and '.join(names)} must have the same matrices")
            fields[field] = {m: _state(field, first[m], second[m], number + 1) for m in first}
    for field, name in VECTORS.items():
        if name in held:
            fields[field] = {m: _vector(number, name, m, a) for m, a in held[name].items()}
    for name in NUMBERS:
        if name in held:
            fields[name] = _number(number, name, held[name])
    return Step(number, **fields)


def _state(field: str, first: Factors, second: Factors, steps: int) -> Importance | AdamState:
    return Importance(first, second) if field == "importance" else AdamState(first, second, steps)


def _matrices(text: str) -> list[str]:
    """The names of the matrices in forward order, written as a JSON list."""
    try:
        held = json.loads(text)
    except (ValueError, RecursionError):
        held = None
    if not isinstance(held, list) or not all(isinstance(n, str) for n in held) or len(set(held)) != len(held):
        raise ValueError(f"the matrices must be a JSON list of their names, each once; got {text[:120]!r}")
    return held


def _ordered(step: Step, order: Sequence[str]) -> Step:
    """The step with every dictionary in forward order; each must have just the matrices that are named."""
    fields: dict[str, Any] = {}
    for field, held in step._asdict().items():
        if isinstance(held, dict):
            if held.keys() != set(order):
                beside = min(held.keys() ^ set(order))
                raise ValueError(
                    f"step {step.number}: {field} must have the matrices of the metadata, {', '.join(order)[:200]}; "
                    f"{beside[:80]!r} stands on one side alone"
                )
            fields[field] = {n: held[n] for n in order}
    return step._replace(**fields)


def _require_one_form(steps: Sequence[Step]) -> None:
    """Refuse arrays of one matrix whose sizes differ, within a step or between steps."""
    sizes: dict[str, tuple[int, ...]] = {}
    ranks: dict[str, int] = {}
    for step in steps:
        for field, held in step._asdict().items():
            for matrix, value in held.items() if isinstance(held, dict) else ():
                for a in _arrays(value):
                    r = a.s.shape[0] if isinstance(a, Factors) else a.shape[0]
                    size = (a.B.shape[0], r, a.A.shape[1]) if isinstance(a, Factors) else sizes.get(matrix, ())
                    if r != ranks.setdefault(matrix, r) or (size and size != sizes.setdefault(matrix, size)):
                        raise ValueError(
                            f"step {step.number}: {field} of {matrix[:80]!r} must have the sizes that it has "
                            f"elsewhere, (d_out, r, d_in) {sizes.get(matrix, ())}"
                        )


def _require_what_is_told(steps: Sequence[Step], judge: Judge) -> None:
    """Refuse arrays of another dtype or rank than the metadata say."""
    r = judge.config.initial_rank
    for step in steps:
        for field, held in step._asdict().items():
            for matrix, value in held.items() if isinstance(held, dict) and field != "masks" else ():
                for a in _arrays(value):
                    s = a.s if isinstance(a, Factors) else a
                    if s.dtype.name != judge.working or s.shape != (r,):
                        raise ValueError(
                            f"step {step.number}: {field} of {matrix[:80]!r} must have the dtype and the initial rank "
                            f"of the metadata, {judge.working} and {r}; got {s.dtype.name} and {s.shape[0]}"
                        )


def _arrays(value: Any) -> tuple[Any, ...]:
    """The factors in a state, or the value itself."""
    if isinstance(value, Importance | AdamState):
        return (value[0], value[1])
    return (value,)


def _read_factors(number: int, quantity: str, held: dict[str, Array]) -> dict[str, Factors]:
    """Factors by matrix; ValueError where one lacks a part or has arrays that do not fit."""
    matrices = dict.fromkeys(name.rpartition("/")[0] for name in held)
    found = {}
    for matrix in matrices:
        parts = [held.get(f"{matrix}/{part}") for part in "BsA"]
        if any(part is None for part in parts):
            raise ValueError(f"step {number}: {quantity} of {matrix[:80]!r} must have B, s and A")
        try:
            found[matrix] = Factors(*parts)
        except (TypeError, ValueError) as error:
            raise ValueError(f"step {number}: {quantity} of {matrix[:80]!r}: {error}") from None
    if len(held) != 3 * len(found):
        raise ValueError(f"step {number}: {quantity} must have B, s and A of each matrix, and nothing else")
    return found


def _vector(number: int, name: str, matrix: str, a: Array) -> Array:
    if a.ndim != 1 or (name == "keep") != (a.dtype == bool):
        kind = "booleans" if name == "keep" else "numbers"
        raise ValueError(f"step {number}: {name} of {matrix[:80]!r} must be (r,) {kind}; got {a.dtype.name} {a.shape}")
    return a


def _number(number: int, name: str, held: dict[str, Array]) -> int | bool:
    a = held.get("")
    if a is None or a.size != 1 or a.dtype.kind not in ("b" if name == "due" else "iu"):
        kind = "boolean" if name == "due" else "integer"
        raise ValueError(f"step {number}: {name} must be one {kind}, without a matrix")
    return bool(a.reshape(-1)[0]) if name == "due" else int(a.reshape(-1)[0])
