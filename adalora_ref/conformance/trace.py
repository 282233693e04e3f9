"""A recorded run, and every stage of it checked from the run's own inputs to that stage.

Since nothing is carried over from our own computation, local error is the only error: a run that went wrong at step 3
is right again at step 4 if step 4 makes the right thing of what step 3 left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from adalora_ref.adamw import AdamState, init_adamw
from adalora_ref.allocation import Masks
from adalora_ref.array import Array
from adalora_ref.conformance import oracle_run, oracles
from adalora_ref.conformance.lifting import bounded, evaluate
from adalora_ref.conformance.oracle_run import CONSTANTS, TWINS
from adalora_ref.conformance.stages import STAGES
from adalora_ref.conformance.target import leaves, on_host, spoken
from adalora_ref.conformance.verdict import Check, Expected, Row, Verdict, compare, row
from adalora_ref.convention import Convention
from adalora_ref.factors import Factors
from adalora_ref.importance import Importance, init_importance
from adalora_ref.records import Config

Each: TypeAlias = dict[str, Factors]
Quantity: TypeAlias = tuple[str, Any, dict[str, Expected] | str]
"""A stage, what the run has, and what its own inputs make of it; or, in words, why that cannot be said."""


class Step(NamedTuple):
    """What one step of a run recorded; None is what it did not. Dictionaries are by matrix, in forward order.

    Attributes
    ----------
    number
        From 0.
    weights, moved, after
        The factors at the start of the step, after the optimiser, after the mask.
    gradient, clipped
        Of the whole objective, before and after clipping.
    optimizer, importance
        Moments and averages after their update.
    budget, due
        Of the schedule: the budget, and whether an allocation was made.
    scores
        Of the allocation.
    masks
        Who was kept by the latest allocation.
    """

    number: int
    weights: Each | None = None
    gradient: Each | None = None
    clipped: Each | None = None
    moved: Each | None = None
    optimizer: dict[str, AdamState] | None = None
    importance: dict[str, Importance] | None = None
    budget: int | None = None
    due: bool | None = None
    scores: dict[str, Array] | None = None
    masks: Masks | None = None
    after: Each | None = None


_EQUATIONS = {stage.name: stage.equation for stage in STAGES}
EQUATIONS = {
    "weights": "the weights at the start of a step are those that the step before left",
    "clip": "(17) g · min(1, c / (‖g‖ + 1e-6)), ‖g‖ over all trained factors",
    **{name: _EQUATIONS[name] for name in ("adamw_step", "update_importance", "budget_at", "allocates_at")},
    **{name: _EQUATIONS[name] for name in ("triplet_scores", "allocate", "prune")},
}
"""What is checked at each step, in the order in which Algorithm 1 computes it."""


class Judge(NamedTuple):
    """Under what a run is judged: configuration, convention, dtype in which it computes."""

    config: Config
    convention: Convention
    working: str


def check_trace(steps: Sequence[Step], judge: Judge, library: str) -> list[Row]:
    """Check every stage of a recorded run from its own inputs; one row for each quantity."""
    found = [
        check
        for before, step in zip((None, *steps), steps, strict=False)
        for stage, got, expected in quantities(step, before if _follows(step, before) else None, judge)
        for check in checks(stage, f"{judge.working}/step {step.number}", library, judge.working, got, expected)
    ]
    return [row(name, equation, [c for c in found if c.stage == name]) for name, equation in EQUATIONS.items()]


def _follows(step: Step, before: Step | None) -> bool:
    """Whether *before* is the step just before; a trace may leave steps out."""
    return before is not None and before.number + 1 == step.number


def checks(
    stage: str, case: str, library: str, dtype: str, got: Any, expected: dict[str, Expected] | str
) -> Iterator[Check]:
    """Yield a check for each array of a quantity, or the one that says why there is none."""
    if isinstance(expected, str):
        yield Check(stage, case, library, dtype, Verdict.NOT_RUN, reason=expected)
        return
    found = {path: on_host(value) for path, value in leaves(got)}
    if found.keys() != expected.keys():
        beside = ", ".join(sorted(map(spoken, found.keys() ^ expected.keys())))
        reason = f"{stage} must have what its inputs have; on one side alone stands {beside}"
        yield Check(stage, case, library, dtype, Verdict.FAIL, np.inf, reason=reason)
        return
    for path, want in expected.items():
        yield Check(stage, case, library, dtype, *compare(spoken(f"{stage}{path}"), found[path], want))


def quantities(step: Step, before: Step | None, judge: Judge) -> Iterator[Quantity]:
    """Yield each quantity of a step: its name, what the run has, and what its own inputs make of it."""
    if before is not None:
        yield _needing("weights", step.weights, before.after, exact)
    yield from _updates(step, before, judge)
    yield from _allocations(step, before, judge)


def _needing(stage: str, got: Any, *rest: Any) -> Quantity:
    """The expectation that the last argument makes of those before it, if all of them and *got* were recorded."""
    make: Callable[..., dict[str, Expected]] = rest[-1]
    inputs = rest[:-1]
    if got is None:
        return stage, got, "the run did not record it"
    if any(value is None for value in inputs):
        return stage, got, "the run did not record what it is made of"
    try:
        return stage, got, make(*inputs)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"the recorded arrays from which {stage} follows do not fit together: {error!r}") from None


# UPDATES


def _updates(step: Step, before: Step | None, judge: Judge) -> Iterator[Quantity]:
    clipped = step.clipped if judge.config.clip_norm is not None else step.gradient
    if judge.config.clip_norm is not None:
        yield _needing("clip", step.clipped, step.gradient, partial(_clip, judge))
    moments = _before(step, before, "optimizer", init_adamw)
    moved = (
        None
        if step.moved is None or step.optimizer is None
        else {n: {"weights": step.moved[n], "state": step.optimizer[n]} for n in step.moved}
    )
    yield _needing("adamw_step", moved, step.weights, clipped, moments, partial(_adamw, judge, moved))
    averages = _before(step, before, "importance", init_importance)
    if step.number + judge.convention.first_step >= judge.config.schedule.end_of_pruning:
        yield _needing("update_importance", step.importance, averages, exact)
        return
    pair = (step.weights, step.gradient, step.moved, clipped)
    if any(value is None for value in (averages, *pair)):
        yield _needing("update_importance", step.importance, None, exact)
        return
    rule = partial(_importance, judge, step.importance)
    yield _needing("update_importance", step.importance, averages, *pair, rule)


def _before(step: Step, before: Step | None, field: str, start: Callable[[Factors], Any]) -> Any:
    """The state that the step before left; at step 0 the one that everything starts from."""
    if before is not None:
        return getattr(before, field)
    return None if step.number or step.weights is None else {n: start(f) for n, f in step.weights.items()}


def _clip(judge: Judge, gradient: Each) -> dict[str, Expected]:
    def rule(gradient: Any, config: Any, constants: Any) -> Any:
        return oracle_run.clip(gradient, config.clip_norm, constants["norm_epsilon"])

    return evaluate(rule, gradient, judge.config, CONSTANTS, working=judge.working, like=gradient)


def _adamw(judge: Judge, like: Any, weights: Each, clipped: Each, moments: Any) -> dict[str, Expected]:
    config = judge.config
    rates = {"learning_rate": config.learning_rate, "weight_decay": config.weight_decay}
    betas = {"beta1": config.adam_beta1, "beta2": config.adam_beta2, "epsilon": config.adam_epsilon}
    rule = by_matrix(oracles.adamw_step)
    return evaluate(rule, weights, clipped, moments, working=judge.working, like=like, **rates, **betas)


def _importance(judge: Judge, like: Any, averages: Any, *parts: Each) -> dict[str, Expected]:
    twin = TWINS[judge.convention.sensitivity]

    def rule(averages: Any, before: Any, gradient: Any, after: Any, clipped: Any, **betas: Any) -> Any:
        pairs = {n: twin(before[n], gradient[n], after[n], clipped[n]) for n in averages}
        return {n: oracles.update_importance(averages[n], *pairs[n], **betas) for n in averages}

    betas = {"beta1": judge.config.importance_beta1, "beta2": judge.config.importance_beta2}
    return evaluate(rule, averages, *parts, working=judge.working, like=like, **betas)


# ALLOCATIONS


def _allocations(step: Step, before: Step | None, judge: Judge) -> Iterator[Quantity]:
    schedule, t = judge.config.schedule, step.number + judge.convention.first_step
    budget, due = TWINS[judge.convention.budget](schedule, t), TWINS[judge.convention.allocates](schedule, t)
    yield _needing("budget_at", step.budget, lambda: exact(budget))
    yield _needing("allocates_at", step.due, lambda: exact(due))
    if due:
        rule = by_matrix(oracles.triplet_scores)
        scores = partial(evaluate, rule, working=judge.working, like=step.scores)
        yield _needing("triplet_scores", step.scores, step.importance, scores)
        if step.scores is None and step.masks is not None:
            unseen = partial(_allocate_unseen, judge, budget, step.masks)
            yield _needing("allocate", step.masks, step.importance, unseen)
        else:
            yield _needing("allocate", step.masks, step.scores, partial(_allocate, judge, budget))
    elif before is not None:
        yield _needing("allocate", step.masks, before.masks, exact)
    if step.moved is None or step.masks is None:
        yield _needing("prune", step.after, None, exact)
        return
    masked = due or t > schedule.end_of_pruning
    keep = {n: mask | (not masked) for n, mask in step.masks.items()}
    rule = by_matrix(oracles.prune)
    yield _needing(
        "prune", step.after, step.moved, keep, partial(evaluate, rule, working=judge.working, like=step.after)
    )


def _allocate(judge: Judge, budget: int, scores: dict[str, Array]) -> dict[str, Expected]:
    """Who is kept by the recorded scores, which are exact."""
    return exact(_kept(judge, budget, {n: s.astype(np.float64).tolist() for n, s in scores.items()}))


def _kept(judge: Judge, budget: int, scores: dict[str, list[float]]) -> Masks:
    kept = TWINS[judge.convention.allocate](scores, budget, cost=judge.config.cost)
    return {n: np.asarray(mask, dtype=bool) for n, mask in kept.items()}


def _allocate_unseen(judge: Judge, budget: int, masks: Masks, importance: dict[str, Importance]) -> dict[str, Expected]:
    """Who is kept by scores that were not recorded: those of the averages, in the midst of their bounds.

    Where the intervals of scores overlap the threshold, either choice is right, as long as as many are kept.
    """
    scores = {
        n: [(float(s.real), getattr(s, "bound", 0.0)) for s in row]
        for n, row in bounded(by_matrix(oracles.triplet_scores), importance, working=judge.working).items()
    }
    kept = _kept(judge, budget, {n: [value for value, _ in row] for n, row in scores.items()})
    same = [int(sum(mask.sum() for mask in held.values())) for held in (kept, masks)]
    pairs = [pair for n in kept for pair in zip(scores[n], kept[n], strict=True)]
    low = min((v - b for (v, b), keep in pairs if keep), default=np.inf)
    high = max((v + b for (v, b), keep in pairs if not keep), default=-np.inf)
    if same[0] != same[1]:
        return exact(kept)
    free = {
        n: np.asarray([low <= v + b and v - b <= high and b > 0 for v, b in row], bool) for n, row in scores.items()
    }
    return exact({n: np.where(free[n], masks[n], kept[n]) for n in kept})


def exact(value: Any) -> dict[str, Expected]:
    """What nothing rounds: every array of *value* as it is."""
    return {path: Expected.exact(on_host(a), on_host(a).dtype.name) for path, a in leaves(value)}


def by_matrix(oracle: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """Lift an oracle for one matrix to dictionaries of them."""

    def lifted(*held: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        return {n: oracle(*(by_name[n] for by_name in held), **options) for n in held[0]}

    return lifted
