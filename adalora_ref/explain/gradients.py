"""Layer and penalties, forward and backward, by the lines of the core."""

from __future__ import annotations

from functools import partial

from adalora_ref import orthogonality
from adalora_ref.array import namespace
from adalora_ref.explain import drawing
from adalora_ref.explain.drawing import SCALE, Options
from adalora_ref.explain.steps import Scope, Step, Worked, carried_out, given, named, scope_of
from adalora_ref.factors import Factors
from adalora_ref.linear import linear_backward, linear_forward


def layer(options: Options) -> Worked:
    """The adapted layer, forward and backward."""
    arrays, factors = drawing.layer(options)
    x, W, dy = arrays["x"], arrays["W"], arrays["dy"]
    y, cache = linear_forward(x, W, factors, scale=SCALE)
    dx, (dB, ds, dA) = linear_backward(dy, cache)
    starts = [given("x", x), given("W", W), *_factors(factors), given("dy", dy, "dy = ∂loss/∂y"), given("scale", SCALE)]
    scope = {"xw": x, "Ww": W, "mask": None, "b": None, "scale": SCALE, **named(factors)}
    forward = _forward(scope_of(linear_forward, **scope))
    u = next(step.value for step in forward if step.symbol == "u")
    backward = _backward(
        scope_of(linear_backward, xp=namespace(x), dy=dy, u=u, x_hat=x, W=W, mask=None, scale=SCALE, **named(factors))
    )
    returned = {"y": y, "dB": dB, "ds": ds, "dA": dA, "dx": dx}
    return Worked(starts, {"Forward": forward, "Backward": backward}, returned, "linear_forward and linear_backward")


def _forward(scope: Scope) -> list[Step]:
    step = partial(carried_out, scope, linear_forward)
    return [
        step("frozen", "x Wᵀ, the frozen part", "xw @ Ww.T"),
        step("x_hat", "x̂ = x ⊙ mask; there is no mask"),
        step("u", "u = x̂ Aᵀ"),
        step("z", "z = u ⊙ s"),
        step("zB", "z Bᵀ", "z @ B.T"),
        step("y", "y = x Wᵀ + scale · z Bᵀ", "y = xw"),
    ]


def _backward(scope: Scope) -> list[Step]:
    step = partial(carried_out, scope, linear_backward)
    return [
        step("dz", "dz = scale · dy B"),
        step("dB", "dB = scale · dyᵀ z"),
        step("du", "du = dz ⊙ s"),
        step("ds", "ds = Σ over rows of dz ⊙ u"),
        step("dA", "dA = duᵀ x̂"),
        step("dx_hat", "dx̂ = du A"),
        step("dx", "dx = dy W + dx̂ ⊙ mask", "dx = dy"),
    ]


def penalty(options: Options) -> Worked:
    """The squared penalty and its gradient."""
    factors = drawing.penalised(options)
    function = orthogonality.orthogonality_penalty
    scope = scope_of(function, xp=namespace(factors.B), **named(factors))
    step = partial(carried_out, scope, function)
    forward = [*_defects(scope), step("R", "R = ‖Z_B‖²_F + ‖Z_A‖²_F, sums of squares")]
    backward = [
        step("dB", "dB = 4 B Z_B"),
        step("dA", "dA = 4 Z_A A"),
        step("ds", "ds = 0: R knows nothing of s", "xp.zeros_like(s)"),
    ]
    R, (dB, ds, dA) = function(factors)
    returned = {"R": R, "dB": dB, "dA": dA, "ds": ds}
    return Worked(_factors(factors), {"Forward": forward, "Backward": backward}, returned, "orthogonality_penalty")


def norm(options: Options) -> Worked:
    """The penalty without the square, as in the released code, and its gradient."""
    factors = drawing.penalised(options, whole_norms=True)
    function = orthogonality.orthogonality_norm
    scope = scope_of(function, xp=namespace(factors.B), **named(factors))
    step = partial(carried_out, scope, function)
    forward = [
        *_defects(scope),
        step("norm_B", "‖Z_B‖_F", "xp.sqrt(xp.sum(Z_B * Z_B))"),
        step("norm_A", "‖Z_A‖_F", "xp.sqrt(xp.sum(Z_A * Z_A))"),
        step("R", "R = ‖Z_B‖_F + ‖Z_A‖_F", "norm_B + norm_A"),
    ]
    backward = [
        step("dB", "dB = 2 B Z_B / ‖Z_B‖_F, and 0 where the norm is 0"),
        step("dA", "dA = 2 Z_A A / ‖Z_A‖_F, and 0 where the norm is 0"),
        step("ds", "ds = 0: R knows nothing of s", "xp.zeros_like(s)"),
    ]
    R, (dB, ds, dA) = function(factors)
    returned = {"R": R, "dB": dB, "dA": dA, "ds": ds}
    return Worked(_factors(factors), {"Forward": forward, "Backward": backward}, returned, "orthogonality_norm")


def _defects(scope: Scope) -> list[Step]:
    scope["identity"] = scope["xp"].eye(scope["s"].shape[0])
    step = partial(carried_out, scope, orthogonality._defects)  # noqa: SLF001 -- its lines are shown
    return [
        step("Z_B", "Z_B = BᵀB − I", "B.T @ B - identity"),
        step("Z_A", "Z_A = AAᵀ − I", "A @ A.T - identity"),
    ]


def _factors(factors: Factors) -> list[Step]:
    return [given(name, a) for name, a in named(factors).items()]
