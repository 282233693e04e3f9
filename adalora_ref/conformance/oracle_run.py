"""A whole step of Algorithm 1, written another way: loops over matrices and triplets, on any type of number.

What a convention decides is taken from twins of its functions, each written here or in `oracles` from what it means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from adalora_ref import convention as core
from adalora_ref.allocation import allocate
from adalora_ref.budget import allocates_at, budget_at
from adalora_ref.conformance import oracles
from adalora_ref.conformance.bounds import Number, allow, least, mean, settle, sqrt, tanh, total
from adalora_ref.conformance.oracles import Matrix, Row, Triple, each, per_triplet
from adalora_ref.factors import init_factors
from adalora_ref.loss import cross_entropy, mean_square
from adalora_ref.orthogonality import orthogonality_norm, orthogonality_penalty

Triples: TypeAlias = dict[str, Triple]
Masks: TypeAlias = dict[str, list[bool]]

CONSTANTS = {
    "rank_epsilon": 1e-5,
    "norm_epsilon": 1e-6,
}
"""The numbers that a step needs beyond its arguments; passed in, so that they are lifted like those."""


TWINS: dict[Any, Callable[..., Any]] = {
    init_factors: oracles.init_factors,
    core.initial_lora: lambda normals, r, *, std: (
        [[0] * r for _ in normals[0]],
        [1] * r,
        oracles.init_factors(normals, r, std=std)[2],
    ),
    core.all_move: lambda _, moved: moved,
    core.s_is_held: lambda held, moved: (moved[0], held[1], moved[2]),
    core.scale_by_kept_rank: lambda alpha, _, kept, __: alpha / kept if kept else alpha,
    core.scale_by_initial_rank: lambda alpha, initial, *_: alpha / initial if initial else alpha,
    core.scale_as_released: lambda alpha, initial, _, epsilon: (
        (alpha if alpha.real > 0 else initial) / (initial + epsilon)
    ),
    orthogonality_penalty: oracles.orthogonality_penalty,
    orthogonality_norm: oracles.orthogonality_norm,
    core.no_penalty: lambda factors: (0, each(lambda _: 0, factors)),
    core.summed: lambda _: 1,
    core.mean_over_norms: lambda matrices: 2 * matrices,
    core.where_taken: lambda before, gradient, *_: (before, gradient),
    core.after_the_step: lambda *pairs: pairs[2:],
    core.score_by_importance: lambda importance, _: oracles.triplet_scores(importance),
    budget_at: oracles.budget_at,
    core.budget_in_doubles: oracles.budget_in_doubles,
    core.full_budget: lambda schedule, _: schedule.initial,
    allocates_at: oracles.allocates_at,
    core.allocates_as_released: oracles.allocates_as_released,
    core.allocates_as_peft: oracles.allocates_as_peft,
    core.never: lambda *_: False,
    allocate: oracles.allocate,
    core.allocate_above_threshold: lambda scores, budget, **_: oracles.allocate_above_threshold(scores, budget),
    cross_entropy: oracles.cross_entropy,
    mean_square: oracles.mean_square,
}
"""What each function of a convention means. The twin of a penalty factor gives the whole number that is divided by."""


# NETWORK


def mlp_forward(x: Matrix, network: Any, factors: Triples, scales: dict[str, Number], /) -> list[Matrix]:
    """Return the input of every layer, then the output: tanh of the layer before, but for the last."""
    held, names = [x], list(network.weights)
    for name in names:
        bias = network.biases.get(name)
        y = oracles.linear_forward(held[-1], network.weights[name], factors[name], scale=scales[name], bias=bias)
        held.append([[settle(entry) if name == names[-1] else tanh(entry) for entry in row] for row in y])
    return held


def mlp_backward(
    doutput: Matrix, held: list[Matrix], network: Any, factors: Triples, scales: dict[str, Number], /
) -> Triples:
    """(dB, ds, dA) of every layer, found from the last to the first, in forward order."""
    grads, dy = {}, doutput
    for name, h in reversed(list(zip(network.weights, held, strict=False))):
        dx, grads[name] = oracles.linear_backward(dy, h, network.weights[name], factors[name], scale=scales[name])
        dy = [[settle(d) * (1 - h_i * h_i) for d, h_i in zip(*rows, strict=True)] for rows in zip(dx, h, strict=True)]
    return {name: grads[name] for name in network.weights}


# TRAINING


def train_step(
    state: Sequence[Any], batch: Sequence[Any], network: Any, config: Any, constants: Any, /, *, convention: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the state after one step and its report, in the order of `TrainState` and `StepReport`."""
    step, before, importance, optimizer, masks = state
    t = step + convention.first_step
    trained, names = TWINS[convention.trained], list(before)

    scales = {n: _scale(mask, config, constants, convention) for n, mask in masks.items()}
    loss, task = task_gradient(before, scales, batch, network)
    penalty, regular = weighted_penalty(before, config, convention)
    gradient = {n: trained(each(lambda _: 0, task[n]), plus(task[n], regular[n])) for n in names}

    clipped = clip(gradient, config.clip_norm, constants["norm_epsilon"])
    steps = {n: oracles.adamw_step(before[n], clipped[n], optimizer[n], **_rates(config)) for n in names}
    after = {n: each(settle, trained(before[n], steps[n][0])) for n in names}

    pairs = {n: TWINS[convention.sensitivity](before[n], gradient[n], after[n], clipped[n]) for n in names}
    importance = _averages(importance, pairs, t, config)
    scores = {n: TWINS[convention.score](importance[n], pairs[n][0]) for n in names}
    budget, due, kept = _allocation(scores, masks, t, config, convention)
    if due or t > config.schedule.total - config.schedule.final:
        after = {n: oracles.prune(after[n], kept[n]) for n in names}

    shares = {n: _share(pairs[n][0], regular[n], task[n]) for n in names}
    report = {"step": step, "loss": loss, "penalty": penalty, "budget": budget}
    report |= _report(kept, masks, scores if due else None, network.weights) | {"penalty_share": shares}
    return (step + 1, after, importance, {n: steps[n][1] for n in names}, kept), report


def _rates(config: Any) -> dict[str, Number]:
    betas = {"beta1": config.adam_beta1, "beta2": config.adam_beta2, "epsilon": config.adam_epsilon}
    return {"learning_rate": config.learning_rate, "weight_decay": config.weight_decay, **betas}


def _scale(mask: list[bool], config: Any, constants: Any, convention: Any) -> Number:
    return TWINS[convention.scale](config.alpha, config.initial_rank, sum(mask), constants["rank_epsilon"])


def task_gradient(
    factors: Triples, scales: dict[str, Number], batch: Sequence[Any], network: Any
) -> tuple[Number, Triples]:
    """Mean loss and mean gradient over the micro-batches."""
    losses, grads = [], []
    for x, target in batch:
        held = mlp_forward(x, network, factors, scales)
        loss, doutput = TWINS[network.loss](held[-1], target)
        losses.append(loss)
        grads.append(mlp_backward(doutput, held, network, factors, scales))
    return mean(losses), {n: each(lambda *parts: settle(mean(parts)), *(g[n] for g in grads)) for n in factors}


def weighted_penalty(factors: Triples, config: Any, convention: Any) -> tuple[Number, Triples]:
    """γ ΣR and γ ∇R, divided by 2n where the convention takes the mean over the norms."""
    parts, weight = TWINS[convention.penalty_factor](len(factors)), config.orthogonality_weight
    found = {n: TWINS[convention.penalty](f) for n, f in factors.items()}
    regular = {n: each(lambda g: settle(weight * g / parts), dR) for n, (_, dR) in found.items()}
    return weight * total(R for R, _ in found.values()) / parts, regular


def plus(task: Triple, regular: Triple) -> Triple:
    """The two gradients added up, entry by entry."""
    return each(lambda p, q: settle(total([p, q])), task, regular)


def clip(gradient: Triples, clip_norm: Number, epsilon: Number) -> Triples:
    """Multiply g by min(1, c / (‖g‖ + ε)), ‖g‖ over every entry of every matrix."""
    if clip_norm is None:
        return gradient
    entries = [g for B, s, A in gradient.values() for row in (*B, s, *A) for g in row]
    square = allow(total(g * g for g in entries), 3)  # the norm of the matrices' norms rounds thrice more
    factor = least(1, clip_norm / (sqrt(square) + epsilon))
    return {n: each(lambda g: g * factor, held) for n, held in gradient.items()}


def _averages(importance: dict[str, Any], pairs: dict[str, Any], t: int, config: Any) -> dict[str, Any]:
    """Update the averages before T − t_f, and freeze them from then on."""
    if t >= config.schedule.total - config.schedule.final:
        return importance
    betas = {"beta1": config.importance_beta1, "beta2": config.importance_beta2}
    return {n: oracles.update_importance(importance[n], *pairs[n], **betas) for n in pairs}


def _allocation(scores: dict[str, Row], masks: Masks, t: int, config: Any, convention: Any) -> tuple[int, bool, Masks]:
    """Return the budget, whether an allocation is due, and who is kept."""
    budget, due = TWINS[convention.budget](config.schedule, t), TWINS[convention.allocates](config.schedule, t)
    return budget, due, TWINS[convention.allocate](scores, budget, cost=config.cost) if due else masks


def _report(kept: Masks, masks: Masks, scores: dict[str, Row] | None, weights: dict[str, Matrix]) -> dict[str, Any]:
    """Say what a report says of masks; *scores* only after an allocation."""
    pairs = {n: list(zip(kept[n], masks[n], strict=True)) for n in kept}
    alive = [score for n, row in (scores or {}).items() for score, keep in zip(row, kept[n], strict=True) if keep]
    return {
        "kept": {n: sum(mask) for n, mask in kept.items()},
        "parameters": {n: sum(len(W) + len(W[0]) + 1 for keep in kept[n] if keep) for n, W in weights.items()},
        "threshold": min(alive, key=lambda score: score.real, default=None),
        "revived": {n: [now and not then for now, then in both] for n, both in pairs.items()},
        "dropped": {n: [then and not now for now, then in both] for n, both in pairs.items()},
    }


def _share(weights: Triple, regular: Triple, task: Triple) -> Row:
    """Return p / (p + q) of the penalty's and the task's |w g|, over each triplet; 0 where both are 0."""
    p, q = (per_triplet(each(lambda w, g: abs(w * g), weights, grads)) for grads in (regular, task))
    return [settle(a) / total([a, b]) if total([a, b]) else 0 for a, b in zip(p, q, strict=True)]
