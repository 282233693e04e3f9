"""The rounding-error bounds: what they must cover, which is every correct order, and what they must not."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adalora_ref as ref
from adalora_ref.conformance import cases, oracles
from adalora_ref.conformance.bounds import ARITHMETIC, DIGITS
from adalora_ref.conformance.cases import Draw
from adalora_ref.conformance.expectations import ADAM
from adalora_ref.conformance.lifting import evaluate, lift, ratio
from adalora_ref.conformance.target import leaves

_spec = importlib.util.spec_from_file_location(
    "rounding_error", Path(__file__).parent / "benchmarks" / "rounding_error.py"
)
assert _spec is not None
assert _spec.loader is not None
rounding_error = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(rounding_error)


def worst(got: Any, want: dict[str, Any]) -> float:
    """Return the largest ratio over all results; without one there is nothing to compare, an error."""
    return float(np.max(np.concatenate([np.ravel(ratio(value, want[path])) for path, value in leaves(got)])))


# THE CORE LIES WITHIN


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("stage", rounding_error.TRIALS)
def test_the_core_lies_within_its_bounds(stage: str, dtype: str) -> None:
    """Every element of 100 random cases lies within, ordinary and as in training, rank 0 and n = 0 included."""
    found = [m for index in range(100) for m in rounding_error.measure(stage, index, dtype, seed=1)]
    assert len(found) >= 100
    assert max(m.ratio for m in found) <= 1.0
    assert sum(m.unbounded for m in found) <= len(found) / 20


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    "stage", ["linear_forward", "linear_backward", "merge", "orthogonality_penalty", "update_importance", "adamw_step"]
)
def test_the_core_lies_within_its_bounds_in_16_bits(stage: str, dtype: str) -> None:
    """Computed in float32 and rounded once, a 16-bit result lies within a bound that says just that."""
    found = [m for index in range(40) for m in rounding_error.measure(stage, index, dtype, seed=2)]
    assert len(found) >= 40
    assert max(m.ratio for m in found) <= 1.0


# EVERY CORRECT ORDER LIES WITHIN


def flush(a: Any) -> Any:
    """Flush what is subnormal in float32 to zero."""
    return np.float32(0.0) if 0 < abs(a) < ARITHMETIC["float32"].tiny else np.float32(a)


def added(terms: list[Any]) -> Any:
    """Add from left to right in float32, flushing."""
    held = np.float32(0.0)
    for term in terms:
        held = flush(held + term)
    return held


def pairwise(terms: list[Any]) -> Any:
    """Add halves."""
    if len(terms) < 2:
        return added(terms)
    middle = len(terms) // 2
    return flush(pairwise(terms[:middle]) + pairwise(terms[middle:]))


ORDERS: dict[str, Callable[[list[Any]], Any]] = {
    "left to right": added,
    "reversed": lambda terms: added(terms[::-1]),
    "pairwise": pairwise,
    "largest first": lambda terms: added(sorted(terms, key=abs, reverse=True)),
    "ascending": lambda terms: added(sorted(terms)),
    "positive, then negative": lambda terms: added([t for t in terms if t >= 0] + [t for t in terms if t < 0]),
}


def times(*numbers: Any) -> Any:
    """Multiply from left to right in float32, flushing."""
    held = numbers[0]
    for factor in numbers[1:]:
        held = flush(held * factor)
    return held


def drawn(seed: int) -> tuple[Any, Any, ref.Factors, Any]:
    """Draw x, W, factors and dy in float32: ordinary, as in training, near underflow, or of mixed magnitude."""
    rng = np.random.default_rng(seed)
    d_out, d_in, r, n = (int(d) for d in rng.integers(1, [5, 40, 5, 5]))
    spread = [lambda: 1.0, lambda: 0.02, lambda: 1e-13, lambda: 10.0 ** rng.integers(-12, 9)][seed % 4]

    def normal(*shape: int) -> Any:
        return (rng.standard_normal(shape) * spread()).astype(np.float32)

    return (
        normal(n, d_in),
        normal(d_out, d_in),
        ref.Factors(normal(d_out, r), normal(r), normal(r, d_in)),
        normal(n, d_out),
    )


def forward_chain(x: Any, W: Any, factors: ref.Factors, c: Any, add: Any) -> Any:
    """Compute u, z and y by the given order of sums, each row of y as its own sums."""
    B, s, A = factors
    u = [[add([times(*p) for p in zip(row, a, strict=True)]) for a in A] for row in x]
    return [
        [
            flush(
                add([times(*p) for p in zip(row, w, strict=True)])
                + times(c, add([times(b[k], flush(u[n][k] * s[k])) for k in range(len(s))]))
            )
            for w, b in zip(W, B, strict=True)
        ]
        for n, row in enumerate(x)
    ]


def forward_one_sum(x: Any, W: Any, factors: ref.Factors, c: Any, add: Any) -> Any:
    """Compute y as one sum over all monomials, accumulated into one register, factors in another order."""
    B, s, A = factors
    d_out, d_in = W.shape
    return [
        [
            add(
                [times(row[i], W[j, i]) for i in range(d_in)]
                + [add([times(s[k], c, A[k, i], row[i], B[j, k]) for i in range(d_in)]) for k in range(len(s))]
            )
            for j in range(d_out)
        ]
        for row in x
    ]


def forward_merged(x: Any, W: Any, factors: ref.Factors, c: Any, add: Any) -> Any:
    """Compute x (W + ΔW)ᵀ."""
    B, s, A = factors
    (d_out, d_in), r = W.shape, range(len(s))
    merged = [
        [flush(W[j, i] + times(c, add([times(times(B[j, k], A[k, i]), s[k]) for k in r]))) for i in range(d_in)]
        for j in range(d_out)
    ]
    return [[add([times(*p) for p in zip(row, w, strict=True)]) for w in merged] for row in x]


@pytest.mark.filterwarnings("ignore:underflow")
@pytest.mark.parametrize("form", [forward_chain, forward_one_sum, forward_merged])
@pytest.mark.parametrize("order", ORDERS)
def test_every_order_of_the_layer_lies_within(form: Callable[..., Any], order: str) -> None:
    """Reordered sums, reordered products, merged weights and flushed underflow lie within one bound, in float32."""
    for seed in range(8):
        x, W, factors, _ = drawn(seed)
        y = np.asarray(form(x, W, factors, np.float32(0.375), ORDERS[order]), dtype=np.float32)
        want = evaluate(oracles.linear_forward, x, W, factors, scale=0.375, working="float32", like=y)
        assert np.all(np.isfinite(want[""].error))
        assert worst(y, want) <= 1.0, seed


def test_gradients_through_the_merged_weight_lie_within() -> None:
    """With D = dyᵀ x: dx = dy (W + ΔW), and c · D Aᵀ diag(s), c · diag(Bᵀ D Aᵀ), c · diag(s) Bᵀ D for dB, ds, dA."""
    c = np.float32(1 / 3)
    for seed in range(24):
        x, W, (B, s, A), dy = drawn(seed)
        D = dy.T @ x
        dx = dy @ (W + c * ((B * s) @ A))
        grads = ref.Factors(c * ((D @ A.T) * s), c * np.einsum("jk,ji,ki->k", B, D, A), c * (s[:, None] * (B.T @ D)))
        inputs = (dy, x, W, ref.Factors(B, s, A))
        want = evaluate(oracles.linear_backward, *inputs, scale=float(c), working="float32", like=(dx, grads))
        assert worst((dx, grads), want) <= 1.0, seed


BETA1, BETA2 = np.float32(0.85), np.float32(0.9)


def interpolated(state: ref.Importance, I: ref.Factors) -> ref.Importance:
    """Ī + (1 − β1)(I − Ī), and Ū likewise towards β1 |I − Ī|, which is |I − Ī_new|."""
    mean_ = ref.map_factors(lambda old, new: old + (1 - BETA1) * (new - old), state.sensitivity, I)
    gap = ref.map_factors(lambda old, new: BETA1 * abs(new - old), state.sensitivity, I)
    return ref.Importance(
        mean_, ref.map_factors(lambda old, new: old + (1 - BETA2) * (new - old), state.uncertainty, gap)
    )


def test_other_forms_of_the_averages_lie_within() -> None:
    """Interpolation, and |I − Ī_new| = β1 |I − Ī_old|, lie within the bounds of the averages."""
    for index in range(200):
        draw = Draw(np.random.default_rng([3, index]), "float32", index)
        w, g = draw.factors(3, 2, 2), draw.factors(3, 2, 2, typical=1e-7)
        state = ref.Importance(draw.averages(w, typical=2e-9), draw.averages(w, typical=2e-9))
        got = interpolated(state, ref.map_factors(lambda w, g: abs(w * g), w, g))
        want = evaluate(oracles.update_importance, state, w, g, beta1=0.85, beta2=0.9, working="float32", like=got)
        assert worst(got, want) <= 1.0, index


def test_other_forms_of_the_penalty_lie_within() -> None:
    """A squared norm for the sum of squares, and B (BᵀB) − B for B (BᵀB − I), lie within, on eighths too."""
    for seed in range(60):
        B, s, A = drawn([0, 1, 5][seed % 3] + 4 * (seed // 3))[2]
        if seed % 2:
            B, A = (np.round(8 * a) / 8 for a in (B, A))
        Z_B, Z_A = B.T @ B - np.eye(len(s), dtype=B.dtype), A @ A.T - np.eye(len(s), dtype=A.dtype)
        R = np.linalg.norm(Z_B) ** 2 + np.linalg.norm(Z_A) ** 2
        got = (np.asarray(R), ref.Factors(4 * ((B @ B.T) @ B - B), s * 0, 4 * (A @ (A.T @ A) - A)))
        want = evaluate(oracles.orthogonality_penalty, ref.Factors(B, s, A), working="float32", like=got)
        assert worst(got, want) <= 1.0, seed


def adamw_otherwise(i: dict[str, Any]) -> Any:
    """Interpolate the first moment; divide the root by the root of its correction, and the rate by the other."""
    rate, decay, t = i["learning_rate"], i["weight_decay"] or 0.0, i["state"].steps + 1
    length, root = np.float32(rate / (1 - 0.9**t)), np.float32(math.sqrt(1 - 0.999**t))

    def first(m: Any, g: Any) -> Any:
        return m + np.float32(1 - 0.9) * (g - m)

    def second(v: Any, g: Any) -> Any:
        return v * np.float32(0.999) + np.float32(1 - 0.999) * g * g

    def moved(w: Any, m: Any, v: Any) -> Any:
        return w * np.float32(1 - rate * decay) - length * m / (np.sqrt(v) / root + np.float32(1e-8))

    m, v = (ref.map_factors(f, held, i["grads"]) for f, held in zip((first, second), i["state"], strict=False))
    return ref.map_factors(moved, i["weights"], m, v), ref.AdamState(m, v, t)


def test_adamw_in_another_arrangement_lies_within() -> None:
    """Interpolation, √v / √correction + ε and a rate divided by the other correction, as in torch, lie within."""
    for index in range(200):
        i = cases.optimiser(Draw(np.random.default_rng([4, index]), "float32", index))
        got = adamw_otherwise(i)
        rates = {"learning_rate": i["learning_rate"], "weight_decay": i["weight_decay"] or 0.0, **ADAM}
        want = evaluate(oracles.adamw_step, i["weights"], i["grads"], i["state"], **rates, working="float32", like=got)
        assert worst(got, want) <= 1.0, index


# NO MISTAKE LIES WITHIN


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_deviation_from_the_previous_mean_exceeds(dtype: str) -> None:
    """Ū from Ī before the update is outside, at training's magnitudes, where scores are near 1e-14."""
    draw = Draw(np.random.default_rng(5), dtype, 2)
    w, g = draw.factors(3, 2, 2), draw.factors(3, 2, 2, typical=1e-7)
    state = ref.Importance(draw.averages(w, typical=2e-9), draw.averages(w, typical=2e-9))
    right = ref.update_importance(state, w, g, beta1=0.85, beta2=0.85)
    stale = ref.map_factors(
        lambda U, old, w, g: (0.85 * U + (1 - 0.85) * abs(abs(w * g) - old)).astype(dtype),
        state.uncertainty,
        state.sensitivity,
        w,
        g,
    )
    want = evaluate(oracles.update_importance, state, w, g, beta1=0.85, beta2=0.85, working=dtype, like=right)
    assert worst(right, want) <= 1.0
    assert worst(ref.Importance(right.sensitivity, stale), want) > 1000.0


def test_an_epsilon_in_the_rank_exceeds_in_float64() -> None:
    """A scale of α / (r + 1e-5) is outside, by far: a relative error of 1e-6 against one of 1e-15."""
    x, W, factors, _ = (
        ref.Factors(*(a.astype(float) for a in v)) if isinstance(v, ref.Factors) else v.astype(float) for v in drawn(1)
    )
    r = factors.s.shape[0]
    y, _ = ref.linear_forward(x, W, factors, scale=3.0 / (r + 1e-5))
    want = evaluate(oracles.linear_forward, x, W, factors, scale=3.0 / r, working="float64", like=y)
    assert worst(y, want) > 1000.0


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_dropped_term_exceeds(dtype: str) -> None:
    """One monomial of thousands left out of y, dB, dA or the score is outside."""
    x, W, (B, s, A), dy = drawn(5)
    x, W, B, s, A, dy = (a.astype(dtype) for a in (x, W, B, s, A, dy))
    factors = ref.Factors(B, s, A)
    y, cache = ref.linear_forward(x, W, factors, scale=0.375)
    want = evaluate(oracles.linear_forward, x, W, factors, scale=0.375, working=dtype, like=y)
    lacking = y.copy()
    lacking[0, 0] -= 0.375 * x[0, 0] * A[0, 0] * s[0] * B[0, 0]
    assert worst(y, want) <= 1.0 < worst(lacking, want)
    grads = ref.linear_backward(dy, cache)[1]
    want = evaluate(
        lambda *a, **k: oracles.linear_backward(*a, **k)[1], dy, x, W, factors, scale=0.375, working=dtype, like=grads
    )
    lacking_B, lacking_A = grads.B.copy(), grads.A.copy()
    lacking_B[0, 0] -= 0.375 * dy[0, 0] * x[0, 0] * A[0, 0] * s[0]
    lacking_A[0, 0] -= 0.375 * dy[0, 0] * x[0, 0] * B[0, 0] * s[0]
    assert worst(grads, want) <= 1.0
    assert worst(ref.Factors(lacking_B, grads.s, grads.A), want) > 1.0
    assert worst(ref.Factors(grads.B, grads.s, lacking_A), want) > 1.0


def test_reversed_rows_of_a_gradient_exceed() -> None:
    """The rows of dB in reverse order are outside; a gradient of ones at the output could not tell."""
    x, W, factors, dy = drawn(9)
    grads = ref.linear_backward(dy, ref.linear_forward(x, W, factors, scale=1.0)[1])[1]
    want = evaluate(
        lambda *a, **k: oracles.linear_backward(*a, **k)[1], dy, x, W, factors, scale=1.0, working="float32", like=grads
    )
    assert len(grads.B) > 1
    assert worst(ref.Factors(grads.B[::-1], grads.s, grads.A), want) > 1000.0


@pytest.mark.parametrize("bits", [10, 7])
def test_a_silent_downgrade_exceeds(bits: int) -> None:
    """Inputs rounded to 10 bits (TF32) or 7 bits (bfloat16) before the products are outside in float32."""

    def short(a: Any) -> Any:
        mantissa, exponent = np.frexp(a)
        return np.ldexp(np.round(mantissa * 2.0 ** (bits + 1)), exponent - bits - 1).astype(np.float32)

    x, W, (B, s, A), _ = drawn(0)
    y, _ = ref.linear_forward(short(x), short(W), ref.Factors(short(B), s, short(A)), scale=1.0)
    want = evaluate(oracles.linear_forward, x, W, ref.Factors(B, s, A), scale=1.0, working="float32", like=y)
    assert worst(y, want) > 1.0


def test_one_pass_gives_value_and_bound() -> None:
    """The value of a `Bounded` result is the one that plain 50-digit numbers give."""
    inputs = drawn(2)[:3]
    y = np.zeros((len(inputs[0]), len(inputs[1])))
    want = evaluate(oracles.linear_forward, *inputs, scale=0.375, working="float64", like=y)[""]
    plain = oracles.linear_forward(*lift(inputs, DIGITS.mpf), scale=DIGITS.mpf(0.375))
    for (n, j), high in np.ndenumerate(want.high):
        gap = DIGITS.mpf(float(high)) + float(want.low[n, j]) - plain[n][j]
        assert abs(gap) <= abs(plain[n][j]) * DIGITS.mpf(2) ** -100
