"""The budget schedule: worked by hand, and its laws over integers."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from adalora_ref import BudgetSchedule, allocates_at, budget_at, phase_at
from adalora_ref.budget import triplet_costs

COUNTS = st.integers(0, 10**6)


@st.composite
def schedules(draw: st.DrawFn, *, largest: int = 10**6) -> BudgetSchedule:
    """A schedule of any size."""
    target, fall = draw(st.integers(0, largest)), draw(st.integers(0, largest))
    warmup, window, final = draw(st.integers(0, 30)), draw(st.integers(1, 60)), draw(st.integers(0, 30))
    return BudgetSchedule(
        initial=target + fall,
        target=target,
        warmup=warmup,
        final=final,
        total=warmup + window + final,
        interval=draw(st.integers(1, 9)),
    )


# BY HAND


def test_a_schedule_by_hand() -> None:
    """From 20 to 4 over a window of 4: 4 + 16 · (1, 27/64, 8/64, 1/64) = 20, 10.75, 6, 4.25, floored, then 4."""
    schedule = BudgetSchedule(initial=20, target=4, warmup=1, final=2, total=7)
    assert [budget_at(schedule, t) for t in range(8)] == [20, 20, 10, 6, 4, 4, 4, 4]
    assert schedule.end_of_pruning == 5


def test_allocations_by_hand() -> None:
    """t_i = 2 and ΔT = 3 make 2 and 5; T − t_f = 7 is due although 3 does not lead there; later nothing is."""
    schedule = BudgetSchedule(initial=9, target=3, warmup=2, final=4, total=11, interval=3)
    assert [t for t in range(20) if allocates_at(schedule, t)] == [2, 5, 7]


def test_phases_by_hand() -> None:
    """Warm-up ends before t_i, pruning before T − t_f; what lies beyond T is final."""
    schedule = BudgetSchedule(initial=9, target=3, warmup=2, final=4, total=11)
    assert [phase_at(schedule, t) for t in (0, 1, 2, 6, 7, 10, 11, 10**9)] == [
        *["warmup"] * 2,
        *["pruning"] * 2,
        *["final"] * 4,
    ]


def test_the_misprint_of_the_paper() -> None:
    """On the paper's MNLI settings its numerator t − t_i − t_f starts at 1710.8 and ends at 558.3, not 216 and 144."""
    s = BudgetSchedule(initial=216, target=144, warmup=8000, final=50000, total=85904)
    assert [budget_at(s, t) for t in (0, 8000, 35903, 35904)] == [216, 216, 144, 144]
    window = s.total - s.warmup - s.final
    printed = [144 + 72 * (1 - Fraction(t - s.warmup - s.final, window)) ** 3 for t in (8000, 35903)]
    assert [round(float(b), 1) for b in printed] == [1710.8, 558.3]


def test_doubles_give_another_integer() -> None:
    """4 + 1000 · (3/5)³ is 220; in doubles it is 219.99999999999997."""
    schedule = BudgetSchedule(initial=1004, target=4, warmup=0, final=1, total=6)
    assert budget_at(schedule, 2) == 220
    assert int(4 + 1000 * (1 - 2 / 5) ** 3) == 219


def test_budgets_as_people_think_of_them() -> None:
    """Ranks are per matrix; parameters are lowered to a whole rank everywhere, 3 · ((4 + 3 + 1) + (5 + 6 + 1)) = 60."""
    shapes = {"q": (4, 3), "v": (5, 6)}
    assert triplet_costs(shapes) == triplet_costs(list(shapes.values())) == [8, 12]
    ranks = BudgetSchedule.from_ranks(shapes, initial_rank=6, target_rank=4, warmup=1, final=1, total=9, interval=2)
    assert (ranks.initial, ranks.target, ranks.interval) == (12, 8, 2)
    parameters = BudgetSchedule.from_parameters(shapes, initial=79, target=25, warmup=1, final=1, total=9)
    assert (parameters.initial, parameters.target) == (60, 25)


# LAWS


@given(schedule=schedules(largest=10**30))
def test_the_budget_is_the_floor_of_the_rational_value(schedule: BudgetSchedule) -> None:
    """At every step, for numbers of any size, the budget is the floor of the exact cubic."""
    window = schedule.end_of_pruning - schedule.warmup
    for t in range(schedule.total + 3):
        done = min(max(Fraction(t - schedule.warmup, window), Fraction(0)), Fraction(1))
        exact = schedule.target + (schedule.initial - schedule.target) * (1 - done) ** 3
        assert budget_at(schedule, t) == math.floor(exact)


@given(schedule=schedules())
def test_the_budget_falls_from_initial_to_target(schedule: BudgetSchedule) -> None:
    """It is initial up to and at t_i, never rises, and is target from T − t_f on, whatever lies beyond T."""
    budgets = [budget_at(schedule, t) for t in range(schedule.total + 3)]
    assert set(budgets[: schedule.warmup + 1]) == {schedule.initial}
    assert all(a >= b for a, b in pairwise(budgets))
    assert set(budgets[schedule.end_of_pruning :]) == {schedule.target}
    assert all(type(b) is int for b in budgets)


@given(schedule=schedules())
def test_allocations_are_due_from_the_first_to_the_last_step_of_pruning(schedule: BudgetSchedule) -> None:
    """t_i, t_i + ΔT, … in the pruning phase, and T − t_f, where the target is first reached; nothing else."""
    due = [t for t in range(schedule.total + 20) if allocates_at(schedule, t)]
    assert due[0] == schedule.warmup
    assert due[-1] == schedule.end_of_pruning
    assert budget_at(schedule, due[-1]) == schedule.target
    assert set(np.diff(due[:-1])) <= {schedule.interval}
    assert [phase_at(schedule, t) for t in due] == ["pruning"] * (len(due) - 1) + ["final"]
    assert len(due) == 1 + -(-(schedule.end_of_pruning - schedule.warmup) // schedule.interval)


def test_integers_of_any_kind_will_do(unchecked: None) -> None:
    """NumPy's integers serve as steps and counts, and come out as Python's."""
    steps = {"initial": 20, "target": 4, "warmup": 1, "final": 2, "total": 7, "interval": 2}
    schedule, same = (BudgetSchedule(**{n: kind(v) for n, v in steps.items()}) for kind in (int, np.int64))
    assert same == schedule
    assert {type(value) for value in vars(same).values()} == {int}
    for step in range(9):
        assert budget_at(same, np.int64(step)) == budget_at(schedule, step)
        assert type(budget_at(same, np.int64(step))) is int
        assert allocates_at(same, np.int64(step)) is allocates_at(schedule, step)
