"""The case of a program as files, and the text of a `repro.py` that asks for it."""

from __future__ import annotations

import json
from pathlib import Path

from adalora_ref.conformance import standalone_comparison, standalone_program, tensor_files
from adalora_ref.conformance.minimise import Minimised
from adalora_ref.conformance.script_parts import (
    SHARED,
    STATUS,
    About,
    Data,
    body,
    ending,
    heading,
    imports,
    joined,
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
        "stage": stage.name,
        "equation": stage.equation_under(lane.convention),
        "convention": lane.convention.name,
        "dtype": lane.dtype,
        "arguments": plain_of(inputs),
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


def program_script(stage: Stage, lane: Lane, case: Minimised, about: About) -> tuple[str, Data]:
    """Return a program that asks another one for the case beside it, and shows where the answer departs."""
    command = about.spec.partition(":")[2]
    needs = ("ml_dtypes",) if lane.dtype == "bfloat16" else ()
    sections = [
        heading(
            f"{stage.name} of {command}: {about.says}.",
            about.file,
            f"{with_what(needs, 'the program')} Run it where the command can be started.\n"
            "The arguments lie beside this file in case.json and inputs.safetensors, what must come back in\n"
            f"expected.safetensors. {STATUS}",
        ),
        imports(standalone_comparison, standalone_program, others=needs),
        SHARED,
        *map(body, (standalone_comparison, standalone_program)),
        ending(repr(command), *about.told()),
    ]
    return joined(sections), {}
