"""One verdict, three forms: a table to read, JSON, and JUnit XML."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections import Counter
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

from rich.console import Console
from rich.table import Table
from rich.text import Text

import adalora_ref
from adalora_ref.conformance import findings
from adalora_ref.conformance.bad_input import Handed
from adalora_ref.conformance.findings import Finding
from adalora_ref.conformance.verdict import CONCLUSIVE, Check, Row, Verdict
from adalora_ref.convention import CONVENTIONS

COLOURS = {
    Verdict.PASS: "green",
    Verdict.WARN: "yellow",
    Verdict.FAIL: "bold red",
    Verdict.KNOWN: "yellow",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.NOT_RUN: "dim",
}


FORMAT = "adalora-ref verdict 1"
"""Stands in every verdict that is written as JSON; a reader refuses any other."""

LEGEND = "under each array library: the largest error of any element over its rounding-error bound; above 1 fails"


class Report(NamedTuple):
    """Everything that a verdict says."""

    target: str
    convention: str
    preset: str
    seed: int
    rows: tuple[Row, ...]
    status: int
    findings: tuple[Finding, ...] = ()
    unexpected: tuple[str, ...] = ()
    """What was known to fail and did not, in sentences."""
    missing: tuple[str, ...] = ()
    """Stages that were required and did not run."""
    bad_input: tuple[Handed, ...] = ()

    @property
    def sentence(self) -> str:
        """The verdict in words: how many checks ran of how many, and how many could not decide."""
        total = sum(len(row.checks) for row in self.rows)
        run = sum(row.run for row in self.rows)
        undecided = sum(row.inconclusive for row in self.rows)
        known = sum(check.verdict is Verdict.KNOWN for row in self.rows for check in row.checks)
        word = {0: "conforms", 1: "does not conform", 3: "is undecided"}[self.status]
        failed = any(row.verdict is Verdict.FAIL for row in self.rows) or any(f.is_defect for f in self.findings)
        if self.unexpected and not failed:
            word = "passes what is known to fail"
        counted = f", {known} known to fail" if known else ""
        counted += f"; required, but not run: {', '.join(self.missing)}" if self.missing else ""
        told = f"{self.target} {word}: {run} of {total} checks ran, {undecided} of them inconclusive{counted}"
        return f"{told}; {findings.sentence(self.findings)}" if self.findings else told


def show(report: Report, console: Console) -> None:
    """Print the table, then for every stage that failed where it first departs and why, then the verdict."""
    console.print(
        f"adalora-ref {adalora_ref.__version__} · specification {adalora_ref.SPECIFICATION} · "
        f"convention {report.convention} · preset {report.preset} · seed {report.seed}"
    )
    console.print(unwrapped(_table(report), console), soft_wrap=True)
    for row in report.rows:
        for line in _remarks(row) if row.run else ():
            console.print(Text(line), soft_wrap=True)
    for line in (*_convention(report), *_lacking(report), *_bad_input(report), *report.unexpected):
        console.print(Text(line), soft_wrap=True)
    console.print(Text(LEGEND, style="dim"), soft_wrap=True)
    if report.findings:
        _show_findings(report, console)
    style = {0: "green", 1: "bold red", 3: "yellow"}[report.status]
    console.print(Text(report.sentence, style=style), soft_wrap=True)


def _show_findings(report: Report, console: Console) -> None:
    console.print(Text(f"\nFindings in {report.target}\n", style="bold"), soft_wrap=True)
    console.print(unwrapped(findings.table(report.findings), console), soft_wrap=True)
    for line in (*findings.remarks(report.findings), ""):
        console.print(Text(line), soft_wrap=True)


def unwrapped(table: Table, console: Console) -> Text:
    """The table in its natural width; a terminal that is narrower breaks the lines itself."""
    wide = Console(file=StringIO(), width=10_000, force_terminal=console.is_terminal)
    with wide.capture() as captured:
        wide.print(table)
    return Text.from_ansi("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _table(report: Report) -> Table:
    """A row a stage: name, verdict, checks run of all, largest error over bound on each library, first divergence."""
    libraries = list(dict.fromkeys(check.library for row in report.rows for check in row.checks))
    table = Table("stage", "verdict", "checks", *libraries, "first divergence", box=None, pad_edge=False)
    for row in report.rows:
        cells = [_worst([c for c in row.checks if c.library == name]) for name in libraries]
        verdict = Text(row.verdict, style=COLOURS[row.verdict])
        table.add_row(row.stage, verdict, f"{row.run}/{len(row.checks)}", *cells, Text(_first_divergence(row)))
    return table


def _first_divergence(row: Row) -> str:
    failed = row.first_failure
    if failed is None:
        return ""
    return failed.divergence.where if failed.divergence else failed.reason


def _worst(checks: list[Check]) -> str:
    decided = [c for c in checks if c.verdict in CONCLUSIVE]
    return figure(max(c.ratio for c in decided)) if decided else "–"


def figure(ratio: float) -> str:
    """A ratio to two digits; exact results have none above 0."""
    if ratio == 0:
        return "exact"
    return "∞" if math.isinf(ratio) else f"{ratio:.2g}"


def _remarks(row: Row) -> list[str]:
    """What a reader needs to know of a row that is not simply PASS."""
    lines = []
    failed = row.first_failure
    if row.note:
        lines.append(f"{row.stage}: {row.note}")
    if row.verdict is Verdict.WARN:
        warned = next(check for check in row.checks if check.verdict is Verdict.WARN)
        why = warned.reason or "within the worst case, but further off than rounding is likely to take it"
        lines.append(f"{row.stage}: {why}, {warned.case}")
    if failed is not None:
        failures = sum(check.verdict is Verdict.FAIL for check in row.checks)
        lines.append(f"\n{row.stage}: FAIL in {failures} of {row.run} checks, first in {failed.case}")
        lines += explain(row.equation, failed, row.diagnosis)
        if row.reproduction:
            lines.append(f"  reproduce  {row.reproduction}")
    listed = Counter((c.known, c.link) for c in row.checks if c.verdict is Verdict.KNOWN)
    for (reason, link), number in listed.items():
        where = f" ({link})" if link else ""
        lines.append(f"{row.stage}: {number} of {len(row.checks)} checks fail as known: {reason}{where}")
    for verdict, words in ((Verdict.NOT_RUN, "did not run"), (Verdict.INCONCLUSIVE, "are inconclusive")):
        reasons = Counter(check.reason for check in row.checks if check.verdict is verdict)
        lines += [
            f"{row.stage}: {number} of {len(row.checks)} checks {words}: {reason}" for reason, number in reasons.items()
        ]
    return lines


def explaining(report: Report) -> list[str]:
    """The conventions under which everything that failed is right."""
    failed = [row for row in report.rows if row.verdict is Verdict.FAIL]
    return [name for name in CONVENTIONS if failed and all(name in row.conventions for row in failed)]


def _convention(report: Report) -> list[str]:
    failed = [row for row in report.rows if row.verdict is Verdict.FAIL]
    stages = ", ".join(row.stage for row in failed)
    differences = f"{len(failed)} difference{'s' if len(failed) > 1 else ''}"
    return [
        f"\nas far as it fails, this is convention {name}, not {report.convention}: {differences}, {stages}; "
        f"check against it with --convention {name}"
        for name in explaining(report)
    ]


def lacking(report: Report) -> dict[str, list[str]]:
    """Stages of which nothing ran, gathered by the reason."""
    gathered: dict[str, list[str]] = {}
    for row in report.rows:
        if row.verdict is Verdict.NOT_RUN:
            reasons = dict.fromkeys(check.reason for check in row.checks)
            gathered.setdefault(" and ".join(reasons).replace(row.stage, "such function"), []).append(row.stage)
    return gathered


def _lacking(report: Report) -> list[str]:
    return [f"not run, {reason}: {', '.join(stages)}" for reason, stages in lacking(report).items()]


def explain(equation: str, check: Check, diagnosis: str) -> list[str]:
    """The equation, the first divergence of a check that failed, and why."""
    return [
        f"  equation   {equation}",
        *describe(check),
        *([f"  diagnosis  {diagnosis}"] if diagnosis else []),
    ]


def _bad_input(report: Report) -> list[str]:
    """What the target does with bad input, by function: for information, since the verdict is not about it."""
    handed = report.bad_input
    if not handed:
        return []
    refused = sum(bool(h.refused) for h in handed)
    accepted: dict[str, list[str]] = {}
    for h in handed:
        if not h.refused:
            accepted.setdefault(h.function, []).append(h.given)
    lines = [f"bad input: {refused} of {len(handed)} refused; this is no part of the verdict"]
    return lines + [f"  {name} accepts {'; '.join(given)}" for name, given in accepted.items()]


def describe(check: Check) -> list[str]:
    """The first divergence in full: quantity, element, got, expected, bound, ratio, ulps; or the reason in words."""
    d = check.divergence
    if d is None:
        return [f"  reason     {check.reason}"]
    ulps = "" if math.isnan(d.ulps) else f", {d.ulps:.3g} units in the last place"
    return [
        f"  quantity   {d.where}",
        f"  got        {d.got!r}",
        f"  expected   {d.expected!r}",
        f"  bound      {d.bound:.3g}  (error/bound {figure(d.ratio)}{ulps})"
        if d.bound
        else "  bound      0, since nothing rounds here: the result must be exact",
    ]


def to_json(report: Report) -> dict[str, Any]:
    """The verdict as plain data; what is not finite is a string."""
    return {
        "format": FORMAT,
        "adalora_ref": adalora_ref.__version__,
        "specification": adalora_ref.SPECIFICATION,
        **{name: getattr(report, name) for name in ("target", "convention", "preset", "seed", "status", "sentence")},
        "versions": _versions(report),
        "unexpected": list(report.unexpected),
        "missing": list(report.missing),
        "rows": [
            {
                "stage": row.stage,
                "equation": row.equation,
                "verdict": row.verdict,
                "run": row.run,
                "inconclusive": row.inconclusive,
                "diagnosis": row.diagnosis,
                "conventions": list(row.conventions),
                "reproduction": row.reproduction,
                "note": row.note,
                "growth": [_finite(grown._asdict()) for grown in row.growth],
                "checks": [_plain_check(check) for check in row.checks],
            }
            for row in report.rows
        ],
        "findings": findings.to_json(report.findings),
        "bad_input": [handed._asdict() for handed in report.bad_input],
    }


def _versions(report: Report) -> dict[str, str]:
    """Python, NumPy, and the other array libraries that the checks met."""
    names = dict.fromkeys(("numpy", *(check.library for row in report.rows for check in row.checks)))
    found = {name: getattr(sys.modules.get(name), "__version__", "") for name in names}
    return {"python": platform.python_version(), **{name: str(held) for name, held in found.items() if held}}


def _plain_check(check: Check) -> dict[str, Any]:
    plain = check._asdict()
    plain["divergence"] = None if check.divergence is None else _finite(check.divergence._asdict())
    return _finite(plain)


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def require_writable(path: Path) -> None:
    """Refuse, with ValueError, a file that cannot be written, before any work is done."""
    named = path.parent.is_dir() and not path.is_dir() and str(path) != "-"
    if not named or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"a report must be written to a file in a folder that exists; got {str(path)!r}")


def write_json(report: Report, path: Path) -> None:
    """Write the verdict as JSON."""
    write_text(path, json.dumps(to_json(report), indent=1, ensure_ascii=False) + "\n")


def write_junit(report: Report, path: Path) -> None:
    """Write the verdict as JUnit XML: a test case a check, named by its stable id, and one a finding."""
    checks = [check for row in report.rows for check in row.checks]
    shown = {id(row.first_failure): f"\n  reproduce  {row.reproduction}" for row in report.rows if row.reproduction}
    counts = Counter(check.verdict for check in checks)
    skipped = counts[Verdict.NOT_RUN] + counts[Verdict.INCONCLUSIVE] + counts[Verdict.KNOWN]
    suite = ET.Element(
        "testsuite",
        name=f"adalora-ref verify {report.target}",
        tests=str(len(checks) + len(report.unexpected) + len(report.missing)),
        failures=str(counts[Verdict.FAIL] + len(report.unexpected) + len(report.missing)),
        errors="0",
        skipped=str(skipped),
    )
    for check in checks:
        case = ET.SubElement(suite, "testcase", classname=check.stage, name=f"{check.case}/{check.library}")
        if check.verdict is Verdict.FAIL:
            text = "\n".join(describe(check)) + shown.get(id(check), "")
            ET.SubElement(case, "failure", message=text.strip().splitlines()[0].strip()).text = text
        elif check.verdict is Verdict.KNOWN:
            ET.SubElement(case, "skipped", message=f"{check.verdict}: {check.known}").text = check.link
        elif check.verdict in (Verdict.NOT_RUN, Verdict.INCONCLUSIVE):
            ET.SubElement(case, "skipped", message=f"{check.verdict}: {check.reason}")
    for kind, told in (("known", report.unexpected), ("required", report.missing)):
        for what in told:
            case = ET.SubElement(suite, "testcase", classname=kind, name=what)
            message = what if kind == "known" else f"{what} is required, but did not run"
            ET.SubElement(case, "failure", message=message)
    findings.add_test_cases(suite, report.findings)
    ET.indent(suite)
    write_text(path, '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n")


def write_text(path: Path, text: str) -> None:
    """Write the whole file or nothing."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
