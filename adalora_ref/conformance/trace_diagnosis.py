"""Why a recorded run fails: which known mistake, or which other convention, makes just what it recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from adalora_ref.conformance.deviations import DEVIATIONS
from adalora_ref.conformance.diagnosis import near
from adalora_ref.conformance.known import Deviation
from adalora_ref.conformance.target import leaves, on_host, tree_map
from adalora_ref.conformance.trace import Judge, Step, check_trace, quantities
from adalora_ref.conformance.verdict import Row, Verdict
from adalora_ref.convention import CONVENTIONS
from adalora_ref.importance import init_importance


def explained(steps: Sequence[Step], judge: Judge, library: str) -> list[Row]:
    """Check a recorded run; where a stage fails, say which mistake or which convention that is."""
    rows = check_trace(steps, judge, library)
    if all(row.verdict is not Verdict.FAIL for row in rows):
        return rows
    others = {
        rules.name: {row.stage: row.verdict for row in check_trace(steps, judge._replace(convention=rules), library)}
        for rules in CONVENTIONS.values()
        if rules is not judge.convention
    }
    return [_explained(row, steps, judge, others) if row.verdict is Verdict.FAIL else row for row in rows]


def _explained(row: Row, steps: Sequence[Step], judge: Judge, others: dict[str, dict[str, Verdict]]) -> Row:
    matching = [d for d in DEVIATIONS if d.stage == row.stage and not d.equivalent and _matches(d, steps, judge)]
    alike = tuple(name for name, verdicts in others.items() if verdicts[row.stage] is not Verdict.FAIL)
    names = ", ".join(f"`{d.name}`" for d in matching)
    says = "; or ".join(d.says for d in matching)
    said = f"matches {names} at every step: {says}" if matching else "matches no known mistake"
    return row._replace(diagnosis=said, conventions=alike)


def _matches(known: Deviation, steps: Sequence[Step], judge: Judge) -> bool:
    """Whether the mistake makes, in float64 from the run's own inputs, what the run recorded at every step."""
    again = AGAIN.get(known.stage)
    if again is None:
        return False
    first = steps[0]._replace(number=-1, importance=None)
    pairs = [(first, steps[0]), *pairwise(steps)]
    try:
        found = [again(known.function, *pair, judge) for pair in pairs]
    except Exception:  # noqa: BLE001  a mistake that cannot run on this case is not the one
        return False
    return all(
        _alike(pair, made, known.stage, judge) for pair, made in zip(pairs, found, strict=True) if made is not None
    )


def _alike(pair: tuple[Step, Step], made: tuple[Any, Any], stage: str, judge: Judge) -> bool:
    got, computed = (dict(leaves(value)) for value in made)
    before, step = pair
    expected = next(
        want for name, _, want in quantities(step, before if before.number >= 0 else None, judge) if name == stage
    )
    if isinstance(expected, str) or got.keys() != computed.keys() or got.keys() != expected.keys():
        return False
    return all(near(on_host(a), on_host(computed[name]), expected[name]) for name, a in got.items())


# BY A MISTAKE: what the run recorded, and what the mistake makes of its inputs; None where there is nothing to compare


def _importance(function: Callable[..., Any], before: Step, step: Step, judge: Judge) -> Any:
    config, t = judge.config, step.number + judge.convention.first_step
    if step.importance is None or step.weights is None or t >= config.schedule.end_of_pruning:
        return None
    averages = before.importance or {n: init_importance(f) for n, f in step.weights.items()}
    made = {}
    for n, state in _wide(averages).items():
        parts = [
            _wide((held or {})[n]) for held in (step.weights, step.gradient, step.moved, step.clipped or step.gradient)
        ]
        pair = judge.convention.sensitivity(*parts)
        made[n] = function(state, *pair, beta1=config.importance_beta1, beta2=config.importance_beta2)
    return step.importance, made


def _scores(function: Callable[..., Any], before: Step, step: Step, judge: Judge) -> Any:
    if step.scores is None or step.importance is None:
        return None
    return step.scores, {n: function(_wide(state)) for n, state in step.importance.items()}


def _budget(function: Callable[..., Any], before: Step, step: Step, judge: Judge) -> Any:
    t = step.number + judge.convention.first_step
    return None if step.budget is None else (step.budget, function(judge.config.schedule, t))


def _due(function: Callable[..., Any], before: Step, step: Step, judge: Judge) -> Any:
    t = step.number + judge.convention.first_step
    return None if step.due is None else (step.due, function(judge.config.schedule, t))


def _kept(function: Callable[..., Any], before: Step, step: Step, judge: Judge) -> Any:
    t = step.number + judge.convention.first_step
    if step.scores is None or step.masks is None or not judge.convention.allocates(judge.config.schedule, t):
        return None
    budget = judge.convention.budget(judge.config.schedule, t)
    return step.masks, function(_wide(step.scores), budget, cost=judge.config.cost)


def _pruned(function: Callable[..., Any], before: Step, step: Step, judge: Judge) -> Any:
    schedule, t = judge.config.schedule, step.number + judge.convention.first_step
    masked = judge.convention.allocates(schedule, t) or t > schedule.end_of_pruning
    if step.after is None or step.moved is None or step.masks is None or not masked:
        return None
    return step.after, {n: function(_wide(f), step.masks[n]) for n, f in step.moved.items()}


AGAIN: dict[str, Callable[..., Any]] = {
    "update_importance": _importance,
    "triplet_scores": _scores,
    "budget_at": _budget,
    "allocates_at": _due,
    "allocate": _kept,
    "prune": _pruned,
}


def _wide(value: Any) -> Any:
    return tree_map(lambda a: a if a.dtype.kind in "biu" else a.astype(np.float64), value)
