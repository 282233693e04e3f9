"""How much each triplet matters: the sensitivity of its entries, smoothed, times its uncertainty."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float

from adalora_ref.array import Array, cast, namespace, promote
from adalora_ref.checks import instance, real
from adalora_ref.factors import Factors, map_factors, promote_factors, wide_zeros, with_dtypes_of


class Importance(NamedTuple):
    """The two running averages, entry by entry: Ī of the sensitivity, Ū of its deviation."""

    sensitivity: Factors
    uncertainty: Factors


def init_importance(like: Factors, /) -> Importance:
    """Ī = Ū = 0, in *like*'s shapes and dtype; float32 where *like* is 16-bit, in which an average would stick.

    Examples
    --------
    >>> import numpy as np
    >>> init_importance(Factors(np.ones((1, 1)), np.ones(1), np.ones((1, 1)))).sensitivity.s
    array([0.])

    References
    ----------
    Specification (8).
    """
    zeros = wide_zeros(like)
    return Importance(zeros, zeros)


def update_importance(
    state: Importance, weights: Factors, grads: Factors, /, *, beta1: float, beta2: float
) -> Importance:
    """I = |w · g|;  Ī ← β1 Ī + (1 − β1) I;  Ū ← β2 Ū + (1 − β2) |I − Ī|, with the new Ī.

    Parameters
    ----------
    weights, grads
        The pair that the sensitivity is made of; which one is a convention (before or after the step, clipped or not).
    beta1, beta2
        In [0, 1). There is no bias correction: from zero, a constant I makes the first score
        (1 − β1) (1 − β2) β1 · I², which is 0.019125 · I² at 0.85.

    Returns
    -------
    Importance
        In the dtype of *state*.

    Raises
    ------
    TypeError, ValueError
        If shapes, libraries or devices differ, or a β is outside [0, 1).

    Examples
    --------
    >>> import numpy as np
    >>> one = Factors(np.ones((1, 1)), np.ones(1), np.ones((1, 1)))
    >>> mean, deviation = update_importance(init_importance(one), one, one, beta1=0.5, beta2=0.5)
    >>> mean.s, deviation.s  # 0.5 · 1, and 0.5 · |1 − 0.5|
    (array([0.5]), array([0.25]))

    References
    ----------
    Specification (8); paper equations (8) to (10); released ``RankAllocator.update_ipt``.
    """
    instance("state", state, Importance)
    beta1, beta2 = real("beta1", beta1, least=0.0, below=1.0), real("beta2", beta2, least=0.0, below=1.0)
    I_bar, U_bar, w, g = promote_factors(*state, weights, grads)
    xp = namespace(w.s)
    I = map_factors(lambda w, g: xp.abs(w * g), w, g)
    I_bar = map_factors(lambda old, new: beta1 * old + (1.0 - beta1) * new, I_bar, I)
    U_bar = map_factors(lambda old, new, mean: beta2 * old + (1.0 - beta2) * xp.abs(new - mean), U_bar, I, I_bar)
    return Importance(with_dtypes_of(state.sensitivity, I_bar), with_dtypes_of(state.uncertainty, U_bar))


def triplet_scores(state: Importance, /) -> Float[Array, " r"]:
    """S_i = (Ī·Ū)(s_i) + mean_j (Ī·Ū)(B_ji) + mean_j (Ī·Ū)(A_ij).

    Examples
    --------
    >>> import numpy as np
    >>> mean = Factors(np.array([[1.0], [3.0]]), np.array([2.0]), np.array([[4.0]]))
    >>> half = Factors(np.full((2, 1), 0.5), np.array([0.5]), np.array([[0.5]]))
    >>> triplet_scores(Importance(mean, half))  # 1 + (0.5 + 1.5) / 2 + 2
    array([4.])

    References
    ----------
    Specification (9); paper equations (7) and (11); released ``RankAllocator.calculate_score`` and ``combine_ipt``.
    """
    instance("state", state, Importance)
    I_bar, U_bar = promote_factors(*state)
    dtype, _ = promote(*state.sensitivity, *state.uncertainty)
    return cast(per_triplet(map_factors(lambda mean, deviation: mean * deviation, I_bar, U_bar)), dtype)


def per_triplet(entries: Factors) -> Float[Array, " r"]:
    """One number a triplet: its s-term plus the mean over its column of B plus the mean over its row of A."""
    xp = namespace(*entries)
    B, s, A = entries
    return s + xp.mean(B, axis=0) + xp.mean(A, axis=1)  # (r,)
