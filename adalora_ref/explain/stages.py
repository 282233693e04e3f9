"""The table of the stages that are worked."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from adalora_ref.explain import adam, gradients, ranking
from adalora_ref.explain.drawing import Options
from adalora_ref.explain.steps import Worked


class Stage(NamedTuple):
    """A row of the list: what is worked, its equations, the page that derives it, and the function that does it."""

    title: str
    equations: str
    page: str
    work: Callable[[Options], Worked]


STAGES = {
    "layer": Stage("the adapted layer, forward and backward", "(2), (3)", "layer.md", gradients.layer),
    "penalty": Stage("the squared penalty and its gradient", "(5)", "penalty.md", gradients.penalty),
    "norm": Stage("the penalty without the square", "(6)", "penalty.md", gradients.norm),
    "importance": Stage("sensitivity and its two averages", "(8)", "averages.md", ranking.smoothing),
    "scores": Stage("one number for each triplet", "(9)", "triplet_identity.md", ranking.scores),
    "schedule": Stage("the budget, in exact integers", "(11), (12)", "schedule.md", ranking.schedule),
    "allocate": Stage("who is kept, over all matrices", "(13)", "selection.md", ranking.choosing),
    "adamw": Stage("a step of AdamW, the second", "(18)", "adam_after_pruning.md", adam.adamw),
}
