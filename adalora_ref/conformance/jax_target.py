"""JAX functions as a target: `jax.vjp` supplies the backward pass, this room hands arrays in and out.

JAX is imported at the first use, and switched to 64-bit dtypes, process-wide.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from adalora_ref.array import Array, backend
from adalora_ref.factors import Factors


def jax_layer(
    forward: Callable[..., Any] | None = None,
    *,
    penalty: Callable[..., Any] | None = None,
    norm: Callable[..., Any] | None = None,
    delta: Callable[..., Any] | None = None,
    dtypes: tuple[str, ...] = ("float64", "float32"),
) -> Any:
    """Return a target made of pure JAX functions; NumPy arrays go in and come out.

    Parameters
    ----------
    forward
        ``forward(x, W, B, s, A, *, scale, bias)`` returns y; bias is None where there is none.
    penalty, norm
        ``penalty(B, s, A)`` returns the squared penalty, or that of the norms; `jax.vjp` makes its gradient.
    delta
        ``delta(B, s, A, *, scale)`` returns ΔW.
    """

    def linear_forward(x: Array, W: Array, factors: Factors, /, *, scale: float, bias: Array | None = None) -> Any:
        held, b = (_array(x), *map(_array, factors)), None if bias is None else _array(bias)
        y, pull = _vjp(lambda x, B, s, A: forward(x, _array(W), B, s, A, scale=scale, bias=b), *held)  # type: ignore[misc]
        return np.array(y), pull

    def linear_backward(dy: Array, cache: Any, /) -> tuple[Array, Factors]:
        dx, *grads = cache(_array(dy))
        return np.array(dx), Factors(*map(np.array, grads))

    def of_penalty(value: Callable[..., Any]) -> Callable[[Factors], Any]:
        def computed(factors: Factors, /) -> Any:
            R, pull = _vjp(value, *map(_array, factors))
            return np.array(R), Factors(*map(np.array, pull(backend("jax").ones_like(R))))

        return computed

    functions: dict[str, Any] = {}
    if forward is not None:
        functions |= {"linear_forward": linear_forward, "linear_backward": linear_backward}
    if penalty is not None:
        functions["orthogonality_penalty"] = of_penalty(penalty)
    if norm is not None:
        functions["orthogonality_norm"] = of_penalty(norm)
    if delta is not None:
        functions["increment"] = lambda factors, /, *, scale: np.array(delta(*map(_array, factors), scale=scale))
    return SimpleNamespace(**functions, dtypes=dtypes, array_library="numpy")


def _array(a: Array) -> Any:
    return backend("jax").asarray(a)


def _vjp(function: Callable[..., Any], *primals: Any) -> Any:
    backend("jax")  # 64-bit dtypes
    import jax

    return jax.vjp(function, *primals)
