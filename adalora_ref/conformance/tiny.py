"""The cases of the tiny preset: small integers and eighths, sizes of at most 3, so that a pencil is enough.

The first case of a stage is the plainest; those after it bring what a wrong implementation gets wrong. A case is
never changed and none is put between two others: its number is its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from adalora_ref.adamw import AdamState
from adalora_ref.array import Array
from adalora_ref.budget import BudgetSchedule
from adalora_ref.conformance.cases import NUMPY_DTYPES, Inputs
from adalora_ref.factors import Factors
from adalora_ref.importance import Importance
from adalora_ref.records import Config, TrainState


@dataclass(frozen=True)
class Pencil:
    """Writes numbers down in the dtype of a case, or in that of its state."""

    dtype: str

    def array(self, values: Any) -> Array:
        """Numbers in the dtype of the case."""
        return np.asarray(values, dtype=NUMPY_DTYPES[self.dtype])

    def state(self, values: Any) -> Array:
        """Numbers in the dtype of its state."""
        return np.asarray(values, dtype=NUMPY_DTYPES["float64" if self.dtype == "float64" else "float32"])

    def small(self) -> Factors:
        """One triplet of a matrix of one row and two columns."""
        return Factors(*map(self.array, ([[2]], [3], [[1, 1]])))

    def square(self) -> Factors:
        """Two triplets of a matrix of two rows and two columns, which transposes and reversals do not leave alone."""
        return Factors(*map(self.array, ([[1, -2], [0.5, 1]], [2, -1], [[1, 2], [-1, 0.5]])))

    def broad(self) -> Factors:
        """Two triplets of a matrix of two rows and three columns."""
        return Factors(*map(self.array, ([[1, 0.5], [-2, 1]], [0.5, -1], [[1, 2, 0], [0, -1, 1]])))

    def wide(self, factors: Factors) -> Factors:
        """The same numbers in the dtype of state."""
        return Factors(*map(self.state, factors))


def cases(stage: str, dtype: str) -> list[Inputs]:
    """The tiny cases of one stage."""
    return CASES[stage](Pencil(dtype))


# LAYER


def _initial(p: Pencil) -> list[Inputs]:
    like = p.array([0])
    return [
        {"seed": 0, "d_out": 1, "d_in": 2, "r": 1, "std": 1.0, "like": like},
        {"seed": 1, "d_out": 2, "d_in": 3, "r": 2, "std": None, "like": like},
    ]


def _linear(p: Pencil) -> list[Inputs]:
    plain = {"bias": None, "dropout_mask": None}
    return [
        {
            "x": p.array([[1, 2]]), "W": p.array([[1, 0]]), "factors": p.small(),
            "scale": 0.5, **plain, "dy": p.array([[2]]),
        },
        {
            "x": p.array([[1, -1, 2], [0.5, 1, 0]]), "W": p.array([[1, 0, -1], [2, 1, 0.5]]), "factors": p.broad(),
            "scale": -0.5, "bias": p.array([1, -0.25]), "dropout_mask": p.array([[2, 0, 2], [0, 2, 2]]),
            "dy": p.array([[1, 2], [-1, 0.5]]),
        },
        {
            "x": p.array([[[1, 2]], [[-1, 0.5]]]), "W": p.array([[0, 1], [1, 0]]), "factors": p.square(),
            "scale": 2.0, **plain, "dy": p.array([[[1, 0]], [[0.5, -2]]]),
        },
    ]  # fmt: skip


def _weight(p: Pencil) -> list[Inputs]:
    return [{name: case[name] for name in ("W", "factors", "scale")} for case in _linear(p)]


def _factors(p: Pencil) -> list[Inputs]:
    orthonormal = Factors(*map(p.array, ([[1, 0], [0, 1]], [5, 7], [[0, 1], [-1, 0]])))
    return [{"factors": held} for held in (p.small(), p.broad(), orthonormal, p.square())]


def _masked(p: Pencil) -> list[Inputs]:
    return [
        {"factors": p.broad(), "keep": np.array([True, False])},
        {"factors": p.square(), "keep": np.array([False, True])},
        {"factors": p.small(), "keep": np.array([False])},
    ]


# IMPORTANCE


def _importance(p: Pencil) -> list[Inputs]:
    grads = Factors(*map(p.array, ([[1, -2], [0.5, 0.25]], [-1, 2], [[0.5, -1, 2], [1, 0.5, -0.25]])))
    turned = Factors(*map(p.array, ([[1, -0.5], [2, 1]], [1, 3], [[-1, 0.5], [2, 0.25]])))
    fresh = Importance(p.wide(_zeros(p.broad())), p.wide(_zeros(p.broad())))
    return [
        {"state": fresh, "weights": p.broad(), "grads": grads, "beta1": 0.5, "beta2": 0.75},
        {"state": _averages(p), "weights": p.broad(), "grads": grads, "beta1": 0.5, "beta2": 0.75},
        {"state": _averages(p), "weights": grads, "grads": p.broad(), "beta1": 0.75, "beta2": 0.5},
        {
            "state": Importance(p.wide(_absolute(p.square())), p.wide(_absolute(turned))),
            "weights": p.square(), "grads": turned, "beta1": 0.0, "beta2": 0.875,
        },
    ]  # fmt: skip


def _averages(p: Pencil) -> Importance:
    """Averages of the broad matrix."""
    mean = ([[1, 0.5], [2, 0.25]], [3, 0.5], [[0.5, 1, 0.25], [2, 0, 1]])
    deviation = ([[0.5, 1], [1, 2]], [0.25, 4], [[2, 0.5, 1], [0.5, 1, 3]])
    return Importance(Factors(*map(p.state, mean)), Factors(*map(p.state, deviation)))


def _zeros(factors: Factors) -> Factors:
    return Factors(*(np.zeros_like(a) for a in factors))


def _absolute(factors: Factors) -> Factors:
    return Factors(*(np.abs(a) for a in factors))


# BUDGET AND ALLOCATION


def _schedule(_: Pencil) -> list[Inputs]:
    plans = [
        BudgetSchedule(initial=12, target=4, warmup=2, final=3, total=9),
        BudgetSchedule(initial=10, target=1, warmup=1, final=3, total=7, interval=3),
        BudgetSchedule(initial=130, target=5, warmup=0, final=1, total=6, interval=2),
        BudgetSchedule(initial=1000, target=0, warmup=3, final=0, total=13, interval=4),
    ]
    return [{"schedule": plan, "steps": list(range(plan.total + 2))} for plan in plans]


def _scores(p: Pencil) -> list[Inputs]:
    even = {"first": p.array([3, 1]), "last": p.array([1, 2])}
    ties = {"first": p.array([0.5, 2, 0.5]), "middle": p.array([2]), "last": p.array([0.5, 0, -0.0])}
    unlike = {"up": p.array([1, 2]), "down": p.array([1])}
    return [
        {"scores": even, "budget": 3, "cost": None},
        {"scores": ties, "budget": 3, "cost": None},
        {"scores": ties, "budget": 6, "cost": None},
        {"scores": even, "budget": 2, "cost": None},
        {"scores": even, "budget": 0, "cost": None},
        {"scores": even, "budget": 4, "cost": {"first": 2, "last": 3}},
        {"scores": ties, "budget": 7, "cost": {"first": 3, "middle": 1, "last": 2}},
        {"scores": unlike, "budget": 2, "cost": None},
    ]


# OPTIMISER


def _optimiser(p: Pencil) -> list[Inputs]:
    grads = Factors(*map(p.array, ([[1, -2], [0.5, 0.25]], [-1, 2], [[0.5, -1, 2], [1, 0.5, -0.25]])))
    fresh = AdamState(p.wide(_zeros(p.broad())), p.wide(_zeros(p.broad())), 0)
    rates = {"learning_rate": 0.5, "weight_decay": None}
    return [
        {"weights": p.broad(), "grads": grads, "state": fresh, **rates},
        {"weights": p.broad(), "grads": grads, "state": AdamState(*_averages(p), 3), **rates, "weight_decay": 0.125},
    ]


# TRAINING


def _start(p: Pencil) -> list[Inputs]:
    return [_one(p) | {"config": _config(2, 2), "seed": 0}, _two(p) | {"config": _config(4, 2), "seed": 1}]


def _training(p: Pencil) -> list[Inputs]:
    one = [(p.array([[1, 2]]), p.array([[-5]]))]
    two = [(p.array([[1, -1]]), np.array([1])), (p.array([[0.5, 2]]), np.array([0]))]
    clipped: dict[str, Any] = {"clip_norm": 0.5, "weight_decay": 0.125}
    return [
        _one(p) | {"state": _state(p, _one(p), 2, kept=True), "batch": one, "config": _config(2, 2)},
        _two(p) | {"state": _state(p, _two(p), 2, kept=True), "batch": two, "config": _config(4, 2, **clipped)},
        _two(p)
        | {
            "state": _state(p, _two(p), 2, kept=False),
            "batch": two[:1],
            "config": _config(4, 2, interval=2, alpha=-1.0),
        },
        _two(p) | {"state": _state(p, _two(p), 5, kept=False), "batch": two, "config": _config(4, 2)},
    ]


def _one(p: Pencil) -> Inputs:
    """A network of one matrix, which is linear: every number of a step is a fraction."""
    return {"weights": {"only": p.array([[0.5, -1]])}, "biases": {}, "labels": False}


def _two(p: Pencil) -> Inputs:
    """A network of two matrices with tanh between them."""
    weights = {"first": p.array([[1, 0], [-0.5, 0.25]]), "last": p.array([[1, -1], [0, 0.5]])}
    return {"weights": weights, "biases": {"first": p.array([0.25, -0.125])}, "labels": True}


def _state(p: Pencil, net: Inputs, step: int, *, kept: bool) -> TrainState:
    """A state in the midst of a run; the last triplet of each matrix was kept, or was not."""
    held = {
        "only": Factors(*map(p.state, ([[1, -2]], [2, -1], [[1, 0.5], [-1, 2]]))),
        "first": p.wide(p.square()),
        "last": Factors(*map(p.state, ([[0.5, 1], [-1, 2]], [1, 0.5], [[2, 0.25], [1, -1]]))),
    }
    held = {name: held[name] for name in net["weights"]}
    second = {name: Factors(*(a * a for a in f)) for name, f in held.items()}
    return TrainState(
        step,
        held,
        {name: Importance(_absolute(f), second[name]) for name, f in held.items()},
        {name: AdamState(f, second[name], step) for name, f in held.items()},
        {name: np.array([True, kept]) for name in held},
    )


def _config(initial: int, rank: int, *, interval: int = 1, **more: Any) -> Config:
    """Pruning at steps 1 to 3, the last phase from 4; for the network of one matrix Adam is lr · g / (|g| + 1/8)."""
    plan = BudgetSchedule(initial=initial, target=1, warmup=1, final=3, total=7, interval=interval)
    betas = {"importance_beta1": 0.5, "importance_beta2": 0.75}
    if initial == 2:
        more |= {"adam_beta1": 0.0, "adam_beta2": 0.0, "adam_epsilon": 0.125}
    options: dict[str, Any] = {"alpha": 4.0, "learning_rate": 0.5, "orthogonality_weight": 0.25, **betas, **more}
    return Config(schedule=plan, initial_rank=rank, **options)


CASES: dict[str, Callable[[Pencil], list[Inputs]]] = {
    "init_factors": _initial,
    "linear_forward": _linear,
    "linear_backward": _linear,
    **dict.fromkeys(("increment", "merge", "unmerge"), _weight),
    **dict.fromkeys(("orthogonality_penalty", "orthogonality_norm"), _factors),
    **dict.fromkeys(("init_importance", "init_adamw", "prune", "compress"), _masked),
    **dict.fromkeys(("update_importance", "triplet_scores"), _importance),
    **dict.fromkeys(("phase_at", "budget_at", "allocates_at"), _schedule),
    "allocate": _scores,
    "adamw_step": _optimiser,
    "init_state": _start,
    "train_step": _training,
}
