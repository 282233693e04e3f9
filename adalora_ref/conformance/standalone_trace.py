"""What a reproduction of a recorded run carries: what was recorded, beside what its formula makes of the inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from adalora_ref.conformance.standalone_comparison import Wanted, departure, farthest, number, outcome


def main(
    run: str,
    case: Callable[[], dict[str, Any]],
    recorded: Callable[[], Any],
    formula: Callable[..., Any],
    expected: Callable[[], Wanted],
    *,
    quantity: str,
    **story: str,
) -> int:
    """Print where what was recorded departs, and what the formula makes of its inputs in float64; return 1, or 0."""
    got, want = recorded(), expected()
    lines = departure(quantity, got, want)
    made = np.asarray(formula(**wide(case())))
    if lines and got.shape == made.shape and (worst := farthest(got, want)) is not None:
        lines[3:3] = [f"  computed   {number(made[worst])!r}, by {formula.__name__}() in this file"]
    return outcome(f"{quantity} of {run}", lines, **story)


def wide(value: Any) -> Any:
    """The value with every array of floating numbers in it in float64."""
    if isinstance(value, dict):
        return {key: wide(item) for key, item in value.items()}
    if isinstance(value, list):
        return [wide(item) for item in value]
    return value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value
