"""What a run was like after every step: scores, masks, orthogonality defects, accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from adalora_ref.allocation import Masks
from adalora_ref.array import Array, device, namespace, to_numpy
from adalora_ref.convention import Convention
from adalora_ref.records import TrainState

QUANTITIES = ("scores", "masks", "defect_B", "defect_A")
KIND_OF = {"masks": "b", "measured": "i"}
KINDS = {"b": "booleans", "f": "floats", "i": "integers"}


class Moment(NamedTuple):
    """How things stand after one step; dictionaries are by matrix, in forward order."""

    scores: dict[str, Array]
    masks: Masks
    defect_B: dict[str, Array]
    """‖BᵀB − I‖_F, not squared."""
    defect_A: dict[str, Array]
    """‖AAᵀ − I‖_F, not squared."""
    accuracy: float | None
    """The share of held-out examples that are right, where it was measured."""


class Timeline(NamedTuple):
    """All moments of a run, on the host: the first axis is the step, and floats are the run's own."""

    scores: dict[str, Array]
    """(steps, r); what the convention scores after the step: in the last phase, what the last averages gave."""
    masks: Masks
    """(steps, r); who is kept after the step, by the latest allocation."""
    defect_B: dict[str, Array]
    """(steps,)."""
    defect_A: dict[str, Array]
    """(steps,)."""
    measured: Array
    """(m,); the steps after which accuracy was measured."""
    accuracy: Array
    """(m,); the share of held-out examples that were right then."""


def moment(state: TrainState, accuracy: float | None, rule: Convention, /) -> Moment:
    """What is recorded of *state*; the scores are those that an allocation in this step went by."""
    return Moment(
        scores={name: rule.score(held, state.factors[name]) for name, held in state.importance.items()},
        masks=state.masks,
        defect_B={name: defect(held.B.T @ held.B) for name, held in state.factors.items()},
        defect_A={name: defect(held.A @ held.A.T) for name, held in state.factors.items()},
        accuracy=accuracy,
    )


def defect(gram: Float[Array, "r r"], /) -> Float[Array, ""]:
    """‖G − I‖_F: how far vectors whose inner products are G are from being orthonormal.

    >>> float(defect(np.array([[4.0, 0.0], [0.0, 5.0]])))  # √(3² + 4²)
    5.0
    """
    xp = namespace(gram)
    Z = gram - xp.eye(gram.shape[0], dtype=gram.dtype, device=device(gram))  # (r, r)
    return xp.sqrt(xp.sum(Z * Z))  # ()


def arrays_of(moments: Sequence[Moment], /) -> dict[str, Array]:
    """Every quantity over all moments, as named arrays on the host: MATRIX.QUANTITY, measured and accuracy."""
    found = {
        f"{name}.{quantity}": np.stack([to_numpy(getattr(held, quantity)[name]) for held in moments])
        for name in moments[0].scores
        for quantity in QUANTITIES
    }
    measured = {step: held.accuracy for step, held in enumerate(moments) if held.accuracy is not None}
    return {**found, "measured": np.asarray([*measured]), "accuracy": np.asarray([*measured.values()])}


def timeline_of(arrays: Mapping[str, Array], shapes: Mapping[str, int], steps: int, /) -> Timeline:
    """The reverse of `arrays_of`, checked; *shapes* has the r of every matrix.

    Raises
    ------
    ValueError
        If an array is missing, has another shape, or has a number that is not finite.
    """
    wanted: dict[str, tuple[int, ...]] = {
        f"{name}.{quantity}": (steps, r) for name, r in shapes.items() for quantity in ("scores", "masks")
    }
    wanted |= {f"{name}.{quantity}": (steps,) for name in shapes for quantity in ("defect_B", "defect_A")}
    wanted |= dict.fromkeys(("measured", "accuracy"), (np.size(arrays.get("measured", ())),))
    for name, shape in wanted.items():
        if name not in arrays:
            raise ValueError(f"the timeline has no array {name!r}")
        a, kind = arrays[name], KIND_OF.get(name.rpartition(".")[2], "f")
        if a.shape != shape or a.dtype.kind != kind or not np.all(np.isfinite(a)):
            raise ValueError(f"{name!r} must be {shape}, finite {KINDS[kind]}; got {a.shape} of {a.dtype}")
    by_matrix = {quantity: {name: arrays[f"{name}.{quantity}"] for name in shapes} for quantity in QUANTITIES}
    measured = arrays["measured"]
    if not measured.size or measured[-1] != steps - 1 or measured[0] < 0 or np.any(np.diff(measured) <= 0):
        raise ValueError(f"'measured' must be steps in order, the last step among them; got {measured.tolist()}")
    return Timeline(**by_matrix, measured=measured, accuracy=arrays["accuracy"])
