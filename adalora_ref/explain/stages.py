"""The table of the stages that are worked."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from adalora_ref.explain import adam, gradients, ranking
from adalora_ref.explain.drawing import Options
from adalora_ref.explain.steps import Worked

EVERY = ("numbers", "seed", "r", "d_in", "d_out", "n")
"""The options there are."""


class Stage(NamedTuple):
    """A row of the list: what is worked, its equations, the page that derives it, and the function that works it."""

    title: str
    equations: str
    page: str
    work: Callable[[Options], Worked]
    uses: tuple[str, ...] = EVERY[:-1]
    """The options that its numbers depend on."""


STAGES = {
    "layer": Stage("the adapted layer, forward and backward", "(2), (3)", "layer.md", gradients.layer, EVERY),
    "penalty": Stage("the squared penalty and its gradient", "(5)", "penalty.md", gradients.penalty),
    "norm": Stage("the penalty without the square", "(6)", "penalty.md", gradients.norm),
    "importance": Stage("sensitivity and its two averages", "(8)", "averages.md", ranking.smoothing),
    "scores": Stage("one number for each triplet", "(9)", "triplet_identity.md", ranking.scores),
    "schedule": Stage("the budget, in exact integers", "(11), (12)", "schedule.md", ranking.schedule, EVERY[1:3]),
    "allocate": Stage("who is kept, over all matrices", "(13)", "selection.md", ranking.choosing, EVERY[:3]),
    "adamw": Stage("a step of AdamW, the second", "(18)", "adam_after_pruning.md", adam.adamw),
}
