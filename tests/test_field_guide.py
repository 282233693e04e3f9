"""The field guide: its scripts are the kit's, its figures those of the results, its names those of the catalogue."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from adalora_ref.conformance.deviations import DEVIATIONS
from adalora_ref.conformance.findings import Kind
from adalora_ref.conformance.peft_findings import CLAIMS, Claim

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "field-guide.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs" / "results" / "peft.md").read_text(encoding="utf-8")

every_claim = pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)


def fences(text: str) -> dict[str, str]:
    """Every quoted file, by its path."""
    return dict(re.findall(r'^```python title="([^"]+)"\n(.*?)^```$', text, flags=re.DOTALL | re.MULTILINE))


def rows(text: str) -> dict[str, tuple[str, str, str, str]]:
    """What a finding says, what it got and expected, and what to do, by the name that its row links to."""
    found = re.findall(r"^\| \[`(\w+)`\]\(#\1\): (.*) \| (.*) \| (.*) \| (.*) \|$", text, flags=re.MULTILINE)
    assert len({name for name, *_ in found}) == len(found)
    return {name: (says, got, expected, cure) for name, says, got, expected, cure in found}


def entries(text: str) -> set[str]:
    """The names in code font after "In the kit:", and in the last column of the table of implementations."""
    lists = re.findall(r"^In the kit: (.*?)\.$", text, flags=re.DOTALL | re.MULTILINE)
    table = re.search(r"^\| implementation \|.*?\n\n", text, flags=re.DOTALL | re.MULTILINE)
    lists += [line.rstrip(" |").split(" | ")[-1] for line in table[0].strip().splitlines()[2:]]
    assert all("`" in names for names in lists)
    return set(re.findall(r"`([^`]+)`", "\n".join(lists)))


def test_a_quoted_file_is_the_file() -> None:
    """Every fence with a title equals the file, to the last character."""
    quoted = fences(GUIDE)
    assert "docs/peft_safely.py" in quoted
    assert {path for path, text in quoted.items() if text != (ROOT / path).read_text(encoding="utf-8")} == set()


@every_claim
def test_every_script_is_quoted(claim: Claim) -> None:
    """Under the heading that its row links to stands the script, with its length."""
    path = claim.path.relative_to(ROOT).as_posix()
    (section,) = re.findall(rf"^### {claim.name}\n(.*?)(?=^### |\Z)", GUIDE, flags=re.DOTALL | re.MULTILINE)
    assert path in fences(section)
    assert f"{len(claim.path.read_text(encoding='utf-8').splitlines())} lines" in section


@every_claim
def test_every_finding_has_the_figures_of_the_results(claim: Claim) -> None:
    """A row says what the results say, with the same figures; a convention is called one, and every row has a cure."""
    (shown,) = re.findall(rf"^{claim.name}: (.*)\n  got        (.*)\n  expected   (.*)$", RESULTS, flags=re.MULTILINE)
    says, got, expected, cure = rows(GUIDE)[claim.name]
    assert (says.removesuffix(" A convention."), got, expected) == shown
    assert says.endswith(" A convention.") == (claim.kind is Kind.CONVENTION)
    assert cure.strip()


def test_no_other_finding_is_in_the_guide() -> None:
    """The rows and the scripts are those of the claims."""
    names = {claim.name for claim in CLAIMS}
    assert rows(GUIDE).keys() == names
    assert set(re.findall(r"^### (\w+)$", GUIDE, flags=re.MULTILINE)) == names


def test_entries_are_in_the_catalogue() -> None:
    """Every name by which the guide recognises an implementation is an entry of the catalogue."""
    named = entries(GUIDE)
    assert len(named) > 50
    assert named - {known.name for known in DEVIATIONS} == set()


def test_the_guide_is_linked() -> None:
    """The README, the verdict on PEFT and the ways in lead to it."""
    for page, link in {"README.md": "docs/", "docs/results/peft.md": "../", "docs/verify/README.md": "../"}.items():
        assert f"]({link}field-guide.md)" in (ROOT / page).read_text(encoding="utf-8"), page
