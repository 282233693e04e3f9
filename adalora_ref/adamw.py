"""AdamW: Adam with decoupled weight decay, as one pure step."""

from __future__ import annotations

from typing import NamedTuple

from adalora_ref.array import namespace
from adalora_ref.checks import count, instance, real
from adalora_ref.factors import Factors, map_factors, promote_factors, wide_zeros, with_dtypes_of


class AdamState(NamedTuple):
    """First and second moments, without bias correction, and the number of steps made."""

    first: Factors
    second: Factors
    steps: int


def init_adamw(like: Factors, /) -> AdamState:
    """m = v = 0 after 0 steps, in *like*'s shapes and dtype; float32 where *like* is 16-bit.

    Examples
    --------
    >>> import numpy as np
    >>> init_adamw(Factors(np.ones((1, 1)), np.ones(1), np.ones((1, 1)))).steps
    0

    References
    ----------
    Specification (18).
    """
    zeros = wide_zeros(like)
    return AdamState(zeros, zeros, 0)


def adamw_step(
    weights: Factors,
    grads: Factors,
    state: AdamState,
    /,
    *,
    learning_rate: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
) -> tuple[Factors, AdamState]:
    """w ← (1 − lr·λ) w − lr · m̂ / (√v̂ + ε), with m̂ = m / (1 − β1ᵗ) and v̂ = v / (1 − β2ᵗ).

    Parameters
    ----------
    learning_rate, epsilon, weight_decay
        lr, ε and λ, at least 0.
    beta1, beta2
        In [0, 1).

    Returns
    -------
    weights, state
        Each array in the dtype of the one that it replaces.

    Examples
    --------
    >>> import numpy as np
    >>> w = Factors(np.ones((1, 1)), np.ones(1), np.ones((1, 1)))
    >>> new, state = adamw_step(w, w, init_adamw(w), learning_rate=0.25, epsilon=0.0)
    >>> new.s, state.steps  # the first step has length lr, whatever the gradient's
    (array([0.75]), 1)

    References
    ----------
    Specification (18); Loshchilov and Hutter, "Decoupled Weight Decay Regularization", algorithm 2;
    ``torch.optim.AdamW``.
    """
    instance("state", state, AdamState)
    lr, decay = real("learning_rate", learning_rate, least=0.0), real("weight_decay", weight_decay, least=0.0)
    beta1, beta2 = real("beta1", beta1, least=0.0, below=1.0), real("beta2", beta2, least=0.0, below=1.0)
    epsilon = real("epsilon", epsilon, least=0.0)
    steps = count("steps", state.steps) + 1
    correction1, correction2 = 1.0 - beta1**steps, 1.0 - beta2**steps
    w, g, m, v = promote_factors(weights, grads, state.first, state.second)
    xp = namespace(w.s)
    m = map_factors(lambda m, g: beta1 * m + (1.0 - beta1) * g, m, g)
    v = map_factors(lambda v, g: beta2 * v + (1.0 - beta2) * (g * g), v, g)
    step = map_factors(lambda m, v: (m / correction1) / (xp.sqrt(v / correction2) + epsilon), m, v)
    w = map_factors(lambda w, step: (1.0 - lr * decay) * w - lr * step, w, step)
    moments = AdamState(with_dtypes_of(state.first, m), with_dtypes_of(state.second, v), steps)
    return with_dtypes_of(weights, w), moments
