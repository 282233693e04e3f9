"""The reader's own result, held against the core's: which element departs, and from what."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, TypeVar

import click
import numpy as np
from rich.console import Console
from rich.text import Text

from adalora_ref.explain import showing
from adalora_ref.explain.drawing import Options
from adalora_ref.explain.stages import Stage
from adalora_ref.explain.steps import Step, Worked, arrays_of

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?|[-+]?\d+/\d*[1-9]\d*")
LONGEST = 60
DIGITS = 3
EXACTLY = 1e-9
"""Relative: room for the rounding of the core's own number."""
LISTED = 12
T = TypeVar("T")
HOW = f"""\
Numbers or fractions, blanks between them, rows end with a semicolon. A number
is right if it is the exact value, or that rounded: within half a unit of its
own last digit, and with at least {DIGITS} significant digits. In brackets one counts
from 0, in subscripts from 1: dB[1, 0] is dB₂₁."""


class Entry(NamedTuple):
    """A number as it was typed, its value, and by how much it may be off: half a unit of its last digit."""

    text: str
    value: Fraction
    room: Fraction


Matrix = list[list[Entry]]


class Departure(NamedTuple):
    """One element that is wrong."""

    element: str
    got: str
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
    name = _asked("Which quantity", lambda text: _one_of(text, steps))
    step, expected = steps[name]
    console.print(Text(HOW, style="dim"))
    return judge(name, step, _asked(f"Your {name}", parsed), expected, options, console)


def _one_of(text: str, names: Collection[str]) -> str:
    if text not in names:
        raise ValueError(f"the quantity must be one of {', '.join(names)}; got {text!r}")
    return text


def parsed(text: str) -> Matrix:
    """Read ``1 2/3; 0.5 …`` as rows: blanks, or commas with one, between numbers, semicolons between rows."""
    plain = re.sub(r"\s*/\s*", "/", text).strip().removesuffix(";")
    rows = [[entry for entry in re.split(r",?\s+|,$", row.strip()) if entry] for row in plain.split(";")]
    if not rows[0] or len({len(row) for row in rows}) > 1:
        raise ValueError(f"rows must have entries, all as many; got {[len(row) for row in rows]}")
    return [[entry_of(text) for text in row] for row in rows]


def entry_of(text: str) -> Entry:
    """Read one number; a fraction and what has fewer than three significant digits have no room."""
    if len(text) > LONGEST:
        raise ValueError(f"an entry must have at most {LONGEST} characters; got {len(text)}")
    if re.search(r"\d,\d", text):
        raise ValueError(f"a decimal must have a point, and numbers blanks between them; got {text!r}")
    plain = text.replace("−", "-")
    if not NUMBER.fullmatch(plain):
        raise ValueError(f"an entry must be a number or a fraction such as -3/4; got {text!r}")
    digits, _, power = plain.lower().lstrip("+-").partition("e")
    significant = len(digits.replace(".", "").lstrip("0"))
    unit = Fraction(10) ** (int(power or 0) - len(digits.partition(".")[2]))
    rounded = "/" not in plain and significant >= DIGITS
    return Entry(text, Fraction(plain), unit / 2 if rounded else Fraction(0))


def judge(name: str, step: Step, got: Matrix, expected: Any, options: Options, console: Console) -> int:
    """Say whether *got* is right, or where it departs; return the exit status."""
    right = np.atleast_2d(np.asarray(expected)).tolist()
    if _shape(got) != _shape(right):
        console.print(Text(f"{name} is {_said(right, expected)}; yours is {_said(got, expected)}.", style="red"))
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
    """The elements that lie further from the right ones than half a unit of the last digit that was typed."""
    largest = float(np.max(np.abs(np.asarray(right, dtype=float))))
    wrong = []
    for i, (mine, row) in enumerate(zip(got, right, strict=True)):
        for j, (entry, number) in enumerate(zip(mine, row, strict=True)):
            known = showing.simple(float(number)) if exact else None
            value, size = (Fraction(number), largest) if known is None else (known, abs(float(number)))
            if abs(entry.value - value) > entry.room + Fraction(EXACTLY * size):
                element = f"{name}[{j}]" if one_row else f"{name}[{i}, {j}]"
                wrong.append(Departure(name if len(right) == len(row) == 1 else element, entry.text, float(number)))
    return wrong


def common_factor(got: Matrix, right: Sequence[Sequence[Any]]) -> Fraction | None:
    """The one simple ratio, not 0, of all elements to the right ones; of a single element it says nothing."""
    values = [entry.value for mine in got for entry in mine]
    pairs = list(zip(values, [Fraction(number) for row in right for number in row], strict=True))
    ratios = {(g / e).limit_denominator(100) for g, e in pairs if e}
    if len(ratios) != 1 or len([e for _, e in pairs if e]) < 2:
        return None
    (ratio,) = ratios
    fits = all(abs(g - ratio * e) <= Fraction(EXACTLY) * (1 + abs(g)) for g, e in pairs)
    return ratio if ratio and fits else None


def _list(wrong: list[Departure], options: Options, console: Console) -> None:
    rows = [("element", "got", "expected")]
    rows += [(d.element, d.got, showing.text_of(d.expected, exact=options.exact)) for d in wrong[:LISTED]]
    widths = [max(len(row[k]) for row in rows) for k in range(3)]
    for k, (element, got, expected) in enumerate(rows):
        line = f"    {element:<{widths[0]}}  {got:>{widths[1]}}  {expected:>{widths[2]}}"
        console.print(Text(line, style="" if k else "dim"), soft_wrap=True)
    if len(wrong) > LISTED:
        console.print(Text(f"    and {len(wrong) - LISTED} more", style="dim"))
    console.print()


def _asked(text: str, read: Callable[[str], T]) -> T:
    """The answer as *read* takes it; a person who is refused is asked again."""
    while True:
        answer = _prompt(text)
        try:
            return read(answer)
        except ValueError as refused:
            if not sys.stdin.isatty():
                raise
            click.echo(refused)


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


def _said(rows: Sequence[Sequence[Any]], expected: Any) -> str:
    """The shape as the walk says it: a row counts for itself unless the right result is a matrix."""
    height, width = _shape(rows)
    if height > 1 or np.ndim(expected) == 2:
        return f"{height} × {width}"
    return "one number" if (width, np.ndim(expected)) == (1, 0) else str(width)
