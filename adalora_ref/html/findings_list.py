"""What was found beyond the stages: defects and conventions of a library, and what it makes of bad input."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from adalora_ref.conformance.findings import Finding, Kind, Observed, ordered
from adalora_ref.conformance.report import Report
from adalora_ref.conformance.verdict import Verdict
from adalora_ref.html.elements import code, e, prose, table, terms
from adalora_ref.html.signs import SIGNS, class_of


def findings_section(report: Report) -> ET.Element | None:
    """Defects, then conventions, each folded, with its figures and its script; None if none were looked for."""
    if not report.findings:
        return None
    rule = (
        "A defect contradicts the library's own documentation or plain invariance, and fails the verdict. A convention "
        "is a documented choice, and does not."
    )
    section = e("section", e("h2", "Findings"), e("p", rule), id="findings", aria_label="Findings")
    for kind in Kind:
        held = [finding for finding in ordered(report.findings) if finding.kind is kind]
        if held:
            section.extend([e("h3", f"{kind.capitalize()}s"), *map(_finding, held)])
    return section


def _finding(finding: Finding) -> ET.Element:
    pairs = [
        ("Got", finding.got),
        ("Expected", finding.expected),
        ("Where", finding.where),
        ("Reported" if finding.kind is Kind.DEFECT else "Documented", finding.known or "no report is known"),
        ("Not tried", finding.reason),
        ("Reproduce", code(finding.reproduction) if finding.reproduction else ""),
    ]
    script = e("details", e("summary", "The script"), e("pre", code(finding.script), tabindex=0))
    says = e("span", " ", *prose(finding.says), class_="aside")
    summary = e("summary", _mark(finding), " ", code(finding.name), says)
    return e("details", summary, terms(pairs), script if finding.script else None)


def _mark(finding: Finding) -> ET.Element:
    """Whether it was found, in the sign and colour of what that does to the verdict."""
    like = Verdict.FAIL if finding.is_defect else Verdict.PASS
    like = Verdict.NOT_RUN if finding.observed is Observed.NOT_TRIED else like
    return e(
        "span", e("span", SIGNS[like], aria_hidden="true"), f" {finding.observed}", class_=f"badge {class_of(like)}"
    )


def bad_input_section(report: Report) -> ET.Element | None:
    """What the target's functions refuse and accept, folded; None if nothing was handed to it."""
    if not report.bad_input:
        return None
    refused = sum(bool(handed.refused) for handed in report.bad_input)
    rows = [[handed.function, handed.given, handed.refused or "accepted"] for handed in report.bad_input]
    told = f"{refused} of {len(rows)} refused; this is no part of the verdict"
    held = table("What bad input led to", ("function", "given", "what it did"), rows, "plain")
    return e("section", e("h2", "Bad input"), e("details", e("summary", told), held), aria_label="Bad input")
