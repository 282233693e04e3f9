"""The first quantity of a recorded run that departs: the inputs that were recorded, and the formula that takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, NamedTuple

from adalora_ref import convention as core
from adalora_ref.adamw import init_adamw
from adalora_ref.allocation import allocate
from adalora_ref.array import Array
from adalora_ref.budget import allocates_at, budget_at
from adalora_ref.conformance import formulas
from adalora_ref.conformance.target import leaves, on_host, spoken
from adalora_ref.conformance.trace import Judge, Run, Step, everyone, quantities, state_before
from adalora_ref.conformance.trace_diagnosis import wide
from adalora_ref.conformance.verdict import Expected, Verdict, compare
from adalora_ref.importance import Importance, init_importance

BY_CONVENTION: dict[Any, Callable[..., Any]] = {
    budget_at: formulas.budget_at,
    core.budget_in_doubles: formulas.budget_in_doubles,
    core.full_budget: formulas.full_budget,
    allocates_at: formulas.allocates_at,
    core.allocates_as_released: formulas.allocates_as_released,
    core.allocates_as_peft: formulas.allocates_as_peft,
    core.never: formulas.never,
    allocate: formulas.allocate,
    core.allocate_above_threshold: formulas.allocate_above_threshold,
}
"""What the functions of a convention are in plain NumPy."""


class Recorded(NamedTuple):
    """An array that a run recorded at a step, what it should be, and how that is made of what was recorded before."""

    step: int
    quantity: str
    recorded: Array
    expected: Expected
    formula: Callable[..., Any]
    inputs: dict[str, Any]


class _Place(NamedTuple):
    """Where an array stands: the step and the one before it, the matrix, and its path within that matrix."""

    before: Step | None
    step: Step
    judge: Judge
    matrix: str
    path: str

    def part(self, held: Any) -> Array:
        """B, s or A of this matrix."""
        return getattr(held[self.matrix], self.path[-1])

    @property
    def t(self) -> int:
        return self.step.number + self.judge.convention.first_step

    @property
    def due(self) -> bool:
        """Whether an allocation is made, as the run has it if it says so."""
        if self.step.due is not None:
            return self.step.due
        return self.judge.convention.allocates(self.judge.config.schedule, self.t)


def recorded(run: Run, stage: str) -> Iterator[Recorded]:
    """Yield every array of a stage for which something is expected, in the order of the run, with its formula."""
    for before, step in run.pairs():
        for name, got, wanted in quantities(step, before, run.judge):
            expected = wanted() if name == stage else ""
            if isinstance(expected, str):
                continue
            for matrix, path, inner, value in _arrays(got):
                if inner.endswith(".steps"):  # counted by the reader of the file
                    continue
                place = _Place(before, step, run.judge, matrix, inner)
                formula, values = FORMULAS[stage](place)
                inputs = {name: values[name] for name in inspect.signature(formula).parameters}
                quantity = spoken(f"{stage}{path}")
                yield Recorded(step.number, quantity, on_host(value), expected[path], formula, inputs)


def first_departure(run: Run, stage: str) -> Recorded | None:
    """The first array of a stage that is not what it should be."""
    found = recorded(run, stage)
    return next((r for r in found if compare("", r.recorded, r.expected)[0] is Verdict.FAIL), None)


def _arrays(got: Any) -> Iterator[tuple[str, str, str, Any]]:
    """Every array of a quantity with its matrix, its path, and its path within the matrix."""
    for matrix, held in got.items() if isinstance(got, dict) else [("", got)]:
        outer = leaves(held, f"[{matrix}]" if isinstance(got, dict) else "")
        for (path, value), (inner, _) in zip(outer, leaves(held), strict=True):
            yield matrix, path, inner, value


# WHAT EACH STAGE IS MADE OF


def _weights(p: _Place) -> Any:
    return formulas.unchanged, {"before": p.part(p.before.after if p.before else None)}


def _clip(p: _Place) -> Any:
    every = [a for f in (p.step.gradient or {}).values() for a in f]
    gradient = p.part(p.step.gradient)
    return formulas.clip, {
        "gradient": gradient,
        "gradients_of_all": every,
        "clip_norm": p.judge.config.clip_norm,
    }


def _adamw(p: _Place) -> Any:
    config = p.judge.config
    moments = state_before(p.step, p.before, "optimizer", init_adamw)
    gradient = p.step.gradient if config.clip_norm is None else p.step.clipped
    values = {
        "w": p.part(p.step.weights),
        "g": p.part(gradient),
        "m": p.part({n: held.first for n, held in moments.items()}),
        "v": p.part({n: held.second for n, held in moments.items()}),
        "t": moments[p.matrix].steps + 1,
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "beta1": config.adam_beta1,
        "beta2": config.adam_beta2,
        "epsilon": config.adam_epsilon,
    }
    kinds = {"first": formulas.first_moment, "second": formulas.second_moment}
    return next((kinds[kind] for kind in kinds if f".{kind}." in p.path), formulas.adamw), values


def _importance(p: _Place) -> Any:
    config, step = p.judge.config, p.step
    averages = state_before(step, p.before, "importance", init_importance)
    I, U = (p.part({n: pair[place] for n, pair in averages.items()}) for place in (0, 1))
    kind = p.path.partition(".")[0]
    if p.t >= config.schedule.end_of_pruning:
        return formulas.unchanged, {"before": I if kind == "sensitivity" else U}
    clipped = step.gradient if config.clip_norm is None else step.clipped
    held = [(held or {})[p.matrix] for held in (step.weights, step.gradient, step.moved, clipped)]
    w, g = (getattr(f, p.path[-1]) for f in p.judge.convention.sensitivity(*held))
    betas = {"beta1": config.importance_beta1, "beta2": config.importance_beta2}
    return getattr(formulas, kind), {"w": w, "g": g, "I_before": I, "U_before": U, **betas}


def _scores(p: _Place) -> Any:
    return formulas.triplet_scores, _averages((p.step.importance or {})[p.matrix])


def _averages(state: Importance) -> dict[str, Any]:
    return {name: dict(zip("BsA", part, strict=True)) for name, part in zip("IU", state, strict=True)}


def _schedule(field: str) -> Callable[[_Place], Any]:
    def of(p: _Place) -> Any:
        return BY_CONVENTION[getattr(p.judge.convention, field)], {"t": p.t, **asdict(p.judge.config.schedule)}

    return of


def _allocate(p: _Place) -> Any:
    """Where the run recorded no scores, those that its averages make."""
    scores, rules = p.step.scores, p.judge.convention
    if scores is None:
        averages = wide(p.step.importance or {})
        scores = {n: formulas.triplet_scores(**_averages(state)) for n, state in averages.items()}
    budget = rules.budget(p.judge.config.schedule, p.t) if p.step.budget is None else p.step.budget
    cost = None if p.judge.config.cost is None else dict(p.judge.config.cost)
    values = {"scores_of_all": scores, "matrix": p.matrix, "budget": budget, "cost": cost}
    return BY_CONVENTION[rules.allocate], values


def _masks(p: _Place) -> Any:
    return formulas.unchanged, {"before": state_before(p.step, p.before, "masks", everyone)[p.matrix]}


def _prune(p: _Place) -> Any:
    moved = p.part(p.step.moved)
    if p.path[-1] != "s" or not (p.due or p.t > p.judge.config.schedule.end_of_pruning):
        return formulas.unchanged, {"before": moved}
    return formulas.prune, {"s": moved, "keep": (p.step.masks or {})[p.matrix]}


FORMULAS: dict[str, Callable[[_Place], Any]] = {
    "weights": _weights,
    "clip": _clip,
    "adamw_step": _adamw,
    "update_importance": _importance,
    "budget_at": _schedule("budget"),
    "allocates_at": _schedule("allocates"),
    "triplet_scores": _scores,
    "allocate": _allocate,
    "masks": _masks,
    "prune": _prune,
}
"""By stage: the formula of an array, and at least what it takes."""
