"""Which known mistake makes all that an allocator shows of a quantity: a wrong allocator, fed what that one was fed.

What it withholds is thus no obstacle: wrong averages are known by the scores that they make, and wrong scores by the
masks. And what no single function does, such as scores of the step before, shows in a whole allocator alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np

from adalora_ref.adamw import init_adamw
from adalora_ref.conformance.deviations import DEVIATIONS, reference
from adalora_ref.conformance.feed import CONFIG, betas_of
from adalora_ref.conformance.known import Deviation
from adalora_ref.conformance.scripted import SAID, Allocator
from adalora_ref.conformance.trace import Each, Run, Wanted
from adalora_ref.conformance.trace_diagnosis import alike, recorded
from adalora_ref.convention import Convention, all_move, no_penalty, where_taken
from adalora_ref.importance import init_importance
from adalora_ref.records import TrainState

Wants: TypeAlias = dict[int, Wanted]
"""What is expected, by step."""

IN_FUNCTIONS = ("init_importance", "update_importance", "triplet_scores", "budget_at", "allocates_at", "allocate")

IN_STEPS = (
    "averages_only_at_allocations",
    "averages_never_freeze",
    "averages_are_reset_by_an_allocation",
    "mask_from_stale_scores",
    "pruning_is_permanent",
    "score_is_the_size_of_s",
    "score_is_s_times_lengths",
    "score_is_product_of_lengths",
    "never_allocates",
    "masks_keep_the_first",
    "steps_count_from_one",
)
"""Mistakes of a training step that are an allocator's, which has no forward pass and no optimiser."""


def replayed(stage: str, runs: Sequence[Run]) -> list[Deviation]:
    """The mistakes of single functions that make at every step what the runs show; where none does, those of a step."""
    sides = (
        [known for known in DEVIATIONS if known.stage in IN_FUNCTIONS and not known.equivalent],
        [known for known in DEVIATIONS if known.name in IN_STEPS],
    )
    judged = [_judged(stage, run) for run in runs]
    right = [list(_made(None, run, stage)) for run in runs]
    found = ([known for known in side if _explains(known, stage, runs, judged, right)] for side in sides)
    return next(filter(None, found), [])


def _explains(known: Deviation, stage: str, runs: Sequence[Run], judged: Sequence[Wants], right: Sequence[Any]) -> bool:
    """Whether the mistake makes all that was shown, and somewhere not what a right allocator makes."""
    telling = False
    for run, wants, reference_made in zip(runs, judged, right, strict=True):
        for step, made, ours in zip(run.steps, _made(known, run, stage), reference_made, strict=False):
            want, shown = wants.get(step.number), getattr(step, str(SAID[stage]))
            if want is not None and not alike(shown, made, want):
                return False
            telling = telling or (want is not None and not alike(ours, made, want))
    return telling


def _judged(stage: str, run: Run) -> Wants:
    """What is expected at every step of what an allocator shows of a stage."""
    names = [name for name, said in SAID.items() if said == SAID[stage]]
    found = [held for name in names for held in recorded(name, [run])]
    return {held.step.number: held.expected for held in found if not isinstance(held.expected, str)}


def _made(known: Deviation | None, run: Run, stage: str) -> Iterator[Any]:
    """What an allocator with this mistake, or without one, shows of a stage at every step; None where it cannot."""
    rules, config = run.judge.convention, run.judge.config
    again = _allocator(known, rules)
    if not run.steps:
        return
    again.start(run.steps[0].weights or {}, config.schedule, **betas_of(config))
    for step in run.steps:
        try:
            said = again.update(step.number + rules.first_step, step.weights or {}, step.gradient or {})
        except Exception:  # noqa: BLE001  a mistake that cannot run on this script is not the one
            said = {}
        yield said.get(str(SAID[stage]))


# ALLOCATORS WITH A MISTAKE


def _allocator(known: Deviation | None, rules: Convention) -> Any:
    held = reference(rules)
    if known is None:
        return Allocator(held)
    if known.stage == "train_step":
        return NeverFreezes(held) if known.name == "averages_never_freeze" else Stepping(known.function, rules)
    setattr(held, known.stage, known.function)
    return Allocator(held)


class NeverFreezes(Allocator):
    """Updates its averages in the last phase too, before it allocates."""

    def update(self, step: int, weights: Each, grads: Each) -> dict[str, Any]:
        """Update them where it would not."""
        if step >= self.schedule.end_of_pruning:
            self.importance = {
                n: self.held.update_importance(self.importance[n], weights[n], grads[n], **self.betas) for n in weights
            }
        return super().update(step, weights, grads)


class Stepping:
    """An allocator made of a drop-in for `train_step`; its network has just the gradients of the script."""

    def __init__(self, function: Any, rules: Convention) -> None:
        self.function = function
        self.rules = replace(rules, sensitivity=where_taken, penalty=no_penalty, trained=all_move)

    def start(self, weights: Each, schedule: Any, *, beta1: float, beta2: float) -> None:
        """Begin anew."""
        self.config = replace(CONFIG, schedule=schedule, importance_beta1=beta1, importance_beta2=beta2)
        self.state = TrainState(
            0,
            weights,
            {n: init_importance(f) for n, f in weights.items()},
            {n: init_adamw(f) for n, f in weights.items()},
            {n: np.ones(f.s.shape, dtype=bool) for n, f in weights.items()},
        )

    def update(self, step: int, weights: Each, grads: Each) -> dict[str, Any]:
        """Make a step from the weights of the script."""
        scores: dict[str, Any] = {}

        def allocate(given: Mapping[str, Any], budget: int, /, *, cost: Any = None) -> Any:
            scores.update(given)
            return self.rules.allocate(given, budget, cost=cost)

        state = self.state._replace(step=step - self.rules.first_step, factors=weights)
        nothing = np.zeros((1, 1), next(iter(weights.values())).s.dtype)
        network = SimpleNamespace(
            weights={n: np.zeros((f.B.shape[0], f.A.shape[1]), f.s.dtype) for n, f in weights.items()},
            forward=lambda *_: (nothing, None),
            loss=lambda *_: (0.0, nothing),
            backward=lambda *_: grads,
        )
        rules = replace(self.rules, allocate=allocate)
        self.state, _ = self.function(state, [(nothing, nothing)], network, self.config, convention=rules)
        return {"masks": self.state.masks, "importance": self.state.importance, "scores": scores or None}
