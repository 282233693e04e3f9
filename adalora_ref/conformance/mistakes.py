"""Known mistakes in one function: each a drop-in for the public function of its stage, on NumPy arrays.

Written from the reference with the one difference that its sentence states.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

import adalora_ref as ref
from adalora_ref.convention import allocate_above_threshold, allocates_as_peft, allocates_as_released, budget_in_doubles
from adalora_ref.factors import Factors, map_factors
from adalora_ref.importance import Importance, per_triplet


class Deviation(NamedTuple):
    """One known mistake or convention: a name, the function it sits in, a sentence, and what it computes."""

    name: str
    stage: str
    says: str
    function: Callable[..., Any]


def _uncertainty_uses_previous_mean(
    state: Importance, w: Factors, g: Factors, /, *, beta1: float, beta2: float
) -> Importance:
    mean, _ = ref.update_importance(state, w, g, beta1=beta1, beta2=beta2)
    return Importance(mean, _deviation(state, state.sensitivity, w, g, beta2))


def _deviation(state: Importance, mean: Factors, w: Factors, g: Factors, beta2: float) -> Factors:
    return map_factors(
        lambda U, m, w, g: (beta2 * U + (1 - beta2) * abs(abs(w * g) - m)).astype(U.dtype),
        state.uncertainty,
        mean,
        w,
        g,
    )


def _averages_start_at_first_value(
    state: Importance, w: Factors, g: Factors, /, *, beta1: float, beta2: float
) -> Importance:
    fresh = all(not a.any() for held in state for a in held)
    first = Importance(
        map_factors(lambda U, w, g: abs(w * g).astype(U.dtype), state.uncertainty, w, g), state.uncertainty
    )
    return ref.update_importance(first if fresh else state, w, g, beta1=beta1, beta2=beta2)


def _sensitivity_is_signed(state: Importance, w: Factors, g: Factors, /, *, beta1: float, beta2: float) -> Importance:
    def mean(average: Any, w: Any, g: Any) -> Any:
        return (beta1 * average + (1 - beta1) * w * g).astype(average.dtype)

    sensitivity = map_factors(mean, state.sensitivity, w, g)
    deviation = map_factors(
        lambda U, m, w, g: (beta2 * U + (1 - beta2) * abs(w * g - m)).astype(U.dtype),
        state.uncertainty,
        sensitivity,
        w,
        g,
    )
    return Importance(sensitivity, deviation)


def _sensitivity_ignores_weight(
    state: Importance, w: Factors, g: Factors, /, *, beta1: float, beta2: float
) -> Importance:
    return ref.update_importance(state, map_factors(np.ones_like, w), g, beta1=beta1, beta2=beta2)


def _sensitivity_is_gradient_squared(
    state: Importance, w: Factors, g: Factors, /, *, beta1: float, beta2: float
) -> Importance:
    return ref.update_importance(state, g, g, beta1=beta1, beta2=beta2)


def _betas_weigh_the_new_value(
    state: Importance, w: Factors, g: Factors, /, *, beta1: float, beta2: float
) -> Importance:
    def mean(average: Any, w: Any, g: Any) -> Any:
        return ((1 - beta1) * average + beta1 * abs(w * g)).astype(average.dtype)

    sensitivity = map_factors(mean, state.sensitivity, w, g)
    return Importance(sensitivity, _deviation(state, sensitivity, w, g, 1 - beta2))


def _betas_are_swapped(state: Importance, w: Factors, g: Factors, /, *, beta1: float, beta2: float) -> Importance:
    return ref.update_importance(state, w, g, beta1=beta2, beta2=beta1)


def _deviation_is_squared(state: Importance, w: Factors, g: Factors, /, *, beta1: float, beta2: float) -> Importance:
    mean, _ = ref.update_importance(state, w, g, beta1=beta1, beta2=beta2)

    def square(U: Any, m: Any, w: Any, g: Any) -> Any:
        return (beta2 * U + (1 - beta2) * (abs(w * g) - m) ** 2).astype(U.dtype)

    return Importance(mean, map_factors(square, state.uncertainty, mean, w, g))


def _elements(state: Importance, f: Callable[[Any, Any], Any]) -> Any:
    return per_triplet(map_factors(f, *state))


def _scores_add_over_the_triplet(state: Importance, /) -> Any:
    B, s, A = map_factors(lambda mean, deviation: mean * deviation, *state)
    return s + B.sum(axis=0) + A.sum(axis=1)


def _linear_schedule(schedule: ref.BudgetSchedule, step: int, /) -> int:
    window = schedule.end_of_pruning - schedule.warmup
    left = min(max(schedule.end_of_pruning - step, 0), window)
    return schedule.target + (schedule.initial - schedule.target) * left // window


def _real_budget(schedule: ref.BudgetSchedule, step: int, shift: int = 0) -> float:
    phase = ref.phase_at(schedule, step)
    if phase != "pruning":
        return schedule.initial if phase == "warmup" else schedule.target
    done = (step - schedule.warmup - shift) / (schedule.end_of_pruning - schedule.warmup)
    return schedule.target + (schedule.initial - schedule.target) * (1 - done) ** 3


def allocate_per_matrix(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    """Give each matrix its share of the budget."""
    keep, whole = {}, sum(len(v) for v in scores.values())
    for name, value in scores.items():
        keep.update(ref.allocate({name: value}, budget * len(value) // whole))
    return keep


def _ties_are_dropped(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    return allocate_above_threshold(scores, budget)


def _ties_go_to_the_later(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    backwards = {name: value[::-1] for name, value in reversed(scores.items())}
    masks = ref.allocate(backwards, budget, cost=cost)
    return {name: masks[name][::-1] for name in scores}


def _keeps_all_ties(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    flat = np.sort(np.concatenate(list(scores.values())))[::-1]
    threshold = flat[budget - 1] if budget else math.inf
    return {name: value >= threshold for name, value in scores.items()}


def keep_the_worst(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    """Keep the lowest scores."""
    return ref.allocate({name: -value for name, value in scores.items()}, budget, cost=cost)


def _skips_what_does_not_fit(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    if cost is None:
        return ref.allocate(scores, budget)
    masks = {name: np.zeros(len(value), bool) for name, value in scores.items()}
    ranked = sorted(
        (-value[i], k, i, name) for k, (name, value) in enumerate(scores.items()) for i in range(len(value))
    )
    for _, _, i, name in ranked:
        if cost[name] <= budget:
            masks[name][i], budget = True, budget - cost[name]
    return masks


def _prune_zeroes_B_and_A(factors: Factors, keep: Any, /) -> Factors:
    B, s, A = factors
    return Factors(np.where(keep, B, B * 0), np.where(keep, s, s * 0), np.where(keep[:, None], A, A * 0))


def _prune_inverted(factors: Factors, keep: Any, /) -> Factors:
    return ref.prune(factors, ~keep)


def _forward(change: Callable[..., dict[str, Any]]) -> Callable[..., Any]:
    """A forward pass whose arguments *change* has altered."""

    def forward(
        x: Any, W: Any, factors: Factors, /, *, scale: float, bias: Any = None, dropout_mask: Any = None
    ) -> Any:
        given = {"x": x, "W": W, "factors": factors, "scale": scale, "bias": bias, "dropout_mask": dropout_mask}
        given |= change(**given)
        x, W, factors = given.pop("x"), given.pop("W"), given.pop("factors")
        return ref.linear_forward(x, W, factors, **given)

    return forward


def _mask_on_both_paths(*, x: Any, dropout_mask: Any, **_: Any) -> dict[str, Any]:
    return {} if dropout_mask is None else {"x": x * dropout_mask, "dropout_mask": None}


def _backward(change: Callable[[Any, Factors, Any, Any], tuple[Any, Factors]]) -> Callable[..., Any]:
    """A backward pass whose result *change* has altered."""

    def backward(dy: Any, cache: Any, /) -> Any:
        return change(*ref.linear_backward(dy, cache), dy, cache)

    return backward


def _dx_without_mask(dx: Any, grads: Factors, dy: Any, cache: Any) -> tuple[Any, Factors]:
    return ref.linear_backward(dy, cache._replace(dropout_mask=None))[0], grads


def _penalty(change: Callable[[Any, Factors, Factors], tuple[Any, Factors]]) -> Callable[..., Any]:
    """A squared penalty whose result *change* has altered."""

    def penalty(factors: Factors, /) -> Any:
        return change(*ref.orthogonality_penalty(factors), factors)

    return penalty


def _adamw(**altered: Any) -> Callable[..., Any]:
    """AdamW with some of its arguments altered."""

    def step(weights: Factors, grads: Factors, state: Any, /, **options: Any) -> Any:
        return ref.adamw_step(weights, grads, state, **{**options, **altered})

    return step


def _decay_in_the_gradient(
    weights: Factors, grads: Factors, state: Any, /, *, weight_decay: float = 0.0, **options: Any
) -> Any:
    coupled = map_factors(lambda w, g: g + weight_decay * w, weights, grads)
    return ref.adamw_step(weights, coupled, state, **options)


def _no_bias_correction(
    weights: Factors, grads: Factors, state: Any, /, *, learning_rate: float, weight_decay: float = 0.0
) -> Any:
    _, moments = ref.adamw_step(weights, grads, state, learning_rate=learning_rate)
    moved = map_factors(
        lambda w, m, v: ((1 - learning_rate * weight_decay) * w - learning_rate * m / (v**0.5 + 1e-8)).astype(w.dtype),
        weights,
        moments.first,
        moments.second,
    )
    return moved, moments


MISTAKES: tuple[Deviation, ...] = (
    Deviation(
        "scale_is_not_applied",
        "linear_forward",
        "the increment is not multiplied by the scale",
        _forward(lambda **_: {"scale": 1.0}),
    ),
    Deviation(
        "rank_plus_epsilon_in_scale",
        "linear_forward",
        "the scale is divided by 1 + 1e-5 / r, as α / (r + 1e-5) does",
        _forward(lambda factors, scale, **_: {"scale": scale * (r := factors.s.shape[0]) / (r + 1e-5)}),
    ),
    Deviation(
        "s_is_not_applied",
        "linear_forward",
        "the increment is B · A, without diag(s)",
        _forward(lambda factors, **_: {"factors": Factors(factors.B, np.ones_like(factors.s), factors.A)}),
    ),
    Deviation("bias_is_dropped", "linear_forward", "the bias is not added", _forward(lambda **_: {"bias": None})),
    Deviation(
        "mask_on_both_paths",
        "linear_forward",
        "dropout masks the input of the frozen weight too",
        _forward(_mask_on_both_paths),
    ),
    Deviation(
        "mask_is_ignored",
        "linear_forward",
        "the dropout mask is not applied",
        _forward(lambda **_: {"dropout_mask": None}),
    ),
    Deviation(
        "dx_lacks_the_frozen_path",
        "linear_backward",
        "dx is the gradient through the adapter alone, without dy W",
        _backward(lambda dx, grads, dy, cache: (dx - dy @ cache.W, grads)),
    ),
    Deviation(
        "dx_lacks_the_adapter",
        "linear_backward",
        "dx is dy W, without the path through the adapter",
        _backward(lambda dx, grads, dy, cache: (dy @ cache.W, grads)),
    ),
    Deviation(
        "dx_ignores_the_mask",
        "linear_backward",
        "dx through the adapter is not multiplied by the dropout mask",
        _backward(_dx_without_mask),
    ),
    Deviation(
        "ds_lacks_the_scale",
        "linear_backward",
        "ds is not multiplied by the scale",
        _backward(lambda dx, grads, dy, cache: (dx, Factors(grads.B, grads.s / cache.scale, grads.A))),
    ),
    Deviation(
        "dB_rows_are_reversed",
        "linear_backward",
        "the rows of dB are in reverse order",
        _backward(lambda dx, grads, dy, cache: (dx, Factors(grads.B[::-1], grads.s, grads.A))),
    ),
    Deviation(
        "dA_lacks_s",
        "linear_backward",
        "dA is not multiplied by s",
        _backward(
            lambda dx, grads, dy, cache: (
                dx,
                ref.linear_backward(
                    dy, cache._replace(factors=Factors(cache.factors.B, np.ones_like(cache.factors.s), cache.factors.A))
                )[1],
            )
        ),
    ),
    Deviation(
        "penalty_is_not_squared",
        "orthogonality_penalty",
        "the Frobenius norms are added without squaring, as in the released code",
        ref.orthogonality_norm,
    ),
    Deviation(
        "penalty_is_a_mean",
        "orthogonality_penalty",
        "the two norms are averaged instead of added",
        _penalty(lambda R, grads, _: (R / 2, map_factors(lambda g: g / 2, grads))),
    ),
    Deviation(
        "penalty_gradient_is_halved",
        "orthogonality_penalty",
        "the gradient is 2 B (BᵀB − I), half of what it should be",
        _penalty(lambda R, grads, _: (R, map_factors(lambda g: g / 2, grads))),
    ),
    Deviation(
        "penalty_is_squared",
        "orthogonality_norm",
        "the Frobenius norms are squared, as in the paper's equation (4)",
        ref.orthogonality_penalty,
    ),
    Deviation(
        "uncertainty_uses_previous_mean",
        "update_importance",
        "Ū is computed from Ī before this step's update",
        _uncertainty_uses_previous_mean,
    ),
    Deviation(
        "averages_start_at_first_value",
        "update_importance",
        "Ī starts at the first sensitivity instead of at zero",
        _averages_start_at_first_value,
    ),
    Deviation(
        "sensitivity_is_signed",
        "update_importance",
        "the sensitivity is w · g without the absolute value",
        _sensitivity_is_signed,
    ),
    Deviation(
        "sensitivity_ignores_the_weight",
        "update_importance",
        "the sensitivity is |g| instead of |w · g|",
        _sensitivity_ignores_weight,
    ),
    Deviation(
        "sensitivity_is_gradient_squared",
        "update_importance",
        "the sensitivity is g², a diagonal Fisher information",
        _sensitivity_is_gradient_squared,
    ),
    Deviation(
        "betas_weigh_the_new_value",
        "update_importance",
        "β weighs the new value and 1 − β the old one",
        _betas_weigh_the_new_value,
    ),
    Deviation(
        "betas_are_swapped",
        "update_importance",
        "β1 smooths the uncertainty and β2 the sensitivity",
        _betas_are_swapped,
    ),
    Deviation(
        "deviation_is_squared", "update_importance", "Ū averages (I − Ī)² instead of |I − Ī|", _deviation_is_squared
    ),
    Deviation(
        "scores_add_mean_and_uncertainty",
        "triplet_scores",
        "an entry's score is Ī + Ū instead of Ī · Ū",
        lambda state: _elements(state, lambda mean, deviation: mean + deviation),
    ),
    Deviation(
        "scores_without_uncertainty",
        "triplet_scores",
        "an entry's score is Ī alone",
        lambda state: _elements(state, lambda mean, deviation: mean),
    ),
    Deviation(
        "scores_of_s_alone",
        "triplet_scores",
        "a triplet's score is its s-term alone, without B and A",
        lambda state: state.sensitivity.s * state.uncertainty.s,
    ),
    Deviation(
        "scores_add_over_the_triplet",
        "triplet_scores",
        "the entries of B and A are added up instead of averaged",
        _scores_add_over_the_triplet,
    ),
    Deviation("linear_schedule", "budget_at", "the budget falls linearly instead of as a cubic", _linear_schedule),
    Deviation(
        "budget_is_rounded",
        "budget_at",
        "the budget is rounded to nearest instead of floored",
        lambda schedule, step: round(_real_budget(schedule, step)),
    ),
    Deviation(
        "budget_is_ceiled",
        "budget_at",
        "the budget is rounded up instead of floored",
        lambda schedule, step: math.ceil(_real_budget(schedule, step)),
    ),
    Deviation(
        "budget_as_misprinted",
        "budget_at",
        "the numerator is t − t_i − t_f, the misprint of the paper's equation (12)",
        lambda schedule, step: math.floor(_real_budget(schedule, step, schedule.final)),
    ),
    Deviation(
        "budget_in_doubles",
        "budget_at",
        "warm-up includes t_i and the cubic is truncated from doubles, as LORALIB and PEFT do",
        budget_in_doubles,
    ),
    Deviation(
        "interval_counts_from_zero",
        "allocates_at",
        "allocations are due where ΔT divides t, for t_i < t ≤ T − t_f, and at every step after, as LORALIB does",
        allocates_as_released,
    ),
    Deviation(
        "interval_counts_from_zero_once",
        "allocates_at",
        "allocations are due where ΔT divides t, for t_i < t < T − t_f, and at T − t_f, as PEFT does",
        allocates_as_peft,
    ),
    Deviation(
        "no_allocation_at_the_end",
        "allocates_at",
        "no allocation is made at T − t_f",
        lambda schedule, step: ref.allocates_at(schedule, step) and step != schedule.end_of_pruning,
    ),
    Deviation(
        "allocates_at_every_step",
        "allocates_at",
        "the interval ΔT is ignored",
        lambda schedule, step: ref.allocates_at(replace(schedule, interval=1), step),
    ),
    Deviation(
        "ties_are_dropped",
        "allocate",
        "what ties with the threshold is dropped, as LORALIB and PEFT do",
        _ties_are_dropped,
    ),
    Deviation(
        "ties_are_kept",
        "allocate",
        "everything that ties with the last kept score is kept, beyond the budget",
        _keeps_all_ties,
    ),
    Deviation(
        "ties_go_to_the_later", "allocate", "ties go to the later matrix and the higher index", _ties_go_to_the_later
    ),
    Deviation(
        "budget_per_matrix",
        "allocate",
        "each matrix keeps its share of the budget, instead of all competing for one",
        allocate_per_matrix,
    ),
    Deviation("keeps_the_worst", "allocate", "the lowest scores are kept", keep_the_worst),
    Deviation(
        "skips_what_does_not_fit",
        "allocate",
        "with a cost, a triplet that does not fit is skipped instead of ending the selection",
        _skips_what_does_not_fit,
    ),
    Deviation(
        "prune_zeroes_all_three",
        "prune",
        "B and A of a dropped triplet are zeroed too, so that it cannot return",
        _prune_zeroes_B_and_A,
    ),
    Deviation("prune_is_inverted", "prune", "the kept triplets are dropped, the dropped ones kept", _prune_inverted),
    Deviation(
        "decay_in_the_gradient",
        "adamw_step",
        "weight decay is added to the gradient (Adam with L2) instead of decoupled",
        _decay_in_the_gradient,
    ),
    Deviation("no_bias_correction", "adamw_step", "the moments are used without bias correction", _no_bias_correction),
    Deviation("adam_beta2_is_0.99", "adamw_step", "β2 is 0.99 instead of 0.999", _adamw(beta2=0.99)),
)
