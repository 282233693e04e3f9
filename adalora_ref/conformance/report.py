"""One verdict, three forms: a table to read, JSON, and JUnit XML."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table
from rich.text import Text

import adalora_ref
from adalora_ref.conformance.verdict import Check, Row, Verdict

COLOURS = {
    Verdict.PASS: "green",
    Verdict.WARN: "yellow",
    Verdict.FAIL: "bold red",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.NOT_RUN: "dim",
}


class Report(NamedTuple):
    """Everything that a verdict says."""

    target: str
    convention: str
    preset: str
    seed: int
    rows: tuple[Row, ...]
    status: int

    @property
    def sentence(self) -> str:
        """The verdict in words: how many checks ran of how many, and how many could not decide."""
        total = sum(len(row.checks) for row in self.rows)
        run = sum(row.run for row in self.rows)
        undecided = sum(row.inconclusive for row in self.rows)
        word = {0: "conforms", 1: "does not conform", 3: "is undecided"}[self.status]
        return f"{self.target} {word}: {run} of {total} checks ran, {undecided} of them inconclusive"


def show(report: Report, console: Console) -> None:
    """Print the table, then for every stage that failed where it first departs and why, then the verdict."""
    console.print(
        f"adalora-ref {adalora_ref.__version__} · specification {adalora_ref.SPECIFICATION} · "
        f"convention {report.convention} · preset {report.preset} · seed {report.seed}"
    )
    console.print(_table(report), soft_wrap=not console.is_terminal)
    for row in report.rows:
        for line in _remarks(row):
            console.print(Text(line), soft_wrap=True)
    style = {0: "green", 1: "bold red", 3: "yellow"}[report.status]
    console.print(Text(report.sentence, style=style), soft_wrap=True)


def _table(report: Report) -> Table:
    """A row a stage: its name and verdict, checks run of all, and the largest error over bound on each library."""
    libraries = list(dict.fromkeys(check.library for row in report.rows for check in row.checks))
    table = Table("stage", "verdict", "checks", *(f"{name}: error/bound" for name in libraries), box=None, pad_edge=False)
    for row in report.rows:
        cells = [_worst([c for c in row.checks if c.library == name]) for name in libraries]
        verdict = Text(row.verdict, style=COLOURS[row.verdict])
        table.add_row(row.stage, verdict, f"{row.run}/{len(row.checks)}", *cells)
    for column in table.columns:
        column.no_wrap = True
        column.overflow = "fold"
    return table


def _worst(checks: list[Check]) -> str:
    decided = [c for c in checks if c.verdict in (Verdict.PASS, Verdict.WARN, Verdict.FAIL)]
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
    if failed is not None:
        failures = sum(check.verdict is Verdict.FAIL for check in row.checks)
        lines.append(f"\n{row.stage}: FAIL in {failures} of {row.run} checks, first in {failed.case}")
        lines.append(f"  equation   {row.equation}")
        lines += describe(failed)
        if row.diagnosis:
            lines.append(f"  diagnosis  {row.diagnosis}")
    reasons = Counter(c.reason for c in row.checks if c.verdict in (Verdict.NOT_RUN, Verdict.INCONCLUSIVE))
    lines += [f"{row.stage}: {number} of {len(row.checks)} checks {reason}" for reason, number in reasons.items()]
    return lines


def describe(check: Check) -> list[str]:
    """The first divergence in full: quantity, element, got, expected, bound, ratio, ulps; or the reason in words."""
    d = check.divergence
    if d is None:
        return [f"  reason     {check.reason}"]
    where = f"[{', '.join(map(str, d.element))}]" if d.element else ""
    return [
        f"  quantity   {d.quantity}{where}",
        f"  got        {d.got!r}",
        f"  expected   {d.expected!r}",
        f"  bound      {d.bound:.3g}  (error/bound {figure(d.ratio)}, {d.ulps:.3g} units in the last place)",
    ]


def to_json(report: Report) -> dict[str, Any]:
    """The verdict as plain data; what is not finite is a string."""
    return {
        "adalora_ref": adalora_ref.__version__,
        "specification": adalora_ref.SPECIFICATION,
        **{name: getattr(report, name) for name in ("target", "convention", "preset", "seed", "status", "sentence")},
        "rows": [
            {
                "stage": row.stage,
                "equation": row.equation,
                "verdict": row.verdict,
                "run": row.run,
                "inconclusive": row.inconclusive,
                "diagnosis": row.diagnosis,
                "checks": [_plain_check(check) for check in row.checks],
            }
            for row in report.rows
        ],
    }


def _plain_check(check: Check) -> dict[str, Any]:
    plain = check._asdict()
    plain["divergence"] = None if check.divergence is None else _finite(check.divergence._asdict())
    return _finite(plain)


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def write_json(report: Report, path: Path) -> None:
    """Write the verdict as JSON."""
    path.write_text(json.dumps(to_json(report), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_junit(report: Report, path: Path) -> None:
    """Write the verdict as JUnit XML: a test case a check, named by its stable id."""
    checks = [check for row in report.rows for check in row.checks]
    counts = Counter(check.verdict for check in checks)
    skipped = counts[Verdict.NOT_RUN] + counts[Verdict.INCONCLUSIVE]
    suite = ElementTree.Element(
        "testsuite", name=f"adalora-ref verify {report.target}", tests=str(len(checks)),
        failures=str(counts[Verdict.FAIL]), errors="0", skipped=str(skipped),
    )  # fmt: skip
    for check in checks:
        case = ElementTree.SubElement(suite, "testcase", classname=check.stage, name=f"{check.case}/{check.library}")
        if check.verdict is Verdict.FAIL:
            text = "\n".join(describe(check))
            ElementTree.SubElement(case, "failure", message=text.strip().splitlines()[0].strip()).text = text
        elif check.verdict in (Verdict.NOT_RUN, Verdict.INCONCLUSIVE):
            ElementTree.SubElement(case, "skipped", message=f"{check.verdict}: {check.reason}")
    ElementTree.indent(suite)
    ElementTree.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)
