"""What every reproduction carries. Its source is copied, so it imports NumPy and nothing of the kit."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Wanted(NamedTuple):
    """One result as it should be: value = high + low, how far each element may lie from it, and its dtype."""

    high: Any
    low: Any = 0.0
    bound: Any = 0.0
    dtype: str = "float64"


def outcome(what: str, lines: list[str], *, equation: str, step: str = "", diagnosis: str = "") -> int:
    """Print where a result departs, and return 1; or 0, with a sentence, where none does."""
    if not lines:
        print(f"{what} does not depart: in this case its results are what they should be.")
        return 0
    print(f"{what} departs from the specification.")
    place = [f"  step       {step}"] if step else []
    print(f"  equation   {equation}", *place, *lines, *([f"  diagnosis  {diagnosis}"] if diagnosis else []), sep="\n")
    return 1


def compared(results: dict[str, Any], expected: dict[str, Wanted]) -> list[str]:
    """Every result against what it should be, element by element; where nothing is expected, nothing is wrong."""
    if expected and results.keys() != expected.keys():
        lacking, beyond = sorted(expected.keys() - results.keys()), sorted(results.keys() - expected.keys())
        return [f"  reason     the results lack {lacking}; beyond them stands {beyond}"]
    wrong = [lines for name, want in expected.items() if (lines := departure(name, results[name], want))]
    also = [lines[0].replace("quantity", "also    ") for lines in wrong[1:]]
    return [*wrong[0], *also] if wrong else []


def departure(name: str, got: Any, want: Wanted) -> list[str]:
    """The form of one result, or its worst element, where it departs."""
    high = np.asarray(want.high)
    if (got.shape, got.dtype.name) != (high.shape, want.dtype):
        form = f"{name} must have shape {high.shape} and dtype {want.dtype}; got {got.shape} and {got.dtype.name}"
        return [f"  reason     {form}"]
    worst = farthest(got, want)
    if worst is None:
        return []
    bound = float(np.broadcast_to(want.bound, high.shape)[worst])
    return [
        f"  quantity   {name}{list(worst) if worst else ''}",
        f"  got        {number(got[worst])!r}",
        f"  expected   {number(high[worst])!r}",
        f"  bound      {f'{bound:.3g}' if bound else '0, since nothing rounds here: the result must be exact'}",
    ]


def number(a: Any) -> Any:
    """A number as its dtype shows it: True, 3, or 3.0."""
    return a.item() if a.dtype.kind in "biu" else float(a)


def farthest(got: Any, want: Wanted) -> tuple[int, ...] | None:
    """Where the largest error over bound lies, if it is above 1."""
    wide, high = got.astype(np.float64), np.asarray(want.high)
    with np.errstate(all="ignore"):
        error = np.where(np.isfinite(wide), np.abs((wide - high) - want.low), np.inf)
        ratio = np.where(error == 0, 0.0, error / np.broadcast_to(want.bound, high.shape))
    if not np.any(ratio > 1):
        return None
    return tuple(int(i) for i in np.unravel_index(np.argmax(ratio), got.shape))
