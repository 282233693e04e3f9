"""Correct implementations that compute in another way: other orders, other libraries, other rounding. All must pass.

They guard the other side of the verdict: a bound that fails one of them is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from math import fsum
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

import adalora_ref as ref
from adalora_ref.conformance.deviations import reference
from adalora_ref.conformance.target import tree_map
from adalora_ref.factors import Factors, map_factors

Product = Callable[[Any, Any], Any]


class Variant(NamedTuple):
    """A correct implementation: a name, a sentence, the implementation, and the library whose arrays it takes."""

    name: str
    says: str
    held: Any
    library: str = "numpy"


def built_on(product: Product, dtypes: tuple[str, ...] = ("float64", "float32")) -> Any:
    """The stages that contract over an axis, with *product* for every matrix product and every sum."""

    def total(entries: Any) -> Any:
        return product(np.ones((1, entries.shape[0]), entries.dtype), entries)[0]

    def linear_forward(
        x: Any, W: Any, factors: Factors, /, *, scale: float, bias: Any = None, dropout_mask: Any = None
    ) -> Any:
        (B, s, A), shape = factors, (*x.shape[:-1], W.shape[0])
        rows = x.reshape(-1, W.shape[1])
        hidden = rows if dropout_mask is None else rows * dropout_mask.reshape(rows.shape)
        y = product(rows, W.T) + scale * product(product(hidden, A.T) * s, B.T)
        y = y if bias is None else y + bias
        return y.reshape(shape), (x.shape, hidden, W, factors, scale, dropout_mask)

    def linear_backward(dy: Any, cache: Any, /) -> Any:
        shape, hidden, W, (B, s, A), scale, mask = cache
        dy = dy.reshape(-1, W.shape[0])
        u, dz = product(hidden, A.T), scale * product(dy, B)
        through = product(dz * s, A)
        dx = product(dy, W) + (through if mask is None else through * mask.reshape(through.shape))
        return dx.reshape(shape), Factors(scale * product(dy.T, u * s), total(dz * u), product((dz * s).T, hidden))

    def increment(factors: Factors, /, *, scale: float) -> Any:
        return product(factors.B * (scale * factors.s), factors.A)

    def orthogonality_penalty(factors: Factors, /) -> Any:
        (B, s, A), unit = factors, np.eye(factors.s.shape[0], dtype=factors.s.dtype)
        P, Q = product(B.T, B) - unit, product(A, A.T) - unit
        R = total((P * P).reshape(-1)[:, None])[0] + total((Q * Q).reshape(-1)[:, None])[0]
        return np.asarray(R, dtype=s.dtype), Factors(4 * product(B, P), np.zeros_like(s), 4 * product(Q, A))

    def triplet_scores(state: Any, /) -> Any:
        B, s, A = map_factors(lambda mean, deviation: mean * deviation, *state)
        return s + (total(B) / B.shape[0] + total(A.T) / A.shape[1]).astype(s.dtype)

    return SimpleNamespace(
        linear_forward=linear_forward,
        linear_backward=linear_backward,
        increment=increment,
        merge=lambda W, factors, /, *, scale: W + increment(factors, scale=scale),
        unmerge=lambda W, factors, /, *, scale: W - increment(factors, scale=scale),
        orthogonality_penalty=orthogonality_penalty,
        triplet_scores=triplet_scores,
        dtypes=dtypes,
    )


# PRODUCTS


def reversed_product(a: Any, b: Any) -> Any:
    """The sum taken from the last term to the first."""
    return a[:, ::-1] @ b[::-1]


def sequential_product(a: Any, b: Any) -> Any:
    """One term after the other, each rounded."""
    held = np.zeros((a.shape[0], b.shape[1]), a.dtype)
    for k in range(a.shape[1]):
        held = held + a[:, k, None] * b[k]
    return held


def blocked_product(a: Any, b: Any, size: int = 2) -> Any:
    """Blocks of two terms, summed each for itself."""
    blocks = [a[:, k : k + size] @ b[k : k + size] for k in range(0, a.shape[1], size)]
    return sum(blocks, np.zeros((a.shape[0], b.shape[1]), a.dtype))


def einsum_product(a: Any, b: Any) -> Any:
    """NumPy's einsum, optimised."""
    return np.einsum("ik,kj->ij", a, b, optimize=True)


def fused_product(a: Any, b: Any) -> Any:
    """Fused multiply-add: each product is exact and rounded with the sum; float64 holds a product of float32."""
    held = np.zeros((a.shape[0], b.shape[1]), a.dtype)
    for k in range(a.shape[1]):
        held = (held.astype(np.float64) + a[:, k, None].astype(np.float64) * b[k].astype(np.float64)).astype(a.dtype)
    return held


def compensated_product(a: Any, b: Any) -> Any:
    """Products rounded, their sum exact and rounded once."""
    terms = a[:, :, None] * b[None]
    exact = [[fsum(terms[i, :, j].tolist()) for j in range(b.shape[1])] for i in range(a.shape[0])]
    return np.asarray(exact, dtype=a.dtype).reshape(a.shape[0], b.shape[1])


# OTHER FORMS


def _merged(x: Any, W: Any, factors: Factors, /, *, scale: float, bias: Any = None) -> Any:
    y = x @ ref.merge(W, factors, scale=scale).T
    return y if bias is None else y + bias, (x, W, factors, scale)


def _merged_backward(dy: Any, cache: Any, /) -> Any:
    """The form without samples: D = dyᵀ x, and every gradient from it."""
    x, W, (B, s, A), scale = cache
    D = dy.reshape(-1, W.shape[0]).T @ x.reshape(-1, W.shape[1])
    dB, dA = scale * (D @ A.T) * s, scale * (s[:, None] * (B.T @ D))
    return dy @ (W + scale * (B * s) @ A), Factors(dB, scale * ((D @ A.T) * B).sum(axis=0), dA)


def _factors_first(x: Any, W: Any, factors: Factors, /, *, scale: float, bias: Any = None) -> Any:
    y = x @ W.T + x @ ((scale * factors.B) @ (factors.s[:, None] * factors.A)).T
    return y if bias is None else y + bias, None


def flushed(held: Any) -> Any:
    """*held* on a machine that flushes subnormal numbers to zero, in arguments and in results."""

    def flush(a: Any) -> Any:
        return a if a.dtype.kind in "biu" else np.where(np.abs(a) < np.finfo(a.dtype).tiny, a * 0, a)

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            return tree_map(flush, function(*tree_map(flush, args), **tree_map(flush, options)))

        return call

    names = ("increment", "merge", "unmerge", "orthogonality_penalty", "update_importance", "triplet_scores", "prune")
    return SimpleNamespace(**{name: wrapped(getattr(held, name)) for name in (*names, "adamw_step")})


def _of(*dtypes: str) -> Any:
    held = reference()
    held.dtypes = dtypes
    return held


VARIANTS: tuple[Variant, ...] = (
    Variant("reversed_sums", "sums run from the last term to the first", built_on(reversed_product)),
    Variant("sequential_sums", "one term is added after the other", built_on(sequential_product)),
    Variant("blocked_sums", "blocks of two terms are summed each for itself", built_on(blocked_product)),
    Variant("optimised_einsum", "products by NumPy's optimised einsum", built_on(einsum_product)),
    Variant("fused_multiply_add", "product and sum are rounded together", built_on(fused_product, ("float32",))),
    Variant("compensated_sums", "sums are exact and rounded once", built_on(compensated_product)),
    Variant(
        "merged_weights",
        "forward by W + ΔW, backward by dyᵀ x",
        SimpleNamespace(linear_forward=_merged, linear_backward=_merged_backward),
    ),
    Variant("increment_first", "forward by ΔW", SimpleNamespace(linear_forward=_factors_first)),
    Variant("flush_to_zero", "subnormal numbers are taken for zero", flushed(ref)),
    Variant("float32", "the reference in float32", _of("float32")),
    Variant("float16", "the reference in float16, computed in float32", _of("float16")),
    Variant("bfloat16", "the reference in bfloat16, computed in float32", _of("bfloat16")),
    Variant("torch", "the reference on torch, in float32", _of("float32"), "torch"),
    Variant("jax", "the reference on JAX, in float32, which flushes subnormals", _of("float32"), "jax"),
    Variant("array_api_strict", "the reference on array-api-strict, in float32", _of("float32"), "array_api_strict"),
)
