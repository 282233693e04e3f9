"""Known mistakes in pruning: importance, scores, schedule, selection, masks, and the optimiser.

Each is a drop-in for the public function of its stage, on NumPy arrays, written from the reference with the one
difference that its sentence states.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import adalora_ref as ref
from adalora_ref.conformance.known import Deviation
from adalora_ref.convention import allocate_above_threshold, allocates_as_peft, allocates_as_released, budget_in_doubles
from adalora_ref.factors import Factors, map_factors
from adalora_ref.importance import Importance, per_triplet


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


def linear_schedule(schedule: ref.BudgetSchedule, step: int, /) -> int:
    """Fall linearly."""
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


def _averages_start_at_one(like: Factors, /) -> Importance:
    return Importance(*(map_factors(np.ones_like, held) for held in ref.init_importance(like)))


def _sensitivity_of_the_sum(state: Importance, w: Factors, g: Factors, /, *, beta1: float, beta2: float) -> Importance:
    B, s, A = map_factors(lambda w, g: w * g, w, g)
    summed = Factors(np.sum(B, axis=0) + 0 * B, s, np.sum(A, axis=1)[:, None] + 0 * A)
    return ref.update_importance(state, map_factors(np.ones_like, w), summed, beta1=beta1, beta2=beta2)


def _not_smoothed(state: Importance, w: Factors, g: Factors, /, *, beta1: float, beta2: float) -> Importance:
    def now(average: Any, w: Any, g: Any) -> Any:
        return abs(w * g).astype(average.dtype)

    sensitivity = map_factors(now, state.sensitivity, w, g)
    return Importance(sensitivity, _deviation(state, sensitivity, w, g, beta2))


def _deviation_not_smoothed(state: Importance, w: Factors, g: Factors, /, *, beta1: float, beta2: float) -> Importance:
    return ref.update_importance(state, w, g, beta1=beta1, beta2=0.0)


def _scores_multiply_B_and_A(state: Importance, /) -> Any:
    B, s, A = map_factors(lambda mean, deviation: mean * deviation, *state)
    return s + B.mean(axis=0) * A.mean(axis=1)


def _scores_of_means(state: Importance, /) -> Any:
    means = [(held.B.mean(axis=0), held.s, held.A.mean(axis=1)) for held in state]
    return sum(mean * deviation for mean, deviation in zip(*means, strict=True))


def _scores_average_all_entries(state: Importance, /) -> Any:
    sizes = state.sensitivity.B.shape[0] + state.sensitivity.A.shape[1] + 1
    return _scores_add_over_the_triplet(state) / sizes


def _power(exponent: int) -> Callable[..., int]:
    """The schedule with another exponent than 3."""

    def budget(schedule: ref.BudgetSchedule, step: int, /) -> int:
        window = schedule.end_of_pruning - schedule.warmup
        left = min(max(schedule.end_of_pruning - step, 0), window)
        return int(schedule.target + (schedule.initial - schedule.target) * left**exponent // window**exponent)

    return budget


def _budget_to_the_end(schedule: ref.BudgetSchedule, step: int, /) -> int:
    return ref.budget_at(replace(schedule, final=0), step)


def _allocates_outside_pruning(schedule: ref.BudgetSchedule, step: int, /) -> bool:
    return ref.phase_at(schedule, step) != "pruning" or ref.allocates_at(schedule, step)


def _warmup_includes_t_i(schedule: ref.BudgetSchedule, step: int, /) -> str:
    return "warmup" if step == schedule.warmup else ref.phase_at(schedule, step)


def _final_begins_later(schedule: ref.BudgetSchedule, step: int, /) -> str:
    return "pruning" if step == schedule.end_of_pruning else ref.phase_at(schedule, step)


def _every_matrix_keeps_one(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    masks = ref.allocate(scores, budget, cost=cost)
    return {
        name: mask if mask.any() or not mask.size else np.arange(mask.size) == np.argmax(scores[name])
        for name, mask in masks.items()
    }


def _keeps_one_less(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    return ref.allocate(scores, max(0, budget - 1), cost=cost)


def _keeps_what_the_budget_drops(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    whole = sum(len(v) * (1 if cost is None else cost[n]) for n, v in scores.items())
    return ref.allocate(scores, whole - budget, cost=cost)


def _compress_keeps_the_first(factors: Factors, keep: Any, /) -> Factors:
    return ref.compress(factors, np.arange(keep.size) < keep.sum())


def _step_counted_from(shift: int) -> Callable[..., Any]:
    """AdamW whose bias correction counts from another step."""

    def step(weights: Factors, grads: Factors, state: Any, /, **options: Any) -> Any:
        moved, after = ref.adamw_step(weights, grads, state._replace(steps=state.steps + shift), **options)
        return moved, after._replace(steps=after.steps - shift)

    return step


def _epsilon_inside_the_root(
    weights: Factors, grads: Factors, state: Any, /, *, learning_rate: float, weight_decay: float = 0.0
) -> Any:
    _, after = ref.adamw_step(weights, grads, state, learning_rate=learning_rate)
    first, second = 1 - 0.9**after.steps, 1 - 0.999**after.steps

    def move(w: Any, m: Any, v: Any) -> Any:
        return (
            (1 - learning_rate * weight_decay) * w - learning_rate * (m / first) / (v / second + 1e-8) ** 0.5
        ).astype(w.dtype)

    return map_factors(move, weights, after.first, after.second), after


def _decay_without_the_rate(
    weights: Factors, grads: Factors, state: Any, /, *, learning_rate: float, weight_decay: float = 0.0
) -> Any:
    decay = weight_decay / learning_rate
    return ref.adamw_step(weights, grads, state, learning_rate=learning_rate, weight_decay=decay)


def _counted_from_zero(schedule: ref.BudgetSchedule, step: int, /) -> int:
    phase, end = ref.phase_at(schedule, step), schedule.end_of_pruning
    if phase != "pruning":
        return schedule.initial if phase == "warmup" else schedule.target
    return schedule.target + (schedule.initial - schedule.target) * (end - step) ** 3 // end**3


def _ties_go_to_the_last_name(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    ordered = {name: scores[name] for name in sorted(scores, reverse=True)}
    masks = ref.allocate(ordered, budget, cost=cost)
    return {name: masks[name] for name in scores}


def _spent_in_order(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    return ref.allocate({name: np.ones(len(value)) for name, value in scores.items()}, budget, cost=cost)


def _normalised(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    wide = {name: value.astype(np.float64) for name, value in scores.items()}
    shares = {name: value / top if (top := value.max(initial=0)) > 0 else value for name, value in wide.items()}
    return ref.allocate(shares, budget, cost=cost)


IN_PRUNING: tuple[Deviation, ...] = (
    Deviation(
        "averages_start_at_one", "init_importance", "Ī and Ū start at one instead of at zero", _averages_start_at_one
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
        "sensitivity_of_the_sum",
        "update_importance",
        "an entry of B or A gets |Σ w · g| over its triplet instead of its own |w · g|",
        _sensitivity_of_the_sum,
    ),
    Deviation(
        "sensitivity_is_not_smoothed", "update_importance", "Ī is this step's |w · g|, without β1", _not_smoothed
    ),
    Deviation(
        "uncertainty_is_not_smoothed",
        "update_importance",
        "Ū is this step's |I − Ī|, without β2",
        _deviation_not_smoothed,
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
    Deviation(
        "scores_multiply_B_and_A",
        "triplet_scores",
        "the means over B and A are multiplied instead of added",
        _scores_multiply_B_and_A,
    ),
    Deviation(
        "scores_of_means",
        "triplet_scores",
        "Ī and Ū are averaged over the triplet first and multiplied then",
        _scores_of_means,
    ),
    Deviation(
        "scores_average_all_entries",
        "triplet_scores",
        "a triplet's score is the mean over all its d_out + 1 + d_in entries",
        _scores_average_all_entries,
    ),
    Deviation(
        "scores_without_s",
        "triplet_scores",
        "the term of s is left out",
        lambda state: ref.triplet_scores(state) - state.sensitivity.s * state.uncertainty.s,
    ),
    Deviation("warmup_includes_t_i", "phase_at", "t = t_i is still warm-up", _warmup_includes_t_i),
    Deviation("last_phase_begins_later", "phase_at", "t = T − t_f is still pruning", _final_begins_later),
    Deviation("linear_schedule", "budget_at", "the budget falls linearly instead of as a cubic", linear_schedule),
    Deviation("quadratic_schedule", "budget_at", "the budget falls as a square instead of as a cubic", _power(2)),
    Deviation(
        "budget_falls_to_the_end",
        "budget_at",
        "the budget falls until T, as if there were no last phase",
        _budget_to_the_end,
    ),
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
        "allocates_outside_pruning",
        "allocates_at",
        "allocations are made in warm-up and at every step of the last phase too",
        _allocates_outside_pruning,
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
        "every_matrix_keeps_one",
        "allocate",
        "a matrix of which nothing would be kept keeps its best triplet, beyond the budget",
        _every_matrix_keeps_one,
    ),
    Deviation("keeps_one_less", "allocate", "one triplet less than the budget is kept", _keeps_one_less),
    Deviation(
        "keeps_what_the_budget_drops", "allocate", "as many are kept as should be dropped", _keeps_what_the_budget_drops
    ),
    Deviation(
        "ignores_the_cost",
        "allocate",
        "the budget counts triplets though a cost is given",
        lambda scores, budget, /, *, cost=None: ref.allocate(scores, min(budget, sum(map(len, scores.values())))),
    ),
    Deviation(
        "prune_zeroes_all_three",
        "prune",
        "B and A of a dropped triplet are zeroed too, so that it cannot return",
        _prune_zeroes_B_and_A,
    ),
    Deviation("prune_is_inverted", "prune", "the kept triplets are dropped, the dropped ones kept", _prune_inverted),
    Deviation(
        "prune_does_nothing",
        "prune",
        "nothing is zeroed: the masked copy of s is thrown away",
        lambda factors, keep, /: ref.prune(factors, np.ones_like(keep)),
    ),
    Deviation(
        "compress_keeps_the_first",
        "compress",
        "the first triplets are kept, as many as should be, instead of those that should be",
        _compress_keeps_the_first,
    ),
    Deviation(
        "compress_is_inverted",
        "compress",
        "the kept triplets are removed, the dropped ones stay",
        lambda factors, keep, /: ref.compress(factors, ~keep),
    ),
    Deviation(
        "steps_start_at_one",
        "init_adamw",
        "one step is counted before any was made",
        lambda like, /: ref.init_adamw(like)._replace(steps=1),
    ),
    Deviation(
        "decay_in_the_gradient",
        "adamw_step",
        "weight decay is added to the gradient (Adam with L2) instead of decoupled",
        _decay_in_the_gradient,
    ),
    Deviation("no_bias_correction", "adamw_step", "the moments are used without bias correction", _no_bias_correction),
    Deviation("adam_beta2_is_0.99", "adamw_step", "β2 is 0.99 instead of 0.999", _adamw(beta2=0.99)),
    Deviation("epsilon_inside_the_root", "adamw_step", "ε is added under the root", _epsilon_inside_the_root),
    Deviation("epsilon_is_1e-6", "adamw_step", "ε is 1e-6 instead of 1e-8", _adamw(epsilon=1e-6)),
    Deviation("decay_is_left_out", "adamw_step", "the weights do not decay", _adamw(weight_decay=0.0)),
    Deviation(
        "decay_without_the_rate",
        "adamw_step",
        "the decay is not multiplied by the learning rate",
        _decay_without_the_rate,
    ),
    Deviation(
        "bias_correction_runs_ahead",
        "adamw_step",
        "the bias correction counts one step too many",
        _step_counted_from(1),
    ),
    Deviation(
        "budget_counts_from_zero",
        "budget_at",
        "while pruning, the cubic is (1 − t / (T − t_f))³, as if t_i were 0",
        _counted_from_zero,
    ),
    Deviation(
        "ties_go_to_the_last_name",
        "allocate",
        "ties go to the matrix whose name comes last in the alphabet",
        _ties_go_to_the_last_name,
    ),
    Deviation(
        "budget_is_spent_in_order",
        "allocate",
        "matrices are served in forward order until the budget is spent, whatever the scores",
        _spent_in_order,
    ),
    Deviation(
        "scores_normalised_per_matrix",
        "allocate",
        "each matrix's scores are divided by its largest before they are compared",
        _normalised,
    ),
)
