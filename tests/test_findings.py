"""Findings as data: what is shown, what is written, and what they do to the status. No library is looked at here."""

from __future__ import annotations

import ast
import io
import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from adalora_ref.conformance import command, peft_findings
from adalora_ref.conformance.findings import Finding, Kind, Observed, remarks
from adalora_ref.conformance.verdict import Check, Row, Verdict, row
from adalora_ref.convention import PEFT

CHOICE = Finding(
    "a_choice", Kind.CONVENTION, "It chooses.", "a.py, f", "its manual", Observed.FOUND, got="1", expected="2"
)
DEFECT = Finding("a_defect", Kind.DEFECT, "It breaks.", "b.py, g", "", Observed.FOUND, got="3", expected="4")
MENDED = Finding("mended", Kind.DEFECT, "It broke.", "c.py, h", "", Observed.NOT_FOUND, got="5", expected="5")
UNTRIED = Finding("untried", Kind.DEFECT, "Who knows?", "d.py, i", "", Observed.NOT_TRIED, reason="ImportError: no d")


def passed() -> Row:
    """Return a stage that passes."""
    return row("stage", "y = x", [Check("stage", "stage/0", "numpy", "float64", Verdict.PASS)])


def shown(*findings: Finding, **options: Path) -> tuple[int, str]:
    """Return the status and what is shown of a target whose stages pass."""
    out = io.StringIO()
    report = command._shown(
        "mine 1.0", (passed(),), command.Options(**options), PEFT, Console(file=out, width=10_000), findings=findings
    )
    return report.status, out.getvalue()


@pytest.mark.parametrize(
    ("findings", "status"), [((), 0), ((CHOICE,), 0), ((MENDED, UNTRIED), 0), ((CHOICE, DEFECT), 1)]
)
def test_a_defect_fails_and_nothing_else_does(findings: tuple[Finding, ...], status: int) -> None:
    """A defect that was found makes status 1; a convention, what is mended and what could not be tried do not."""
    assert shown(*findings)[0] == status


def test_the_section() -> None:
    """Defects come before conventions; only what was found has its sentence, place and reports below the table."""
    status, text = shown(CHOICE, MENDED, UNTRIED, DEFECT)
    section = text[text.index("Findings in mine 1.0") :]
    names = [line.split()[0] for line in section.splitlines()[3:7]]
    assert names == ["mended", "untried", "a_defect", "a_choice"]
    assert "not found in this version" in section
    assert "could not be tried: ImportError: no d" in section
    assert "a_defect: It breaks.\n  got        3\n  expected   4\n  where      b.py, g\n  reported   no re" in section
    assert "a_choice: It chooses.\n  got        1\n  expected   2\n  where      a.py, f\n  documented it" in section
    assert "It broke." not in section
    assert text.splitlines()[-1].endswith("; 1 of 3 defects and 1 of 1 conventions found, 1 could not be tried")
    assert status == 1


def test_a_report_without_findings_has_no_section() -> None:
    """Where nothing was looked for, nothing is said of findings."""
    assert "inding" not in shown()[1]


def test_for_machines(tmp_path: Path) -> None:
    """JSON has every finding whole; in JUnit a defect fails, a convention passes, what was not tried is skipped."""
    shown(CHOICE, MENDED, UNTRIED, DEFECT, json=tmp_path / "v.json", junit=tmp_path / "v.xml")
    plain = json.loads((tmp_path / "v.json").read_text(encoding="utf-8"))["findings"]
    assert [(f["name"], f["kind"], f["observed"]) for f in plain] == [
        ("mended", "defect", "not found in this version"),
        ("untried", "defect", "could not be tried"),
        ("a_defect", "defect", "found"),
        ("a_choice", "convention", "found"),
    ]
    assert plain[2] == {**DEFECT._asdict(), "kind": "defect", "observed": "found"}
    suite = ET.parse(tmp_path / "v.xml").getroot()  # noqa: S314  we have just written it
    outcomes = {case.get("name"): [part.tag for part in case] for case in suite}
    assert outcomes.pop("stage/0/numpy") == []
    assert outcomes == {"mended": [], "untried": ["skipped"], "a_defect": ["failure"], "a_choice": []}
    assert [suite.get(count) for count in ("tests", "failures", "skipped")] == ["5", "1", "1"]
    assert suite.find("testcase[@name='a_defect']/failure").get("message") == "It breaks."


def test_what_was_found_is_written(tmp_path: Path) -> None:
    """Only what was found gets a script, in a folder of its own name, made if it is missing."""
    found = list(peft_findings.written([DEFECT._replace(script="1\n"), MENDED, UNTRIED], tmp_path / "new"))
    path = tmp_path / "new" / "peft-a_defect" / "repro.py"
    assert [finding.reproduction for finding in found] == [f"python {path.as_posix()}", "", ""]
    assert f"  reproduce  python {path.as_posix()}" in list(remarks(found))
    assert [p.read_text(encoding="utf-8") for p in tmp_path.rglob("*") if p.is_file()] == ["1\n"]


def test_a_file_is_no_folder_for_scripts(tmp_path: Path) -> None:
    """A file given for the folder is refused before anything is run."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(ValueError, match="must be written to a folder"):
        command.Options(repro=tmp_path / "taken")


def test_every_claim_has_its_script() -> None:
    """Claims and scripts are the same, once each; a convention says where it is documented."""
    names = [claim.name for claim in peft_findings.CLAIMS]
    assert sorted(names) == sorted(path.stem for path in peft_findings.SCRIPTS.glob("*.py"))
    assert len(set(names)) == len(names) >= 20
    assert all(claim.known for claim in peft_findings.CLAIMS if claim.kind is Kind.CONVENTION)
    assert all(claim.where.startswith("peft/") for claim in peft_findings.CLAIMS)


@pytest.mark.parametrize("claim", peft_findings.CLAIMS, ids=lambda claim: claim.name)
def test_a_script_can_be_pasted_into_a_report(claim: peft_findings.Claim) -> None:
    """It is short, begins with one sentence, imports nothing of ours, and ends by printing what it got and expected."""
    text = claim.path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    first = str(ast.get_docstring(tree))
    assert first.endswith(".")
    assert "\n" not in first
    assert len(text.splitlines()) <= 55
    modules = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [str(node.module)]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert modules <= {"collections", "copy", "tempfile", "types", "warnings", "torch", "peft"} | (
        {"transformers"} if claim.name.startswith("trainer") else set()
    )
    assert text.endswith('print(f"got      {got}\\nexpected {expected}")\n')
