"""What a page knows of each step of a run: few enough steps, and numbers of four digits, to stay small."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from adalora_ref.experiments.run_folder import Arm
from adalora_ref.experiments.timeline import Timeline

MOST_NUMBERS = 60_000
"""Scores that a page holds; of a longer run it shows some of the steps."""

Pairs = list[tuple[str, list[int]]]
"""Matrices with the triplets of each that are meant."""


class Allocation(NamedTuple):
    """An allocation: its step, the lowest score that was kept, who was dropped and who came back."""

    step: int
    threshold: float | None
    dropped: Pairs
    revived: Pairs


class Shown(NamedTuple):
    """The steps of a page. Scores and masks are over all triplets, in forward order of the matrices."""

    ranks: dict[str, int]
    steps: list[int]
    phases: list[str]
    """Without an allocation there are none."""
    budgets: list[int]
    losses: list[float]
    accuracies: list[float | None]
    """As last measured; None before the first time."""
    scores: list[list[float]]
    masks: list[list[bool]]
    allocations: list[Allocation]
    total: int
    """How many steps the run has."""

    @property
    def scale(self) -> tuple[float, float]:
        """The lowest and the highest logarithm of a score above 0: the ends of every bar."""
        logs = [math.log10(score) for held in self.scores for score in held if score > 0]
        return (min(logs), max(logs)) if logs else (0.0, 0.0)

    def latest(self, step: int) -> int:
        """The index of the latest allocation up to *step*; −1 before the first."""
        return sum(allocation.step <= step for allocation in self.allocations) - 1


def shown(arm: Arm) -> Shown:
    """Choose the steps of a page, and round what it shows of them."""
    timeline = arm.timeline
    ranks = {name: int(held.shape[1]) for name, held in timeline.scores.items()}
    steps = chosen(arm.steps, sum(ranks.values()))
    records = [arm.steps[at] for at in steps]
    scores = np.concatenate(list(timeline.scores.values()), axis=1)[steps]  # (steps, N)
    masks = np.concatenate(list(timeline.masks.values()), axis=1)[steps]  # (steps, N)
    due = [record for record in arm.steps if record["allocates"]]
    return Shown(
        ranks,
        steps,
        [str(record["phase"]) if due else "–" for record in records],
        [int(record["budget"]) for record in records],
        [rounded(record["loss"]) for record in records],
        [_last_measured(timeline, step) for step in steps],
        [[rounded(score) for score in held] for held in scores.tolist()],
        masks.tolist(),
        [_allocation(record) for record in due],
        len(arm.steps),
    )


def _last_measured(timeline: Timeline, step: int) -> float | None:
    done = int(np.count_nonzero(timeline.measured <= step))
    return rounded(timeline.accuracy[done - 1]) if done else None


def chosen(records: Sequence[Mapping[str, Any]], triplets: int) -> list[int]:
    """The steps that a page shows: all, or of a long run those with an allocation and others evenly between."""
    most = max(MOST_NUMBERS // max(triplets, 1), 2)
    due = {at for at, record in enumerate(records) if record["allocates"]} | {0, len(records) - 1}
    stride = -(-len(records) // max(most - len(due), 1))
    return sorted(due | set(range(0, len(records), stride if len(records) > most else 1)))


def _allocation(record: Mapping[str, Any]) -> Allocation:
    who = [[(name, held) for name, held in record[change].items() if held] for change in ("dropped", "revived")]
    threshold = None if record["threshold"] is None else rounded(record["threshold"])
    return Allocation(int(record["step"]), threshold, *who)


def rounded(value: float) -> float:
    """The value to four significant digits."""
    return float(f"{value:.4g}")


def scientific(value: float | None) -> str:
    """A rounded value as the page's script writes it: 0, 1.234e-5.

    >>> scientific(1.234e-05), scientific(0.0), scientific(12.0), scientific(None)
    ('1.234e-5', '0', '1.200e+1', '–')
    """
    if not value:
        return "–" if value is None else "0"
    mantissa, _, power = f"{value:.3e}".partition("e")
    return f"{mantissa}e{int(power):+d}"


def length(score: float, scale: tuple[float, float]) -> float:
    """How long the bar of a score is, of 100, on a logarithmic scale; a score of 0 has none."""
    low, high = scale
    if score <= 0:
        return 0.0
    return 100.0 if high == low else 4 + 96 * (math.log10(score) - low) / (high - low)


def plain(held: Shown) -> dict[str, Any]:
    """All of it as plain data, for the page's script."""
    return {
        "ranks": list(held.ranks.items()),
        "steps": held.steps,
        "phases": held.phases,
        "budgets": held.budgets,
        "losses": held.losses,
        "accuracies": held.accuracies,
        "scores": held.scores,
        "masks": ["".join("01"[kept] for kept in mask) for mask in held.masks],
        "allocations": [allocation._asdict() for allocation in held.allocations],
        "scale": held.scale,
    }
