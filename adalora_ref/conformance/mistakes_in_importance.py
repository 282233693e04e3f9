"""Known mistakes in importance: its start, its averages, and the scores of triplets.

Each is a drop-in for the public function of its stage, on NumPy arrays, written from the reference with the one
difference that its sentence states.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import adalora_ref as ref
from adalora_ref.conformance.known import Deviation
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


def _one_beta(state: Importance, w: Factors, g: Factors, /, *, beta1: float, beta2: float) -> Importance:
    return ref.update_importance(state, w, g, beta1=beta1, beta2=beta1)


def _deviation_is_squared(state: Importance, w: Factors, g: Factors, /, *, beta1: float, beta2: float) -> Importance:
    mean, _ = ref.update_importance(state, w, g, beta1=beta1, beta2=beta2)

    def square(U: Any, m: Any, w: Any, g: Any) -> Any:
        return (beta2 * U + (1 - beta2) * (abs(w * g) - m) ** 2).astype(U.dtype)

    return Importance(mean, map_factors(square, state.uncertainty, mean, w, g))


def _elements(state: Importance, f: Callable[[Any, Any], Any]) -> Any:
    return per_triplet(map_factors(f, *state))


def _first_triplets_scored(state: Any, /) -> Any:
    scores = ref.triplet_scores(state)
    return np.where(np.arange(scores.size) < 16, scores, scores * 0)


def _scores_add_over_the_triplet(state: Importance, /) -> Any:
    B, s, A = map_factors(lambda mean, deviation: mean * deviation, *state)
    return s + B.sum(axis=0) + A.sum(axis=1)


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


def _in_float16(state: Importance, w: Factors, g: Factors, /, *, beta1: float, beta2: float) -> Importance:
    held = ref.update_importance(state, w, g, beta1=beta1, beta2=beta2)
    return Importance(*(map_factors(lambda a: a.astype(np.float16).astype(a.dtype), part) for part in held))


def _deviation_is_signed(state: Importance, w: Factors, g: Factors, /, *, beta1: float, beta2: float) -> Importance:
    mean, _ = ref.update_importance(state, w, g, beta1=beta1, beta2=beta2)

    def signed(U: Any, m: Any, w: Any, g: Any) -> Any:
        return (beta2 * U + (1 - beta2) * (abs(w * g) - m)).astype(U.dtype)

    return Importance(mean, map_factors(signed, state.uncertainty, mean, w, g))


def _length_of_the_gradient(state: Importance, w: Factors, g: Factors, /, *, beta1: float, beta2: float) -> Importance:
    B, s, A = g
    length = ((B * B).sum(axis=0) + s * s + (A * A).sum(axis=1)) ** 0.5
    everywhere = Factors(length + 0 * B, length, length[:, None] + 0 * A)
    return ref.update_importance(state, map_factors(np.ones_like, w), everywhere, beta1=beta1, beta2=beta2)


def _logarithm(mean: Any, deviation: Any) -> Any:
    with np.errstate(divide="ignore"):
        return np.log(mean) + np.log(deviation)


def _scores_multiply_by_the_s_term(state: Importance, /) -> Any:
    B, s, A = map_factors(lambda mean, deviation: mean * deviation, *state)
    return s * (B.mean(axis=0) + A.mean(axis=1))


IN_IMPORTANCE: tuple[Deviation, ...] = (
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
    Deviation("one_beta", "update_importance", "β1 smooths the uncertainty too", _one_beta),
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
        "averages_in_float16",
        "update_importance",
        "Ī and Ū are kept in float16, where what lies below 3e-8 is lost",
        _in_float16,
    ),
    Deviation(
        "deviation_is_signed",
        "update_importance",
        "Ū averages I − Ī without the absolute value",
        _deviation_is_signed,
    ),
    Deviation(
        "sensitivity_is_the_gradients_length",
        "update_importance",
        "every entry gets the length of its triplet's gradient instead of its own |w · g|",
        _length_of_the_gradient,
    ),
    Deviation(
        "scores_of_logarithms",
        "triplet_scores",
        "an entry's score is log Ī + log Ū",
        lambda state: _elements(state, _logarithm),
    ),
    Deviation(
        "scores_multiply_by_the_s_term",
        "triplet_scores",
        "the s-term multiplies the means over B and A instead of being added",
        _scores_multiply_by_the_s_term,
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
        "triplets_beyond_16_are_left_out",
        "triplet_scores",
        "the first 16 triplets alone are scored, as by a kernel that forgets what lies beyond its block",
        _first_triplets_scored,
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
)
