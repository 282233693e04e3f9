"""The page of stages: what it says of every argument and result is what the table draws, asks and expects."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from adalora_ref.conformance.cases import NUMPY_DTYPES
from adalora_ref.conformance.expectations import Undecided
from adalora_ref.conformance.seen import case_inputs, expectation
from adalora_ref.conformance.serial import with_normals
from adalora_ref.conformance.stages import STAGES, Stage
from adalora_ref.conformance.target import Lane, spoken
from adalora_ref.convention import SPEC

PAGE = (Path(__file__).parent.parent / "docs/verify/stages.md").read_text(encoding="utf-8")
SECTIONS = {part.split("`", 1)[0]: part for part in PAGE.split("\n## `")[1:]}
DTYPES = {"F64": "float64", "F32": "float32", "I64": "int64", "BOOL": "bool"}
NUMPY: dict[str, Any] = {**NUMPY_DTYPES}
CASES = 12


class Row(NamedTuple):
    """A row of the page: what is called so has this shape and dtype, or is this kind of JSON."""

    name: str
    kind: str
    dtype: str
    optional: bool

    def matches(self, path: str) -> bool:
        """Whether *path* is the name, m standing for a matrix and i for a place."""
        pattern = re.escape(self.name).replace(r"\[m\]", r"\[[a-z]\w+\]").replace(r"\[i\]", r"\[\d+\]")
        return re.fullmatch(pattern, path) is not None


def cells(text: str, heading: str) -> list[list[str]]:
    """The cells below the header row that begins with *heading*."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line[1:-1].split(" | ")])
    return rows


FORMS = {name.strip("`"): re.findall(r"`(\.\w+)` ([^;]+)", parts) for name, parts in cells(PAGE, "form")}


def rows(stage: Stage, heading: str) -> list[Row]:
    """The rows of a stage's table, forms taken apart."""
    found = [expand(name.strip("`"), kind, dtype) for name, kind, dtype, _ in cells(SECTIONS[stage.name], heading)]
    return [row for several in found for row in several]


def expand(name: str, kind: str, dtype: str) -> list[Row]:
    if kind in FORMS:
        return [row for part, of in FORMS[kind] for row in expand(name + part, of.strip(), dtype)]
    return [Row(name, kind.removesuffix(" or null"), dtype, optional=kind.endswith("null"))]


def parts(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every array and plain value among arguments, under the name that the page gives it; a list of numbers is one."""
    if is_dataclass(value):
        for field in fields(value):
            yield from parts(getattr(value, field.name), f"{path}.{field.name}")
    elif hasattr(value, "_fields"):
        for name in value._fields:
            yield from parts(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from parts(item, f"{path}[{key}]")
    elif isinstance(value, list | tuple) and not all(isinstance(item, int) for item in value):
        for place, item in enumerate(value):
            yield from parts(item, f"{path}[{place}]")
    else:
        yield path, value


def agrees(row: Row, value: Any, dtype: str, sizes: dict[str, Any]) -> bool:
    """Whether an argument is what the row says; *sizes* are what the letters of the case stand for so far."""
    if isinstance(value, np.ndarray):
        return array_agrees(row, value.dtype.name, value.shape, dtype, sizes)
    if isinstance(value, list):
        letter = re.fullmatch(r"list of (\w+) integers", row.kind)
        return letter is not None and sizes.setdefault(letter[1], len(value)) == len(value)
    kinds = {"integer": int, "number": float, "boolean": bool, "null": type(None)}
    return row.kind in kinds and type(value) is kinds[row.kind]


def array_agrees(row: Row, name: str, shape: tuple[int, ...], dtype: str, sizes: dict[str, Any]) -> bool:
    """Whether dtype and shape are one of the alternatives that the row has."""
    wide = "float64" if dtype == "float64" else "float32"
    scalars = {"integer": "()", "number": "()", "boolean": "()"}
    for kind, told in zip(row.kind.split(" or "), row.dtype.split(" or "), strict=True):
        form = scalars.get(kind, kind)
        letters = [letter for letter in form.strip("()").replace(" ", "").split(",") if letter]
        wanted = {"case": dtype, "state": wide}.get(told) or DTYPES[told]
        wanted = "int64" if kind == "integer" else wanted
        if form.startswith("(") and wanted == name and fits(letters, shape, sizes):
            return True
    return False


def fits(letters: list[str], shape: tuple[int, ...], sizes: dict[str, Any]) -> bool:
    """Whether the letters stand for these lengths; what a letter stands for is remembered."""
    leading: tuple[int, ...] = ()
    if letters[:1] == ["…"]:
        cut = len(shape) - len(letters) + 1
        leading, letters, shape = shape[:cut], letters[1:], shape[cut:]
        if sizes.setdefault("…", leading) != leading:
            return False
    if len(letters) != len(shape):
        return False
    return all(
        int(letter) == n if letter.isdecimal() else sizes.setdefault(letter, n) == n
        for letter, n in zip(letters, shape, strict=True)
    )


def check(found: dict[str, Any], told: list[Row], dtype: str, sizes: dict[str, dict[str, Any]]) -> set[str]:
    """Hold what a case has against the rows, each by the one that it matches; return the names of those used."""
    used = set()
    for path, value in found.items():
        if value is None and any(r.optional and (r.name == path or r.name.startswith(f"{path}[")) for r in told):
            continue
        matching = [row for row in told if row.matches(path)]
        assert len(matching) == 1, f"{path} must be in one row"
        matrix = next(iter(re.findall(r"\[([a-z]\w*)\]", path)), "") if "[m]" in matching[0].name else ""
        assert agrees(matching[0], value, dtype, sizes.setdefault(matrix, {})), (path, matching[0])
        used.add(matching[0].name)
    return used


def test_the_page_has_every_stage_in_order() -> None:
    """The sections are the table's rows, each with its equation."""
    assert list(SECTIONS) == [stage.name for stage in STAGES]
    for stage in STAGES:
        assert f"```text\n{stage.equation}\n```" in SECTIONS[stage.name]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_arguments_and_results(stage: Stage) -> None:
    """Every argument that a case has, and every result expected of it, is one row's, of its shape and dtype."""
    arguments, results = rows(stage, "argument"), rows(stage, "result")
    asked, answered = set(), set()
    for dtype in ("float64", "bfloat16"):
        for index in range(CASES):
            inputs = with_normals(case_inputs(stage, dtype, 0, index))
            sizes: dict[str, dict[str, Any]] = {}
            given = {path: value for name, held in inputs.items() for path, value in parts(held, name)}
            asked |= check(given, arguments, dtype, sizes)
            try:
                expected = expectation(stage, Lane(dtype, "float32", SPEC), 0, index)
            except Undecided:
                continue
            forms = {
                spoken(path): np.empty(want.high.shape, NUMPY.get(want.dtype, want.dtype))
                for path, want in expected.items()
            }
            answered |= check(forms, results, dtype, sizes)
    assert asked == {row.name for row in arguments if row.kind != "null"}
    assert answered == {row.name for row in results}


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_options_and_exactness(stage: Stage) -> None:
    """An argument that may be null is an option of the stage, and "Exact." is said where no bound is above 0."""
    optional = {row.name.split("[")[0] for row in rows(stage, "argument") if row.optional and "." not in row.name}
    assert optional == set(stage.options)
    bounds = []
    for index in range(CASES):
        try:
            bounds += [want.error for want in expectation(stage, Lane("float32", "float32", SPEC), 0, index).values()]
        except Undecided:
            continue
    exact = not any(np.any(bound) for bound in bounds)
    assert bounds
    assert ("**Bound.** Exact." in SECTIONS[stage.name]) == exact
