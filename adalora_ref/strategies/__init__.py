"""Hypothesis strategies for AdaLoRA: what to draw when you test an implementation of your own.

Every argument may be a plain value or itself a strategy; None stands for what is drawn where nothing is said. A plain
value that breaks a rule is refused at once, a drawn one when it is drawn. Entries are by default eighths, on which the
arithmetic of small cases is exact, so that laws hold with ``==``; all shrinking ends at small sizes and small eighths,
cases that a person can work by hand.

`xp` chooses the array library: NumPy, or any namespace of the array API. Arrays are made of drawn lists and not by
`hypothesis.extra.array_api`, which knows neither float16 nor bfloat16, refuses entries that a dtype has to round, and
shrinks to zeros, which hide most mistakes; where these do not matter, its strategies may be used beside these.
"""

from __future__ import annotations

from adalora_ref.strategies.arguments import DTYPES, LAYOUTS, Given
from adalora_ref.strategies.layers import (
    EIGHTHS,
    Cases,
    arrays,
    conditioned,
    dtypes,
    eighths,
    factors,
    gradients,
    layouts,
    linear_cases,
    ordinary,
    orthogonal,
    realistic,
    sizes,
)
from adalora_ref.strategies.pruning import (
    boundary_schedules,
    importance_states,
    invalid_schedules,
    schedules,
    score_maps,
    scripts,
)

__all__ = [
    "DTYPES",
    "EIGHTHS",
    "LAYOUTS",
    "Cases",
    "Given",
    "arrays",
    "boundary_schedules",
    "conditioned",
    "dtypes",
    "eighths",
    "factors",
    "gradients",
    "importance_states",
    "invalid_schedules",
    "layouts",
    "linear_cases",
    "ordinary",
    "orthogonal",
    "realistic",
    "schedules",
    "score_maps",
    "scripts",
    "sizes",
]
