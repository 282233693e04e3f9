"""JAX functions as a target: `jax.vjp` supplies the backward pass, this room hands arrays in and out.

JAX is imported at the first use, and switched to 64-bit dtypes, process-wide.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from adalora_ref.array import Array, backend
from adalora_ref.conformance.target import TargetError
from adalora_ref.factors import Factors


def jax_layer(
    forward: Callable[..., Any] | None = None,
    *,
    penalty: Callable[..., Any] | None = None,
    norm: Callable[..., Any] | None = None,
    delta: Callable[..., Any] | None = None,
    merged: Callable[..., Any] | None = None,
    dtypes: tuple[str, ...] = ("float64", "float32"),
) -> Any:
    """Return a target made of pure JAX functions; NumPy arrays go in and come out.

    Parameters
    ----------
    forward
        ``forward(x, W, B, s, A, *, scale, bias)`` returns y; bias is None where there is none. If it also takes
        ``dropout_mask``, cases with a mask are run, else they are not.
    penalty, norm
        ``penalty(B, s, A)`` returns the squared penalty, or that of the norms; `jax.vjp` makes its gradient.
    delta, merged
        ``delta(B, s, A, *, scale)`` returns ΔW; ``merged(W, B, s, A, *, scale)`` the weight after merging.
    dtypes
        Names of those that the functions can have.
    """
    if not any((forward, penalty, norm, delta, merged)):
        raise TargetError("jax_layer needs at least one function; got none")

    optional: dict[str, Callable[..., Any] | None] = {
        "linear_forward": forward and _forward(forward),
        "linear_backward": forward and _backward,
        "orthogonality_penalty": penalty and _penalty(penalty),
        "orthogonality_norm": norm and _penalty(norm),
        "increment": delta and _increment(delta),
        "merge": merged and _merge(merged),
    }
    functions = {name: function for name, function in optional.items() if function is not None}
    return SimpleNamespace(**functions, dtypes=dtypes, array_library="numpy")


def _forward(forward: Callable[..., Any]) -> Callable[..., Any]:
    def linear_forward(x: Array, W: Array, factors: Factors, /, *, scale: float, **given: Array | None) -> Any:
        options = {"bias": None, **{name: None if a is None else _array(a) for name, a in given.items()}}
        y, pull = _vjp(lambda x, B, s, A: forward(x, _array(W), B, s, A, scale=scale, **options), x, *factors)
        return np.array(y), pull

    def without_mask(
        x: Array, W: Array, factors: Factors, /, *, scale: float, bias: Array | None = None
    ) -> tuple[Array, Any]:
        y, pull = linear_forward(x, W, factors, scale=scale, bias=bias)
        return y, pull

    return linear_forward if "dropout_mask" in inspect.signature(forward).parameters else without_mask


def _backward(dy: Array, cache: Any, /) -> tuple[Array, Factors]:
    dx, *grads = cache(_array(dy))
    return np.array(dx), Factors(*map(np.array, grads))


def _penalty(value: Callable[..., Any]) -> Callable[[Factors], tuple[Array, Factors]]:
    def computed(factors: Factors, /) -> tuple[Array, Factors]:
        R, pull = _vjp(value, *factors)
        return np.array(R), Factors(*map(np.array, pull(backend("jax").ones_like(R))))

    return computed


def _increment(delta: Callable[..., Any]) -> Callable[..., Array]:
    return lambda factors, /, *, scale: np.array(delta(*map(_array, factors), scale=scale))


def _merge(merged: Callable[..., Any]) -> Callable[..., Array]:
    return lambda W, factors, /, *, scale: np.array(merged(_array(W), *map(_array, factors), scale=scale))


def _array(a: Array) -> Any:
    try:
        return backend("jax").asarray(a)
    except RuntimeError as error:
        raise TargetError(f"jax_layer needs JAX: {error}") from error


def _vjp(function: Callable[..., Any], *primals: Array) -> Any:
    held = [_array(a) for a in primals]  # switches to 64-bit dtypes
    import jax

    y, pull = jax.vjp(function, *held)
    if not isinstance(y, jax.Array):
        raise TargetError(f"a function given to jax_layer must return one array; got {type(y).__name__}")
    return y, pull
