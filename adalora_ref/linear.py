"""The adapted layer: a frozen weight plus the increment of its factors, forward and backward."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float

from adalora_ref.array import Array, cast, namespace, promote, require_arrays
from adalora_ref.checks import instance, real
from adalora_ref.factors import Factors, require_factors


class LinearCache(NamedTuple):
    """What the backward pass needs: the inputs, and u, which costs a matrix product."""

    x: Float[Array, "*n d_in"]
    u: Float[Array, "rows r"]
    W: Float[Array, "d_out d_in"]
    factors: Factors
    scale: float
    dropout_mask: Float[Array, "*n d_in"] | None


def linear_forward(
    x: Float[Array, "*n d_in"],
    W: Float[Array, "d_out d_in"],
    factors: Factors,
    /,
    *,
    scale: float,
    bias: Float[Array, " d_out"] | None = None,
    dropout_mask: Float[Array, "*n d_in"] | None = None,
) -> tuple[Float[Array, "*n d_out"], LinearCache]:
    """y = x Wᵀ + b + scale · ((x̂ Aᵀ) ⊙ s) Bᵀ with x̂ = x ⊙ dropout_mask.

    Parameters
    ----------
    x
        The input, samples as rows; any number of axes before the last.
    W
        The frozen weight.
    factors
        B, s and A.
    scale
        Any finite real number; α / max(1, r) under SPEC.
    bias
        The frozen bias b.
    dropout_mask
        Multiplies the input of the adapter alone, and already holds the factor 1 / (1 − p).

    Returns
    -------
    y, cache
        The cache is for `linear_backward`.

    Raises
    ------
    TypeError, ValueError
        If shapes do not fit (nothing is broadcast), libraries or devices differ, or *scale* is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> x, W = np.array([[1.0, 2.0]]), np.array([[1.0, 0.0]])
    >>> factors = Factors(np.array([[2.0]]), np.array([3.0]), np.array([[1.0, 1.0]]))
    >>> linear_forward(x, W, factors, scale=0.5)[0]  # 1 + 0.5 · 2 · 3 · (1 + 2)
    array([[10.]])

    References
    ----------
    Specification (2); paper equation (3); released ``SVDLinear.forward``.
    """
    scale = real("scale", scale)
    _check_forward(x, W, factors, bias, dropout_mask)
    xp = namespace(x, W, *factors, bias, dropout_mask)
    dtype, (xw, Ww, B, s, A, b, mask) = promote(x, W, *factors, bias, dropout_mask)
    xw = _rows(xw)  # (rows, d_in)
    x_hat = xw if mask is None else xw * _rows(mask)  # (rows, d_in)
    u = x_hat @ A.T  # (rows, r)
    z = u * s  # (rows, r)
    y = xw @ Ww.T + scale * (z @ B.T)  # (rows, d_out)
    y = y if b is None else y + b  # (rows, d_out)
    y = xp.reshape(y, (*x.shape[:-1], W.shape[0]))  # (*n, d_out)
    return cast(y, dtype), LinearCache(x, u, W, factors, scale, dropout_mask)


def linear_backward(dy: Float[Array, "*n d_out"], cache: LinearCache, /) -> tuple[Float[Array, "*n d_in"], Factors]:
    """dx = dy W + scale · ((dy B ⊙ s) A) ⊙ mask, and ``Factors(dB, ds, dA)``; W and b are frozen and get none.

    Raises
    ------
    TypeError, ValueError
        If *dy* has another shape, library or device than the y of the forward pass.

    Examples
    --------
    >>> import numpy as np
    >>> x, W = np.array([[1.0, 2.0]]), np.array([[1.0, 0.0]])
    >>> factors = Factors(np.array([[2.0]]), np.array([3.0]), np.array([[1.0, 1.0]]))
    >>> y, cache = linear_forward(x, W, factors, scale=0.5)
    >>> dx, (dB, ds, dA) = linear_backward(np.array([[2.0]]), cache)
    >>> dx, dB, ds, dA  # dz = 2, du = 6, u = 3
    (array([[8., 6.]]), array([[9.]]), array([6.]), array([[ 6., 12.]]))

    References
    ----------
    Specification (3): the gradients of the paper's equation (3) by hand; derived in docs/derivations/layer.md.
    """
    instance("cache", cache, LinearCache)
    require_arrays(dy=dy)
    x, u, W, factors, scale, dropout_mask = cache
    xp = namespace(dy, x)
    if dy.shape != (*x.shape[:-1], W.shape[0]):
        raise ValueError(f"dy must have y's shape {(*x.shape[:-1], W.shape[0])}; got {tuple(dy.shape)}")
    dtype, (dy, xw, W, B, s, A, mask) = promote(dy, x, W, *factors, dropout_mask)
    dy, xw, u = _rows(dy), _rows(xw), cast(u, xw.dtype)
    x_hat = xw if mask is None else xw * _rows(mask)  # (rows, d_in)
    # y = x Wᵀ + b + scale · z Bᵀ
    dz = scale * (dy @ B)  # (rows, r)
    dB = scale * (dy.T @ (u * s))  # (d_out, r)
    # z = u ⊙ s
    du = dz * s  # (rows, r)
    ds = xp.sum(dz * u, axis=0)  # (r,)
    # u = x̂ Aᵀ
    dA = du.T @ x_hat  # (r, d_in)
    dx_hat = du @ A  # (rows, d_in)
    # x̂ = x ⊙ mask
    dx = dy @ W + (dx_hat if mask is None else dx_hat * _rows(mask))  # (rows, d_in)
    dx = xp.reshape(dx, x.shape)  # (*n, d_in)
    return cast(dx, dtype), Factors(cast(dB, dtype), cast(ds, dtype), cast(dA, dtype))


def increment(factors: Factors, /, *, scale: float) -> Float[Array, "d_out d_in"]:
    """ΔW = scale · B · diag(s) · A.

    Examples
    --------
    >>> import numpy as np
    >>> increment(Factors(np.array([[2.0]]), np.array([3.0]), np.array([[1.0, 4.0]])), scale=0.5)
    array([[ 3., 12.]])

    References
    ----------
    Specification (4).
    """
    scale = real("scale", scale)
    require_factors(factors)
    dtype, (B, s, A) = promote(*factors)
    return cast(scale * ((B * s) @ A), dtype)


def merge(W: Float[Array, "d_out d_in"], factors: Factors, /, *, scale: float) -> Float[Array, "d_out d_in"]:
    """W + ΔW: the one weight that does what the adapted layer does without dropout.

    Examples
    --------
    >>> import numpy as np
    >>> merge(np.array([[1.0, 1.0]]), Factors(np.array([[2.0]]), np.array([3.0]), np.array([[1.0, 4.0]])), scale=0.5)
    array([[ 4., 13.]])

    References
    ----------
    Specification (4).
    """
    scale = real("scale", scale)
    _check_weight(W, factors)
    dtype, (W, B, s, A) = promote(W, *factors)
    return cast(W + scale * ((B * s) @ A), dtype)


def unmerge(W: Float[Array, "d_out d_in"], factors: Factors, /, *, scale: float) -> Float[Array, "d_out d_in"]:
    """W − ΔW: takes a merged increment out again, up to rounding.

    Examples
    --------
    >>> import numpy as np
    >>> unmerge(np.array([[4.0, 13.0]]), Factors(np.array([[2.0]]), np.array([3.0]), np.array([[1.0, 4.0]])), scale=0.5)
    array([[1., 1.]])

    References
    ----------
    Specification (4).
    """
    return merge(W, factors, scale=-real("scale", scale))


def _rows(a: Float[Array, "*n d"]) -> Float[Array, "rows d"]:
    return a if len(a.shape) == 2 else namespace(a).reshape(a, (-1, a.shape[-1]))


def _check_weight(W: Array, factors: Factors) -> None:
    require_arrays(W=W)
    require_factors(factors)
    namespace(W, *factors)
    B, _, A = factors
    if tuple(W.shape) != (B.shape[0], A.shape[1]):
        raise ValueError(
            "W, B, A must be (d_out, d_in), (d_out, r), (r, d_in); "
            f"got {(tuple(W.shape), tuple(B.shape), tuple(A.shape))}"
        )


def _check_forward(x: Array, W: Array, factors: Factors, bias: Array | None, mask: Array | None) -> None:
    require_arrays(x=x)
    _check_weight(W, factors)
    namespace(x, W, *factors, bias, mask)
    d_out, d_in = W.shape
    fits = len(x.shape) >= 1 and x.shape[-1] == d_in
    fits = fits and (bias is None or tuple(bias.shape) == (d_out,))
    fits = fits and (mask is None or mask.shape == x.shape)
    if not fits:
        shapes = [None if a is None else tuple(a.shape) for a in (x, W, bias, mask)]
        raise ValueError(
            "x, W, bias, dropout_mask must be (*n, d_in), (d_out, d_in), (d_out,) or None, x's shape or None; "
            f"got {', '.join(map(str, shapes))}"
        )
