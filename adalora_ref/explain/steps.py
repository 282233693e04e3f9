"""One step of a worked example: a line of the core, carried out as it stands, and what it left."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adalora_ref.factors import Factors

PARTS = ("B", "s", "A")
Scope = dict[str, Any]


class Step(NamedTuple):
    """A quantity: its name in the code, its formula, the code that computes it, and its value."""

    symbol: str
    formula: str
    code: str
    place: str
    """File and line of the code; empty for what is given."""
    value: Any
    """An array, a number, `Factors`, or a mapping of matrices to arrays."""
    labels: tuple[str, ...] = ()
    """Of the columns, if they have names."""


class Worked(NamedTuple):
    """A stage on one set of numbers."""

    given: list[Step]
    parts: dict[str, list[Step]]
    """The steps under their headings, in order."""
    returned: dict[str, Any]
    """By symbol, what the public functions return for the same numbers."""
    functions: str
    """Their names."""

    def steps(self) -> list[Step]:
        """All steps in order, without what is given."""
        return [step for part in self.parts.values() for step in part]


def given(symbol: str, value: Any, formula: str = "", labels: tuple[str, ...] = ()) -> Step:
    """A number to start from."""
    return Step(symbol, formula or symbol, "", "", value, labels)


def named(factors: Factors) -> Scope:
    """The three arrays by their names."""
    return dict(zip(PARTS, factors, strict=True))


def scope_of(function: Callable[..., Any], **names: Any) -> Scope:
    """The names that a line of *function* finds: those of its module, and *names* as its local ones."""
    return {**inspect.unwrap(function).__globals__, **names}


def found(function: Callable[..., Any], piece: str) -> tuple[str, str]:
    """The one line of *function* that begins with *piece*, or *piece* where one line holds it; and its place.

    Raises
    ------
    ValueError
        If no line of the source has it, or several have.
    """
    function = inspect.unwrap(function)
    numbered = _lines(function)
    whole = [(number, line) for number, line in numbered if line.startswith(piece)]
    matches = whole or [(number, piece) for number, line in numbered if piece in line]
    if len(matches) != 1:
        raise ValueError(f"one line of {function.__name__} must have {piece!r}; {len(matches)} have")
    ((number, code),) = matches
    return code, f"{Path(inspect.getsourcefile(function) or '').name}:{number}"


@cache
def _lines(function: Callable[..., Any]) -> list[tuple[int, str]]:
    lines, first = inspect.getsourcelines(function)
    return [(number, line.strip()) for number, line in enumerate(lines, first)]


def carried_out(
    scope: Scope,
    function: Callable[..., Any],
    symbol: str,
    formula: str,
    piece: str | None = None,
    *,
    over: tuple[str, ...] = (),
    labels: tuple[str, ...] = (),
) -> Step:
    """Carry out in *scope* the line of *function* that sets *symbol*, or an expression within a line.

    Parameters
    ----------
    piece
        How the line begins, or the expression; by default ``symbol =``.
    over
        Names of `Factors` in *scope*, for an expression on arrays: it is carried out for B, s and A.
    """
    code, place = found(function, piece or f"{symbol} = ")
    if code.startswith(f"{symbol} = "):
        exec(code, scope)  # noqa: S102 -- a line of this package, read from its source
    elif over:
        local = [{name: getattr(scope[name], part) for name in over} for part in PARTS]
        scope[symbol] = Factors(*(eval(code, {**scope, **names}) for names in local))  # noqa: S307 -- likewise
    else:
        scope[symbol] = eval(code, scope)  # noqa: S307 -- likewise
    return Step(symbol, formula, code, place, scope[symbol], labels)


def arrays_of(step: Step) -> dict[str, Any]:
    """The arrays of a step by the names under which they are asked for: one, or ``I.B``, ``I.s``, ``I.A``."""
    if isinstance(step.value, Factors):
        return {f"{step.symbol}.{part}": a for part, a in named(step.value).items()}
    if isinstance(step.value, Mapping):
        return {f"{step.symbol}.{name}": a for name, a in step.value.items()}
    return {step.symbol: step.value}


def departing(worked: Worked) -> list[str]:
    """The symbols whose last step is not, entry for entry, what the public function returned."""
    last = {step.symbol: step for step in worked.steps()}
    wrong = []
    for symbol, value in worked.returned.items():
        mine, theirs = arrays_of(last[symbol]), arrays_of(last[symbol]._replace(value=value))
        if mine.keys() != theirs.keys() or not all(np.array_equal(mine[name], theirs[name]) for name in mine):
            wrong.append(symbol)
    return wrong
