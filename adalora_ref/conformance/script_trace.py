"""The text of the `repro.py` of a recorded run: the inputs, the formula in plain NumPy, what was recorded instead."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from adalora_ref.conformance import standalone_comparison, standalone_trace
from adalora_ref.conformance.script_parts import (
    EXPECTED,
    READING,
    SHARED,
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
)
from adalora_ref.conformance.trace_case import Recorded

NOTE = """It is shown with NumPy alone. The run took place elsewhere and cannot be asked again. case() has what it
recorded of the inputs; {formula}() is what must be made of them, to be compared with one's own code.
The exit status is 1."""


def trace_script(case: Recorded, about: About) -> tuple[str, Data]:
    """Return a program that shows what was recorded beside what its formula makes of the recorded inputs; its data."""
    formula = case.formula.__name__
    (want,) = wanted({case.quantity: case.expected}).values()
    parts, data = set_aside({"case": case.inputs, "recorded": case.recorded, "expected": want})
    sections = [
        heading(
            f"{case.quantity} at step {case.step} of {about.spec}: what was recorded is wrong.",
            about.file,
            NOTE.format(formula=formula),
        ),
        imports(standalone_comparison, standalone_trace),
        READING if data else "",
        "# THE CASE",
        returns("case", "What the run recorded of the inputs, and what it was told.", parts["case"]),
        plain(case.formula),
        returns("recorded", "What the run has instead.", parts["recorded"]),
        returns("expected", EXPECTED, parts["expected"]),
        SHARED,
        *map(body, (standalone_comparison, standalone_trace)),
        ending(
            f"{about.spec!r}, case, recorded, {formula}, expected",
            *about.told(quantity=case.quantity),
        ),
    ]
    return joined(sections), data


def plain(formula: Callable[..., Any]) -> str:
    """The source of a formula as one writes it, without annotations."""
    return re.sub(r"(: | -> )Any\b", "", inspect.getsource(formula)).strip()
