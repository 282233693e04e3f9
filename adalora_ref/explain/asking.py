"""The reader's own result, held against the core's: which element departs, and from what."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import click
import numpy as np
from rich.console import Console
from rich.text import Text

from adalora_ref.explain import showing
from adalora_ref.explain.drawing import Options
from adalora_ref.explain.stages import Stage
from adalora_ref.explain.steps import Step, Worked, arrays_of

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?|[-+]?\d+/\d*[1-9]\d*")
EXACTLY, ROUNDED = 1e-9, 1e-4
"""Relative: room for the rounding of the core's own number, and for that of an answer in decimals."""
LISTED = 12
Matrix = list[list[Fraction]]


class Departure(NamedTuple):
    """One element that is wrong."""

    element: str
    got: Fraction
    expected: float


def ask(stage: Stage, worked: Worked, options: Options, console: Console) -> int:
    """Show what is given, ask for one quantity, and judge it; return 0 if it is right and 1 if not.

    Raises
    ------
    ValueError
        If the quantity is not one of the stage, the answer is no matrix of numbers, or the input ends.
    """
    steps = {name: (step, array) for step in worked.steps() for name, array in arrays_of(step).items()}
    showing.show_given(stage, worked, options, console)
    showing.headline("Your turn", console)
    for name, (step, _) in steps.items():
        console.print(Text.assemble((f"    {name:<14}", "bold"), step.formula))
    console.print()
    name = _prompt("Which quantity")
    if name not in steps:
        raise ValueError(f"the quantity must be one of {', '.join(steps)}; got {name!r}")
    step, expected = steps[name]
    console.print(Text("Numbers or fractions, blanks between them, rows end with a semicolon.", style="dim"))
    return judge(name, step, parsed(_prompt(f"Your {name}")), expected, options, console)


def parsed(text: str) -> Matrix:
    """Read ``1 2/3; 0,5 …`` as rows of fractions: blanks or commas between numbers, semicolons between rows."""
    plain = re.sub(r"\s*/\s*", "/", text.replace("−", "-")).strip().removesuffix(";")
    rows = [[entry for entry in re.split(r"[\s,]+", row) if entry] for row in plain.split(";")]
    for entry in (entry for row in rows for entry in row):
        if not NUMBER.fullmatch(entry):
            raise ValueError(f"an entry must be a number or a fraction such as -3/4; got {entry!r}")
    if not rows[0] or len({len(row) for row in rows}) > 1:
        raise ValueError(f"rows must have entries, all as many; got {[len(row) for row in rows]}")
    return [[Fraction(entry) for entry in row] for row in rows]


def judge(name: str, step: Step, got: Matrix, expected: Any, options: Options, console: Console) -> int:
    """Say whether *got* is right, or where it departs; return the exit status."""
    right = np.atleast_2d(np.asarray(expected)).tolist()
    if _shape(got) != _shape(right):
        console.print(Text(f"{name} is {_said(right)}; yours is {_said(got)}.", style="red"))
        return 1
    wrong = departures(name, got, right, one_row=np.ndim(expected) < 2, exact=options.exact)
    if not wrong:
        console.print(Text(f"Right: {name} is what the core computes.", style="green"))
        return 0
    count = len(right) * len(right[0])
    console.print(Text(f"{name} departs in {len(wrong)} of {count} elements.\n", style="red"))
    _list(wrong, options, console)
    if (factor := common_factor(got, right)) is not None:
        console.print(Text(f"Every element is {factor} times what it should be."))
    console.print(Text.assemble((step.formula, "bold"), (f"    {step.place}", "dim")))
    console.print(Text.assemble(("│ ", "dim"), (step.code, "cyan")))
    return 1


def departures(name: str, got: Matrix, right: list[list[Any]], *, one_row: bool, exact: bool) -> list[Departure]:
    """The elements that lie further from the right ones than the answer's form allows."""
    largest = float(np.max(np.abs(np.asarray(right, dtype=float))))
    wrong = []
    for i, (mine, row) in enumerate(zip(got, right, strict=True)):
        for j, (value, entry) in enumerate(zip(mine, row, strict=True)):
            known = exact and showing.simple(float(entry)) is not None
            room = EXACTLY * abs(float(entry)) if known else ROUNDED * largest
            if abs(value - Fraction(entry)) > Fraction(room):
                element = f"{name}[{j}]" if one_row else f"{name}[{i}, {j}]"
                wrong.append(Departure(name if len(right) == len(row) == 1 else element, value, float(entry)))
    return wrong


def common_factor(got: Matrix, right: Sequence[Sequence[Any]]) -> Fraction | None:
    """The one simple ratio of all elements to the right ones, if there is one; of a single element it says nothing."""
    pairs = [(g, Fraction(e)) for mine, row in zip(got, right, strict=True) for g, e in zip(mine, row, strict=True)]
    ratios = {(g / e).limit_denominator(100) for g, e in pairs if e}
    if len(ratios) != 1 or len([e for _, e in pairs if e]) < 2:
        return None
    (ratio,) = ratios
    fits = all(abs(g - ratio * e) <= EXACTLY * max(1.0, abs(float(g))) for g, e in pairs)
    return ratio if fits else None


def _list(wrong: list[Departure], options: Options, console: Console) -> None:
    rows = [("element", "got", "expected")]
    rows += [(d.element, str(d.got), showing.text_of(d.expected, exact=options.exact)) for d in wrong[:LISTED]]
    widths = [max(len(row[k]) for row in rows) for k in range(3)]
    for k, (element, got, expected) in enumerate(rows):
        line = f"    {element:<{widths[0]}}  {got:>{widths[1]}}  {expected:>{widths[2]}}"
        console.print(Text(line, style="" if k else "dim"), soft_wrap=True)
    if len(wrong) > LISTED:
        console.print(Text(f"    and {len(wrong) - LISTED} more", style="dim"))
    console.print()


def _prompt(text: str) -> str:
    try:
        answer = str(click.prompt(text)).strip()
    except click.Abort as stopped:
        if isinstance(stopped.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise ValueError(f"{text!r} needs an answer; the input ended") from None
    if not sys.stdin.isatty():
        click.echo()  # no key has ended the line
    return answer


def _shape(rows: Sequence[Sequence[Any]]) -> tuple[int, int]:
    return len(rows), len(rows[0])


def _said(rows: Sequence[Sequence[Any]]) -> str:
    return " × ".join(map(str, _shape(rows)))
