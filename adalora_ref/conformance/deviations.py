"""The catalogue of known mistakes and conventions.

It serves twice: as planted bugs, which the kit must reject, and as fingerprints, by which it names the bug in someone
else's code.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import adalora_ref
from adalora_ref.conformance.cases import NUMPY_DTYPES
from adalora_ref.conformance.known import Deviation
from adalora_ref.conformance.mistakes_in_adamw import IN_ADAMW
from adalora_ref.conformance.mistakes_in_importance import IN_IMPORTANCE
from adalora_ref.conformance.mistakes_in_layers import IN_LAYERS
from adalora_ref.conformance.mistakes_in_penalty import IN_PENALTY
from adalora_ref.conformance.mistakes_in_pruning import IN_PRUNING
from adalora_ref.conformance.mistakes_in_training import IN_TRAINING
from adalora_ref.convention import SPEC, Convention

DEVIATIONS: tuple[Deviation, ...] = (
    *IN_LAYERS,
    *IN_PENALTY,
    *IN_IMPORTANCE,
    *IN_PRUNING,
    *IN_ADAMW,
    *IN_TRAINING,
)


def reference(rules: Convention = SPEC) -> Any:
    """The reference as a target: its public functions, with those of a convention that has its own."""
    held = SimpleNamespace(**{name: getattr(adalora_ref, name) for name in adalora_ref.__all__})
    held.budget_at, held.allocates_at, held.allocate = rules.budget, rules.allocates, rules.allocate
    held.dtypes = tuple(NUMPY_DTYPES)
    return held


def planted(*mistakes: Deviation) -> Any:
    """Return the reference with *mistakes* planted in it, each in another function."""
    held = SimpleNamespace(**{name: getattr(adalora_ref, name) for name in adalora_ref.__all__})
    for mistake in mistakes:
        setattr(held, mistake.stage, mistake.function)
    return held
