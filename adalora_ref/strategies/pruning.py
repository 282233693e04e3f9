"""Strategies of what prunes: averages, schedules, scores, and scripted runs of an allocator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from adalora_ref.array import HALF, Array
from adalora_ref.budget import BudgetSchedule
from adalora_ref.factors import Factors
from adalora_ref.importance import Importance
from adalora_ref.strategies.arguments import (
    Given,
    Kind,
    a_dtype,
    array_of,
    as_strategy,
    checked,
    finite,
    host_dtype,
    integer,
    kinds,
    or_default,
    rounded,
    shapes_by_name,
    typed,
)
from adalora_ref.strategies.layers import (
    EIGHTHS,
    RANKS,
    SIZES,
    Cases,
    drawn_entries,
    factors,
    factors_of,
    lengths_of,
    sizes,
)

# AVERAGES


def importance_states(
    like: Given[Factors] | None = None,
    *,
    entries: Given[float] | None = None,
    fresh: Given[bool] = False,
    dtype: Given[str] = "float64",
    xp: Given[Any] = np,
) -> SearchStrategy[Importance]:
    """Averages Ī and Ū without sign, in the shapes of *like*; both zero where *fresh*.

    They have the dtype that state has: float32 for 16-bit factors.
    """
    shapes = or_default(factors(), typed("like", Factors), like).map(lengths_of)
    kind = kinds(dtype=checked(_state_dtype, dtype), entries=drawn_entries(entries).map(abs), xp=xp)
    return _importance_states(shapes, as_strategy(typed("fresh", bool), fresh), kind)


def _state_dtype(dtype: str) -> str:
    return "float32" if a_dtype(dtype) in HALF else dtype


@st.composite
def _importance_states(
    draw: DrawFn,
    lengths: SearchStrategy[tuple[int, int, int]],
    fresh: SearchStrategy[bool],
    kind: SearchStrategy[Kind],
) -> Importance:
    shape, held = draw(lengths), draw(kind)
    held = held._replace(entries=st.just(0.0)) if draw(fresh) else held
    return Importance(*(factors_of(draw, *shape, held) for _ in range(2)))


# SCHEDULES


def schedules(
    *,
    target: Given[int] | None = None,
    falls_by: Given[int] | None = None,
    warmup: Given[int] | None = None,
    window: Given[int] | None = None,
    final: Given[int] | None = None,
    interval: Given[int] | None = None,
    whole: Given[bool] | None = None,
) -> SearchStrategy[BudgetSchedule]:
    """Valid schedules; where *whole*, the cubic is a whole number at every step, which doubles often miss."""
    return st.builds(
        _schedule,
        target=or_default(sizes(0, 9), integer("target"), target),
        falls_by=or_default(sizes(0, 60), integer("falls_by"), falls_by),
        warmup=or_default(sizes(0, 9), integer("warmup"), warmup),
        window=or_default(sizes(1, 12), integer("window", 1), window),
        final=or_default(sizes(0, 9), integer("final"), final),
        interval=or_default(sizes(1, 4), integer("interval", 1), interval),
        whole=or_default(st.booleans(), typed("whole", bool), whole),
    )


def _schedule(
    target: int, falls_by: int, warmup: int, window: int, final: int, interval: int, *, whole: bool
) -> BudgetSchedule:
    return BudgetSchedule(
        initial=target + (falls_by * window**3 if whole else falls_by),
        target=target,
        warmup=warmup,
        final=final,
        total=warmup + window + final,
        interval=interval,
    )


def boundary_schedules() -> SearchStrategy[BudgetSchedule]:
    """Valid schedules at the edge of the rules: nothing falls, nothing is left, one step of pruning, no last phase."""
    return st.one_of(
        schedules(falls_by=0),
        schedules(target=0),
        schedules(window=1),
        schedules(warmup=0, final=0),
        schedules(interval=1000),
    )


@st.composite
def invalid_schedules(draw: DrawFn) -> dict[str, Any]:
    """Arguments that `BudgetSchedule` refuses: valid ones, one rule broken."""
    held = draw(schedules())
    given = {name: getattr(held, name) for name in ("initial", "target", "warmup", "final", "total", "interval")}
    broken: list[dict[str, Any]] = [
        {"target": held.initial + 1},
        {"total": held.warmup + held.final},
        {"interval": 0},
        {"warmup": -1},
        {"final": True},
        {"initial": held.initial + 0.5},
    ]
    one: dict[str, Any] = draw(st.sampled_from(broken))
    return given | one


# SCORES AND RUNS


def score_maps(
    *,
    matrices: Given[int] | None = None,
    ranks: Given[int] | None = None,
    margin: Given[float] = 0.0,
    dtype: Given[str] = "float64",
    xp: Given[Any] = np,
) -> Cases:
    """Scores by matrix: ties, near ties, zeros of both signs, subnormals, the largest, and any other without sign.

    It shrinks to ties of 1/8.

    Parameters
    ----------
    matrices
        How many; 0 gives an empty mapping.
    ranks
        Triplets of each matrix, drawn for each by itself.
    margin
        Relative distance of near ties, in [0, 1); 0 makes none. Where it is less than the dtype can express, a near
        tie is the next number of the dtype.
    """
    near = as_strategy(finite("margin", least=0.0, below=1.0), margin)
    kind = kinds(dtype=dtype, entries=EIGHTHS, xp=xp)
    return _score_maps(
        or_default(SIZES, integer("matrices"), matrices), or_default(RANKS, integer("ranks"), ranks),
        st.builds(_with_scores, kind, near),
    )  # fmt: skip


def _with_scores(kind: Kind, margin: float) -> Kind:
    """That kind, with scores for entries."""
    limits = ml_dtypes.finfo(host_dtype(kind.dtype))
    odd = [0.0, -0.0, float(limits.smallest_subnormal), float(limits.tiny), float(limits.max)]
    small = [k / 8 for k in range(1, 17)]
    listed = [*small, *odd, *_near(small[:4], margin, kind.dtype)]
    any_other = st.floats(0.0, float(limits.max))
    return kind._replace(entries=st.sampled_from(small[:3]) | st.sampled_from(listed) | any_other)


def _near(values: list[float], margin: float, dtype: str) -> list[float]:
    """The numbers of the dtype that lie above *values* by that margin, or next to them."""
    if not margin:
        return []
    here = rounded(np.asarray(values), dtype)
    there = rounded(np.asarray(values) * (1.0 + margin), dtype)
    return [float(value) for value in np.maximum(there, np.nextafter(here, here.dtype.type(np.inf)))]


@st.composite
def _score_maps(
    draw: DrawFn, matrices: SearchStrategy[int], ranks: SearchStrategy[int], kind: SearchStrategy[Kind]
) -> dict[str, Array]:
    held = draw(kind)
    return {f"layer{i}": array_of(draw, (r,), held) for i, r in enumerate([draw(ranks) for _ in range(draw(matrices))])}


def scripts(
    *,
    schedule: Given[BudgetSchedule] | None = None,
    shapes: Given[Mapping[str, tuple[int, int]]] | None = None,
    r: Given[int] | None = None,
    entries: Given[float] | None = None,
    dtype: Given[str] = "float64",
    xp: Given[Any] = np,
) -> Cases:
    """Scripted runs of an allocator: a schedule over all matrices, their first weights, a gradient for each step."""
    return _scripts(
        None if schedule is None else as_strategy(typed("schedule", BudgetSchedule), schedule),
        as_strategy(shapes_by_name, {"q": (2, 2), "v": (1, 2)} if shapes is None else shapes),
        or_default(sizes(1, 2), integer("r"), r),
        kinds(dtype=dtype, entries=drawn_entries(entries), xp=xp),
    )


@st.composite
def _scripts(
    draw: DrawFn,
    schedule: SearchStrategy[BudgetSchedule] | None,
    shapes: SearchStrategy[dict[str, tuple[int, int]]],
    r: SearchStrategy[int],
    kind: SearchStrategy[Kind],
) -> dict[str, Any]:
    named, rank, held = draw(shapes), draw(r), draw(kind)
    plan = draw(_plans(rank * len(named)) if schedule is None else schedule)
    weights, *steps = (
        {name: factors_of(draw, *shape, rank, held) for name, shape in named.items()} for _ in range(plan.total + 1)
    )
    return {"schedule": plan, "weights": weights, "gradients": steps}


def _plans(count: int) -> SearchStrategy[BudgetSchedule]:
    """Short schedules that start from that many triplets."""
    few: dict[str, Any] = {"warmup": sizes(0, 2), "window": sizes(1, 4), "final": 1, "whole": False}
    return st.integers(0, count).flatmap(lambda low: schedules(target=low, falls_by=count - low, **few))
