"""What training is told, what it carries from step to step, and what it reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float

from adalora_ref.adamw import AdamState
from adalora_ref.allocation import Masks, require_keep
from adalora_ref.array import FLOATING, Array, dtype_name, require_arrays
from adalora_ref.budget import BudgetSchedule
from adalora_ref.checks import count, every, instance, real
from adalora_ref.factors import Factors
from adalora_ref.importance import Importance

Batch = Sequence[tuple[Array, Array]]


@runtime_checkable
class Network(Protocol):
    """What training needs of a network; `adalora_ref.networks.mlp.MLP` is one."""

    @property
    def weights(self) -> dict[str, Float[Array, "_ _"]]:
        """(d_out, d_in) by matrix, in forward order; frozen."""

    def forward(self, x: Array, factors: Mapping[str, Factors], scales: Mapping[str, float], /) -> tuple[Array, Any]:
        """Return the output, and what `backward` needs."""

    def loss(self, output: Array, target: Array, /) -> tuple[Float[Array, ""], Array]:
        """Return the loss, and its gradient with respect to *output*."""

    def backward(self, doutput: Array, cache: Any, /) -> dict[str, Factors]:
        """Return ``Factors(dB, ds, dA)`` of every matrix, in forward order."""


def require_network(network: Network) -> None:
    """Refuse what lacks a part of `Network`, has no weight, or has one that is no matrix."""
    if missing := [part for part in ("weights", "forward", "loss", "backward") if not hasattr(network, part)]:
        kind = type(network).__name__
        raise TypeError(f"a network must have weights, forward, loss and backward; got {kind}, without {missing}")
    instance("weights", network.weights, Mapping)
    if not network.weights:
        raise ValueError("training needs a network with at least one adapted matrix; got none")
    require_arrays(**{f"weights[{name!r}]": W for name, W in network.weights.items()})
    shapes = {name: tuple(W.shape) for name, W in network.weights.items()}
    if any(len(shape) != 2 for shape in shapes.values()):
        raise ValueError(f"weights must be (d_out, d_in); got {shapes}")


def require_state(state: TrainState, network: Network) -> None:
    """Refuse a state that lacks something of a matrix, or holds what cannot have come from a step."""
    for field in ("factors", "importance", "optimizer", "masks"):
        every(f"the state's {field}", getattr(state, field), network.weights)
    for name in network.weights:
        instance(f"the state's factors of {name!r}", state.factors[name], Factors)
        instance(f"the state's importance of {name!r}", state.importance[name], Importance)
        instance(f"the state's optimizer of {name!r}", state.optimizer[name], AdamState)
        require_keep(state.factors[name], state.masks[name])


def require_loss(answer: Any) -> tuple[float, Array]:
    """Return what a network's loss answered, (one real number, an array); TypeError for anything else."""
    loss, doutput = answer if isinstance(answer, tuple | list) and len(answer) == 2 else (answer, None)
    number = isinstance(loss, int | float) or (getattr(loss, "shape", None) == () and dtype_name(loss) in FLOATING)
    if doutput is None or not number:
        kinds = " and ".join(f"{type(a).__name__} of shape {getattr(a, 'shape', ())}" for a in (loss, doutput))
        raise TypeError(f"the network's loss must return one real number and its gradient; got {kinds}")
    return float(loss), doutput


def require_batch(batch: Batch) -> None:
    """Refuse what is no sequence of pairs, and an empty one; a bare (x, target) is no batch."""
    instance("batch", batch, Sequence)
    if not batch:
        raise ValueError("a batch needs at least one micro-batch; got none")
    for pair in batch:
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise TypeError(f"each micro-batch must be a pair (x, target); got {type(pair).__name__}")


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
    adam_beta1, adam_beta2, adam_epsilon
        β1, β2 and ε of AdamW; with 0, 0 and 0 its step is lr · sign(g), which a pencil can follow.
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
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None
    cost: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        instance("schedule", self.schedule, BudgetSchedule)
        held: dict[str, Any] = {"initial_rank": count("initial_rank", self.initial_rank)}
        held["alpha"] = real("alpha", self.alpha)
        for name in ("learning_rate", "orthogonality_weight", "adam_epsilon", "weight_decay"):
            held[name] = real(name, getattr(self, name), least=0.0)
        for name in ("importance_beta1", "importance_beta2", "adam_beta1", "adam_beta2"):
            held[name] = real(name, getattr(self, name), least=0.0, below=1.0)
        if self.clip_norm is not None:
            held["clip_norm"] = real("clip_norm", self.clip_norm)
            if held["clip_norm"] <= 0:
                raise ValueError(f"clip_norm must be above 0, or None; got {self.clip_norm!r}")
        if self.cost is not None:
            instance("cost", self.cost, Mapping)
            held["cost"] = {name: count(f"cost of {name!r}", value, least=1) for name, value in self.cost.items()}
        for name, value in held.items():  # plain numbers: a NumPy integer would overflow in sums
            object.__setattr__(self, name, value)


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
