"""From sensitivity to who is kept, by the lines of the core."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from adalora_ref import allocation, budget, importance
from adalora_ref.array import namespace
from adalora_ref.explain import drawing
from adalora_ref.explain.drawing import Options
from adalora_ref.explain.steps import Step, Worked, carried_out, found, given, named, scope_of
from adalora_ref.factors import Factors, map_factors

LETTERS = ("b⁰", "b^T", "t_i", "t_f", "T", "ΔT")
"""Of a schedule's attributes, in their order."""


def smoothing(options: Options) -> Worked:
    """Sensitivity and its two averages."""
    rng, function = options.rng(), importance.update_importance
    w, g, mean, deviation = drawing.telling(lambda: _smoothed(rng, options), _moves)
    beta = 0.5 if options.exact else 0.85
    scope = scope_of(function, xp=namespace(w.s), w=w, g=g, I_bar=mean, U_bar=deviation, beta1=beta, beta2=beta)
    step = partial(carried_out, scope, function)
    update = [
        step("I", "I = |w · g|, entry by entry"),
        step("I_bar", "Ī ← β1 Ī + (1 − β1) I", "I_bar = "),
        step("U_bar", "Ū ← β2 Ū + (1 − β2) |I − Ī|, with the new Ī", "U_bar = "),
    ]
    starts = [given("w", w), given("g", g), given("I_bar", mean, "Ī"), given("U_bar", deviation, "Ū")]
    starts += [given("beta1", beta, "β1"), given("beta2", beta, "β2")]
    held = function(importance.Importance(mean, deviation), w, g, beta1=beta, beta2=beta)
    returned = {"I_bar": held.sensitivity, "U_bar": held.uncertainty}
    return Worked(starts, {"The update": update}, returned, "update_importance")


def _smoothed(rng: np.random.Generator, options: Options) -> tuple[Factors, ...]:
    signed = [drawing.factors(rng, options) for _ in range(2)]
    return *signed, *(drawing.factors(rng, options, drawing.positive) for _ in range(2))


def _moves(drawn: tuple[Factors, ...]) -> bool:
    """Whether I and |I − Ī| count: in every entry of s, and somewhere in B and in A."""
    B, s, A = map_factors(lambda w, g, mean, _: w * g * (np.abs(w * g) - mean), *drawn)
    return bool(np.any(B) and np.all(s) and np.any(A))


def scores(options: Options) -> Worked:
    """One number for each triplet."""
    rng = options.rng()
    state = importance.Importance(*drawing.averages(rng, options))
    mean, deviation = state
    starts = [given("I_bar", mean, "Ī"), given("U_bar", deviation, "Ū")]
    product = carried_out(
        scope_of(importance.triplet_scores, mean=mean, deviation=deviation),
        importance.triplet_scores, "product", "Ī · Ū, entry by entry", "mean * deviation", over=("mean", "deviation"),
    )  # fmt: skip
    scope = scope_of(importance.per_triplet, xp=namespace(mean.s), **named(product.value))
    step = partial(carried_out, scope, importance.per_triplet)
    steps = [
        product,
        step("mean_B", "mean over each column of B", "xp.mean(B, axis=0)"),
        step("mean_A", "mean over each row of A", "xp.mean(A, axis=1)"),
        step("S", "S = s-term + mean over B's column + mean over A's row",
             "s + xp.mean(B, axis=0) + xp.mean(A, axis=1)"),
    ]  # fmt: skip
    return Worked(starts, {"The scores": steps}, {"S": importance.triplet_scores(state)}, "triplet_scores")


def schedule(options: Options) -> Worked:
    """The budget at one step of the pruning phase, then at all steps."""
    rng = options.rng()
    told = {"initial": 4 * options.r, "target": options.r, "warmup": 2, "final": 2}
    window, left = drawing.telling(lambda: (int(rng.integers(4, 8)), int(rng.integers(1, 7))), partial(_falls, options))
    told |= {"total": 4 + window, "interval": 2}
    held, t = budget.BudgetSchedule(**told), 2 + window - left
    due_scope = scope_of(budget.allocates_at, schedule=held, step=t, phase=budget.phase_at(held, t))
    step = partial(carried_out, scope_of(budget.budget_at, schedule=held, step=t), budget.budget_at)
    one = [
        step("left", "steps left = T − t_f − t"),
        step("window", "length of the phase = T − t_f − t_i"),
        step("numerator", "(b⁰ − b^T) · left³", "(schedule.initial - schedule.target) * left**3"),
        step("denominator", "window³", "window**3"),
        step("budget", "b(t) = b^T + ⌊(b⁰ − b^T) · left³ / window³⌋",
             "schedule.target + (schedule.initial - schedule.target) * left**3 // window**3"),
        carried_out(due_scope, budget.allocates_at, "due", "is t one of t_i, t_i + ΔT, …"),
    ]  # fmt: skip
    every = _at_every_step(held)
    starts = [given(name, value, letter) for (name, value), letter in zip(told.items(), LETTERS, strict=True)]
    returned = {"budget": budget.budget_at(held, t), "due": budget.allocates_at(held, t)}
    return Worked([*starts, given("t", t)], {f"At step {t}": one, "At every step": every}, returned,
                  "budget_at and allocates_at")  # fmt: skip


def _falls(options: Options, drawn: tuple[int, int]) -> bool:
    """Whether the excess is above 0 and has been rounded down, and what is left is not what has passed."""
    window, left = drawn
    excess, rest = divmod(3 * options.r * left**3, window**3)
    return left < window != 2 * left and excess > 0 < rest


def _at_every_step(held: budget.BudgetSchedule) -> list[Step]:
    steps = range(held.total)
    labels = tuple(f"t={t}" for t in steps)
    rows = []
    for symbol, formula, function in (
        ("budgets", "b(t)", budget.budget_at),
        ("allocates", "is an allocation due", budget.allocates_at),
    ):
        code, place = found(function, f"def {function.__name__}(")
        rows.append(Step(symbol, formula, code, place, [function(held, t) for t in steps], labels))
    return rows


def choosing(options: Options) -> Worked:
    """Who is kept of two matrices."""
    rng, r = options.rng(), options.r
    kept = r | 1  # odd, so that no choice gives both matrices as many
    drawn = drawing.telling(
        lambda: {name: drawing.positive(rng, options, r) for name in ("q", "v")}, partial(_reorders, kept)
    )
    function, flat = allocation.allocate, tuple(f"{name}[{i}]" for name in drawn for i in range(r))
    scope = scope_of(function, xp=namespace(*drawn.values()), scores=drawn, budget=kept, costs=None)
    step = partial(carried_out, scope, function)
    places = tuple(f"{i}." for i in range(2 * r))
    steps = [
        step("flat", "all scores in one row", labels=flat),
        step("order", "indices in that row, best first; ties to the earlier", labels=places),
        step("place", "the place of each triplet in that order, from 0", labels=flat),
        step("kept", "how many are kept: the budget"),
        step("chosen", "1 where the place is below the budget", "place < kept", labels=flat),
        step("masks", "the same, matrix by matrix", "split(place < kept, scores)"),
    ]
    starts = [given("scores", drawn), given("budget", kept)]
    return Worked(starts, {"The choice": steps}, {"masks": function(drawn, kept)}, "allocate")


def _reorders(kept: int, scores: dict[str, Any]) -> bool:
    """Whether the row is out of order, so that sorting once in place of twice chooses others; of two, one order can."""
    order = np.argsort(-np.concatenate(list(scores.values())), stable=True)
    place = np.argsort(order)
    return bool(np.any((order < kept) != (place < kept)) if len(order) > 2 else order[0] == 1)
