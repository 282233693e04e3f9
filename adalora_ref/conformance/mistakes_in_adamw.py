"""Known mistakes in the optimiser.

Each is a drop-in for the public function of its stage, on NumPy arrays, written from the reference with the one
difference that its sentence states.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import adalora_ref as ref
from adalora_ref.conformance.known import Deviation
from adalora_ref.factors import Factors, map_factors


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


IN_ADAMW: tuple[Deviation, ...] = (
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
)
