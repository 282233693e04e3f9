"""A torch module as a target: autograd supplies the backward pass, this room hands arrays in and out.

torch is imported at the first use, so that this module can be imported without it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from adalora_ref.array import Array
from adalora_ref.factors import Factors

Module = Any
Tensor = Any


def torch_layer(
    build: Callable[[Tensor, Tensor | None, int, float], Module],
    parameters: Callable[[Module], tuple[Tensor, Tensor, Tensor]],
    *,
    penalty: Callable[[Module], Tensor] | None = None,
    norm: Callable[[Module], Tensor] | None = None,
    delta: Callable[[Module], Tensor] | None = None,
    merged: Callable[[Module], Tensor] | None = None,
    dtypes: tuple[str, ...] = ("float64", "float32"),
) -> Any:
    """Return a target made of a torch module; NumPy arrays go in and come out.

    Parameters
    ----------
    build
        ``build(W, bias, r, scale)`` returns a module that computes y = x Wᵀ + bias + scale · ((x Aᵀ) ⊙ s) Bᵀ of its own
        parameters, in W's dtype; bias is None where there is none.
    parameters
        Of a module: its B, s and A, in this order. They are filled with the numbers of a case; another shape with as
        many elements, such as (r, 1) for s, is reshaped.
    penalty, norm
        Of a module: the squared penalty, or that of the norms; autograd makes its gradient.
    delta, merged
        Of a module: ΔW; the weight after merging.
    """

    def loaded(W: Array, factors: Factors, scale: float, bias: Array | None = None) -> tuple[Module, Any]:
        torch = _torch()
        module = build(_tensor(W), None if bias is None else _tensor(bias), factors.s.shape[0], scale)
        held = parameters(module)
        with torch.no_grad():
            for parameter, value in zip(held, factors, strict=True):
                parameter.copy_(_tensor(value).reshape(parameter.shape))
        return module, held

    def linear_forward(x: Array, W: Array, factors: Factors, /, *, scale: float, bias: Array | None = None) -> Any:
        module, held = loaded(W, factors, scale, bias)
        x = _tensor(x).requires_grad_()
        y = module(x)
        return _array(y), (x, held, y, factors)

    def linear_backward(dy: Array, cache: Any, /) -> tuple[Array, Factors]:
        x, held, y, factors = cache
        dx, *grads = _gradients(y, (x, *held), _tensor(dy))
        return dx, _like(grads, factors)

    def of_penalty(value: Callable[[Module], Tensor]) -> Callable[[Factors], Any]:
        def computed(factors: Factors, /) -> Any:
            B, _, A = factors
            module, held = loaded(B @ A * 0, factors, 1.0)
            R = value(module)
            return _array(R), _like(_gradients(R, held, None), factors)

        return computed

    def increment(factors: Factors, /, *, scale: float) -> Array:
        return _array(delta(loaded(factors.B @ factors.A * 0, factors, scale)[0]))  # type: ignore[misc]

    def merge(W: Array, factors: Factors, /, *, scale: float) -> Array:
        return _array(merged(loaded(W, factors, scale)[0]))  # type: ignore[misc]

    optional: dict[str, Callable[..., Any] | None] = {
        "orthogonality_penalty": penalty and of_penalty(penalty),
        "orthogonality_norm": norm and of_penalty(norm),
        "increment": delta and increment,
        "merge": merged and merge,
    }
    functions = {name: function for name, function in optional.items() if function is not None}
    layer: dict[str, Callable[..., Any]] = {"linear_forward": linear_forward, "linear_backward": linear_backward}
    return SimpleNamespace(**layer, **functions, dtypes=dtypes, array_library="numpy")


def _torch() -> Any:
    return importlib.import_module("torch")


def _tensor(a: Array) -> Tensor:
    return _torch().tensor(a)


def _array(a: Tensor) -> Array:
    return a.detach().cpu().numpy().copy()


def _gradients(output: Tensor, inputs: tuple[Tensor, ...], upstream: Tensor | None) -> list[Array]:
    grads = _torch().autograd.grad(output, inputs, upstream, retain_graph=True, materialize_grads=True)
    return [_array(g) for g in grads]


def _like(grads: list[Array], factors: Factors) -> Factors:
    return Factors(*(g.reshape(a.shape) for g, a in zip(grads, factors, strict=True)))
