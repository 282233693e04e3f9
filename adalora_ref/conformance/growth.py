"""How far a whole run drifts from the reference in float64: no bound holds for that, so it is shown, not judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import adalora_ref as ref
from adalora_ref.allocation import Masks
from adalora_ref.conformance.bounds import ARITHMETIC
from adalora_ref.conformance.trace import Each, Judge, Run, Step, admissible
from adalora_ref.conformance.trace_diagnosis import wide
from adalora_ref.conformance.verdict import Growth
from adalora_ref.factors import map_factors

SHOWN = 5
"""How many steps a note tells of."""

NEAR = 2.0**10
"""Roundings by which the scores of two right runs may differ when they choose."""


def apart(theirs: Each, ours: Each) -> float:
    """The largest difference of any entry, over the largest entry of ours; infinite where that is not finite."""
    pairs = [pair for n, f in ours.items() for pair in zip(f, theirs[n], strict=True)]
    largest = max(float(np.max(np.abs(a), initial=0.0)) for a, _ in pairs) or 1.0
    found = max(float(np.max(np.abs(a - b.astype(np.float64)), initial=0.0)) for a, b in pairs) / largest
    return found if np.isfinite(found) else float("inf")


def shown(grown: Sequence[Growth]) -> str:
    """Some of the steps of each lane, from the first to the last, in words."""
    lanes = dict.fromkeys(g.lane for g in grown)
    said = []
    for lane in lanes:
        held = [g for g in grown if g.lane == lane]
        places = np.unique(np.linspace(0, len(held) - 1, min(SHOWN, len(held))).astype(int))
        said.append(f"{lane} " + ", ".join(f"step {held[i].step}: {held[i].apart:.1e}" for i in places))
    note = "the run beside the reference in float64, largest difference over the largest factor: "
    return note + "; ".join(said) if said else ""


def of_trace(run: Run) -> tuple[Growth, ...]:
    """Train in float64 from the run's first weights by its own gradients; compare factors after every step.

    Nothing is returned where a step, its gradient, or what it left was not recorded; the growth ends before a gradient
    that is not finite. After an allocation in which
    rounding may have decided otherwise, it goes on from the run's mask.
    """
    needed = [getattr(step, name) for step in run.steps for name in ("gradient", "after")]
    numbers = [step.number for step in run.steps]
    if run.steps[0].weights is None or any(a is None for a in needed) or numbers != list(range(len(numbers))):
        return ()
    factors = wide(run.steps[0].weights)
    moments = {n: ref.init_adamw(f) for n, f in factors.items()}
    averages = {n: ref.init_importance(f) for n, f in factors.items()}
    masks = {n: np.ones(f.s.shape, dtype=bool) for n, f in factors.items()}
    state = ref.TrainState(0, factors, averages, moments, masks)
    grown = []
    for step in run.steps:
        if not all(np.all(np.isfinite(a)) for f in (step.gradient or {}).values() for a in f):
            break  # the run has diverged
        state = _after(step, state, run.judge)
        grown.append(Growth(run.label, step.number, apart(step.after or {}, state.factors)))
    return tuple(grown)


def _after(step: Step, state: Any, judge: Judge) -> Any:
    config, rules, names = judge.config, judge.convention, list(state.factors)
    t, gradient = step.number + rules.first_step, {n: wide((step.gradient or {})[n]) for n in state.factors}
    clipped = _clipped(gradient, config.clip_norm)
    rates = {"learning_rate": config.learning_rate, "weight_decay": config.weight_decay}
    betas = {"beta1": config.adam_beta1, "beta2": config.adam_beta2, "epsilon": config.adam_epsilon}
    steps = {n: ref.adamw_step(state.factors[n], clipped[n], state.optimizer[n], **rates, **betas) for n in names}
    moved = {n: weights for n, (weights, _) in steps.items()}
    averages, masks = state.importance, state.masks
    if t < config.schedule.end_of_pruning:
        betas = {"beta1": config.importance_beta1, "beta2": config.importance_beta2}
        pairs = {n: rules.sensitivity(state.factors[n], gradient[n], moved[n], clipped[n]) for n in names}
        averages = {n: ref.update_importance(averages[n], *pairs[n], **betas) for n in names}
    due = rules.allocates(config.schedule, t)
    if due:
        scores = {n: rules.score(averages[n], moved[n]) for n in names}
        masks = rules.allocate(scores, rules.budget(config.schedule, t), cost=config.cost)
        masks = theirs_if_near(step.masks, masks, scores, judge.working)
    if due or t > config.schedule.end_of_pruning:
        moved = {n: ref.prune(f, masks[n]) for n, f in moved.items()}
    return ref.TrainState(step.number + 1, moved, averages, {n: m for n, (_, m) in steps.items()}, masks)


def theirs_if_near(theirs: Masks | None, ours: Masks, scores: dict[str, Any], working: str) -> Masks:
    """Their masks where they differ from ours by triplets whose scores lie so close that a run's rounding decides."""
    if theirs is None:
        return ours
    near = NEAR * ARITHMETIC[working].unit
    return admissible(theirs, ours, {n: [(float(v), near * float(v)) for v in row] for n, row in scores.items()})


def _clipped(gradient: Each, limit: float | None) -> Each:
    if limit is None:
        return gradient
    norm = float(np.sqrt(sum(float(np.sum(a * a)) for f in gradient.values() for a in f)))
    factor = min(1.0, limit / (norm + 1e-6))
    return {n: map_factors(lambda a: factor * a, f) for n, f in gradient.items()}
