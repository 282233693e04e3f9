"""What a verdict knows of each stage, folded, and what did not run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from xml.etree import ElementTree as ET

from adalora_ref.conformance.report import Report, figure, lacking
from adalora_ref.conformance.verdict import Row, Verdict
from adalora_ref.html.divergence import diagnosis, failure
from adalora_ref.html.elements import code, e, table, terms
from adalora_ref.html.signs import badge


def stages_section(report: Report) -> ET.Element:
    """Each stage of which something ran, folded: its equation, its failure and its checks by dtype."""
    ran = [row for row in report.rows if row.run]
    found = [_stage(row) for row in ran] or [e("p", "Nothing ran.")]
    return e("section", e("h2", "Stage by stage"), *found, aria_label="Stage by stage")


def _stage(row: Row) -> ET.Element:
    worst = f"largest error over bound {_worst(row)}" if row.worst else "all exact"
    counted = f" {row.run} of {len(row.checks)} checks ran, {worst}"
    summary = e("summary", badge(row.verdict), " ", code(row.stage), e("span", counted, class_="aside"))
    failed = row.first_failure
    held: list[ET.Element | None] = [summary]
    if failed:
        number = sum(check.verdict is Verdict.FAIL for check in row.checks)
        held += [e("p", f"{number} of {row.run} checks failed; the first:"), terms(failure(row, failed))]
    else:
        held.append(terms([("Equation", row.equation)]))
    held += [*diagnosis(row), _reproduction(row), _lanes(row), _reasons(row), _growth(row)]
    return e("details", *held)


def _worst(row: Row) -> str:
    return "–" if math.isnan(row.worst) else figure(row.worst)


def _reproduction(row: Row) -> ET.Element | None:
    return e("p", "Reproduce: ", code(row.reproduction)) if row.reproduction else None


def _lanes(row: Row) -> ET.Element:
    """The checks of a row by dtype and array library."""
    lanes = dict.fromkeys((check.dtype, check.library) for check in row.checks)
    rows = []
    for dtype, library in lanes:
        held = [check for check in row.checks if (check.dtype, check.library) == (dtype, library)]
        counts = Counter(check.verdict for check in held)
        told = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
        rows.append([dtype, library, str(len(held)), _worst(row._replace(checks=tuple(held))), told])
    heads = ("dtype", "arrays", "checks", "largest error over bound", "verdicts")
    return table(f"{row.stage} by dtype", heads, rows, "plain")


def _reasons(row: Row) -> ET.Element | None:
    found = Counter(
        (check.verdict, check.known or check.reason) for check in row.checks if check.verdict is not Verdict.FAIL
    )
    items = [
        e("li", f"{number} of {len(row.checks)} checks: {verdict}, {reason}")
        for (verdict, reason), number in found.items()
        if reason
    ]
    return e("ul", *items) if items else None


def _growth(row: Row) -> ET.Element | None:
    if not row.growth:
        return None
    rows = [[held.lane, str(held.step), f"{held.apart:.2g}"] for held in row.growth]
    caption = "How far the run lies from the reference's in float64: the largest difference over the largest factor"
    return table(caption, ("run", "step", "apart"), rows, "plain")


def not_run_section(report: Report) -> ET.Element | None:
    """What did not run, wholly or in part, and why; None if all ran."""
    partly = [(row, Counter(c.reason for c in row.checks if c.verdict is Verdict.NOT_RUN)) for row in report.rows]
    items = [e("li", f"{reason}: ", *_listed(stages)) for reason, stages in lacking(report).items()] + [
        e("li", code(row.stage), f", {number} of {len(row.checks)} checks: {reason}")
        for row, reasons in partly
        if row.run
        for reason, number in reasons.items()
    ]
    if not items:
        return None
    return e("section", e("h2", "Not run"), e("ul", *items), id="not-run", aria_label="Not run")


def _listed(names: list[str]) -> Iterator[ET.Element | str]:
    for at, name in enumerate(names):
        yield ", " if at else ""
        yield code(name)
