"""Known mistakes that no single function makes: what a run does at which step.

They are entries of the catalogue, where they are drop-ins for `train_step`; here each says what it leaves at one step
of a recorded run, made of the run's own inputs to that step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import adalora_ref as ref
from adalora_ref.conformance.mistakes_in_training import IN_TRAINING
from adalora_ref.conformance.target import tree_map
from adalora_ref.conformance.trace import Judge, Step
from adalora_ref.factors import Factors
from adalora_ref.importance import Importance

Pair = tuple[Any, Any] | None
"""What the run recorded, and what the mistake makes of its inputs; None where there is nothing to compare."""


class RunMistake(NamedTuple):
    """One known mistake of a run: its name in the catalogue, the quantity that it spoils, a sentence, what it makes."""

    name: str
    stage: str
    says: str
    function: Callable[[Step | None, Step, Judge, bool], Pair]

    @staticmethod
    def again(function: Callable[..., Pair], before: Step | None, step: Step, judge: Judge) -> Pair:
        """Call *function* with whether the run makes an allocation at this step."""
        t = step.number + judge.convention.first_step
        due = judge.convention.allocates(judge.config.schedule, t) if step.due is None else step.due
        return function(before, step, judge, due)


# AVERAGES


def _updated(step: Step, averages: Any, judge: Judge, pair: Callable[..., Any] | None = None) -> dict[str, Importance]:
    betas = {"beta1": judge.config.importance_beta1, "beta2": judge.config.importance_beta2}
    parts = [_wide(held) for held in (step.weights, step.gradient, step.moved, step.clipped or step.gradient)]
    rule = pair or judge.convention.sensitivity
    return {n: ref.update_importance(_wide(a), *rule(*(p[n] for p in parts)), **betas) for n, a in averages.items()}


def _averages(before: Step | None, step: Step, start: float = 0.0) -> Any:
    if before is not None:
        return before.importance
    filled = {n: ref.map_factors(lambda a: np.full_like(a, start), f) for n, f in (step.weights or {}).items()}
    return {n: Importance(f, f) for n, f in filled.items()}


def _ends(judge: Judge, step: Step) -> bool:
    return step.number + judge.convention.first_step >= judge.config.schedule.end_of_pruning


def _start_at_one(before: Step | None, step: Step, judge: Judge, due: bool) -> Pair:  # noqa: FBT001
    if step.importance is None or _ends(judge, step):
        return None
    return step.importance, _updated(step, _averages(before, step, 1.0), judge)


def _only_at_allocations(before: Step | None, step: Step, judge: Judge, due: bool) -> Pair:  # noqa: FBT001
    if step.importance is None or _ends(judge, step):
        return None
    averages = _averages(before, step)
    return step.importance, _updated(step, averages, judge) if due else averages


def _never_freeze(before: Step | None, step: Step, judge: Judge, due: bool) -> Pair:  # noqa: FBT001
    if step.importance is None:
        return None
    return step.importance, _updated(step, _averages(before, step), judge)


def _of(pair: Callable[..., tuple[Factors, Factors]]) -> Callable[..., Pair]:
    """Averages whose sensitivity is made of another pair of weights and gradient."""

    def made(before: Step | None, step: Step, judge: Judge, due: bool) -> Pair:  # noqa: FBT001
        if step.importance is None or _ends(judge, step):
            return None
        return step.importance, _updated(step, _averages(before, step), judge, pair)

    return made


def _clipped(mistake: Callable[..., Pair]) -> Callable[..., Pair]:
    """A mistake that shows only where the gradient is clipped."""

    def made(before: Step | None, step: Step, judge: Judge, due: bool) -> Pair:  # noqa: FBT001
        return None if judge.config.clip_norm is None else mistake(before, step, judge, due)

    return made


# MASKS


def _pruned_where(masked: Callable[[Step, Judge, bool], bool]) -> Callable[..., Pair]:
    """Weights that are masked at other steps than they should be."""

    def made(before: Step | None, step: Step, judge: Judge, due: bool) -> Pair:  # noqa: FBT001
        if step.after is None or step.moved is None or step.masks is None:
            return None
        keep = {n: mask | (not masked(step, judge, due)) for n, mask in step.masks.items()}
        return step.after, {n: ref.prune(f, keep[n]) for n, f in _wide(step.moved).items()}

    return made


def _wide(value: Any) -> Any:
    return tree_map(lambda a: a if a.dtype.kind in "biu" else a.astype(np.float64), value)


_SAYS = {known.name: known.says for known in IN_TRAINING} | {
    "averages_start_at_one": "Ī and Ū start at one instead of at zero",
}

IN_RUNS: tuple[RunMistake, ...] = tuple(
    RunMistake(name, stage, _SAYS[name], function)
    for name, stage, function in (
        ("averages_start_at_one", "update_importance", _start_at_one),
        ("averages_only_at_allocations", "update_importance", _only_at_allocations),
        ("averages_never_freeze", "update_importance", _never_freeze),
        ("sensitivity_at_moved_weights", "update_importance", _of(lambda w, g, moved, clipped: (moved, g))),
        ("sensitivity_of_clipped_gradient", "update_importance", _clipped(_of(lambda w, _, __, clipped: (w, clipped)))),
        ("sensitivity_as_released", "update_importance", _of(lambda w, g, moved, clipped: (moved, clipped))),
        ("pruned_triplets_come_back", "prune", _pruned_where(lambda step, judge, due: due)),
        ("masked_between_allocations", "prune", _pruned_where(lambda step, judge, due: True)),
    )
)  # fmt: skip
