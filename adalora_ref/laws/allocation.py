"""Laws of the allocation: who is kept, over all matrices at once."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from adalora_ref import strategies
from adalora_ref.budget import BudgetSchedule
from adalora_ref.conformance.cases import NUMPY_DTYPES, Inputs
from adalora_ref.laws.asking import Asked
from adalora_ref.laws.law import Law
from adalora_ref.laws.measured import demand, same

ALLOCATE = ("allocate",)

# CASES


@st.composite
def budgets(draw: DrawFn, /, dtype: str, *, margin: Any = st.sampled_from([0.0, 2.0**-6])) -> Inputs:  # noqa: B008
    """Scores of some matrices, often with ties, and a budget of triplets."""
    scores = draw(strategies.score_maps(dtype=dtype, margin=margin))
    return {"scores": scores, "budget": draw(st.integers(0, _triplets(scores))), "cost": None}


@st.composite
def costs(draw: DrawFn, /, dtype: str) -> Inputs:
    """Scores, a cost of each matrix, and a budget of parameters."""
    scores = draw(strategies.score_maps(dtype=dtype))
    cost = {name: draw(st.integers(1, 5)) for name in scores}
    whole = sum(len(row) * cost[name] for name, row in scores.items())
    return {"scores": scores, "budget": draw(st.integers(0, whole)), "cost": cost}


@st.composite
def distinct_scores(draw: DrawFn, /, dtype: str) -> Inputs:
    """Scores without ties, and an order of the matrices."""
    ranks = draw(st.lists(strategies.sizes(0, 3), min_size=1, max_size=3))
    places = draw(st.permutations(range(1, sum(ranks) + 1)))
    flat = iter([k / 8 for k in places])
    rows = [[next(flat) for _ in range(r)] for r in ranks]
    scores = {f"layer{i}": np.asarray(row).astype(NUMPY_DTYPES[dtype]) for i, row in enumerate(rows)}
    order = draw(st.permutations(list(scores)))
    return {"scores": scores, "budget": draw(st.integers(0, sum(ranks))), "cost": None, "order": list(order)}


@st.composite
def scheduled(draw: DrawFn, /, dtype: str) -> Inputs:
    """Scores, and a schedule that starts from all of them."""
    scores = draw(strategies.score_maps(dtype=dtype))
    whole = _triplets(scores)
    target = draw(st.integers(0, whole))
    plan = draw(strategies.schedules(target=target, falls_by=whole - target, window=strategies.sizes(1, 5),
                                     whole=False))  # fmt: skip
    return {"scores": scores, "schedule": plan}


def _triplets(scores: dict[str, Any]) -> int:
    return sum(len(row) for row in scores.values())


def _kept(it: Asked, case: Inputs, **changed: Any) -> dict[str, list[bool]]:
    """Who is kept, as plain lists; the masks must be of the form of the scores."""
    given: dict[str, Any] = {name: changed.get(name, case[name]) for name in ("scores", "budget", "cost")}
    masks, scores = it("allocate", given).keep, given["scores"]
    for name, row in scores.items():
        shape = np.shape(masks.get(name))
        demand(name in masks and shape == row.shape, f"the mask of {name} must have shape {row.shape}; got {shape}")
    return {name: [bool(keep) for keep in masks[name]] for name in scores}


def _split(case: Inputs, kept: dict[str, list[bool]]) -> tuple[list[float], list[float]]:
    """The scores of who is kept, and of who is dropped."""
    pairs = [(float(s), keep) for name, row in case["scores"].items() for s, keep in zip(row, kept[name], strict=True)]
    return [s for s, keep in pairs if keep], [s for s, keep in pairs if not keep]


# LAWS


def counts_exactly(it: Asked, case: Inputs) -> None:
    """Exactly the budget is kept, ties or not: Σ keep = b."""
    count = sum(sum(mask) for mask in _kept(it, case).values())
    demand(count == case["budget"], f"the number kept must be the budget, {case['budget']}; got {count}")


def keeps_none_worse(it: Asked, case: Inputs) -> None:
    """No score that is kept lies below one that is dropped, over all matrices: min kept ≥ max dropped."""
    kept, dropped = _split(case, _kept(it, case))
    worst, best = min(kept, default=np.inf), max(dropped, default=-np.inf)
    demand(worst >= best, f"the lowest kept score must be at least the highest dropped; got {worst} and {best}")


def nested_in_the_budget(it: Asked, case: Inputs) -> None:
    """Who is kept at a budget is kept at every larger one."""
    whole = _triplets(case["scores"])
    chain = [_kept(it, case, budget=b) for b in range(whole + 1)]
    for b, (small, large) in enumerate(pairwise(chain)):
        lost = [(name, i) for name, mask in small.items() for i, keep in enumerate(mask) if keep > large[name][i]]
        demand(not lost, f"who is kept at budget {b} must be kept at {b + 1}; got {lost} dropped")


def ties_go_to_the_earlier(it: Asked, case: Inputs) -> None:
    """Of equal scores the earlier is kept: with all scores equal, the first b in the order of the matrices."""
    level = {name: np.full_like(row, 0.5) for name, row in case["scores"].items()}
    flat = [keep for mask in _kept(it, case, scores=level).values() for keep in mask]
    same("who is kept of equal scores", flat, "the first", [i < case["budget"] for i in range(len(flat))])


def names_do_not_matter(it: Asked, case: Inputs) -> None:
    """The names of the matrices do not matter: turned round, they leave who is kept."""
    names = list(case["scores"])
    renamed = dict(zip(reversed(names), case["scores"].values(), strict=True))
    here, there = _kept(it, case), _kept(it, case, scores=renamed)
    same("who is kept under other names", list(there.values()), "the same", list(here.values()))


def order_matters_for_ties_alone(it: Asked, case: Inputs) -> None:
    """Without ties the order of the matrices does not matter."""
    here, there = _kept(it, case), _kept(it, case, scores={name: case["scores"][name] for name in case["order"]})
    same("who is kept in another order", [there[name] for name in here], "the same", list(here.values()))


def rising_maps_leave_who_is_kept(it: Asked, case: Inputs) -> None:
    """Only the order of scores counts: replaced by their ranks, they leave who is kept."""
    levels = sorted({float(s) for row in case["scores"].values() for s in row})
    ranks = {
        name: np.asarray([levels.index(float(s)) for s in row]).astype(row.dtype)
        for name, row in case["scores"].items()
    }
    here, there = _kept(it, case), _kept(it, case, scores=ranks)
    same("who is kept by ranks", list(there.values()), "who is kept by scores", list(here.values()))


def parameters_are_never_exceeded(it: Asked, case: Inputs) -> None:
    """With a cost the budget is never exceeded: Σ cost of the kept ≤ b."""
    spent = _spent(case, _kept(it, case))
    demand(spent <= case["budget"], f"the parameters kept must be at most {case['budget']}; got {spent}")


def parameters_are_missed_by_less_than_one(it: Asked, case: Inputs) -> None:
    """With a cost, what is left of the budget does not pay for the best triplet that was dropped."""
    kept = _kept(it, case)
    left = case["budget"] - _spent(case, kept)
    _, dropped = _split(case, kept)
    dearest = max(
        (case["cost"][name] for name, row in case["scores"].items() for s, keep in zip(row, kept[name], strict=True)
         if not keep and float(s) == max(dropped)), default=None,
    )  # fmt: skip
    demand(dearest is None or left < dearest, f"what is left must not pay for the next, {dearest}; got {left} left")


def cost_keeps_none_worse(it: Asked, case: Inputs) -> None:
    """With a cost too, no score that is kept lies below one that is dropped: the selection stops, it does not skip."""
    keeps_none_worse(it, case)


def _spent(case: Inputs, kept: dict[str, list[bool]]) -> int:
    return sum(case["cost"][name] * sum(mask) for name, mask in kept.items())


def budget_is_met_at_every_step(it: Asked, case: Inputs) -> None:
    """Whatever the schedule asks for at a step, the allocation keeps exactly that many."""
    plan: BudgetSchedule = case["schedule"]
    found = it("budget_at", {"schedule": plan, "steps": list(range(plan.total))}).b
    for step, budget in enumerate(found):
        kept = _kept(it, {"scores": case["scores"], "budget": int(budget), "cost": None})
        count = sum(sum(mask) for mask in kept.values())
        demand(count == budget, f"the number kept at step {step} must be the budget, {budget}; got {count}")


COSTS = ("cost",)

ALLOCATION_LAWS: tuple[Law, ...] = (
    Law(counts_exactly, ALLOCATE, budgets, "ties_are_dropped"),
    Law(keeps_none_worse, ALLOCATE, budgets, "budget_per_matrix"),
    Law(nested_in_the_budget, ALLOCATE, budgets, "keeps_what_the_budget_drops"),
    Law(ties_go_to_the_earlier, ALLOCATE, budgets, "ties_go_to_the_later"),
    Law(names_do_not_matter, ALLOCATE, budgets, "ties_go_to_the_last_name"),
    Law(order_matters_for_ties_alone, ALLOCATE, distinct_scores, "budget_is_spent_in_order"),
    Law(rising_maps_leave_who_is_kept, ALLOCATE, budgets, "scores_normalised_per_matrix"),
    Law(parameters_are_never_exceeded, ALLOCATE, costs, "every_matrix_keeps_one", COSTS),
    Law(parameters_are_missed_by_less_than_one, ALLOCATE, costs, "keeps_one_less", COSTS),
    Law(cost_keeps_none_worse, ALLOCATE, costs, "skips_what_does_not_fit", COSTS),
    Law(budget_is_met_at_every_step, ("budget_at", "allocate"), scheduled, "keeps_one_less"),
)
