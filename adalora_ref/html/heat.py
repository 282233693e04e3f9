"""The heat map of a verdict: for each quantity, and each case or step, the largest error over bound."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from adalora_ref.conformance.report import Report, figure
from adalora_ref.conformance.verdict import CONCLUSIVE, Check, Row, Verdict, judge

MOST_COLUMNS = 40
"""Of a map that has more cases or steps, neighbours share a column."""

STEP = re.compile(r"(?P<lane>.*)/step (?P<number>\d+)")
CASE = re.compile(r"(?P<lane>.*)/(?P<number>\d+)")


class Place(NamedTuple):
    """Where a check stands: on the axis of steps or of cases, in which lane, at which number; None is all of them."""

    axis: str
    lane: str
    number: int | None


class Cell(NamedTuple):
    """What checks of one quantity at one place came to; the worst of them stands for all."""

    verdict: Verdict
    ratio: float
    worst: Check
    checks: int


class Line(NamedTuple):
    """A line of the map: a quantity and its cells, None where nothing was checked."""

    name: str
    verdict: Verdict
    cells: tuple[Cell | None, ...]


class Map(NamedTuple):
    """One heat map; the columns are named by the numbers of their cases or steps."""

    title: str
    axis: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    width: int
    """How many numbers share a column."""


def place(check: Check) -> Place:
    """Read where a check stands from its id: ``allocate/float64/0/7`` is case 7, ``trace/step 3`` is step 3."""
    for axis, pattern in (("step", STEP), ("case", CASE)):
        if found := pattern.fullmatch(check.case):
            return Place(axis, found["lane"], int(found["number"]))
    return Place("step", check.case, None)


def maps(report: Report) -> list[Map]:
    """Every map of a verdict: stages by case, stages by step, and each row that sums up a run of its own."""
    ran = [row for row in report.rows if row.run]
    whole = [row for row in ran if any(check.stage != row.stage for check in row.checks)]
    found = [
        _map(f"Stages, by {axis}", axis, [(row.stage, row.checks) for row in rows])
        for axis in ("case", "step")
        if (rows := [row for row in ran if row not in whole and axis_of(row) == axis])
    ]
    return found + [_map(row.stage, axis_of(row), _by_quantity(row)) for row in whole]


def axis_of(row: Row) -> str:
    """Along what the checks of a row run: cases, or steps of a run."""
    return place(row.checks[0]).axis


def _by_quantity(row: Row) -> list[tuple[str, tuple[Check, ...]]]:
    names = dict.fromkeys(check.stage for check in row.checks)
    return [(name, tuple(check for check in row.checks if check.stage == name)) for name in names]


def _map(title: str, axis: str, quantities: Sequence[tuple[str, tuple[Check, ...]]]) -> Map:
    numbers = sorted({n for _, checks in quantities for c in checks if (n := place(c).number) is not None})
    width = -(-len(numbers) // MOST_COLUMNS) or 1
    shared = [numbers[i : i + width] for i in range(0, len(numbers), width)]
    columns = [str(held[0]) if len(held) == 1 else f"{held[0]}–{held[-1]}" for held in shared]
    index = {number: i for i, held in enumerate(shared) for number in held}
    whole = any(place(check).number is None for _, checks in quantities for check in checks)
    lines = [_line(name, checks, index, len(columns), whole=whole) for name, checks in quantities]
    return Map(title, axis, ("all", *columns) if whole else tuple(columns), tuple(lines), width)


def _line(name: str, checks: Iterable[Check], index: dict[int, int], columns: int, *, whole: bool) -> Line:
    held: list[list[Check]] = [[] for _ in range(columns + 1)]
    for check in checks:
        number = place(check).number
        held[0 if number is None else index[number] + 1].append(check)
    cells = tuple(_cell(found) for found in held)
    return Line(name, judge(c.verdict for found in held for c in found), cells if whole else cells[1:])


def _cell(checks: list[Check]) -> Cell | None:
    if not checks:
        return None
    verdict = judge(check.verdict for check in checks)
    alike = [check for check in checks if check.verdict is verdict]
    worst = max(alike, key=lambda check: check.ratio)
    ratio = max((c.ratio for c in checks if c.verdict in CONCLUSIVE), default=0.0)
    return Cell(verdict, ratio, worst, len(checks))


def short(ratio: float) -> str:
    """A ratio in at most five signs: 0, .02, 1.2, 35, 6e14, ∞."""
    if 0.01 <= ratio < 0.995:
        return f"{ratio:.2f}".removeprefix("0")
    if 0.995 <= ratio < 99.5 or not 0 < ratio < math.inf:
        return figure(ratio).replace("exact", "0")
    mantissa, _, power = f"{ratio:.0e}".partition("e")
    return f"{mantissa}e{int(power)}"


SHADES = (
    (0.0, "exact"),
    (0.01, "≤ 0.01"),
    (0.1, "≤ 0.1"),
    (0.5, "≤ 0.5"),
    (1.0, "≤ 1"),
    (1e2, "≤ 100"),
    (1e6, "≤ 1e6"),
)
"""Upper ends of the shades of the map, roughly by powers of ten, and how the legend names them; more is the last."""


def shade(ratio: float) -> int:
    """The number of the shade, from 0."""
    return next((i for i, (end, _) in enumerate(SHADES) if ratio <= end), len(SHADES))
