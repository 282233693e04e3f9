"""The case of a program as files, and the text of a `repro.py` that has it too, and asks for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adalora_ref.conformance import standalone_comparison, standalone_program, tensor_files
from adalora_ref.conformance.cases import Inputs
from adalora_ref.conformance.literals import literal
from adalora_ref.conformance.minimise import Minimised
from adalora_ref.conformance.script_parts import (
    EXPECTED,
    READING,
    SHARED,
    STATUS,
    About,
    Data,
    body,
    ending,
    heading,
    imports,
    joined,
    returns,
    set_aside,
    wanted,
    with_what,
)
from adalora_ref.conformance.serial import plain_of, tensors_of, with_normals
from adalora_ref.conformance.stages import Stage
from adalora_ref.conformance.target import Lane


def write_case(folder: Path, stage: Stage, lane: Lane, case: Minimised) -> None:
    """Write the case as JSON with its tensors, for a target that is no Python object.

    `inputs.safetensors` has the arrays that the arguments name; `expected.safetensors` has of each result its value, as
    two doubles, and the bound of the error.
    """
    inputs = with_normals(case.inputs)
    told = {
        **asked_of(stage, lane, inputs),
        "equation": stage.equation_under(lane.convention),
        "results": {name: want.dtype for name, want in case.named.items()},
    }
    (folder / "case.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    tensor_files.write(folder / "inputs.safetensors", tensors_of(inputs))
    parts = {
        f"{name} {part}": getattr(want, attribute)
        for name, want in case.named.items()
        for part, attribute in (("value", "high"), ("rest", "low"), ("bound", "error"))
    }
    tensor_files.write(folder / "expected.safetensors", parts)


def asked_of(stage: Stage, lane: Lane, inputs: Inputs) -> dict[str, Any]:
    """The case as the protocol has it."""
    told = {"stage": stage.name, "convention": lane.convention.name, "dtype": lane.dtype}
    return {**told, "arguments": plain_of(inputs)}


def program_script(stage: Stage, lane: Lane, case: Minimised, about: About) -> tuple[str, Data]:
    """Return a program that asks another one for the case in it, and shows where the answer departs; its data."""
    command = about.spec.partition(":")[2]
    needs = ("ml_dtypes",) if lane.dtype == "bfloat16" else ()
    inputs = with_normals(case.inputs)
    held = {"arrays": tensors_of(inputs), "expected": wanted(case.named)}
    parts, data = (held, {}) if needs else set_aside(held)
    sections = [
        heading(
            f"{stage.name} of {command}: {about.says}.",
            about.file,
            f"{with_what(needs, 'the program')} Run it where the command can be started.\n"
            f"{STATUS}\nIt is 2 where the program cannot be started.\n"
            "The same case lies beside this file as case.json, inputs.safetensors and expected.safetensors.",
        ),
        imports(standalone_comparison, standalone_program, others=needs),
        READING if data else "",
        "# THE CASE",
        f"case = {literal(asked_of(stage, lane, inputs))}",
        returns("arrays", "The tensors that the arguments name.", parts["arrays"]),
        returns("expected", EXPECTED, parts["expected"]),
        SHARED,
        *map(body, (standalone_comparison, standalone_program)),
        ending(f"{command!r}, case, arrays, expected", *about.told()),
    ]
    return joined(sections), data
