"""Where a verdict first departs from the mathematics, in full, and why."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple
from xml.etree import ElementTree as ET

from adalora_ref.conformance.report import Report, figure
from adalora_ref.conformance.verdict import Check, Divergence, Row, Verdict
from adalora_ref.html import heat
from adalora_ref.html.elements import code, e, prose, terms


class First(NamedTuple):
    """The first failure of a verdict, and the row that it belongs to."""

    row: Row
    check: Check


def first_failure(report: Report) -> First | None:
    """The failure to begin with: of single stages the first of the table, of runs the earliest of the first lane."""
    lanes = {check.case: heat.place(check).lane for row in report.rows for check in row.checks}
    order = {lane: at for at, lane in enumerate(dict.fromkeys(lanes.values()))}

    def when(found: First) -> tuple[int, int]:
        number = heat.place(found.check).number or 0
        return (order[lanes[found.check.case]] + 1, number) if heat.axis_of(found.row) == "step" else (0, 0)

    failures = [First(row, check) for row in report.rows for check in row.checks if check.verdict is Verdict.FAIL]
    return min(failures, key=when, default=None)


def divergence_section(first: First | None) -> ET.Element | None:
    """The first failure in full, and the diagnosis of its row; None without a failure."""
    if first is None:
        return None
    heading = e("h2", "First divergence: ", code(first.check.stage))
    found = terms(failure(first.row, first.check), "divergence")
    return e("section", heading, found, *diagnosis(first.row), id="first", aria_label="First divergence")


def failure(row: Row, check: Check) -> Iterator[tuple[str, ET.Element | str]]:
    """What is known of a failure, as names and values."""
    at = heat.place(check)
    yield "Equation", row.equation
    if at.number is not None:
        yield at.axis.capitalize(), str(at.number)
    yield "Check", code(check.case)
    yield "Arrays", f"{check.dtype} on {check.library}"
    if check.divergence is None:
        yield "Reason", check.reason
        return
    yield from _departure(check.divergence)


def _departure(d: Divergence) -> Iterator[tuple[str, ET.Element | str]]:
    if matrix := re.search(r"\[([^\]]*[A-Za-z_][^\]]*)\]", d.quantity):
        yield "Matrix", code(matrix[1])
    yield "Quantity", code(d.quantity)
    yield "Element", code(f"[{', '.join(map(str, d.element))}]") if d.element else "the one number that it is"
    yield "Got", code(repr(d.got))
    yield "Expected", code(repr(d.expected))
    yield "Bound", f"{d.bound:.3g}" if d.bound else "0, since nothing rounds here: the result must be exact"
    ulps = "" if math.isnan(d.ulps) else f", {d.ulps:.3g} units in the last place"
    yield "Error over bound", f"{figure(d.ratio)}{ulps}"


def diagnosis(row: Row) -> Iterator[ET.Element]:
    """Yield what the kit makes of a row: the diagnosis, a note, and conventions under which it is right."""
    if row.diagnosis:
        yield e("p", e("strong", "Diagnosis: "), *prose(row.diagnosis), ".", class_="diagnosis")
    if row.note:
        yield e("p", e("strong", "Note: "), *prose(row.note), ".")
    if row.conventions:
        yield e("p", f"The stage is right under the convention {' and under '.join(row.conventions)}.")
