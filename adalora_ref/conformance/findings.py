"""What a library does, found by running a short script against it: a defect, or a convention that it documents.

A script is a reproduction as one pastes it into a report. It sets `got` and `expected` and prints both; where they
differ, what its first line says has been found.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

from rich.table import Table
from rich.text import Text


class Kind(enum.StrEnum):
    """Defects contradict a library's own documentation or plain invariance; conventions are documented choices."""

    DEFECT = "defect"
    CONVENTION = "convention"


class Observed(enum.StrEnum):
    """What came of a script."""

    FOUND = "found"
    NOT_FOUND = "not found in this version"
    NOT_TRIED = "could not be tried"


STYLES = {Observed.FOUND: "yellow", Observed.NOT_FOUND: "green", Observed.NOT_TRIED: "dim"}


class Finding(NamedTuple):
    """What was looked for, where it comes from, and what was seen.

    Attributes
    ----------
    name, kind, says
        The name of the script, and in one sentence what happens where it is found.
    where
        File and function of the library.
    known
        Public reports of it, or, of a convention, where it is documented.
    observed, got, expected
        What came of it, and the figures that the script measured.
    reason
        Why it could not be tried.
    script, reproduction
        The text of the reproduction, and the command that runs it where it was written.
    """

    name: str
    kind: Kind
    says: str
    where: str
    known: str
    observed: Observed
    got: str = ""
    expected: str = ""
    reason: str = ""
    script: str = ""
    reproduction: str = ""

    @property
    def is_defect(self) -> bool:
        """Whether a defect was found."""
        return self.kind is Kind.DEFECT and self.observed is Observed.FOUND


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Defects first, then conventions."""
    return sorted(findings, key=lambda finding: list(Kind).index(finding.kind))


# WHAT IS SHOWN


def sentence(findings: Sequence[Finding]) -> str:
    """How many defects and conventions were found, of how many looked for."""
    told = []
    for kind in Kind:
        alike = [finding for finding in findings if finding.kind is kind]
        found = sum(finding.observed is Observed.FOUND for finding in alike)
        told.append(f"{found} of {len(alike)} {kind}s")
    untried = sum(finding.observed is Observed.NOT_TRIED for finding in findings)
    return f"{' and '.join(told)} found" + (f", {untried} could not be tried" if untried else "")


def table(findings: Iterable[Finding]) -> Table:
    """A row a finding: its name, its kind, and whether it was found."""
    held = Table("finding", "kind", "observed", box=None, pad_edge=False)
    for f in ordered(findings):
        told = f"{f.observed}: {f.reason}" if f.reason else f.observed
        held.add_row(f.name, f.kind, Text(told, style=STYLES[f.observed]))
    return held


def remarks(findings: Iterable[Finding]) -> Iterator[str]:
    """Of everything that was found: what happens, the figures, the function, and who else says so."""
    for f in ordered(findings):
        if f.observed is Observed.FOUND:
            yield f"\n{f.name}: {f.says}"
            yield f"  got        {f.got}"
            yield f"  expected   {f.expected}"
            yield f"  where      {f.where}"
            yield f"  {'documented' if f.kind is Kind.CONVENTION else 'reported  '} {f.known or 'no report is known'}"
            if f.reproduction:
                yield f"  reproduce  {f.reproduction}"


def to_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Every finding as plain data, the text of its reproduction included."""
    return [finding._asdict() for finding in ordered(findings)]


def add_test_cases(suite: ET.Element, findings: Iterable[Finding]) -> None:
    """Add a test case for each finding to a JUnit suite, and count it there: a defect fails, a convention passes."""
    for f in ordered(findings):
        case = ET.SubElement(suite, "testcase", classname=f"findings.{f.kind}", name=f.name)
        _count(suite, "tests")
        if f.is_defect:
            _count(suite, "failures")
            told = f"{f.says}\ngot      {f.got}\nexpected {f.expected}\nwhere    {f.where}"
            ET.SubElement(case, "failure", message=f.says).text = told
        elif f.observed is Observed.NOT_TRIED:
            _count(suite, "skipped")
            ET.SubElement(case, "skipped", message=f"{f.observed}: {f.reason}")


def _count(suite: ET.Element, attribute: str) -> None:
    suite.set(attribute, str(int(suite.get(attribute, "0")) + 1))
