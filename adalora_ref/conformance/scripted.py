"""A stateful rank allocator, fed scripted weights and gradients: what it shows of itself is a recorded run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from adalora_ref.budget import BudgetSchedule
from adalora_ref.conformance import oracles
from adalora_ref.conformance.bad_input import Handed
from adalora_ref.conformance.bounds import ARITHMETIC, number, scalar
from adalora_ref.conformance.cases import NAMES
from adalora_ref.conformance.feed import CONFIG, SCRIPTS, Feed, betas_of, feed
from adalora_ref.conformance.lifting import lift
from adalora_ref.conformance.limits import SECONDS, OutOfTime, time_limit
from adalora_ref.conformance.target import Target, TargetError, in_order, leaves, on_host, spoken, tree_map
from adalora_ref.conformance.trace import Each, Judge, Run, Step
from adalora_ref.conformance.untrusted import what_was_raised
from adalora_ref.conformance.verdict import Check, Verdict
from adalora_ref.convention import Convention
from adalora_ref.factors import Factors
from adalora_ref.importance import Importance, init_importance

SAID = {
    "update": None,
    "update_importance": "importance",
    "budget_at": "budget",
    "allocates_at": "due",
    "triplet_scores": "scores",
    "allocate": "masks",
    "masks": "masks",
    "prune": "after",
}
"""Under what an allocator shows a quantity."""


def hand_nan(target: Target, seconds: float = SECONDS) -> Handed:
    """Feed an allocator a matrix whose first gradient is NaN, until it must drop something; say what it does."""
    given, name = feed(SCRIPTS[""], "float64", 0), NAMES[1]
    said, wrong = _asked(target, "start", (target.hand_over(given.steps[0][0]), given.schedule), given.betas, seconds)
    for step, (weights, grads) in enumerate(given.steps[: given.schedule.end_of_pruning + 1]):
        nan = Factors(*(np.full_like(a, np.nan) for a in grads[name]))
        handed = target.hand_over((weights, grads if step else grads | {name: nan}))
        if not wrong:
            said, wrong = _asked(target, "update", (step, *handed), {}, seconds)
    if wrong:
        return Handed("update", "a NaN gradient", wrong)
    kept = int(np.sum(_on_host(said["masks"])[name]))
    return Handed(
        "update", f"a NaN gradient: of the {CONFIG.initial_rank} triplets with a NaN score it keeps {kept}", ""
    )


# FEEDING


def play(target: Target, given: Feed, judge: Judge, label: str, seconds: float = SECONDS) -> tuple[Run, Check]:
    """Feed a target; return the run as far as it came, and the check that says whether it came to the end."""
    steps, wrong = shown(target, given, seconds)
    case = f"{label}/step {len(steps)}" if wrong else label
    verdict = Verdict.FAIL if wrong else Verdict.PASS
    check = Check("update", case, target.array_library, judge.working, verdict, np.inf if wrong else 0.0, reason=wrong)
    run = Run(tuple(steps), judge, target.array_library, label)
    return run._replace(steps=_with_implied(run)), check


def shown(target: Target, given: Feed, seconds: float = SECONDS) -> tuple[list[Step], str]:
    """What an allocator shows of itself while it is fed, and, in words, why that ended before the feed did."""
    steps: list[Step] = []
    wrong = _start_wrong(target, given, seconds)
    last: Any = None
    for place, (weights, grads) in enumerate(() if wrong else given.steps):
        handed = target.hand_over((weights, grads))
        said, wrong = _asked(target, "update", (place, *handed), {}, seconds)
        wrong = wrong or _changed(
            {"weights": weights, "grads": grads}, dict(zip(("weights", "grads"), handed, strict=True))
        )
        wrong = wrong or (_changed(last[1], last[0], "that the step before returned") if last else "")
        if wrong:
            break
        steps.append(_step(target.name, place, weights, grads, said))
        last = (said, tree_map(np.copy, {k: _on_host(v) for k, v in said.items()}))
    return steps, wrong


def _start_wrong(target: Target, given: Feed, seconds: float) -> str:
    weights = given.steps[0][0]
    handed = target.hand_over(weights)
    _, wrong = _asked(target, "start", (handed, given.schedule), given.betas, seconds)
    return wrong or _changed({"weights": weights}, {"weights": handed})


def _asked(target: Target, name: str, args: tuple[Any, ...], options: Any, seconds: float) -> tuple[Any, str]:
    """What the allocator answered, or, in words, how it failed to."""
    try:
        with time_limit(seconds):
            return target.require(name)(*args, **options), ""
    except OutOfTime:
        return None, f"{name} took longer than {seconds:g} s and was interrupted"
    except TargetError:
        raise
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001  whatever a target raises is a finding about it
        return None, f"{name} raised {what_was_raised(error)}"


def _changed(before: Any, after: Any, whose: str = "") -> str:
    """Which array is not what it was, in words."""
    now = dict(leaves(after))
    for path, value in leaves(before):
        if path in now and on_host(value).tobytes() != on_host(now[path]).tobytes():
            return f"update changed {spoken(path)}" + (f" {whose}" if whose else ", which it was given")
    return ""


# WHAT IT SAID


def _step(name: str, number: int, weights: Each, grads: Each, said: Any) -> Step:
    """What an allocator said, as a step; the optimiser is not its affair, so it moves nothing."""
    allowed = {"masks", "importance", "scores", "budget", "due", "after"}
    if not isinstance(said, Mapping) or said.get("masks") is None or not said.keys() <= allowed:
        got = ", ".join(map(str, said)) if isinstance(said, Mapping) else type(said).__name__
        raise TargetError(
            f"{name}.update must return a dictionary with masks, and beside it at most "
            f"{', '.join(sorted(allowed - {'masks'}))}; got {got or 'an empty one'}"
        )
    held = {key: _on_host(value) for key, value in said.items() if value is not None}
    given: dict[str, Any] = {"weights": weights, "gradient": grads, "clipped": grads, "moved": weights}
    try:
        _require_form(held)
        held = {key: in_order(value, weights) if isinstance(value, dict) else value for key, value in held.items()}
        if "importance" in held:
            held["importance"] = {
                n: Importance(*(Factors(*part) for part in pair)) for n, pair in held["importance"].items()
            }
        if "after" in held:
            held["after"] = {n: Factors(*f) for n, f in held["after"].items()}
    except (TypeError, ValueError) as error:
        raise TargetError(f"{name}.update at step {number} returned what has not the form asked for: {error}") from None
    return Step(number, **given, **held)


def _require_form(held: dict[str, Any]) -> None:
    """Refuse what is no dictionary by matrix, and what is no number."""
    for key, value in held.items():
        if key in ("budget", "due"):
            if not isinstance(value, int) and not (isinstance(value, np.ndarray) and value.shape == ()):
                raise TypeError(f"{key} must be one number; got {type(value).__name__}")
            held[key] = bool(value) if key == "due" else int(value)
        elif not isinstance(value, Mapping):
            raise TypeError(f"{key} must be a dictionary by matrix; got {type(value).__name__}")
        elif key in ("masks", "scores"):
            _require_arrays(key, value)


def _require_arrays(key: str, held: Mapping[str, Any]) -> None:
    """Refuse lists: of what would be one number each, nothing could be said."""
    kind = "booleans" if key == "masks" else "numbers"
    for name, value in held.items():
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{key} must be arrays of {kind}, (r,) by matrix; got a {type(value).__name__} for {name}")


def _on_host(value: Any) -> Any:
    if isinstance(value, bool | int):
        return value
    if isinstance(value, Mapping):
        return {key: _on_host(item) for key, item in value.items()}
    if isinstance(value, Factors | Importance):
        return type(value)(*map(_on_host, value))
    return [_on_host(item) for item in value] if isinstance(value, list | tuple) else on_host(value)


# WHAT IT DID NOT SAY


def _with_implied(run: Run) -> tuple[Step, ...]:
    """The steps with the averages that the script makes, as numbers with bounds, if the allocator never shows any."""
    if any(step.importance is not None for step in run.steps):
        return run.steps
    kinds = [partial(kind, arithmetic=ARITHMETIC[run.judge.working]) for kind in (number, scalar)]
    betas = lift(betas_of(run.judge.config), *kinds)
    averages: Any = None
    steps = []
    for step in run.steps:
        weights, gradient = lift((step.weights, step.gradient), *kinds)
        start = {n: init_importance(f) for n, f in (step.weights or {}).items()}
        averages = lift(start, *kinds) if averages is None else averages
        if step.number + run.judge.convention.first_step < run.judge.config.schedule.end_of_pruning:
            averages = {n: oracles.update_importance(averages[n], weights[n], gradient[n], **betas) for n in averages}
        steps.append(step._replace(implied=averages))
    return tuple(steps)


class Allocator:
    """A stateful allocator made of the public functions of *held*: the order of Algorithm 1, and no mathematics."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def start(self, weights: Each, schedule: BudgetSchedule, *, beta1: float, beta2: float) -> None:
        """Begin anew."""
        self.schedule, self.betas = schedule, {"beta1": beta1, "beta2": beta2}
        self.importance = {n: self.held.init_importance(f) for n, f in weights.items()}
        self.masks = {n: np.ones(np.shape(s), dtype=bool) for n, (_, s, _) in weights.items()}

    def update(self, step: int, weights: Each, grads: Each) -> dict[str, Any]:
        """Update the averages, allocate if that is due, and mask."""
        held, scores = self.held, None
        if step < self.schedule.end_of_pruning:
            self.importance = {
                n: held.update_importance(self.importance[n], weights[n], grads[n], **self.betas) for n in weights
            }
        budget, due = held.budget_at(self.schedule, step), held.allocates_at(self.schedule, step)
        if due:
            scores = {n: held.triplet_scores(state) for n, state in self.importance.items()}
            self.masks = held.allocate(scores, budget)
        masked = due or step > self.schedule.end_of_pruning
        after = {n: held.prune(f, self.masks[n]) if masked else f for n, f in weights.items()}
        shown = {"importance": self.importance, "scores": scores, "budget": budget, "due": due, "after": after}
        return {"masks": self.masks, **shown}


def answers(held: Any, schedule: BudgetSchedule, steps: Any, rules: Convention, betas: Any) -> list[dict[str, Any]]:
    """What the allocator that is made of *held* says at every step."""
    allocator = Allocator(held)
    allocator.start(steps[0][0], schedule, **betas)
    return [allocator.update(step + rules.first_step, *pair) for step, pair in enumerate(steps)]
