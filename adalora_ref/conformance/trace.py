"""A recorded run, and every stage of it checked from the run's own inputs to that stage.

Since nothing is carried over from our own computation, local error is the only error: a run that went wrong at step 3
is right again at step 4 if step 4 makes the right thing of what step 3 left.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from adalora_ref.adamw import AdamState, init_adamw
from adalora_ref.allocation import Masks
from adalora_ref.array import Array
from adalora_ref.conformance import oracle_run, oracles
from adalora_ref.conformance.lifting import bounded, evaluate, moments_first
from adalora_ref.conformance.oracle_run import CONSTANTS, TWINS
from adalora_ref.conformance.stages import STAGES
from adalora_ref.conformance.target import leaves, on_host, spoken
from adalora_ref.conformance.verdict import Check, Expected, Row, Verdict, compare, row
from adalora_ref.convention import Convention
from adalora_ref.factors import Factors
from adalora_ref.importance import Importance, init_importance
from adalora_ref.records import Config

Each: TypeAlias = dict[str, Factors]
Wanted: TypeAlias = dict[str, Expected] | str
"""What the run's own inputs make of a quantity; or, in words, why that cannot be said."""

Quantity: TypeAlias = tuple[str, Any, Callable[[], Wanted]]
"""A stage, what the run has, and how to compute what it should have."""


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
    implied
        The averages that the run must have, as numbers with bounds, where it shows none and the kit knows its inputs.
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
    implied: Any = None


_EQUATIONS = {stage.name: stage.equation for stage in STAGES}
EQUATIONS = {
    "weights": "the weights at the start of a step are those that the step before left",
    "clip": "(17) g · min(1, c / (‖g‖ + 1e-6)), ‖g‖ over all trained factors",
    **{name: _EQUATIONS[name] for name in ("adamw_step", "update_importance", "budget_at", "allocates_at")},
    **{name: _EQUATIONS[name] for name in ("triplet_scores", "allocate")},
    "masks": "all are kept at the start, and between allocations the masks stay as they are",
    "prune": _EQUATIONS["prune"],
}
"""What is checked at each step, in the order in which Algorithm 1 computes it."""


class Judge(NamedTuple):
    """Under what a run is judged: configuration, convention, dtype in which it computes."""

    config: Config
    convention: Convention
    working: str


class Run(NamedTuple):
    """A recorded run: its steps, under what they are judged, the library of its arrays, how its checks are named."""

    steps: tuple[Step, ...]
    judge: Judge
    library: str
    label: str

    def pairs(self) -> Iterator[tuple[Step | None, Step]]:
        """Every step with the one just before it; a run may leave steps out."""
        for before, step in zip((None, *self.steps), self.steps, strict=False):
            yield (before if before is not None and before.number + 1 == step.number else None), step


def check_runs(runs: Sequence[Run], stages: Collection[str] = EQUATIONS) -> list[Row]:
    """Check recorded runs from their own inputs, every stage or some; one row for each that has a place in them."""
    found = [
        check
        for run in runs
        for before, step in run.pairs()
        for stage, got, wanted in quantities(step, before, run.judge)
        if stage in stages
        for check in checks(stage, f"{run.label}/step {step.number}", run.library, run.judge.working, got, wanted())
    ]
    present = {check.stage for check in found}
    named = [(name, equation) for name, equation in EQUATIONS.items() if name in present]
    return [row(name, equation, [c for c in found if c.stage == name]) for name, equation in named]


def checks(stage: str, case: str, library: str, dtype: str, got: Any, expected: Wanted) -> Iterator[Check]:
    """Yield a check for each array of a quantity, or the one that says why there is none."""
    if isinstance(expected, str):
        yield Check(stage, case, library, dtype, Verdict.NOT_RUN, reason=expected)
        return
    found = {path: on_host(value) for path, value in leaves(got)}
    if found.keys() != expected.keys():
        lacking, beyond = (
            ", ".join(sorted(map(spoken, a.keys() - b.keys()))) for a, b in ((expected, found), (found, expected))
        )
        parts = [f"it lacks {lacking}"] * bool(lacking) + [f"beyond that it has {beyond}"] * bool(beyond)
        reason = f"{stage} must have what its inputs have; {' and '.join(parts)}"
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
    make: Callable[..., Wanted] = rest[-1]
    inputs = rest[:-1]

    def wanted() -> Wanted:
        if got is None:
            return "the run did not record it"
        if any(value is None for value in inputs):
            return "the run did not record what it is made of"
        try:
            return make(*inputs)
        except (ValueError, KeyError, IndexError, TypeError):
            return "what it is made of does not fit together"

    return stage, got, wanted


# UPDATES


def _updates(step: Step, before: Step | None, judge: Judge) -> Iterator[Quantity]:
    clipped = step.clipped if judge.config.clip_norm is not None else step.gradient
    if judge.config.clip_norm is not None:
        yield _needing("clip", step.clipped, step.gradient, partial(_clip, judge))
    moments = state_before(step, before, "optimizer", init_adamw)
    moved = (
        None
        if step.moved is None or step.optimizer is None
        else {n: {"weights": step.moved[n], "state": step.optimizer[n]} for n in step.moved}
    )
    yield _needing("adamw_step", moved, step.weights, clipped, moments, partial(_adamw, judge))
    averages = state_before(step, before, "importance", init_importance)
    if step.number + judge.convention.first_step >= judge.config.schedule.end_of_pruning:
        yield _needing("update_importance", step.importance, averages, exact)
        return
    pair = (step.weights, step.gradient, step.moved, clipped)
    if any(value is None for value in (averages, *pair)):
        yield _needing("update_importance", step.importance, None, exact)
        return
    yield _needing("update_importance", step.importance, averages, *pair, partial(_importance, judge))


def state_before(step: Step, before: Step | None, field: str, start: Callable[[Factors], Any]) -> Any:
    """The state that the step before left; at step 0 the one that everything starts from."""
    if before is not None:
        return getattr(before, field)
    return None if step.number or step.weights is None else {n: start(f) for n, f in step.weights.items()}


def _clip(judge: Judge, gradient: Each) -> dict[str, Expected]:
    def rule(gradient: Any, config: Any, constants: Any) -> Any:
        return oracle_run.clip(gradient, config.clip_norm, constants["norm_epsilon"])

    return evaluate(rule, gradient, judge.config, CONSTANTS, working=judge.working, like=gradient)


def _adamw(judge: Judge, weights: Each, clipped: Each, moments: Any) -> dict[str, Expected]:
    config = judge.config
    like = {n: {"weights": held, "state": moments[n]} for n, held in weights.items()}
    rates = {"learning_rate": config.learning_rate, "weight_decay": config.weight_decay}
    betas = {"beta1": config.adam_beta1, "beta2": config.adam_beta2, "epsilon": config.adam_epsilon}
    rule = by_matrix(oracles.adamw_step)
    made = evaluate(rule, weights, clipped, moments, working=judge.working, like=like, **rates, **betas)
    return moments_first(made)


def _importance(judge: Judge, averages: Any, *parts: Each) -> dict[str, Expected]:
    twin = TWINS[judge.convention.sensitivity]

    def rule(averages: Any, before: Any, gradient: Any, after: Any, clipped: Any, **betas: Any) -> Any:
        pairs = {n: twin(before[n], gradient[n], after[n], clipped[n]) for n in averages}
        return {n: oracles.update_importance(averages[n], *pairs[n], **betas) for n in averages}

    betas = {"beta1": judge.config.importance_beta1, "beta2": judge.config.importance_beta2}
    return evaluate(rule, averages, *parts, working=judge.working, like=averages, **betas)


# ALLOCATIONS


def _allocations(step: Step, before: Step | None, judge: Judge) -> Iterator[Quantity]:
    schedule, t = judge.config.schedule, step.number + judge.convention.first_step
    budget, due = TWINS[judge.convention.budget](schedule, t), TWINS[judge.convention.allocates](schedule, t)
    yield _needing("budget_at", step.budget, lambda: exact(budget))
    yield _needing("allocates_at", step.due, lambda: exact(due))
    # From here on budget and due are the run's own inputs, where it shows them.
    budget, due = budget if step.budget is None else step.budget, due if step.due is None else step.due
    if due:
        yield from _allocation(step, budget, judge)
    else:
        yield _needing("masks", step.masks, state_before(step, before, "masks", everyone), exact)
    if step.moved is None or step.masks is None:
        yield _needing("prune", step.after, None, exact)
        return
    masked = due or t > schedule.end_of_pruning
    yield _needing("prune", step.after, step.moved, step.masks, partial(_pruned, masked=masked))


def _pruned(moved: Each, masks: Masks, *, masked: bool) -> Wanted:
    """s is 0 where not kept, if the mask is applied at all; nothing rounds."""
    if any(mask.dtype != bool or mask.shape != moved[n].s.shape for n, mask in masks.items()):
        return "the masks have not the form of masks"
    keep = {n: mask | (not masked) for n, mask in masks.items()}
    return exact({n: Factors(B, np.where(keep[n], s, np.zeros_like(s)), A) for n, (B, s, A) in moved.items()})


def everyone(factors: Factors) -> Array:
    """The mask of the start."""
    return np.ones(factors.s.shape, dtype=bool)


def _allocation(step: Step, budget: int, judge: Judge) -> Iterator[Quantity]:
    """Scores, and who is kept: by the run's own scores, else by its own averages, else by those that it must have."""
    averages = step.implied if step.importance is None else step.importance
    yield _needing("triplet_scores", step.scores, averages, partial(_scores, judge))
    if step.scores is not None:
        yield _needing("allocate", step.masks, step.scores, partial(_allocate, judge, budget))
    else:
        yield _needing("allocate", step.masks, averages, partial(_allocate_unseen, judge, budget, step.masks))


def _scores(judge: Judge, averages: Any) -> dict[str, Expected]:
    kind = np.dtype(judge.working)
    like = {
        n: state.sensitivity.s if isinstance(state, Importance) else np.empty(len(state[0][1]), kind)
        for n, state in averages.items()
    }
    return evaluate(by_matrix(oracles.triplet_scores), averages, working=judge.working, like=like)


def _allocate(judge: Judge, budget: int, scores: dict[str, Array]) -> Wanted:
    """Who is kept by the recorded scores, which are exact."""
    if not all(s.ndim == 1 and np.all(np.isfinite(s)) for s in scores.values()):
        return "the scores that the run recorded are not all (r,) and finite, and rank nobody"
    return exact(_kept(judge, budget, {n: s.astype(np.float64).tolist() for n, s in scores.items()}))


def _kept(judge: Judge, budget: int, scores: dict[str, list[float]]) -> Masks:
    kept = TWINS[judge.convention.allocate](scores, budget, cost=judge.config.cost)
    return {n: np.asarray(mask, dtype=bool) for n, mask in kept.items()}


def _allocate_unseen(judge: Judge, budget: int, masks: Masks | None, averages: Any) -> dict[str, Expected]:
    """Who is kept by scores that were not recorded: those of the averages, in the midst of their bounds.

    Where the intervals of scores overlap the threshold, either choice is right, as long as as many are kept.
    """
    scores = {
        n: [(float(s.real), getattr(s, "bound", 0.0)) for s in row]
        for n, row in bounded(by_matrix(oracles.triplet_scores), averages, working=judge.working).items()
    }
    kept = _kept(judge, budget, {n: [value for value, _ in row] for n, row in scores.items()})
    return exact(kept if masks is None else admissible(masks, kept, scores))


def admissible(masks: Masks, kept: Masks, scores: dict[str, list[tuple[float, float]]]) -> Masks:
    """*masks* where rounding may have decided between them and *kept*, else *kept*; scores are (value, bound)."""
    forms = [{n: (mask.shape, mask.dtype.name) for n, mask in held.items()} for held in (masks, kept)]
    if forms[0] != forms[1] or sum(map(np.sum, masks.values())) != sum(map(np.sum, kept.values())):
        return kept
    pairs = [pair for n in kept for pair in zip(scores[n], kept[n], strict=True)]
    low = min((v - b for (v, b), keep in pairs if keep), default=np.inf)
    high = max((v + b for (v, b), keep in pairs if not keep), default=-np.inf)
    free = {
        n: np.asarray([b > 0 and low <= v + b and v - b <= high for v, b in row], bool) for n, row in scores.items()
    }
    return {n: np.where(free[n], masks[n], kept[n]) for n in kept}


def exact(value: Any) -> dict[str, Expected]:
    """What nothing rounds: every array of *value* as it is."""
    return {path: Expected.exact(on_host(a), on_host(a).dtype.name) for path, a in leaves(value)}


def by_matrix(oracle: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """Lift an oracle for one matrix to dictionaries of them."""

    def lifted(*held: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        return {n: oracle(*(by_name[n] for by_name in held), **options) for n in held[0]}

    return lifted
