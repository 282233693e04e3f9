"""The run on the screen, one step a screen: sensitivities, scores, the threshold, what becomes of each triplet."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.text import Text

from adalora_ref.budget import phase_at
from adalora_ref.explain.showing import ruled, text_of
from adalora_ref.explain.tiny_run import CONFIG, Frame, frames
from adalora_ref.factors import Factors

COLUMNS = ("w", "g", "I", "Ī", "Ū", "Ī·Ū", "w′", "score")
WIDTHS = (4, 6, 5, 8, 8, 11, 4, 12)
SUBSCRIPTS = "₁₂"
PHASES = {"warmup": "warm-up", "pruning": "pruning", "final": "last phase"}
STYLES = {"kept": "", "dropped": "red", "comes back": "green", "out": "dim"}
INTRODUCTION = """\
Two adapted matrices side by side: y = q(x₁) + v(x), x = (1, 2), target -5,
loss (y - target)². Each has two triplets; the budget falls from 4 to 2.

Every number is a multiple of 1/32, so a pencil gives it exactly:
γ = 1/2, β1 = β2 = 1/2 for the averages, and AdamW moves by 2 · sign of g.

    w      an entry at the start of the step    g   its gradient, γΣR included
    I      |w · g|, its sensitivity             Ī   the average of I
    Ū      the average of |I - Ī|               w′  the entry after the step
    score  Ī·Ū of s, plus the means of Ī·Ū over B's column and over A's row

Triplets count from 1, as in formulas: q₁ is q[0] in code. Steps count from 0.
"""


class Fate(NamedTuple):
    """What becomes of one triplet in one step."""

    triplet: str
    word: str
    score: float
    s: float
    """After the step."""


def play(console: Console) -> None:
    """Show the run; on a terminal a key goes on and q stops, elsewhere all steps follow one another."""
    alive = console.is_terminal and sys.stdin.isatty()
    if alive:
        console.clear()
    console.print(Text("A run by hand · docs/worked_run.md has every number\n", style="bold"))
    console.print(Text(INTRODUCTION), soft_wrap=not console.is_terminal)
    for frame in frames():
        if alive and not _goes_on(console):
            return
        if alive:
            console.clear()
        else:
            console.print()
        show(frame, console)
    kept = ", ".join(f"{name} {kept}" for name, kept in frame.report.kept.items())
    console.print(Text(f"The run ends with ranks {kept}.", style="bold"))


def show(frame: Frame, console: Console) -> None:
    """Print one step."""
    report = frame.report
    phase = PHASES[phase_at(CONFIG.schedule, report.step)]
    scales = ", ".join(f"{name} {_short(scale)}" for name, scale in frame.scales.items())
    sizes = f"loss {_short(report.loss)} · γ·ΣR {_short(report.penalty)} · scale {scales}"
    console.print(ruled(f"Step {report.step} · {phase} · budget {report.budget}", console))
    console.print(Text(f"{sizes}\n"))
    head = "".join(name.rjust(width) for name, width in zip(COLUMNS, WIDTHS, strict=True))
    console.print(Text(" " * 8 + head, style="dim"), soft_wrap=True)
    for fate in fates(frame):
        for i, row in enumerate(rows(frame, fate.triplet)):
            _print_row(row, fate if i == 0 else None, console)
    console.print(Text("\n" + story(frame)))


def _print_row(row: tuple[str, list[float]], fate: Fate | None, console: Console) -> None:
    entry, values = row
    cells = "".join(_short(value).rjust(width) for value, width in zip(values, WIDTHS, strict=False))
    line = Text.assemble((f"{fate.triplet if fate else '':<4}", "bold"), (f"{entry:<4}", "dim"), cells)
    if fate:
        line.append(_short(fate.score).rjust(WIDTHS[-1]), style="bold")
        line.append(f"  {fate.word}", style=STYLES[fate.word])
    console.print(line, soft_wrap=True)


def fates(frame: Frame) -> list[Fate]:
    """What becomes of every triplet, in the order of the matrices."""
    words = {(True, True): "kept", (True, False): "dropped", (False, True): "comes back", (False, False): "out"}
    found = []
    for name, scores in frame.scores.items():
        was, now, s = frame.before.masks[name], frame.after.masks[name], frame.after.factors[name].s
        for i, letter in enumerate(SUBSCRIPTS):
            word = words[bool(was[i]), bool(now[i])]
            found.append(Fate(f"{name}{letter}", word, float(scores[i]), float(s[i])))
    return found


def rows(frame: Frame, triplet: str) -> list[tuple[str, list[float]]]:
    """The entries of one triplet: B, s and those of A's row, each with w, g, I, Ī, Ū, their product and w′."""
    name, i = triplet[0], SUBSCRIPTS.index(triplet[1])
    held = frame.after.importance[name]
    columns = [
        _entries(factors, i)
        for factors in (
            frame.before.factors[name],
            frame.gradient[name],
            frame.sensitivity[name],
            held.sensitivity,
            held.uncertainty,
            frame.after.factors[name],
        )
    ]
    inputs = len(columns[0]) - 2
    labels = ["B", "s", *(["A"] if inputs == 1 else [f"A{'₁₂'[k]}" for k in range(inputs)])]
    return [
        (label, [w, g, I, mean, deviation, mean * deviation, new])
        for label, w, g, I, mean, deviation, new in zip(labels, *columns, strict=True)
    ]


def _entries(factors: Factors, i: int) -> list[Any]:
    B, s, A = factors
    return [*B[:, i].tolist(), float(s[i]), *A[i].tolist()]


def story(frame: Frame) -> str:
    """The threshold, who is dropped, who comes back."""
    by_word: dict[str, list[Fate]] = {}
    for fate in fates(frame):
        by_word.setdefault(fate.word, []).append(fate)
    sentences = [] if frame.report.threshold is None else [
        f"The threshold is {_short(frame.report.threshold)}, the lowest score that is kept."
    ]  # fmt: skip
    if gone := by_word.get("dropped"):
        verb, whose = ("is", "its") if len(gone) == 1 else ("are", "their")
        sentences.append(f"{_and(gone)} {verb} dropped: {whose} s becomes 0, B and A go on training.")
    sentences += [
        f"{fate.triplet} comes back, with the s = {_short(fate.s)} that this step gives it."
        for fate in by_word.get("comes back", [])
    ]
    if not gone and "comes back" not in by_word:
        sentences.append("Nobody is dropped, nobody comes back.")
    if frame.report.step >= CONFIG.schedule.end_of_pruning:
        sentences.append("Ī and Ū stand still from here on, and with them the scores.")
    return "\n".join(sentences)


def _and(gone: list[Fate]) -> str:
    return " and ".join(fate.triplet for fate in gone)


def _short(value: float) -> str:
    return text_of(value, exact=True)


def _goes_on(console: Console) -> bool:
    console.print(Text("any key: the next step · q: stop", style="dim"))
    return click.getchar() not in {"q", "Q"}
