"""What training is told, what it carries from step to step, and what it reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from jaxtyping import Float

from adalora_ref.adamw import AdamState
from adalora_ref.allocation import Masks
from adalora_ref.array import Array
from adalora_ref.budget import BudgetSchedule
from adalora_ref.checks import count, real
from adalora_ref.factors import Factors
from adalora_ref.importance import Importance

Batch = Sequence[tuple[Array, Array]]


class Network(Protocol):
    """What training needs of a network; `adalora_ref.networks.mlp.MLP` is one."""

    weights: dict[str, Float[Array, "_ _"]]

    def forward(
        self, x: Array, factors: Mapping[str, Factors], scales: Mapping[str, float], /
    ) -> tuple[Array, Any]: ...
    def loss(self, output: Array, target: Array, /) -> tuple[Float[Array, ""], Array]: ...
    def backward(self, doutput: Array, cache: Any, /) -> dict[str, Factors]: ...


@dataclass(frozen=True, kw_only=True)
class Config:
    """What a run needs that is no array.

    Attributes
    ----------
    schedule
        The budget over time; its `initial` must be the sum of the initial ranks, weighted with *cost* if given.
    initial_rank
        r of every matrix at the start.
    alpha
        α, numerator of the scale.
    learning_rate, weight_decay
        Of AdamW, at least 0.
    orthogonality_weight
        γ, at least 0.
    importance_beta1, importance_beta2
        β1 of Ī and β2 of Ū, in [0, 1).
    clip_norm
        Largest norm of the gradient over all trained factors, above 0; None: no clipping.
    cost
        Parameters per triplet of each matrix; the budget then counts parameters.
    """

    schedule: BudgetSchedule
    initial_rank: int
    alpha: float
    learning_rate: float
    orthogonality_weight: float = 0.1
    importance_beta1: float = 0.85
    importance_beta2: float = 0.85
    weight_decay: float = 0.0
    clip_norm: float | None = None
    cost: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, BudgetSchedule):
            raise TypeError(f"schedule must be a BudgetSchedule; got {type(self.schedule).__name__}")
        count("initial_rank", self.initial_rank)
        real("alpha", self.alpha)
        for name in ("learning_rate", "orthogonality_weight", "weight_decay"):
            real(name, getattr(self, name), least=0.0)
        for name in ("importance_beta1", "importance_beta2"):
            real(name, getattr(self, name), least=0.0, below=1.0)
        if self.clip_norm is not None and real("clip_norm", self.clip_norm) <= 0:
            raise ValueError(f"clip_norm must be above 0, or None; got {self.clip_norm!r}")


class TrainState(NamedTuple):
    """Everything that a step changes; dictionaries are by matrix, in forward order."""

    step: int
    factors: dict[str, Factors]
    importance: dict[str, Importance]
    optimizer: dict[str, AdamState]
    masks: Masks
    """Who was kept by the latest allocation; all before the first."""


class StepReport(NamedTuple):
    """Everything that a step is worth comparing by; dictionaries are by matrix, in forward order."""

    step: int
    loss: float
    """Of the task alone, mean over micro-batches."""
    penalty: float
    """γ · penalty_factor · ΣR."""
    budget: int
    kept: dict[str, int]
    parameters: dict[str, int]
    """kept · (d_out + d_in + 1)."""
    threshold: float | None
    """Lowest kept score; None without an allocation, or where nothing is kept."""
    revived: Masks
    """Kept now, not before."""
    dropped: Masks
    """Kept before, not now."""
    penalty_share: dict[str, Float[Array, "_"]]
    """p / (p + q) for each triplet: how much of this step's sensitivity is the penalty's."""
