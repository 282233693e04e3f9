"""The page of a verdict: what was found, what to do next, where it departs first, and all figures as a heat map."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree as ET

from adalora_ref.conformance.report import Report, explaining, lacking
from adalora_ref.conformance.verdict import Verdict
from adalora_ref.conformance.verdict_file import Stored
from adalora_ref.html.divergence import First, divergence_section, first_failure
from adalora_ref.html.elements import code, e, terms
from adalora_ref.html.findings_list import bad_input_section, findings_section
from adalora_ref.html.heat_table import heat_section
from adalora_ref.html.shell import page
from adalora_ref.html.signs import badge
from adalora_ref.html.stage_list import not_run_section, stages_section

OVERALL = {0: Verdict.PASS, 1: Verdict.FAIL, 3: Verdict.INCONCLUSIVE}


def verdict_page(stored: Stored) -> str:
    """Return the page of a verdict."""
    report = stored.report
    first = first_failure(report)
    main = e(
        "main",
        _top(stored),
        _next_steps(report, first),
        divergence_section(first),
        heat_section(report),
        stages_section(report),
        not_run_section(report),
        findings_section(report),
        bad_input_section(report),
    )
    return page(f"{report.target} {in_words(report)[0]}", main, "heat.js")


def _top(stored: Stored) -> ET.Element:
    report = stored.report
    word, counts = in_words(report)
    facts: list[tuple[str, ET.Element | str]] = [
        ("Target", code(report.target)),
        ("Convention", report.convention),
        ("Cases", f"preset {report.preset}, seed {report.seed}"),
        ("adalora-ref", f"{stored.package}, specification {stored.specification}"),
        ("With", ", ".join(f"{name} {held}" for name, held in stored.versions.items())),
    ]
    return e(
        "header",
        e("p", badge(OVERALL[report.status]), class_="verdict"),
        e("h1", code(report.target), f" {word}"),
        e("p", counts, ".", class_="lead"),
        terms(facts, "facts"),
    )


def in_words(report: Report) -> tuple[str, str]:
    """What the target does, in how many of the stages if not in all, and the counts of the verdict's sentence."""
    word, _, counts = report.sentence.removeprefix(f"{report.target} ").partition(": ")
    ran = sum(row.run > 0 for row in report.rows)
    part = report.status == 0 and ran < len(report.rows)
    return (f"{word} in {ran} of {len(report.rows)} stages; the others were not run" if part else word), counts


def _next_steps(report: Report, first: First | None) -> ET.Element:
    steps = [e("li", *step) for step in next_steps(report, first)]
    return e("section", e("h2", "What to do next"), e("ol", *steps, class_="steps"), aria_label="What to do next")


def next_steps(report: Report, first: First | None) -> Iterator[list[ET.Element | str]]:
    """Yield, in order, what helps someone with this verdict."""
    for name in explaining(report):
        yield [
            f"Everything that failed is right under the convention {name}. If that is meant, check against it: ",
            code(f"adalora-ref verify … --convention {name}"),
        ]
    if first:
        yield ["Mend ", code(first.row.stage), " first: ", e("a", "where it departs and why", href="#first"), "."]
        if first.row.reproduction:
            yield ["Run the failure by itself: ", code(first.row.reproduction)]
    if any(finding.is_defect for finding in report.findings):
        yield ["Read the ", e("a", "defects", href="#findings"), "; each has a script that shows it by itself."]
    if report.unexpected:
        yield ["Take out of the file of known failures what no longer fails: ", "; ".join(report.unexpected), "."]
    if report.missing:
        yield ["Provide what was required and did not run: ", ", ".join(report.missing), "."]
    undecided = [row.stage for row in report.rows if row.verdict is Verdict.INCONCLUSIVE]
    if undecided:
        yield [f"Check in a wider dtype what could not be decided: {', '.join(undecided)}."]
    if lacking(report):
        yield ["See what was ", e("a", "not run", href="#not-run"), "; nothing is known about it."]
    if report.status == 0:
        yield ["Keep it so: run the same check in your own tests, and name by ", code("--require"), " what must run."]
