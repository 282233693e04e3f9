"""Why a recorded run fails: which known mistake, or which other convention, makes just what it recorded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from adalora_ref.adamw import init_adamw
from adalora_ref.conformance.deviations import DEVIATIONS
from adalora_ref.conformance.diagnosis import RECORDED, UNMATCHED, near, right_under
from adalora_ref.conformance.known import Deviation
from adalora_ref.conformance.mistakes_in_runs import IN_RUNS, RunMistake
from adalora_ref.conformance.target import leaves, on_host, tree_map
from adalora_ref.conformance.trace import EQUATIONS, Judge, Run, Step, Wanted, check_runs, checks, quantities
from adalora_ref.conformance.verdict import Row, Verdict
from adalora_ref.convention import CONVENTIONS, Convention
from adalora_ref.importance import init_importance


def explained(runs: Sequence[Run], stages: Collection[str] = EQUATIONS, otherwise: str = RECORDED) -> list[Row]:
    """Check recorded runs; where a stage fails, say which mistake or which convention that is, or *otherwise*."""
    rows = check_runs(runs, stages)
    told = [_explained(row, runs, otherwise) if row.verdict is Verdict.FAIL else row for row in rows]
    return _first_marked(told, runs)


def _right_under(rules: Convention, stage: str, runs: Sequence[Run]) -> bool:
    """Whether all that was recorded of a stage is right under another convention, and something was."""
    verdicts: set[Verdict] = set()
    for run in (run._replace(judge=run.judge._replace(convention=rules)) for run in runs):
        for before, step in run.pairs():
            for name, got, wanted in quantities(step, before, run.judge):
                if name == stage:
                    verdicts |= {c.verdict for c in checks(stage, "", run.library, run.judge.working, got, wanted())}
            if Verdict.FAIL in verdicts:
                return False
    return bool(verdicts & {Verdict.PASS, Verdict.WARN})


def _first_marked(rows: list[Row], runs: Sequence[Run]) -> list[Row]:
    """Mark, where several stages fail, the one that departs first: by run, by step, in the order of computation."""
    cases = [f"{run.label}/step {step.number}" for run in runs for step in run.steps]
    failed = [(cases.index(row.first_failure.case), place) for place, row in enumerate(rows) if row.first_failure]
    if len(failed) < 2:
        return rows
    when, first = min(failed)
    marked = rows[first]._replace(note=f"the first quantity to depart, at {cases[when]}")
    return [*rows[:first], marked, *rows[first + 1 :]]


def _explained(row: Row, runs: Sequence[Run], otherwise: str) -> Row:
    entries: list[Deviation | RunMistake] = [*(d for d in DEVIATIONS if not d.equivalent), *IN_RUNS]
    steps = list(recorded(row.stage, runs))
    matching = [known for known in entries if known.stage == row.stage and _matches(known, steps)]
    others = [rules for rules in CONVENTIONS.values() if rules is not runs[0].judge.convention]
    under = tuple(rules.name for rules in others if _right_under(rules, row.stage, runs))
    told = named(matching) or right_under(under) or (_counted(otherwise, row, steps) if by_numbers(row) else "")
    return row._replace(diagnosis=told, conventions=under)


def _counted(otherwise: str, row: Row, steps: Sequence[Recorded]) -> str:
    """The sentence with how many triplets are kept, where these are not as many as should be."""
    for _, step, _, expected, failed in steps if row.stage == "allocate" else ():
        if failed and step.masks is not None and not isinstance(expected, str):
            kept, right = _number(step.masks.values()), _number(want.high for want in expected.values())
            if kept != right:
                what = f"it keeps {kept} triplets instead of {right} at step {step.number}"
                return otherwise.replace(UNMATCHED, f"{UNMATCHED}; {what}")
    return otherwise


def _number(masks: Iterable[Any]) -> int:
    return sum(int(np.sum(mask)) for mask in masks)


def by_numbers(row: Row) -> bool:
    """Whether a number is wrong somewhere, and not the form alone, which the reason says."""
    return any(check.divergence is not None for check in row.checks)


class Recorded(NamedTuple):
    """A step where a stage was recorded, the one before it, under what it is judged, what it should have been."""

    before: Step | None
    step: Step
    judge: Judge
    expected: Wanted
    failed: bool


def recorded(stage: str, runs: Sequence[Run]) -> Iterator[Recorded]:
    """Yield every step of the runs where a stage has its place."""
    for run in runs:
        for before, step in run.pairs():
            for name, got, wanted in quantities(step, before, run.judge):
                if name == stage:
                    expected = wanted()
                    found = checks(stage, "", run.library, run.judge.working, got, expected)
                    failed = any(check.verdict is Verdict.FAIL for check in found)
                    yield Recorded(before, step, run.judge, expected, failed)


def named(matching: Sequence[Deviation | RunMistake]) -> str:
    """The sentence that names the mistakes found; nothing if none was."""
    names, says = ", ".join(f"`{d.name}`" for d in matching), "; or ".join(d.says for d in matching)
    several = ", which this run cannot tell apart" if len(matching) > 1 else ""
    return f"matches {names}{several} at every step: {says}" if matching else ""


def _matches(known: Deviation | RunMistake, steps: Sequence[Recorded]) -> bool:
    """Whether the mistake makes, in float64 from the runs' own inputs, what they recorded at every step.

    Where it makes nothing, it explains no failure; nor does one that makes what is right wherever something failed.
    """
    again = known.again if isinstance(known, RunMistake) else AGAIN.get(known.stage)
    if again is None:
        return False
    telling = False
    for before, step, judge, expected, failed in steps:
        try:
            made = again(known.function, before, step, judge)
        except Exception:  # noqa: BLE001  a mistake that cannot run on this case is not the one
            return False
        explains = not failed if made is None else alike(made[0], made[1], expected)
        if not explains:
            return False
        telling = telling or (failed and made is not None and departs(made[1], expected))
    return telling


def alike(recorded: Any, made: Any, expected: Wanted) -> bool:
    """Whether what was recorded may be what a mistake made, but for rounding."""
    got, computed = dict(leaves(recorded)), dict(leaves(made))
    if isinstance(expected, str) or not got.keys() == computed.keys() == expected.keys():
        return False
    return all(near(on_host(a), on_host(computed[name]), expected[name]) for name, a in got.items())


def departs(made: Any, expected: Wanted) -> bool:
    """Whether what a mistake made is not what is right; of the form no more is seen than the shape."""
    if isinstance(expected, str):
        return False
    computed = {path: on_host(a) for path, a in leaves(made)}
    return any(not near(np.asarray(want.high), computed[path], want) for path, want in expected.items())


# BY A MISTAKE: what the run recorded, and what the mistake makes of its inputs; None where there is nothing to compare


def _importance(function: Callable[..., Any], before: Step | None, step: Step, judge: Judge) -> Any:
    config, t = judge.config, step.number + judge.convention.first_step
    averages = before.importance if before else _at_the_start(step, init_importance)
    if step.importance is None or averages is None or t >= config.schedule.end_of_pruning:
        return None
    made = {}
    for n, state in wide(averages).items():
        parts = [
            wide((held or {})[n]) for held in (step.weights, step.gradient, step.moved, step.clipped or step.gradient)
        ]
        pair = judge.convention.sensitivity(*parts)
        made[n] = function(state, *pair, beta1=config.importance_beta1, beta2=config.importance_beta2)
    return step.importance, made


def _at_the_start(step: Step, start: Callable[[Any], Any]) -> Any:
    return None if step.number or step.weights is None else {n: start(f) for n, f in step.weights.items()}


def _scores(function: Callable[..., Any], before: Step | None, step: Step, judge: Judge) -> Any:
    if step.scores is None or step.importance is None:
        return None
    return step.scores, {n: function(wide(state)) for n, state in step.importance.items()}


def _budget(function: Callable[..., Any], before: Step | None, step: Step, judge: Judge) -> Any:
    t = step.number + judge.convention.first_step
    return None if step.budget is None else (step.budget, function(judge.config.schedule, t))


def _due(function: Callable[..., Any], before: Step | None, step: Step, judge: Judge) -> Any:
    t = step.number + judge.convention.first_step
    return None if step.due is None else (step.due, function(judge.config.schedule, t))


def _kept(function: Callable[..., Any], before: Step | None, step: Step, judge: Judge) -> Any:
    if step.scores is None or step.masks is None or not _is_due(step, judge):
        return None
    t = step.number + judge.convention.first_step
    budget = judge.convention.budget(judge.config.schedule, t) if step.budget is None else step.budget
    return step.masks, function(wide(step.scores), budget, cost=judge.config.cost)


def _is_due(step: Step, judge: Judge) -> bool:
    t = step.number + judge.convention.first_step
    return judge.convention.allocates(judge.config.schedule, t) if step.due is None else step.due


def _pruned(function: Callable[..., Any], before: Step | None, step: Step, judge: Judge) -> Any:
    schedule, t = judge.config.schedule, step.number + judge.convention.first_step
    masked = _is_due(step, judge) or t > schedule.end_of_pruning
    if step.after is None or step.moved is None or step.masks is None or not masked:
        return None
    return step.after, {n: function(wide(f), step.masks[n]) for n, f in step.moved.items()}


def _optimised(function: Callable[..., Any], before: Step | None, step: Step, judge: Judge) -> Any:
    config, gradient = judge.config, step.gradient if judge.config.clip_norm is None else step.clipped
    moments = before.optimizer if before else _at_the_start(step, init_adamw)
    if step.moved is None or step.optimizer is None or step.weights is None or gradient is None or moments is None:
        return None
    rates: dict[str, Any] = {"learning_rate": config.learning_rate, "weight_decay": config.weight_decay}
    if (config.adam_beta1, config.adam_beta2, config.adam_epsilon) != (0.9, 0.999, 1e-8):
        return None  # the entries of the catalogue have AdamW's usual constants
    made = {n: function(wide(f), wide(gradient[n]), wide(moments[n]), **rates) for n, f in step.weights.items()}
    got = {n: {"weights": step.moved[n], "state": step.optimizer[n]} for n in step.moved}
    return got, {n: {"weights": weights, "state": state} for n, (weights, state) in made.items()}


AGAIN: dict[str, Callable[..., Any]] = {
    "adamw_step": _optimised,
    "update_importance": _importance,
    "triplet_scores": _scores,
    "budget_at": _budget,
    "allocates_at": _due,
    "allocate": _kept,
    "prune": _pruned,
}


def wide(value: Any) -> Any:
    """*value* with every floating array in float64."""
    return tree_map(lambda a: a if a.dtype.kind in "biu" else a.astype(np.float64), value)
