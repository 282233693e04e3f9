"""The heat maps of a verdict as tables of real text: a shade, a sign and a number in each cell."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree as ET

from adalora_ref.conformance.report import Report, figure
from adalora_ref.conformance.verdict import Verdict
from adalora_ref.html import heat
from adalora_ref.html.elements import e, scrolling
from adalora_ref.html.signs import MEANINGS, SIGNS, class_of


def heat_section(report: Report) -> ET.Element:
    """How to read the maps, then every map with a line below it where the script tells the selected cell."""
    found = heat.maps(report)
    section = e("section", e("h2", "Error over bound"), aria_label="Error over bound", id="heat")
    section.extend([*_reading(), _legend()] if found else [e("p", "Nothing ran.")])
    for number, held in enumerate(found):
        told_below = e("p", class_="told", id=f"told{number}", aria_live="polite")
        section.extend([e("h3", held.title), _map_table(held), told_below])
    return section


def _reading() -> Iterator[ET.Element]:
    yield e(
        "p",
        "Each cell is the largest error of any element over its rounding-error bound: up to 1 is right, above 1 is "
        "wrong. The worst of all dtypes, array libraries and arrays stands for the cell; 0 is exact. A row is a stage, "
        "in the order of the algorithm; a column is a case of the stage by its number, or a step of the run.",
    )
    yield e("p", "Select a cell, and move by the arrow keys, to see its check below the map.", class_="scripted")


def _legend() -> ET.Element:
    names = [*(name for _, name in heat.SHADES), "more"]
    shades = [e("li", e("span", class_=f"swatch h{i}"), name) for i, name in enumerate(names)]
    signs = [e("li", e("b", sign), f" {verdict}: {MEANINGS[verdict]}") for verdict, sign in SIGNS.items()]
    return e(
        "div",
        e("ul", *shades, class_="legend", aria_label="Shades by error over bound"),
        e("ul", *signs, class_="signs", aria_label="Signs"),
    )


def _map_table(held: heat.Map) -> ET.Element:
    said = f"Largest error over bound by {held.axis}"
    said += f"; {held.width} neighbouring {held.axis}s share a column" if held.width > 1 else ""
    head = e("tr", e("th", f"stage \\ {held.axis}", scope="col"), *(e("th", c, scope="col") for c in held.columns))
    body = e("tbody", *(e("tr", _name(line), *map(_cell, line.cells)) for line in held.lines))
    return scrolling(held.title, e("table", e("caption", said), e("thead", head), body, class_="heat"))


def _name(line: heat.Line) -> ET.Element:
    sign = e("b", SIGNS[line.verdict], aria_hidden="true", class_=class_of(line.verdict))
    return e("th", sign, f" {line.name}", e("span", f", {line.verdict}", class_="unseen"), scope="row")


def _cell(cell: heat.Cell | None) -> ET.Element:
    if cell is None:
        return e("td", class_="empty")
    decided = cell.verdict not in (Verdict.INCONCLUSIVE, Verdict.NOT_RUN)
    shade = f" h{heat.shade(cell.ratio)}" if decided else ""
    number = heat.short(cell.ratio) if decided else ""
    return e("td", e("b", SIGNS[cell.verdict]), number, class_=class_of(cell.verdict) + shade, title=told(cell))


def told(cell: heat.Cell) -> str:
    """A cell in words: the check that stands for it, what that came to, and how many checks it stands for."""
    check, d = cell.worst, cell.worst.divergence
    words = f"{check.case}, {check.dtype} on {check.library}: {check.verdict}"
    if cell.verdict not in (Verdict.INCONCLUSIVE, Verdict.NOT_RUN):
        words += f", error over bound {figure(check.ratio)}" if check.ratio else ", exact"
    if d:
        words += f"; {d.where} is {d.got!r}, should be {d.expected!r} within {d.bound:.3g}"
    words += f"; {check.reason}" if check.reason else ""
    return words + (f" (worst of {cell.checks} checks)" if cell.checks > 1 else "")
