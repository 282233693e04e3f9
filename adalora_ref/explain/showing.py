"""A worked example on the screen, made for 80 columns: numbers aligned, the code under its formula."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from adalora_ref.explain.drawing import Options
from adalora_ref.explain.stages import STAGES, Stage
from adalora_ref.explain.steps import Step, Worked, arrays_of, departing
from adalora_ref.factors import Factors

WIDTH = 80
INDENT = 4
GAP = 4


class Block(NamedTuple):
    """Lines of one width, under a heading."""

    title: str
    lines: list[str]

    @property
    def width(self) -> int:
        """Of the widest line, the heading among them."""
        return max(cell_len(line) for line in (self.title, *self.lines))


def list_stages(console: Console) -> None:
    """Print what there is to explain."""
    console.print(Text("adalora-ref explain STAGE", style="bold"))
    console.print(Text("Each stage step by step, on numbers for a pencil: formula, code, value.\n"))
    for name, stage in STAGES.items():
        console.print(Text.assemble((f"  {name:<12}", "bold"), f"{stage.title:<42}", (stage.equations, "dim")))
    console.print(Text.assemble(("  run         ", "bold"), "a training run of four steps, one step a screen"))
    console.print(Text("\n--check asks for a result of your own and says where it departs.", style="dim"))


def show(stage: Stage, worked: Worked, options: Options, console: Console) -> None:
    """Print the example: what is given, every step, and that the public functions return the same."""
    show_given(stage, worked, options, console)
    for heading, steps in worked.parts.items():
        headline(heading, console)
        for step in steps:
            _show_step(step, options, console)
    if wrong := departing(worked):
        console.print(Text(f"{worked.functions}: another {', '.join(wrong)} is returned.", style="red"))
    else:
        console.print(Text(f"{worked.functions} {_verb(worked)} the same, bit for bit.", style="green"))
    console.print(Text(f"Derived in docs/derivations/{stage.page}.", style="dim"))


def show_given(stage: Stage, worked: Worked, options: Options, console: Console) -> None:
    """Print the title and the numbers to start from."""
    title = stage.title[0].upper() + stage.title[1:]
    console.print(Text.assemble((title, "bold"), (f" · {stage.equations} of docs/specification.md", "dim")))
    headline("Given", console)
    scalars = [step for step in worked.given if isinstance(step.value, int | float)]
    if scalars:
        line = "   ".join(f"{step.formula} = {text_of(step.value, exact=True)}" for step in scalars)
        console.print(Text(" " * INDENT + line + "\n"))
    arrays = [step for step in worked.given if not isinstance(step.value, int | float)]
    whole = [step for step in arrays if not isinstance(step.value, Factors)]
    _print_blocks([block for step in whole for block in blocks_of(step, options, title=True)], console)
    for step in (step for step in arrays if isinstance(step.value, Factors)):
        _print_blocks(blocks_of(step, options, title=True), console)


def _show_step(step: Step, options: Options, console: Console) -> None:
    what = " · ".join(part for part in (shape_of(step.value), step.place) if part)
    room = min(WIDTH, console.width)
    console.print(Text.assemble((step.formula, "bold"), (what.rjust(max(2, room - cell_len(step.formula))), "dim")))
    for line in textwrap.wrap(step.code, room - 2, break_long_words=False, break_on_hyphens=False):
        console.print(Text.assemble(("│ ", "dim"), (line, "cyan")), soft_wrap=True)
    console.print()
    _print_blocks(blocks_of(step, options), console)


def headline(heading: str, console: Console) -> None:
    """Print a heading between blank lines."""
    console.print(Text.assemble("\n", ruled(heading, console), "\n"))


def ruled(heading: str, console: Console) -> Text:
    """A heading with a rule behind it."""
    rule = "─" * (min(WIDTH, console.width) - cell_len(heading) - 1)
    return Text.assemble((heading, "bold"), " ", (rule, "dim"))


def _verb(worked: Worked) -> str:
    return "return" if " and " in worked.functions else "returns"


# BLOCKS


def blocks_of(step: Step, options: Options, *, title: bool = False) -> list[Block]:
    """The arrays of a step as blocks; with the step's own name as *title* where it is one array."""
    blocks = []
    for name, value in arrays_of(step).items():
        part = name.rpartition(".")[2]
        whole = part == name
        heading = (step.formula if title else "") if whole else (f"{part} of {step.formula}" if title else part)
        blocks.append(Block(heading, lines_of(value, step.labels, exact=options.exact)))
    return blocks


def lines_of(value: Any, labels: Sequence[str] = (), *, exact: bool) -> list[str]:
    """The rows of an array, in columns of one width; the labels above them."""
    rows = texts_of(value, exact=exact)
    body = [*([list(labels)] if labels else []), *rows]
    width = max((len(cell) for row in body for cell in row), default=0)
    return ["  ".join(cell.rjust(width) for cell in row) for row in body]


def _print_blocks(blocks: Iterable[Block], console: Console) -> None:
    """Blocks side by side, as many as fit, then the next row of them."""
    row: list[Block] = []
    for block in blocks:
        used = INDENT + sum(held.width + GAP for held in row)
        if row and used + block.width > min(WIDTH, console.width):
            _print_row(row, console)
            row = []
        row.append(block)
    _print_row(row, console)


def _print_row(row: Sequence[Block], console: Console) -> None:
    if any(block.title for block in row):
        heading = (" " * GAP).join(set_cell_size(block.title, block.width) for block in row)
        console.print(Text(" " * INDENT + heading.rstrip(), style="dim"), soft_wrap=True)
    for i in range(max((len(block.lines) for block in row), default=0)):
        cells = [(block.lines[i] if i < len(block.lines) else "").ljust(block.width) for block in row]
        console.print(Text(" " * INDENT + (" " * GAP).join(cells).rstrip()), soft_wrap=True)
    if row:
        console.print()


# NUMBERS


def texts_of(value: Any, *, exact: bool) -> list[list[str]]:
    """The entries of an array of up to two dimensions as text, row by row."""
    array = np.atleast_2d(np.asarray(value))
    if exact or array.dtype.kind in "biu":
        return [[text_of(entry, exact=True) for entry in row] for row in array.tolist()]
    form = _form([abs(entry) for row in array.tolist() for entry in row])
    return [[form(entry) for entry in row] for row in array.tolist()]


def text_of(value: float, *, exact: bool) -> str:
    """An integer without ``.0``, a fraction as one or as its few decimals; what is none of these to six digits."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value):
        return str(int(value))
    fraction = simple(value) if exact else None
    if fraction is None:
        return f"{value:.6g}"
    decimals = repr(float(fraction))
    ends = (10**6 * fraction).denominator == 1
    return decimals if ends and len(decimals) <= 12 else str(fraction)


def simple(value: float) -> Fraction | None:
    """What a pencil would have found: a dyadic number as it is, another fraction where rounding explains the rest."""
    if Fraction(value).denominator <= 2**20:
        return Fraction(value)
    nearest = Fraction(value).limit_denominator(1000)
    return nearest if abs(float(nearest) - value) <= 4.0 * math.ulp(value) else None


def _form(sizes: list[float]) -> Any:
    largest = max(sizes, default=0.0)
    if all(round(size, 2) == size for size in sizes):
        return "{:.2f}".format
    return "{:.4f}".format if 0.01 <= largest < 1e6 else "{:.3e}".format


def shape_of(value: Any) -> str:
    """The shape as one says it, empty for a number and for what has several."""
    if isinstance(value, Factors | Mapping):
        return ""
    return " × ".join(map(str, np.shape(value)))
