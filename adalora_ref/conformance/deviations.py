"""The catalogue of known mistakes and conventions.

It serves twice: as planted bugs, which the kit must reject, and as fingerprints, by which it names the bug in someone
else's code.
"""

from __future__ import annotations

from typing import Any

import adalora_ref
from adalora_ref.conformance.known import Deviation
from adalora_ref.conformance.mistakes_in_layers import IN_LAYERS
from adalora_ref.conformance.mistakes_in_pruning import IN_PRUNING
from adalora_ref.conformance.mistakes_in_training import IN_TRAINING

DEVIATIONS: tuple[Deviation, ...] = (*IN_LAYERS, *IN_PRUNING, *IN_TRAINING)


def planted(deviation: Deviation) -> Any:
    """Return the reference with *deviation* planted in it."""

    class Planted:
        """The reference with one mistake."""

    held = Planted()
    for name in adalora_ref.__all__:
        setattr(held, name, getattr(adalora_ref, name))
    setattr(held, deviation.stage, deviation.function)
    return held
