"""A torch module as a target: autograd supplies the backward pass, this room hands arrays in and out.

torch is imported at the first use, so that this module can be imported without it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from adalora_ref.array import Array
from adalora_ref.conformance.target import TargetError
from adalora_ref.factors import Factors

Module = Any
Tensor = Any


def torch_layer(
    build: Callable[[Tensor, Tensor | None, int, float], Module],
    parameters: Callable[[Module], tuple[Tensor, Tensor, Tensor]],
    *,
    dropout: str | None = None,
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
        parameters, in W's dtype, on any device; bias is None where there is none.
    parameters
        Of a module: its B, s and A, in this order: parameters, or views of them such as a transpose. They are filled
        with the numbers of a case. Axes of length 1 may be added, as in (r, 1) for s.
    dropout
        Name of the module's attribute that drops entries of the adapter's input. In its place the mask of a case is
        multiplied, or nothing done where a case has none. Without a name, cases with a mask are not run.
    penalty, norm
        Of a module: the squared penalty, or that of the norms; autograd makes its gradient.
    delta, merged
        Of a module: ΔW; the weight after merging.
    dtypes
        Names of those that the module can have.

    Raises
    ------
    TargetError
        While it is checked: if *parameters* does not return B, s and A of the module in the shapes and the dtype asked
        for, or *dropout* names nothing.
    """
    layer = _Layer(build, parameters, dropout)
    optional: dict[str, Callable[..., Any] | None] = {
        "orthogonality_penalty": penalty and layer.of_penalty(penalty),
        "orthogonality_norm": norm and layer.of_penalty(norm),
        "increment": delta and layer.of_delta(delta),
        "merge": merged and layer.of_merged(merged),
    }
    functions = {name: function for name, function in optional.items() if function is not None}
    functions["linear_forward"] = layer.without_mask if dropout is None else layer.linear_forward
    functions["linear_backward"] = layer.linear_backward
    return SimpleNamespace(**functions, dtypes=dtypes, array_library="numpy")


@dataclass(frozen=True)
class _Layer:
    """The public functions, each on a module built for the call."""

    build: Callable[..., Module]
    parameters: Callable[[Module], Any]
    dropout: str | None

    def loaded(self, W: Array, factors: Factors, scale: float, bias: Array | None = None) -> tuple[Module, Any]:
        module = self.build(_tensor(W), None if bias is None else _tensor(bias), factors.s.shape[0], scale)
        held = self.parameters(module)
        _require_parameters(held, factors)
        _fill(held, factors)
        return module, held

    def linear_forward(
        self,
        x: Array,
        W: Array,
        factors: Factors,
        /,
        *,
        scale: float,
        bias: Array | None = None,
        dropout_mask: Array | None = None,
    ) -> tuple[Array, Any]:
        module, held = self.loaded(W, factors, scale, bias)
        device = held[0].device
        if self.dropout is not None:
            _replace_dropout(module, self.dropout, None if dropout_mask is None else _tensor(dropout_mask).to(device))
        leaf = _tensor(x).to(device).requires_grad_()
        y = module(leaf)
        _require_unchanged(held, factors)
        return _array(y), (leaf, held, y, factors)

    def without_mask(
        self, x: Array, W: Array, factors: Factors, /, *, scale: float, bias: Array | None = None
    ) -> tuple[Array, Any]:
        return self.linear_forward(x, W, factors, scale=scale, bias=bias)

    def linear_backward(self, dy: Array, cache: Any, /) -> tuple[Array, Factors]:
        x, held, y, factors = cache
        dx, *grads = _gradients(y, (x, *held), _tensor(dy).to(y.device))
        return dx, _like(grads, factors)

    def of_penalty(self, value: Callable[[Module], Tensor]) -> Callable[[Factors], tuple[Array, Factors]]:
        def computed(factors: Factors, /) -> tuple[Array, Factors]:
            module, held = self.loaded(_no_weight(factors), factors, 1.0)
            R = value(module)
            return _array(R), _like(_gradients(R, held, None), factors)

        return computed

    def of_delta(self, delta: Callable[[Module], Tensor]) -> Callable[..., Array]:
        def increment(factors: Factors, /, *, scale: float) -> Array:
            return _array(delta(self.loaded(_no_weight(factors), factors, scale)[0]))

        return increment

    def of_merged(self, merged: Callable[[Module], Tensor]) -> Callable[..., Array]:
        def merge(W: Array, factors: Factors, /, *, scale: float) -> Array:
            return _array(merged(self.loaded(W, factors, scale)[0]))

        return merge


# WHAT THE MODULE HOLDS


def _require_parameters(held: Any, factors: Factors) -> None:
    """Refuse what is not B, s and A of a module: how many, tensors that autograd reaches, shapes, dtype."""
    torch = _torch()
    if not isinstance(held, tuple | list) or len(held) != 3 or not all(isinstance(t, torch.Tensor) for t in held):
        got = f"{len(held)} values" if isinstance(held, tuple | list) else type(held).__name__
        raise TargetError(f"parameters must return the module's tensors (B, s, A); got {got}")
    for name, tensor, value in zip("BsA", held, factors, strict=True):
        if not tensor.requires_grad or not _root(tensor).is_leaf:
            raise TargetError(f"{name} must be a parameter of the module that requires a gradient, or a view of one")
        if _without_ones(tensor.shape) != _without_ones(value.shape):
            raise TargetError(
                f"{name} must have shape {value.shape}, but for axes of length 1; got {tuple(tensor.shape)}"
            )
        if (dtype := str(tensor.dtype).removeprefix("torch.")) != value.dtype.name:
            raise TargetError(
                f"{name} must have W's dtype, {value.dtype.name}; got {dtype}: build the module in W.dtype, or give "
                f"torch_layer the dtypes that it can have"
            )


def _fill(held: Sequence[Tensor], factors: Factors) -> None:
    with _torch().no_grad():
        for parameter, value in zip(held, factors, strict=True):
            parameter.copy_(_tensor(value).reshape(parameter.shape))


def _require_unchanged(held: Sequence[Tensor], factors: Factors) -> None:
    """Refuse, as the module's own failure, a forward pass that changes a parameter."""
    for name, parameter, value in zip("BsA", held, factors, strict=True):
        if _array(parameter).tobytes() != value.tobytes():
            raise ValueError(f"the forward pass changed the parameter {name} of the module")


def _replace_dropout(module: Module, name: str, mask: Tensor | None) -> None:
    torch = _torch()
    if not hasattr(module, name):
        raise TargetError(f"dropout must name an attribute of the module; it has no {name!r}")

    class Masked(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Tensor) -> Tensor:
            return x if mask is None else x * mask

    setattr(module, name, Masked())


def _no_weight(factors: Factors) -> Array:
    return np.zeros((factors.B.shape[0], factors.A.shape[1]), factors.s.dtype)


def _without_ones(shape: Sequence[int]) -> list[int]:
    return [length for length in shape if length != 1]


# GRADIENTS


def _gradients(output: Any, inputs: tuple[Tensor, ...], upstream: Tensor | None) -> list[Array]:
    """The gradients with respect to parameters and views of them; zero where the output does not depend on one."""
    torch = _torch()
    if not isinstance(output, torch.Tensor):
        raise TargetError(f"the module must return a tensor; got {type(output).__name__}")
    roots = [_root(t) for t in inputs]
    grads = torch.autograd.grad(output, roots, upstream, retain_graph=True, materialize_grads=True)
    return [_array(_seen_through(t, root, g)) for t, root, g in zip(inputs, roots, grads, strict=True)]


def _root(tensor: Tensor) -> Tensor:
    """The tensor whose memory a view shows, or the tensor itself."""
    return tensor if tensor._base is None else tensor._base  # noqa: SLF001  torch has no other name for it


def _seen_through(tensor: Tensor, root: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of *root* through the view that *tensor* is of it."""
    if tensor is root:
        return gradient
    options = {"dtype": root.dtype, "device": root.device}
    laid_out = _torch().empty_strided(root.size(), root.stride(), **options).copy_(gradient)
    return laid_out.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset() - root.storage_offset())


# ARRAYS


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise TargetError(f"torch_layer needs torch, which is not installed ({error})") from error


def _tensor(a: Array) -> Tensor:
    return _torch().tensor(a)


def _array(a: Tensor) -> Array:
    if not isinstance(a, _torch().Tensor):
        raise TargetError(f"the module must return a tensor; got {type(a).__name__}")
    return a.detach().cpu().numpy().copy()


def _like(grads: list[Array], factors: Factors) -> Factors:
    return Factors(*(g.reshape(a.shape) for g, a in zip(grads, factors, strict=True)))
