"""Known mistakes in the layer: drawing factors, forward and backward, increment, and merging.

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


def _forward(change: Callable[..., dict[str, Any]]) -> Callable[..., Any]:
    """A forward pass whose arguments *change* has altered."""

    def forward(
        x: Any, W: Any, factors: Factors, /, *, scale: float, bias: Any = None, dropout_mask: Any = None
    ) -> Any:
        given = {"x": x, "W": W, "factors": factors, "scale": scale, "bias": bias, "dropout_mask": dropout_mask}
        given |= change(**given)
        x, W, factors = given.pop("x"), given.pop("W"), given.pop("factors")
        return ref.linear_forward(x, W, factors, **given)

    return forward


def _mask_on_both_paths(*, x: Any, dropout_mask: Any, **_: Any) -> dict[str, Any]:
    return {} if dropout_mask is None else {"x": x * dropout_mask, "dropout_mask": None}


def _backward(change: Callable[[Any, Factors, Any, Any], tuple[Any, Factors]]) -> Callable[..., Any]:
    """A backward pass whose result *change* has altered."""

    def backward(dy: Any, cache: Any, /) -> Any:
        return change(*ref.linear_backward(dy, cache), dy, cache)

    return backward


def _dx_without_mask(dx: Any, grads: Factors, dy: Any, cache: Any) -> tuple[Any, Factors]:
    return ref.linear_backward(dy, cache._replace(dropout_mask=None))[0], grads


def _init(change: Callable[[Factors, Any, float], Factors]) -> Callable[..., Any]:
    """A start whose factors *change* has altered, given a second, independent stream and the standard deviation."""

    def init(rng: Any, d_out: int, d_in: int, r: int, /, *, std: float = 0.02, like: Any) -> Factors:
        drawn = ref.init_factors(rng, d_out, d_in, r, std=std, like=like)
        return Factors(*(a.astype(like.dtype) for a in change(drawn, rng, std)))

    return init


def _a_first(rng: Any, d_out: int, d_in: int, r: int, /, *, std: float = 0.02, like: Any) -> Factors:
    A, s, B = ref.init_factors(rng, d_in, d_out, r, std=std, like=like)
    return Factors(B.reshape(d_out, r), s, A.reshape(r, d_in))


def _orthonormal(factors: Factors) -> dict[str, Any]:
    B, s, A = factors
    if s.shape[0] > min(B.shape[0], A.shape[1]):
        return {}
    return {"factors": Factors(np.linalg.qr(B)[0], s, np.linalg.qr(A.T)[0].T)}


def _whole_output_scaled(
    x: Any, W: Any, factors: Factors, /, *, scale: float, bias: Any = None, dropout_mask: Any = None
) -> Any:
    y, cache = ref.linear_forward(x, W, factors, scale=1.0, bias=bias, dropout_mask=dropout_mask)
    return scale * y, cache


def _samples(dy: Any) -> int:
    return int(max(1, dy[..., 0].size))


def _with_ones_for_s(cache: Any) -> Any:
    B, s, A = cache.factors
    return cache._replace(factors=Factors(B, np.ones_like(s), A))


def _dA_without_mask(grads: Factors, dy: Any, cache: Any) -> Factors:
    return Factors(grads.B, grads.s, ref.linear_backward(dy, cache._replace(dropout_mask=None))[1].A)


def _without_s(factors: Factors) -> Factors:
    return Factors(factors.B, np.ones_like(factors.s), factors.A)


def _first_columns(factors: Factors) -> Factors:
    B, s, A = factors
    return Factors(B, s, np.where(np.arange(A.shape[1]) < 32, A, A * 0))


def _merging(name: str, change: Callable[[Any, Factors, float], tuple[Any, Factors, float]]) -> Callable[..., Any]:
    """`merge` or `unmerge`, with arguments that *change* has altered."""

    def merging(W: Any, factors: Factors, /, *, scale: float) -> Any:
        W, factors, scale = change(W, factors, scale)
        return getattr(ref, name)(W, factors, scale=scale)

    return merging


def _from_orthonormal_columns(factors: Factors, rng: Any, std: float) -> Factors:
    B, s, A = factors
    return Factors(np.linalg.qr(B)[0] if s.shape[0] <= B.shape[0] else B, s, A)


def _relu_between(
    x: Any, W: Any, factors: Factors, /, *, scale: float, bias: Any = None, dropout_mask: Any = None
) -> Any:
    B, s, A = factors
    hidden = x if dropout_mask is None else x * dropout_mask
    y = x @ W.T + scale * ((np.maximum(hidden @ A.T, 0) * s) @ B.T)
    options = {"scale": scale, "bias": bias, "dropout_mask": dropout_mask}
    return y if bias is None else y + bias, ref.linear_forward(x, W, factors, **options)[1]


def _first_sample_alone(dx: Any, grads: Factors, dy: Any, cache: Any) -> tuple[Any, Factors]:
    if dy.ndim == 1:
        return dx, grads
    mask = None if cache.dropout_mask is None else cache.dropout_mask[:1]
    first = ref.linear_forward(cache.x[:1], cache.W, cache.factors, scale=cache.scale, dropout_mask=mask)[1]
    return dx, ref.linear_backward(dy[:1], first)[1]


IN_LAYERS: tuple[Deviation, ...] = (
    Deviation(
        "s_starts_at_one",
        "init_factors",
        "s starts at one, so that ΔW is not zero",
        _init(lambda f, rng, std: Factors(f.B, f.s + 1, f.A)),
    ),
    Deviation(
        "s_starts_at_a_hundredth",
        "init_factors",
        "s starts at 0.01, so that ΔW is not zero",
        _init(lambda f, rng, std: Factors(f.B, f.s + 0.01, f.A)),
    ),
    Deviation(
        "s_is_drawn_too",
        "init_factors",
        "s is drawn from N(0, std²) after B and A, so that ΔW is not zero",
        _init(lambda f, rng, std: Factors(f.B, std * rng.standard_normal(f.s.shape), f.A)),
    ),
    Deviation("A_is_drawn_before_B", "init_factors", "A is drawn before B", _a_first),
    Deviation(
        "std_is_not_applied",
        "init_factors",
        "B and A are standard normal, whatever std is",
        _init(lambda f, rng, std: Factors(f.B / std, f.s, f.A / std)),
    ),
    Deviation(
        "std_by_the_sizes",
        "init_factors",
        "the variances of A and B are 1 / d_out and 1 / d_in instead of std²",
        _init(lambda f, rng, std: Factors(f.B / std / f.A.shape[1] ** 0.5, f.s, f.A / std / f.B.shape[0] ** 0.5)),
    ),
    Deviation(
        "B_starts_at_zero",
        "init_factors",
        "B starts at zero, as in LoRA",
        _init(lambda f, rng, std: Factors(0 * f.B, f.s, f.A)),
    ),
    Deviation(
        "B_starts_orthonormal",
        "init_factors",
        "B starts with orthonormal columns, the Q of a QR decomposition of what is drawn",
        _init(_from_orthonormal_columns),
    ),
    Deviation(
        "all_are_standard_normal",
        "init_factors",
        "B, A and s are standard normal, so that ΔW is not zero, as PEFT's init_lora_weights=False has it",
        _init(lambda f, rng, std: Factors(f.B / std, rng.standard_normal(f.s.shape), f.A / std)),
    ),
    Deviation(
        "scale_is_not_applied",
        "linear_forward",
        "the increment is not multiplied by the scale",
        _forward(lambda **_: {"scale": 1.0}),
    ),
    Deviation(
        "rank_plus_epsilon_in_scale",
        "linear_forward",
        "the scale is divided by 1 + 1e-5 / r, as α / (r + 1e-5) does",
        _forward(lambda factors, scale, **_: {"scale": scale * (r := factors.s.shape[0]) / (r + 1e-5)}),
    ),
    Deviation(
        "s_is_not_applied",
        "linear_forward",
        "the increment is B · A, without diag(s)",
        _forward(lambda factors, **_: {"factors": Factors(factors.B, np.ones_like(factors.s), factors.A)}),
    ),
    Deviation("bias_is_dropped", "linear_forward", "the bias is not added", _forward(lambda **_: {"bias": None})),
    Deviation(
        "mask_on_both_paths",
        "linear_forward",
        "dropout masks the input of the frozen weight too",
        _forward(_mask_on_both_paths),
    ),
    Deviation(
        "mask_is_ignored",
        "linear_forward",
        "the dropout mask is not applied",
        _forward(lambda **_: {"dropout_mask": None}),
    ),
    Deviation(
        "factors_are_orthonormalised",
        "linear_forward",
        "the forward pass replaces B and A by the orthonormal factors of their QR decompositions",
        _forward(lambda factors, **_: _orthonormal(factors)),
    ),
    Deviation(
        "B_is_reshaped",
        "linear_forward",
        "B is reshaped to (r, d_out) instead of transposed, which is right for r = 1 alone",
        _forward(
            lambda factors, **_: {"factors": Factors(factors.B.reshape(factors.B.shape[::-1]).T, *list(factors)[1:])}
        ),
    ),
    Deviation(
        "scale_on_both_paths",
        "linear_forward",
        "the whole output is multiplied by the scale, the frozen path too",
        _whole_output_scaled,
    ),
    Deviation(
        "scale_is_applied_twice",
        "linear_forward",
        "the increment is multiplied by the scale twice",
        _forward(lambda scale, **_: {"scale": scale * scale}),
    ),
    Deviation(
        "dx_lacks_the_frozen_path",
        "linear_backward",
        "dx is the gradient through the adapter alone, without dy W",
        _backward(lambda dx, grads, dy, cache: (dx - dy @ cache.W, grads)),
    ),
    Deviation(
        "dx_lacks_the_adapter",
        "linear_backward",
        "dx is dy W, without the path through the adapter",
        _backward(lambda dx, grads, dy, cache: (dy @ cache.W, grads)),
    ),
    Deviation(
        "dx_ignores_the_mask",
        "linear_backward",
        "dx through the adapter is not multiplied by the dropout mask",
        _backward(_dx_without_mask),
    ),
    Deviation(
        "ds_lacks_the_scale",
        "linear_backward",
        "ds is not multiplied by the scale",
        _backward(lambda dx, grads, dy, cache: (dx, Factors(grads.B, grads.s / cache.scale, grads.A))),
    ),
    Deviation(
        "dB_rows_are_reversed",
        "linear_backward",
        "the rows of dB are in reverse order",
        _backward(lambda dx, grads, dy, cache: (dx, Factors(grads.B[::-1], grads.s, grads.A))),
    ),
    Deviation(
        "dA_lacks_s",
        "linear_backward",
        "dA is not multiplied by s",
        _backward(
            lambda dx, grads, dy, cache: (
                dx,
                ref.linear_backward(
                    dy, cache._replace(factors=Factors(cache.factors.B, np.ones_like(cache.factors.s), cache.factors.A))
                )[1],
            )
        ),
    ),
    Deviation(
        "dx_lacks_s",
        "linear_backward",
        "dx through the adapter is not multiplied by s",
        _backward(lambda dx, grads, dy, cache: (ref.linear_backward(dy, _with_ones_for_s(cache))[0], grads)),
    ),
    Deviation(
        "dB_lacks_s",
        "linear_backward",
        "dB is made of u = x Aᵀ instead of z = u ⊙ s",
        _backward(
            lambda dx, grads, dy, cache: (
                dx,
                Factors(ref.linear_backward(dy, _with_ones_for_s(cache))[1].B, grads.s, grads.A),
            )
        ),
    ),
    Deviation(
        "dB_lacks_the_scale",
        "linear_backward",
        "dB is not multiplied by the scale",
        _backward(lambda dx, grads, dy, cache: (dx, Factors(grads.B / cache.scale, grads.s, grads.A))),
    ),
    Deviation(
        "dA_ignores_the_mask",
        "linear_backward",
        "dA is made of the input before dropout",
        _backward(lambda dx, grads, dy, cache: (dx, _dA_without_mask(grads, dy, cache))),
    ),
    Deviation(
        "ds_is_averaged",
        "linear_backward",
        "ds is the mean over samples instead of the sum",
        _backward(lambda dx, grads, dy, cache: (dx, Factors(grads.B, grads.s / _samples(dy), grads.A))),
    ),
    Deviation(
        "gradients_are_averaged",
        "linear_backward",
        "dB, ds and dA are means over samples instead of sums",
        _backward(lambda dx, grads, dy, cache: (dx, map_factors(lambda g: g / _samples(dy), grads))),
    ),
    Deviation(
        "increment_lacks_the_scale",
        "increment",
        "ΔW is not multiplied by the scale",
        lambda factors, /, *, scale: ref.increment(factors, scale=1.0),
    ),
    Deviation(
        "increment_lacks_s",
        "increment",
        "ΔW is scale · B · A, without diag(s)",
        lambda factors, /, *, scale: ref.increment(_without_s(factors), scale=scale),
    ),
    Deviation(
        "merge_lacks_the_scale",
        "merge",
        "what is added is not multiplied by the scale",
        _merging("merge", lambda W, factors, scale: (W, factors, 1.0)),
    ),
    Deviation(
        "merge_lacks_s",
        "merge",
        "what is added is scale · B · A, without diag(s)",
        _merging("merge", lambda W, factors, scale: (W, _without_s(factors), scale)),
    ),
    Deviation(
        "merge_returns_the_increment",
        "merge",
        "the result is ΔW alone, without W",
        _merging("merge", lambda W, factors, scale: (0 * W, factors, scale)),
    ),
    Deviation(
        "columns_beyond_32_are_left_out",
        "merge",
        "ΔW is added to the first 32 columns alone, as by a kernel that forgets what lies beyond its block",
        _merging("merge", lambda W, factors, scale: (W, _first_columns(factors), scale)),
    ),
    Deviation(
        "unmerge_adds",
        "unmerge",
        "ΔW is added once more instead of subtracted",
        _merging("merge", lambda *given: given),
    ),
    Deviation(
        "unmerge_lacks_the_scale",
        "unmerge",
        "what is subtracted is not multiplied by the scale",
        _merging("unmerge", lambda W, factors, scale: (W, factors, 1.0)),
    ),
    Deviation(
        "s_is_taken_without_sign",
        "linear_forward",
        "the increment is B · diag(|s|) · A, as if singular values could not be negative",
        _forward(lambda factors, **_: {"factors": Factors(factors.B, np.abs(factors.s), factors.A)}),
    ),
    Deviation(
        "inputs_beyond_32_are_left_out",
        "linear_forward",
        "the adapter sees the first 32 inputs alone, as by a kernel that forgets what lies beyond its block",
        _forward(lambda factors, **_: {"factors": _first_columns(factors)}),
    ),
    Deviation(
        "relu_between_A_and_B",
        "linear_forward",
        "a ReLU stands between A and B, as in a bottleneck adapter",
        _relu_between,
    ),
    Deviation(
        "A_is_reshaped",
        "linear_forward",
        "A is reshaped to (d_in, r) instead of transposed, which is right for r = 1 alone",
        _forward(
            lambda factors, **_: {"factors": Factors(factors.B, factors.s, factors.A.reshape(factors.A.shape[::-1]).T)}
        ),
    ),
    Deviation(
        "gradients_are_clipped_by_value",
        "linear_backward",
        "every entry of dB, ds and dA is clipped to [−1, 1]",
        _backward(lambda dx, grads, dy, cache: (dx, map_factors(lambda g: np.clip(g, -1, 1), grads))),
    ),
    Deviation(
        "gradients_of_the_first_sample",
        "linear_backward",
        "dB, ds and dA are made of the first sample alone",
        _backward(_first_sample_alone),
    ),
    Deviation(
        "ds_is_made_of_z",
        "linear_backward",
        "ds is made of z = u ⊙ s instead of u",
        _backward(lambda dx, grads, dy, cache: (dx, Factors(grads.B, grads.s * cache.factors.s, grads.A))),
    ),
    Deviation(
        "increment_is_divided_by_the_rank",
        "increment",
        "ΔW is divided by the rank once more, though the scale is α / r already",
        lambda factors, /, *, scale: ref.increment(factors, scale=scale / max(1, factors.s.shape[0])),
    ),
)
