"""What each picture shows, computed from the records of a run as plain NumPy arrays."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import numpy as np

from adalora_ref.experiments.run_folder import Arm

LEVELS = (0.0, 25.0, 50.0, 75.0, 100.0)
"""Percentiles of the scores that are drawn: the range, the middle half, the median."""

Array = np.ndarray[Any, Any]


class Phase(NamedTuple):
    """The steps *first* … *end* − 1."""

    name: str
    first: int
    end: int


class Budget(NamedTuple):
    """Step by step what may live and what does, in *unit*; and the steps with an allocation."""

    unit: str
    budget: Array
    kept: Array
    allocations: Array


class Ranks(NamedTuple):
    """(matrices, steps): the triplets that each matrix keeps, in forward order."""

    names: list[str]
    kept: Array


class Grid(NamedTuple):
    """(kinds, layers) of ranks at the end; −1 where there is no such matrix."""

    kinds: list[str]
    layers: list[str]
    ranks: Array


class Scores(NamedTuple):
    """Percentiles of the scores, (levels, steps), NaN where there is nobody; the threshold in force at each step."""

    kept: Array
    dropped: Array
    threshold: Array
    allocations: Array


class Defects(NamedTuple):
    """Of one factor, by matrix: ‖G − I‖_F at each step; how many vectors in how many dimensions; the least possible."""

    what: str
    norm: str
    by_matrix: dict[str, Array]
    vectors: dict[str, tuple[int, int]]
    least: dict[str, float]


class Exchange(NamedTuple):
    """By allocation: its step, and how many came back and how many were dropped."""

    steps: Array
    revived: Array
    dropped: Array


def phases(arm: Arm, /) -> list[Phase]:
    """The phases that have steps, in order; without an allocation a run is one whole, named so."""
    if not allocations(arm).size:
        return [Phase("whole", 0, len(arm.steps))]
    found = []
    for name, held in groupby(arm.steps, key=lambda step: str(step["phase"])):
        numbers = [int(step["step"]) for step in held]
        found.append(Phase(name, numbers[0], numbers[-1] + 1))
    return found


def allocations(arm: Arm, /) -> Array:
    """The steps in which an allocation was due."""
    return np.asarray([step["step"] for step in arm.steps if step["allocates"]], dtype=np.int64)


def budget(arm: Arm, config: Mapping[str, Any], /) -> Budget:
    """Budget and what is kept, in parameters where the allocation is given a cost."""
    unit, field = ("parameters", "parameters") if config["adaptation"]["cost"] else ("triplets", "kept")
    allowed = np.asarray([step["budget"] for step in arm.steps])
    kept = np.asarray([sum(step[field].values()) for step in arm.steps])
    return Budget(unit, allowed, kept, allocations(arm))


def ranks(arm: Arm, /) -> Ranks:
    """The triplets kept after each step."""
    names = list(arm.steps[0]["kept"])
    return Ranks(names, np.asarray([[step["kept"][name] for step in arm.steps] for name in names]))


def grid(kept: Mapping[str, int], /) -> Grid:
    """Kind × layer if every name is a kind and one number, and there are several kinds; else the matrices in a row.

    >>> grid({"q.0": 3, "v.0": 1, "q.1": 2, "v.1": 4})
    Grid(kinds=['q', 'v'], layers=['0', '1'], ranks=array([[3, 2],
           [1, 4]]))
    """
    parts = {name: re.fullmatch(r"(\D*)(\d+)(\D*)", name) for name in kept}
    places = {name: (_kind(m[1], m[3]), m[2]) for name, m in parts.items() if m}
    kinds = list(dict.fromkeys(kind for kind, _ in places.values()))
    if len(places) < len(kept) or len(kinds) < 2:
        return Grid(["rank"], list(kept), np.asarray([list(kept.values())]))
    layers = sorted({layer for _, layer in places.values()}, key=int)
    found = np.full((len(kinds), len(layers)), -1)
    for name, (kind, layer) in places.items():
        found[kinds.index(kind), layers.index(layer)] = kept[name]
    return Grid(kinds, layers, found)


def _kind(before: str, after: str) -> str:
    """A name without its number: a dot on both sides of that is one dot."""
    return re.sub(r"([._])[._]+", r"\1", before + after).strip("._")


def labelled(values: Array, edges: Sequence[int], /, *, least: float) -> list[tuple[int, int]]:
    """Where to name a value that stays: the longest stretch of each run that no edge crosses, if it has *least*.

    >>> labelled(np.array([8, 8, 8, 8, 5, 5, 5, 2]), [0, 3], least=2)  # 8 is cut at 3, and 2 is too short
    [(0, 3), (4, 7)]
    """
    changes = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    found = []
    for first, end in pairwise(changes):
        pieces = pairwise([first, *(edge for edge in edges if first < edge < end), end])
        longest = max(pieces, key=lambda piece: piece[1] - piece[0])
        if longest[1] - longest[0] >= least:
            found.append(longest)
    return found


def scores(arm: Arm, /) -> Scores:
    """Percentiles over all triplets of all matrices, those kept after the step apart from those dropped."""
    values = np.concatenate(list(arm.timeline.scores.values()), axis=1)  # (steps, N)
    kept = np.concatenate(list(arm.timeline.masks.values()), axis=1)  # (steps, N)
    lowest = [np.nan if step["threshold"] is None else step["threshold"] for step in arm.steps]
    return Scores(_percentiles(values, kept), _percentiles(values, ~kept), _carried(lowest), allocations(arm))


def _percentiles(values: Array, chosen: Array) -> Array:
    none = np.full(len(LEVELS), np.nan)
    return np.stack(
        [np.percentile(row[who], LEVELS) if who.any() else none for row, who in zip(values, chosen, strict=True)], 1
    )


def _carried(values: Sequence[float]) -> Array:
    """Each NaN replaced by the latest number before it."""
    numbers = np.asarray(values, dtype=np.float64)
    last = np.maximum.accumulate(np.where(np.isnan(numbers), -1, np.arange(len(numbers))))
    return np.where(last < 0, np.nan, numbers[last])


def defects(arm: Arm, config: Mapping[str, Any], /) -> list[Defects]:
    """Of B's columns and of A's rows; more vectors than dimensions stay √(vectors − dimensions) away at least."""
    found = []
    for what, norm, held, side in (
        ("columns", "‖BᵀB − I‖$_F$", arm.timeline.defect_B, 0),
        ("rows", "‖AAᵀ − I‖$_F$", arm.timeline.defect_A, 1),
    ):
        vectors = {name: (arm.factors[name].s.shape[0], config["shapes"][name][side]) for name in held}
        least = {name: (r - d) ** 0.5 for name, (r, d) in vectors.items() if r > d}
        found.append(Defects(what, norm, held, vectors, least))
    return found


def spread(held: Defects, /) -> Array:
    """(levels, steps): percentiles over the matrices, where they are too many for a line each."""
    return np.asarray(np.percentile(np.stack(list(held.by_matrix.values())), LEVELS, axis=0))


def exchange(arm: Arm, /) -> Exchange:
    """Who came back and who was dropped, counted over all matrices."""
    due = [step for step in arm.steps if step["allocates"]]
    counts = [[sum(map(len, step[field].values())) for step in due] for field in ("revived", "dropped")]
    return Exchange(allocations(arm), *(np.asarray(held, dtype=np.int64) for held in counts))


def losses(arm: Arm, /) -> Array:
    """The loss of the task at every step, in nats."""
    return np.asarray([step["loss"] for step in arm.steps])


def smoothed(values: Array, window: int, /) -> tuple[Array, Array]:
    """The mean over *window* values, and the steps in the middle of each window.

    >>> smoothed(np.array([1.0, 2.0, 6.0, 4.0]), 3)
    (array([1., 2.]), array([3., 4.]))
    """
    means = np.convolve(values, np.full(window, 1.0 / window), mode="valid")
    return np.arange(len(means)) + (window - 1) / 2, means
