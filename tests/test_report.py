"""Report pages without a browser: sound HTML, the figures of what they are about, and nothing of a file as markup."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner, Result

from adalora_ref.cli import main
from adalora_ref.conformance import report as reports
from adalora_ref.conformance.report import Report, to_json, write_json
from adalora_ref.conformance.verdict import Check, Verdict, row
from adalora_ref.conformance.verdict_file import read_verdict
from adalora_ref.html import heat
from adalora_ref.html.divergence import first_failure
from adalora_ref.html.elements import data, e
from adalora_ref.html.verdict_page import verdict_page
from tests.a_verdict import everything, of_case, of_step
from tests.html_pages import Element, require_sound

SCHEMA = Path(reports.__file__).parent / "schema" / "verdict.schema.json"


def page_of(report: Report, folder: Path) -> Element:
    """The page of a verdict, by way of the file that holds it."""
    write_json(report, folder / "verdict.json")
    return require_sound(verdict_page(read_verdict(folder / "verdict.json")))


def asked(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


# THE FILE


def test_a_verdict_is_read_back_as_it_was(tmp_path: Path) -> None:
    """What is read from a file says the same as what was written, numbers that are not finite included."""
    report = everything()
    write_json(report, tmp_path / "verdict.json")
    held = read_verdict(tmp_path / "verdict.json")
    assert to_json(held.report) == to_json(report)
    assert held.report.sentence == report.sentence
    assert held.versions.keys() >= {"python", "numpy"}


def test_true_false_and_integers_stay_what_they_are(tmp_path: Path) -> None:
    """An element of a mask is read back as false or true, one of a count as an integer, and so they are shown."""
    page = page_of(everything(), tmp_path)
    said = [held.divergence for row in read_verdict(tmp_path / "verdict.json").report.rows for held in row.checks]
    found = {held.quantity: (held.got, held.expected) for held in said if held}
    assert repr(found["masks[q]"]) == "(False, True)"
    assert repr(found["ranknum[layer0][value]"]) == "(3, 4)"
    assert "masks[q][0] is False, should be True within 0" in [
        cell.attributes.get("title", "").partition("; ")[2] for cell in page.all("td")
    ]


def test_a_verdict_fits_its_schema() -> None:
    """Every verdict is as the schema says; without any one of its fields it is not."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    said = json.loads(json.dumps(to_json(everything())))
    validator.validate(said)
    assert all(not validator.is_valid({k: v for k, v in said.items() if k != key}) for key in said)
    for key in said["rows"][0]:
        less = [{k: v for k, v in said["rows"][0].items() if k != key}]
        assert not validator.is_valid({**said, "rows": less}), key


def broken(change: Callable[[Any], Any]) -> str:
    said = json.loads(json.dumps(to_json(everything())))
    change(said)
    return json.dumps(said)


WHOLE = json.dumps(to_json(everything()))
DAMAGED = {
    "cut": (WHOLE[: len(WHOLE) // 2], "is no JSON or is cut off: "),
    "empty": ("", "is no JSON or is cut off: "),
    "twice": ('{"format": 1, "format": 1}', "the key 'format' stands there twice"),
    "list": ("[1]", "must be a verdict that `adalora-ref verify --json` wrote"),
    "of another version": (broken(lambda s: s.update(format="adalora-ref verdict 9")), "'adalora-ref verdict 9'"),
    "before there was a format": (broken(lambda s: s.pop("format")), "it has none"),
    "without rows": (broken(lambda s: s.pop("rows")), "the whole lacks 'rows'"),
    "a word for a number": (
        broken(lambda s: s["rows"][1]["checks"][0].update(ratio="big")),
        "rows[1].checks[0].ratio must be a number; got 'big'",
    ),
    "a word for an element": (
        broken(lambda s: s["rows"][1]["checks"][1]["divergence"].update(got="yes")),
        "rows[1].checks[1].divergence.got must be a number; got 'yes'",
    ),
    "true for a bound": (
        broken(lambda s: s["rows"][1]["checks"][1]["divergence"].update(bound=True)),
        "rows[1].checks[1].divergence.bound must be a number; got True",
    ),
    "a huge number": (broken(lambda s: s["rows"][0]["checks"][0].update(ratio=10**400)), "that a double can hold"),
    "an unknown verdict": (broken(lambda s: s["rows"][0].update(verdict="FINE")), "a word that this version knows"),
    "a status of 2": (broken(lambda s: s.update(status=2)), "status must be 0, 1 or 3; got 2"),
    "a step below zero": (broken(lambda s: s["rows"][-1]["growth"][0].update(step=-1)), "growth[0].step must be"),
    "a row that is text": (broken(lambda s: s.update(rows=["x"])), "rows[0] must be an object; got 'x'"),
    "a name that is none": (broken(lambda s: s.update(target=None)), "target must be text; got None"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_no_verdict_is_refused(name: str, tmp_path: Path) -> None:
    """A damaged file gives one sentence that names it and says what is wrong, status 2, and no page."""
    content, message = DAMAGED[name]
    (tmp_path / "v.json").write_text(content, encoding="utf-8")
    done = asked(tmp_path / "v.json")
    assert done.exit_code == 2
    assert done.output.startswith(f"Error: {tmp_path / 'v.json'} ")
    assert message in done.output
    assert len(done.output.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["v.json"]


def test_fields_that_a_later_version_adds_are_passed_over(tmp_path: Path) -> None:
    """Within one format a file may say more than this version knows."""
    (tmp_path / "v.json").write_text(broken(lambda s: s["rows"][0].update(more=1)), encoding="utf-8")
    assert asked(tmp_path / "v.json").exit_code == 0


# WHERE IT IS WRITTEN


def test_a_page_is_written_beside_the_verdict(tmp_path: Path) -> None:
    """By default the page has the name of the verdict; asked twice, it is replaced, by the same bytes."""
    write_json(everything(), tmp_path / "mine.json")
    done = asked(tmp_path / "mine.json")
    assert (done.exit_code, done.output) == (0, f"written to {tmp_path / 'mine.html'}\n")
    first = (tmp_path / "mine.html").read_bytes()
    assert asked(tmp_path / "mine.json").exit_code == 0
    assert (tmp_path / "mine.html").read_bytes() == first
    assert {path.name for path in tmp_path.iterdir()} == {"mine.json", "mine.html"}


@pytest.mark.parametrize("options", [[], ["--out", "other.html"]])
def test_nothing_but_a_page_is_overwritten(options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is no report page stays as it is, wherever its name comes from."""
    monkeypatch.chdir(tmp_path)
    write_json(everything(), tmp_path / "mine.json")
    place = tmp_path / (options[1] if options else "mine.html")
    place.write_text("<p>my own</p>", encoding="utf-8")
    done = asked("mine.json", *options)
    assert done.exit_code == 2
    assert "is no report page, and is not overwritten; name another file with --out" in done.output
    assert place.read_text(encoding="utf-8") == "<p>my own</p>"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "a report is about a run folder or a verdict; there is nothing at 'missing'"),
        (["v.json", "--seed", "1"], "--seed and --arm choose from a run; 'v.json' is a file with a verdict"),
        (["v.json", "--arm", "lora"], "--seed and --arm choose from a run; 'v.json' is a file with a verdict"),
        (["v.json", "--out", "no/where.html"], "a report must be written to a file in a folder that exists"),
    ],
)
def test_wrong_usage_is_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be done is said in one sentence, with status 2."""
    monkeypatch.chdir(tmp_path)
    write_json(everything(), tmp_path / "v.json")
    done = asked(*arguments)
    assert (done.exit_code, len(done.output.splitlines())) == (2, 1)
    assert message in done.output


def test_the_help_loads_nothing_for_pages() -> None:
    """`adalora-ref report --help` needs neither the kit nor matplotlib."""
    code = (
        "import sys; from click.testing import CliRunner; from adalora_ref.cli import main;"
        "assert CliRunner().invoke(main, ['report', '--help']).exit_code == 0;"
        "print(*{'matplotlib', 'mpmath', 'adalora_ref.html', 'adalora_ref.conformance'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# WHAT A PAGE OF A VERDICT SAYS


def test_the_top_says_what_and_by_which_versions(tmp_path: Path) -> None:
    """Title and heading say whether it conforms; below stand the counts, the target, and the versions."""
    report = everything()
    page = page_of(report, tmp_path)
    assert page.one("title").text == page.one("h1").text == "mine:Mine does not conform"
    header = page.one("header").text
    assert "✗ FAIL" in header
    assert report.sentence.partition(": ")[2] in header
    said = to_json(report)
    for told in ("SPEC", "preset quick, seed 3", said["adalora_ref"], said["specification"], said["versions"]["numpy"]):
        assert told in header


@pytest.mark.parametrize(
    ("status", "rows", "more", "title"),
    [
        (0, 1, {}, "mine:Mine conforms"),
        (3, 1, {"missing": ("merge",)}, "mine:Mine is undecided"),
        (1, 1, {"unexpected": ("x",)}, "mine:Mine passes what is known to fail"),
        (3, 0, {}, "mine:Mine is undecided"),
    ],
)
def test_every_outcome_has_a_page(status: int, rows: int, more: Any, title: str, tmp_path: Path) -> None:
    """A page is sound whatever the verdict, and with nothing to show it says so."""
    report = everything()
    page = page_of(Report("mine:Mine", "SPEC", "quick", 0, report.rows[:rows], status, **more), tmp_path)
    assert page.one("title").text == title
    assert not page.all("section", id="first")
    assert ("Nothing ran." in page.text) == (rows == 0)


def test_a_part_that_conforms_is_called_a_part(tmp_path: Path) -> None:
    """The headline of a target with some of the functions says of how many stages it speaks."""
    rows = [held for held in everything().rows if held.stage in ("merge", "budget_at", "compress")]
    page = page_of(Report("mine:Mine", "SPEC", "quick", 0, tuple(rows), 0), tmp_path)
    assert page.one("h1").text == "mine:Mine conforms in 2 of 3 stages; the others were not run"
    assert page.one("title").text == page.one("h1").text


def test_what_to_do_next_follows_from_the_verdict(tmp_path: Path) -> None:
    """It names the first stage to mend, its reproduction, a convention that explains all, and what was not run."""
    steps = page_of(everything(), tmp_path).one("ol").text
    for told in ("Mend triplet_scores first", "python repro.py", "prune no longer fails", "not run", "defects"):
        assert told in steps
    assert "--convention" not in steps, "PEFT explains one failure of two"
    alike = everything()._replace(rows=everything().rows[:2])
    assert "adalora-ref verify … --convention PEFT" in page_of(alike, tmp_path).one("ol").text


def test_the_first_divergence_is_told_in_full(tmp_path: Path) -> None:
    """Equation, case, matrix, quantity, element, got, expected, bound, ratio, and the diagnosis."""
    section = page_of(everything(), tmp_path).one("section", id="first")
    names, values = ([held.text for held in section.all(tag)] for tag in ("dt", "dd"))
    assert dict(zip(names, values, strict=True)) == {
        "Equation": "S = <s>",
        "Case": "1",
        "Check": "triplet_scores/float64/0/1",
        "Arrays": "float64 on numpy",
        "Matrix": "q.proj",
        "Quantity": "scores[q.proj]",
        "Element": "[1, 2]",
        "Got": "0.25",
        "Expected": "0.5",
        "Bound": "1e-15",
        "Error over bound": "2.5e+14, 4.5e+15 units in the last place",
    }
    assert "matches scores_of_s_alone in all." in section.text
    assert [held.text for held in section.one("p", class_="diagnosis").all("code")] == ["scores_of_s_alone"]


def test_the_first_failure_of_a_run_is_its_earliest_step() -> None:
    """Where stages pass, it is the failure at the first step of the first lane, and of one step the first row."""
    late = row(
        "budget_at", "", [of_step("budget_at", 5, Verdict.FAIL), of_step("budget_at", 1, Verdict.FAIL, lane="b")]
    )
    early = row("allocate", "", [of_step("allocate", 3, Verdict.FAIL), of_step("allocate", 0, Verdict.PASS, lane="b")])
    same = row("prune", "", [of_step("prune", 3, Verdict.FAIL)])
    report = Report("x", "SPEC", "quick", 0, (late, early, same), 1)
    found = first_failure(report)
    assert found is not None
    assert (found.row.stage, found.check.case) == ("allocate", "float64/step 3")
    assert first_failure(report._replace(rows=())) is None


def cells_of(table: Element) -> dict[tuple[str, str], Element]:
    """The cells of a heat map by stage and column."""
    columns = [head.text for head in table.one("thead").all("th")][1:]
    found = {}
    for line in table.one("tbody").all("tr"):
        name = line.one("th").text[2:].rpartition(", ")[0]
        found |= {(name, column): cell for column, cell in zip(columns, line.all("td"), strict=True)}
    return found


def test_the_heat_map_has_the_figures_of_the_verdict(tmp_path: Path) -> None:
    """Each cell has the sign and the largest ratio of its case over all dtypes; what did not run has no line."""
    page = page_of(everything(), tmp_path)
    stages, runs, sums = page.all("table", class_="heat")
    found = {place: cell.text for place, cell in cells_of(stages).items()}
    assert found == {
        ("merge", "0"): "✓0",
        ("merge", "1"): "✓.10",
        ("merge", "2"): "✓.20",
        ("triplet_scores", "0"): "✓4e-3",
        ("triplet_scores", "1"): "✗2e14",
        ("triplet_scores", "2"): "",
        ("prune", "0"): "≈12",
        **dict.fromkeys([("prune", "1"), ("prune", "2"), ("allocate", "0"), ("allocate", "1")], ""),
        ("allocate", "2"): "?",
        ("unmerge", "0"): "✓0",
        ("unmerge", "1"): "–",
        ("unmerge", "2"): "",
    }
    assert {place: cell.text for place, cell in cells_of(runs).items()} == {
        ("budget_at", "all"): "",
        ("budget_at", "0"): "✓0",
        ("budget_at", "1"): "✓0",
        ("update", "all"): "✓0",
        ("update", "0"): "",
        ("update", "1"): "",
    }
    assert {place: cell.text for place, cell in cells_of(sums).items()} == {
        ("ranknum", "0"): "✓0",
        ("ranknum", "1"): "✗∞",
        ("weights", "0"): "",
        ("weights", "1"): "✗∞",
        ("masks", "0"): "",
        ("masks", "1"): "✗∞",
    }
    assert cells_of(stages)["merge", "2"].attributes["title"] == (
        "merge/float32/0/2, float32 on numpy: PASS, error over bound 0.2 (worst of 2 checks)"
    )
    assert cells_of(stages)["unmerge", "0"].attributes["title"] == "unmerge/float64/0/0, float64 on numpy: PASS, exact"
    summaries = [summary.text for summary in page.all("summary")]
    assert "≈ KNOWN prune 1 of 1 checks ran, largest error over bound 12" in summaries
    assert "✓ PASS budget_at 4 of 4 checks ran, all exact" in summaries
    worst = cells_of(stages)["triplet_scores", "1"]
    assert worst.attributes["class"] == "fail h7"
    assert worst.attributes["title"] == (
        "triplet_scores/float64/0/1, float64 on numpy: FAIL, error over bound 2.5e+14; "
        "scores[q.proj][1, 2] is 0.25, should be 0.5 within 1e-15 (worst of 2 checks)"
    )


@pytest.mark.parametrize(
    ("case", "axis", "lane", "number"),
    [
        ("allocate/float64/0/7", "case", "allocate/float64/0", 7),
        ("adamw_step/float32/tiny/0", "case", "adamw_step/float32/tiny", 0),
        ("trace/step 12", "step", "trace", 12),
        ("float64/ties/step 3", "step", "float64/ties", 3),
        ("float64/ties", "step", "float64/ties", None),
    ],
)
def test_where_a_check_stands_is_read_from_its_id(case: str, axis: str, lane: str, number: int | None) -> None:
    """Ids of stages end in the case, those of runs in the step; others are about a whole run."""
    assert heat.place(Check("s", case, "numpy", "float64", Verdict.PASS)) == (axis, lane, number)


def test_many_cases_share_columns() -> None:
    """Of 300 cases, at most 40 columns are made, each with the worst of its neighbours, and none is lost."""
    checks = [of_case("merge", case, Verdict.FAIL if case == 123 else Verdict.PASS, case / 100) for case in range(300)]
    (held,) = heat.maps(Report("x", "SPEC", "thorough", 0, (row("merge", "", checks),), 1))
    (line,) = held.lines
    assert held.width == 8
    assert held.columns[0] == "0–7"
    assert held.columns[-1] == "296–299"
    assert len(line.cells) == len(held.columns) == 38
    assert [(at, cell.worst.case) for at, cell in enumerate(line.cells) if cell and cell.verdict is Verdict.FAIL] == [
        (15, "merge/float64/0/123")
    ]
    assert sum(cell.checks for cell in line.cells if cell) == 300


@pytest.mark.parametrize(
    ("ratio", "told", "shade"),
    [(0.0, "0", 0), (1e-5, "1e-5", 1), (0.042, ".04", 2), (0.46, ".46", 3), (0.999, "1", 4), (1.01, "1", 5),
     (35.0, "35", 5), (120.0, "1e2", 6), (6.3e14, "6e14", 7), (math.inf, "∞", 7), (math.nan, "nan", 7)],
)  # fmt: skip
def test_a_ratio_is_told_short(ratio: float, told: str, shade: int) -> None:
    """A cell has at most five signs, and a shade that is deeper for a larger ratio."""
    assert (heat.short(ratio), heat.shade(ratio)) == (told, shade)


def test_nothing_of_the_verdict_is_lost(tmp_path: Path) -> None:
    """Notes, reasons, known failures, growth, bad input and every finding stand somewhere on the page."""
    page = page_of(everything(), tmp_path)
    for told in ("a note", "it is old", "two are right", "1e-07", "a mask of 0 and 1", "accepted", "ValueError: no"):
        assert told in page.text, told
    missing = page.one("section", id="not-run")
    assert "the target has no such function: compress" in missing.text
    assert "unmerge, 1 of 2 checks: no bias" in missing.text
    findings = page.one("section", id="findings")
    assert [head.text for head in findings.all("h3")] == ["Defects", "Conventions"]
    marks = [summary.one("span", class_="badge").text for summary in findings.all("summary") if summary.all("span")]
    assert marks == [
        "✗ found", "✓ not found in this version", "– could not be tried",
        "✓ found", "✓ not found in this version", "– could not be tried",
    ]  # fmt: skip
    assert [pre.text for pre in findings.all("pre")] == ["print(1 < 2)\n"] * 6


# WHAT COMES FROM A FILE IS NO MARKUP

HOSTILE = "</script></style></title><script>alert(1)</script><img src=x onerror=alert(1)>\" onclick='x' &amp;\u202e\x00"


def spoiled(value: Any, keep: tuple[str, ...] = ("format", "verdict", "kind", "observed", "case")) -> Any:
    """Every text of plain data with the hostile one behind it, but for words of a fixed meaning."""
    if isinstance(value, dict):
        return {k: v if k in keep else spoiled(v) for k, v in value.items()}
    if isinstance(value, list):
        return [spoiled(held) for held in value]
    return f"{value}{HOSTILE}" if isinstance(value, str) and value not in ("", "inf", "-inf", "nan") else value


def test_text_from_a_file_does_not_become_markup(tmp_path: Path) -> None:
    """A verdict in which every text is hostile makes the same elements as one in which none is."""
    said = to_json(everything())
    pages = []
    for held in (said, spoiled(said)):
        (tmp_path / "v.json").write_text(json.dumps(held), encoding="utf-8")
        pages.append(require_sound(verdict_page(read_verdict(tmp_path / "v.json"))))
    benign, hostile = pages
    tags = [[element.tag for element in page.every()] for page in pages]
    assert tags[0] == tags[1]
    assert benign.one("script").text == hostile.one("script").text
    attributes = {name for element in hostile.every() for name in element.attributes}
    assert "onclick" not in attributes
    assert hostile.one("h1").text.startswith("mine:Mine</script></style></title><script>alert(1)</script>")
    assert not {"\x00", "\u202e"} & set(hostile.text), "what turns text around, or cannot be seen, is replaced"


def test_data_for_the_script_cannot_end_its_element() -> None:
    """JSON in a page holds no sign of markup, and is the same data."""
    held = data("data", {HOSTILE: [HOSTILE, 1.5]})
    assert held.text is not None
    assert not set("<>&") & set(held.text)
    assert json.loads(held.text) == {HOSTILE: [HOSTILE, 1.5]}


def test_elements_hold_text_in_order() -> None:
    """Text before, between and after elements stays where it is put."""
    held = e("p", "a", e("b", "c"), "d", None, e("b"), "e", class_="x", data_step=3, title=None)
    assert "".join(held.itertext()) == "acde"
    assert held.attrib == {"class": "x", "data-step": "3"}
