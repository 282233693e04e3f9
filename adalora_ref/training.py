"""Algorithm 1 of the paper, as one step of labelled stages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from jaxtyping import Float

from adalora_ref.adamw import adamw_step, init_adamw
from adalora_ref.allocation import Masks, prune
from adalora_ref.array import Array, device, namespace, promote
from adalora_ref.budget import triplet_costs
from adalora_ref.checks import every, instance, items
from adalora_ref.convention import SPEC, Convention
from adalora_ref.factors import Factors, map_factors
from adalora_ref.importance import init_importance, per_triplet, update_importance
from adalora_ref.records import (
    Batch,
    Config,
    Network,
    StepReport,
    TrainState,
    require_batch,
    require_loss,
    require_network,
    require_state,
)

if TYPE_CHECKING:
    import numpy as np


def init_state(
    network: Network, config: Config, rng: np.random.Generator, /, *, convention: Convention = SPEC
) -> TrainState:
    """Draw the factors of every matrix in forward order; averages and moments start at zero.

    Raises
    ------
    ValueError
        If the network has no matrix, *cost* names others or is more than the convention's allocation knows,
        ``schedule.initial`` is not the (cost-weighted) sum of ranks, or the last phase is shorter than the convention
        needs to reach the target.

    References
    ----------
    Specification (21).
    """
    require_network(network)
    instance("config", config, Config)
    instance("convention", convention, Convention)
    _check_schedule(network, config, convention)
    r = config.initial_rank
    factors = {name: convention.initial(rng, *W.shape, r, like=promote(W)[1][0]) for name, W in network.weights.items()}
    return TrainState(
        step=0,
        factors=factors,
        importance={name: init_importance(f) for name, f in factors.items()},
        optimizer={name: init_adamw(f) for name, f in factors.items()},
        masks={name: namespace(f.s).isfinite(f.s) for name, f in factors.items()},
    )


def scales_of(state: TrainState, config: Config, /, *, convention: Convention = SPEC) -> dict[str, float]:
    """The scale of every matrix as the next step uses it, from the triplets that the latest allocation kept.

    References
    ----------
    Specification (16).
    """
    instance("state", state, TrainState)
    instance("config", config, Config)
    instance("convention", convention, Convention)
    return {
        name: convention.scale(config.alpha, config.initial_rank, kept) for name, kept in _kept(state.masks).items()
    }


def train_step(
    state: TrainState, batch: Batch, network: Network, config: Config, /, *, convention: Convention = SPEC
) -> tuple[TrainState, StepReport]:
    """One step of Algorithm 1; the state that comes in stays as it was.

    Parameters
    ----------
    batch
        (x, target) for each micro-batch; loss and gradients of the task are their means.

    Raises
    ------
    FloatingPointError
        If a loss, penalty, gradient, moment, weight or score is not finite; the message names step, matrix and
        quantity.
    TypeError, ValueError
        If *batch* is empty or no sequence of pairs, the state is not one of this network, or the network's loss is no
        real number.

    References
    ----------
    Specification (7), (17) and (21); paper Algorithm 1. The convention decides what it leaves open.
    """
    scales = scales_of(state, config, convention=convention)
    require_batch(batch)
    require_network(network)
    require_state(state, network)
    t = state.step + convention.first_step
    estimating, allocating = t < config.schedule.end_of_pruning, convention.allocates(config.schedule, t)
    before = state.factors

    # FORWARD and BACKWARD
    loss, task = _task_gradient(before, batch, network, scales)
    _require_finite(state.step, {"the network": {"loss": loss}})

    # PENALTY
    weight = config.orthogonality_weight * convention.penalty_factor(len(before))
    penalties = {name: convention.penalty(f) for name, f in before.items()}
    _require_finite(state.step, {name: {"penalty": weight * float(R)} for name, (R, _) in penalties.items()})
    penalty = weight * sum(float(R) for R, _ in penalties.values())
    regular = {name: map_factors(lambda g: weight * g, dR) for name, (_, dR) in penalties.items()}
    gradient = {
        name: convention.trained(_zeros(g), map_factors(lambda p, q: p + q, g, regular[name]))
        for name, g in task.items()
    }
    _require_finite(state.step, {name: _parts(g, "gradient") for name, g in gradient.items()})

    # UPDATE
    clipped = _clip(state.step, gradient, config.clip_norm)
    after, optimizer = {}, {}
    for name, w in before.items():
        moved, optimizer[name] = adamw_step(
            w,
            clipped[name],
            state.optimizer[name],
            learning_rate=config.learning_rate,
            beta1=config.adam_beta1,
            beta2=config.adam_beta2,
            epsilon=config.adam_epsilon,
            weight_decay=config.weight_decay,
        )
        after[name] = convention.trained(w, moved)
    _require_finite(state.step, {name: _parts(w, "weight") for name, w in after.items()})
    _require_finite(state.step, {name: _parts(o.second, "second moment") for name, o in optimizer.items()})

    # IMPORTANCE
    pairs = {name: convention.sensitivity(w, gradient[name], after[name], clipped[name]) for name, w in before.items()}
    importance = state.importance
    if estimating:
        importance = {
            name: update_importance(old, *pairs[name], beta1=config.importance_beta1, beta2=config.importance_beta2)
            for name, old in importance.items()
        }
    scores = {name: convention.score(importance[name], pairs[name][0]) for name in network.weights}  # in forward order
    _require_finite(state.step, {name: {"score": s} for name, s in scores.items()})

    # ALLOCATION
    budget = convention.budget(config.schedule, t)
    masks = convention.allocate(scores, budget, cost=config.cost) if allocating else state.masks
    if allocating or t > config.schedule.end_of_pruning:
        after = {name: prune(w, masks[name]) for name, w in after.items()}

    kept, costs = _kept(masks), dict(zip(network.weights, triplet_costs(_shapes(network)), strict=True))
    report = StepReport(
        step=state.step,
        loss=loss,
        penalty=penalty,
        budget=budget,
        kept=kept,
        parameters={name: kept[name] * cost for name, cost in costs.items()},
        threshold=_lowest(scores, masks) if allocating else None,
        revived={name: mask & ~state.masks[name] for name, mask in masks.items()},
        dropped={name: ~mask & state.masks[name] for name, mask in masks.items()},
        penalty_share={name: _share(pairs[name][0], regular[name], g) for name, g in task.items()},
    )
    return TrainState(state.step + 1, after, importance, optimizer, masks), report


def train(
    state: TrainState, batches: Iterable[Batch], network: Network, config: Config, /, *, convention: Convention = SPEC
) -> Iterator[tuple[TrainState, StepReport]]:
    """Yield state and report after the step on each of *batches*; stop or resume wherever you like.

    References
    ----------
    Specification (21).
    """
    for batch in items("batches", batches):
        state, report = train_step(state, batch, network, config, convention=convention)
        yield state, report


def _task_gradient(
    factors: dict[str, Factors], batch: Batch, network: Network, scales: dict[str, float]
) -> tuple[float, dict[str, Factors]]:
    """Mean loss and mean gradient over the micro-batches."""
    losses, total = [], {name: _zeros(f) for name, f in factors.items()}
    for x, target in batch:
        output, cache = network.forward(x, factors, scales)
        loss, doutput = require_loss(network.loss(output, target))
        grads = network.backward(doutput, cache)
        every("the gradients of the network", grads, factors)
        losses.append(loss)
        total = {name: map_factors(lambda a, b: a + b, held, grads[name]) for name, held in total.items()}
    mean = {name: map_factors(lambda g: g / len(batch), held) for name, held in total.items()}
    return math.fsum(losses) / len(batch), mean


def _clip(step: int, gradient: dict[str, Factors], clip_norm: float | None) -> dict[str, Factors]:
    """g · min(1, c / (‖g‖ + 1e-6)), ‖g‖ over all factors of all matrices."""
    if clip_norm is None:
        return gradient
    norm = math.sqrt(sum(float(namespace(g).sum(g * g)) for held in gradient.values() for g in held))
    _require_finite(step, {"all matrices": {"gradient norm": norm}})
    factor = min(1.0, clip_norm / (norm + 1e-6))
    return {name: map_factors(lambda g: g * factor, held) for name, held in gradient.items()}


def _share(weights: Factors, regular: Factors, task: Factors) -> Float[Array, " r"]:
    """p / (p + q), p and q per triplet of |w ⊙ γ∇R| and |w ⊙ ∇loss|; 0 where both are 0."""
    xp = namespace(weights.s)
    p, q = (per_triplet(map_factors(lambda w, g: xp.abs(w * g), weights, g)) for g in (regular, task))
    whole = p + q
    return xp.where(whole > 0, p / xp.where(whole > 0, whole, xp.ones_like(whole)), xp.zeros_like(whole))


def _lowest(scores: dict[str, Array], masks: Masks) -> float | None:
    lowest = [float(namespace(s).min(s[masks[name]])) for name, s in scores.items() if _kept(masks)[name]]
    return min(lowest, default=None)


def _kept(masks: Masks) -> dict[str, int]:
    return {name: int(namespace(mask).count_nonzero(mask)) for name, mask in masks.items()}


def _zeros(factors: Factors) -> Factors:
    return map_factors(namespace(factors.s).zeros_like, factors)


def _shapes(network: Network) -> dict[str, tuple[int, int]]:
    return {name: (W.shape[0], W.shape[1]) for name, W in network.weights.items()}


def _parts(factors: Factors, quantity: str) -> dict[str, Array]:
    B, s, A = factors
    return {f"{quantity} of B": B, f"{quantity} of s": s, f"{quantity} of A": A}


def _require_finite(step: int, quantities: dict[str, dict[str, Any]]) -> None:
    for matrix, named in quantities.items():
        for quantity, value in named.items():
            finite = (
                math.isfinite(value)
                if isinstance(value, float)
                else namespace(value).all(namespace(value).isfinite(value))
            )
            if not bool(finite):
                raise FloatingPointError(f"step {step}, {matrix}: the {quantity} is not finite")


def _check_schedule(network: Network, config: Config, convention: Convention) -> None:
    schedule, names = config.schedule, list(network.weights)
    if config.cost is not None and set(config.cost) != set(names):
        raise ValueError(f"cost must name the adapted matrices {names}; got {list(config.cost)}")
    whole = config.initial_rank * sum(1 if config.cost is None else config.cost[name] for name in names)
    if schedule.initial != whole:
        raise ValueError(
            f"the schedule's initial budget must be what the initial ranks make up, {whole}; got {schedule.initial}"
        )
    if schedule.final < convention.least_final:
        raise ValueError(
            f"under {convention.name} the last phase needs at least {convention.least_final} step, "
            f"or no step would reach the target; got final {schedule.final}"
        )
    none = {name: namespace(W).zeros((config.initial_rank,), device=device(W)) for name, W in network.weights.items()}
    convention.allocate(none, 0, cost=config.cost)  # an allocation that cannot be is refused now, not in mid-run
