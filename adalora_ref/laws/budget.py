"""Laws of the schedule: the budget over time, the phases, and when allocations are due."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from adalora_ref import strategies
from adalora_ref.budget import BudgetSchedule
from adalora_ref.conformance.calls import PHASES
from adalora_ref.conformance.cases import Inputs
from adalora_ref.laws.asking import Asked
from adalora_ref.laws.law import Law
from adalora_ref.laws.measured import demand, same

# CASES


@st.composite
def schedules(draw: DrawFn, /, dtype: str, **fixed: Any) -> Inputs:
    """A schedule, often at the edge of the rules, and every step of it and a few beyond."""
    plan = draw(strategies.schedules(**fixed) if fixed else strategies.schedules() | strategies.boundary_schedules())
    return _asked_about(plan)


@st.composite
def raised_schedules(draw: DrawFn, /, dtype: str) -> Inputs:
    """A schedule, and by how much to raise it: by a few, or beyond what a double counts one by one."""
    return draw(schedules(dtype)) | {"by": draw(st.integers(1, 9) | st.just(2**53 + 1))}


@st.composite
def delayed_schedules(draw: DrawFn, /, dtype: str) -> Inputs:
    """A schedule, and by how many steps to delay it."""
    return draw(schedules(dtype)) | {"by": draw(st.integers(1, 9))}


@st.composite
def even_schedules(draw: DrawFn, /, dtype: str) -> Inputs:
    """A schedule with an even number of pruning steps."""
    return draw(schedules(dtype, window=strategies.sizes(1, 6).map(lambda half: 2 * half)))


def _asked_about(plan: BudgetSchedule) -> Inputs:
    return {"schedule": plan, "steps": list(range(plan.total + 3))}


def _budgets(it: Asked, plan: BudgetSchedule) -> list[int]:
    return [int(b) for b in it("budget_at", _asked_about(plan)).b]


def _due(it: Asked, plan: BudgetSchedule) -> list[int]:
    return [t for t, due in enumerate(it("allocates_at", _asked_about(plan)).due) if due]


# BUDGET


def budget_has_exact_ends(it: Asked, case: Inputs) -> None:
    """b(t) = b⁰ through t_i, and b(t) = b^T from T − t_f on."""
    plan = case["schedule"]
    found = _budgets(it, plan)
    head, tail = found[: plan.warmup + 1], found[plan.end_of_pruning :]
    same("b(t) for t ≤ t_i", head, "b⁰", [plan.initial] * len(head))
    same("b(t) for t ≥ T − t_f", tail, "b^T", [plan.target] * len(tail))


def budget_never_rises(it: Asked, case: Inputs) -> None:
    """The budget never rises: b(t + 1) ≤ b(t)."""
    found = _budgets(it, case["schedule"])
    for t, (now, then) in enumerate(pairwise(found)):
        demand(then <= now, f"b(t + 1) must be at most b(t); got b({t + 1}) = {then} and b({t}) = {now}")


def halfway_an_eighth_is_left(it: Asked, case: Inputs) -> None:
    """Halfway through pruning an eighth of the fall is left: b = b^T + ⌊(b⁰ − b^T) / 8⌋."""
    plan = case["schedule"]
    middle = (plan.warmup + plan.end_of_pruning) // 2
    want = plan.target + (plan.initial - plan.target) // 8
    got = _budgets(it, plan)[middle]
    demand(got == want, f"b({middle}), halfway, must be b^T + ⌊(b⁰ − b^T) / 8⌋ = {want}; got {got}")


def budget_shifts_with_its_ends(it: Asked, case: Inputs) -> None:
    """The floor is taken of an exact number: k more at both ends is k more at every step."""
    plan, k = case["schedule"], case["by"]
    raised = replace(plan, initial=plan.initial + k, target=plan.target + k)
    same(f"b(t) with {k} more at both ends", _budgets(it, raised), f"b(t) + {k}", [b + k for b in _budgets(it, plan)])


def whole_budgets_are_met(it: Asked, case: Inputs) -> None:
    """Where b⁰ − b^T is m (T − t_f − t_i)³, no step is rounded: b(t) − b^T is m times a cube."""
    plan = case["schedule"]
    window = plan.end_of_pruning - plan.warmup
    times = (plan.initial - plan.target) // window**3
    found = _budgets(it, plan)[plan.warmup : plan.end_of_pruning]
    want = [plan.target + times * left**3 for left in range(window, 0, -1)]
    same("b(t) while pruning", found, "b^T + m (T − t_f − t)³", want)


def a_later_start_delays_the_budget(it: Asked, case: Inputs) -> None:
    """The clock has no zero of its own: k more steps of warm-up delay every budget by k."""
    plan, k = case["schedule"], case["by"]
    later = replace(plan, warmup=plan.warmup + k, total=plan.total + k)
    same(f"b(t + {k}), warm-up longer by {k}", _budgets(it, later)[k:], "b(t)", _budgets(it, plan))


# PHASES AND ALLOCATIONS


def phases_have_their_lengths(it: Asked, case: Inputs) -> None:
    """The phases last t_i, T − t_f − t_i and then for ever, in this order."""
    plan = case["schedule"]
    found = it("phase_at", case).phase
    lengths = (plan.warmup, plan.end_of_pruning - plan.warmup, len(found) - plan.end_of_pruning)
    want = [name for name, length in zip(PHASES, lengths, strict=True) for _ in range(length)]
    same("the phases", [PHASES[p] if p >= 0 else "no phase" for p in found], "these", want)


def allocations_end_with_pruning(it: Asked, case: Inputs) -> None:
    """An allocation is due at T − t_f, where the target is reached, and none after."""
    last = max(_due(it, case["schedule"]), default=None)
    want = case["schedule"].end_of_pruning
    demand(last == want, f"the last allocation must be due at T − t_f = {want}; got {last}")


def allocations_begin_with_pruning(it: Asked, case: Inputs) -> None:
    """The first allocation is due at t_i, and none before."""
    first = min(_due(it, case["schedule"]), default=None)
    want = case["schedule"].warmup
    demand(first == want, f"the first allocation must be due at t_i = {want}; got {first}")


def allocations_are_an_interval_apart(it: Asked, case: Inputs) -> None:
    """While pruning, one allocation follows another after ΔT steps; the last, at T − t_f, may come sooner."""
    plan = case["schedule"]
    due = _due(it, plan)
    gaps = [later - earlier for earlier, later in pairwise(due)]
    demand(all(g == plan.interval for g in gaps[:-1]), f"allocations must be ΔT = {plan.interval} apart; got {due}")
    demand(all(g <= plan.interval for g in gaps), f"no gap may exceed ΔT = {plan.interval}; got {due}")


def a_later_start_delays_allocations(it: Asked, case: Inputs) -> None:
    """ΔT is counted from t_i: k more steps of warm-up delay every allocation by k."""
    plan, k = case["schedule"], case["by"]
    later = replace(plan, warmup=plan.warmup + k, total=plan.total + k)
    same(
        f"the allocations, warm-up longer by {k}", _due(it, later), f"{k} steps later", [t + k for t in _due(it, plan)]
    )


BUDGET, DUE = ("budget_at",), ("allocates_at",)

BUDGET_LAWS: tuple[Law, ...] = (
    Law(budget_has_exact_ends, BUDGET, schedules, "budget_falls_to_the_end"),
    Law(budget_never_rises, BUDGET, schedules, "budget_as_misprinted"),
    Law(halfway_an_eighth_is_left, BUDGET, even_schedules, "linear_schedule"),
    Law(budget_shifts_with_its_ends, BUDGET, raised_schedules, "budget_in_doubles"),
    Law(whole_budgets_are_met, BUDGET, lambda dtype: schedules(dtype, whole=True), "budget_in_doubles"),
    Law(a_later_start_delays_the_budget, BUDGET, delayed_schedules, "budget_counts_from_zero"),
    Law(phases_have_their_lengths, ("phase_at",), schedules, "warmup_includes_t_i"),
    Law(allocations_end_with_pruning, DUE, schedules, "no_allocation_at_the_end"),
    Law(allocations_begin_with_pruning, DUE, schedules, "allocates_outside_pruning"),
    Law(allocations_are_an_interval_apart, DUE, schedules, "allocates_at_every_step"),
    Law(a_later_start_delays_allocations, DUE, delayed_schedules, "interval_counts_from_zero"),
)
