"""Laws of the layer: adjoints, linearity, symmetry, and what a zero of s means."""

from __future__ import annotations

from typing import Any

import numpy as np

from adalora_ref import strategies
from adalora_ref.conformance.cases import Inputs
from adalora_ref.factors import Factors
from adalora_ref.laws.asking import Asked
from adalora_ref.laws.law import Law
from adalora_ref.laws.layer_cases import (
    BACKWARD,
    FORWARD,
    given,
    layers,
    replaced,
    turned_inputs,
    two_ways,
    weight_of,
    with_order,
    with_second,
    with_signs,
)
from adalora_ref.laws.measured import dot, equal, exact

# ADJOINTS


def adjoint_in_x(it: Asked, case: Inputs) -> None:
    """dx is the adjoint of the derivative in x: ⟨dy, J v⟩ = ⟨dx, v⟩, J v being the layer at x = v without bias."""
    moved, dx = it("linear_forward", given(case, x=case["other x"], bias=None)).y, it("linear_backward", given(case)).dx
    equal("⟨dy, J v⟩", dot(exact(case["dy"]), moved), "⟨dx, v⟩", dot(dx, exact(case["other x"])))


def _adjoint(it: Asked, case: Inputs, part: str) -> None:
    """y is linear in each of B, s and A, so J v = y(v) − y(0)."""
    v = case[f"other {part}"]
    ends = (it("linear_forward", given(case, factors=replaced(case["factors"], **{part: a}))).y for a in (v, 0 * v))
    at_v, at_zero = ends
    gradient = getattr(it("linear_backward", given(case)).d, part)
    equal("⟨dy, J v⟩", dot(exact(case["dy"]), at_v - at_zero), f"⟨d{part}, v⟩", dot(gradient, exact(v)))


def adjoint_in_B(it: Asked, case: Inputs) -> None:
    """dB is the adjoint of the derivative in B: ⟨dy, J v⟩ = ⟨dB, v⟩."""
    _adjoint(it, case, "B")


def adjoint_in_s(it: Asked, case: Inputs) -> None:
    """ds is the adjoint of the derivative in s: ⟨dy, J v⟩ = ⟨ds, v⟩."""
    _adjoint(it, case, "s")


def adjoint_in_A(it: Asked, case: Inputs) -> None:
    """dA is the adjoint of the derivative in A: ⟨dy, J v⟩ = ⟨dA, v⟩."""
    _adjoint(it, case, "A")


def triplet_balance(it: Asked, case: Inputs) -> None:
    """The task gradient of every triplet balances: Σ_j B_ji dB_ji = s_i ds_i = Σ_j A_ij dA_ij."""
    (B, s, A), d = map(exact, case["factors"]), it("linear_backward", given(case)).d
    equal("Σ B ⊙ dB", np.sum(B * d.B, axis=0), "s ⊙ ds", s * d.s)
    equal("Σ A ⊙ dA", np.sum(A * d.A, axis=1), "s ⊙ ds", s * d.s)


def second_order_symmetry(it: Asked, case: Inputs) -> None:
    """Over x, B, s, A and dy jointly the second derivatives of ⟨dy, y⟩ are symmetric: ⟨u, D∇[v]⟩ = ⟨v, D∇[u]⟩."""
    ways = [[case[f"{which}{name}"] for name in ("x", "B", "s", "A", "dy")] for which in ("other ", "third ")]
    u, v = ([exact(part) for part in way] for way in ways)
    along_u, along_v = (_slope(it, case, way) for way in ways)
    both = [sum(dot(a, b) for a, b in zip(*pair, strict=True)) for pair in ((u, along_v), (v, along_u))]
    equal("⟨u, D∇[v]⟩", both[0], "⟨v, D∇[u]⟩", both[1])


def _slope(it: Asked, case: Inputs, way: list[Any]) -> list[Any]:
    """The derivative along *way* of all gradients, by five points: exact, as they are polynomials of degree 4."""
    weights = {-2: 1, -1: -8, 1: 8, 2: -1}
    return [sum(parts) for parts in zip(*([w * g for g in _gradients(it, case, way, t)] for t, w in weights.items()),
                                        strict=True)]  # fmt: skip


def _gradients(it: Asked, case: Inputs, way: list[Any], t: int) -> list[Any]:
    x, B, s, A, dy = (a + t * moved for a, moved in zip((case["x"], *case["factors"], case["dy"]), way, strict=True))
    there = given(case, x=x, factors=Factors(B, s, A), dy=dy, bias=None)
    back = it("linear_backward", there)
    return [back.dx, *back.d, it("linear_forward", there).y]


# LINEARITY


def linear_in_s(it: Asked, case: Inputs) -> None:
    """y is linear in s beside the frozen path: y(s + t) + y(0) = y(s) + y(t)."""
    s, t = case["factors"].s, case["other s"]
    both, none, first, second = (
        it("linear_forward", given(case, factors=replaced(case["factors"], s=a))).y for a in (s + t, 0 * s, s, t)
    )
    equal("y(s + t) + y(0)", both + none, "y(s) + y(t)", first + second)


def increment_is_linear_in_s(it: Asked, case: Inputs) -> None:
    """The increment is linear in s: ΔW(s + t) = ΔW(s) + ΔW(t)."""
    s, t = case["factors"].s, case["other s"]
    both, first, second = (
        it("increment", weight_of(case, factors=replaced(case["factors"], s=a))).ΔW for a in (s + t, s, t)
    )
    equal("ΔW(s + t)", both, "ΔW(s) + ΔW(t)", first + second)


def linear_in_x(it: Asked, case: Inputs) -> None:
    """Without bias the layer is linear in x: y(x + v) = y(x) + y(v)."""
    x, v = case["x"], case["other x"]
    both, first, second = (it("linear_forward", given(case, x=a, bias=None)).y for a in (x + v, x, v))
    equal("y(x + v)", both, "y(x) + y(v)", first + second)


def linear_in_dy(it: Asked, case: Inputs) -> None:
    """All gradients are linear in dy: g(dy + v) = g(dy) + g(v)."""
    dy, v = case["dy"], case["other dy"]
    both, first, second = (it("linear_backward", given(case, dy=a)) for a in (dy + v, dy, v))
    equal("dx(dy + v)", both.dx, "dx(dy) + dx(v)", first.dx + second.dx)
    for part in "BsA":
        a, b, c = (getattr(answer.d, part) for answer in (both, first, second))
        equal(f"d{part}(dy + v)", a, f"d{part}(dy) + d{part}(v)", b + c)


def linear_in_the_scale(it: Asked, case: Inputs) -> None:
    """The increment is proportional to the scale: y(2c) + y(0) = 2 y(c)."""
    c = case["scale"]
    twice, none, once = (it("linear_forward", given(case, scale=k)).y for k in (2 * c, 0.0, c))
    equal("y(2c) + y(0)", twice + none, "2 y(c)", 2 * once)


def bias_is_added(it: Asked, case: Inputs) -> None:
    """The bias is added to every row: y(b) = y(0) + b."""
    y, bare = (it("linear_forward", given(case, bias=b)).y for b in (case["bias"], None))
    equal("y with b", y, "y without + b", bare + exact(case["bias"]))


def mask_acts_on_the_adapter_alone(it: Asked, case: Inputs) -> None:
    """Dropout masks the adapter's input alone: y(x, M) − x Wᵀ = y(x ⊙ M) − (x ⊙ M) Wᵀ."""
    x, W, hidden = case["x"], exact(case["W"]), case["x"] * case["dropout_mask"]
    masked = it("linear_forward", given(case)).y
    bare = it("linear_forward", given(case, x=hidden, dropout_mask=None)).y
    equal("y(x, M) − x Wᵀ", masked - exact(x) @ W.T, "y(x ⊙ M) − (x ⊙ M) Wᵀ", bare - exact(hidden) @ W.T)


# SYMMETRY


def permuting_triplets(it: Asked, case: Inputs) -> None:
    """The order of the triplets is a matter of names: y(B[:, p], s[p], A[p]) = y, and the gradients are permuted."""
    p, (B, s, A) = case["order"], case["factors"]
    moved = given(case, factors=Factors(B[:, p], s[p], A[p]))
    equal("y permuted", it("linear_forward", moved).y, "y", it("linear_forward", given(case)).y)
    there, here = it("linear_backward", moved), it("linear_backward", given(case))
    equal("dx permuted", there.dx, "dx", here.dx)
    for part, want in zip("BsA", (here.d.B[:, p], here.d.s[p], here.d.A[p]), strict=True):
        equal(f"d{part} of the permuted", getattr(there.d, part), f"d{part} permuted", want)


def permuting_samples(it: Asked, case: Inputs) -> None:
    """Samples are a set: y and dx of permuted samples are permuted, dB, ds and dA stay."""
    p, mask = case["order"], case["dropout_mask"]
    moved = given(case, x=case["x"][p], dy=case["dy"][p], dropout_mask=None if mask is None else mask[p])
    equal("y of the permuted", it("linear_forward", moved).y, "y[p]", it("linear_forward", given(case)).y[p])
    there, here = it("linear_backward", moved), it("linear_backward", given(case))
    equal("dx of the permuted", there.dx, "dx[p]", here.dx[p])
    for part, a, b in zip("BsA", there.d, here.d, strict=True):
        equal(f"d{part} of the permuted", a, f"d{part}", b)


def permuting_outputs(it: Asked, case: Inputs) -> None:
    """Permuting the rows of W, B, b and dy permutes y and dB, and leaves dx, ds and dA."""
    p, bias = case["order"], case["bias"]
    B, s, A = case["factors"]
    changed = {"W": case["W"][p], "factors": Factors(B[p], s, A), "dy": case["dy"][:, p]}
    moved = given(case, **changed, bias=None if bias is None else bias[p])
    equal("y of the permuted", it("linear_forward", moved).y, "y[:, p]", it("linear_forward", given(case)).y[:, p])
    there, here = it("linear_backward", moved), it("linear_backward", given(case))
    equal("dB of the permuted", there.d.B, "dB[p]", here.d.B[p])
    equal("ds of the permuted", there.d.s, "ds", here.d.s)
    equal("dA of the permuted", there.d.A, "dA", here.d.A)
    equal("dx of the permuted", there.dx, "dx", here.dx)


def turning_signs(it: Asked, case: Inputs) -> None:
    """(B_i, s_i) → (−B_i, −s_i) leaves y, dx and dA, and turns the signs of dB_i and ds_i."""
    e, (B, s, A) = case["signs"], case["factors"]
    moved = given(case, factors=Factors(B * e, s * e, A))
    equal("y of the turned", it("linear_forward", moved).y, "y", it("linear_forward", given(case)).y)
    there, here, signs = it("linear_backward", moved), it("linear_backward", given(case)), exact(e)
    equal("dx of the turned", there.dx, "dx", here.dx)
    equal("dB of the turned", there.d.B, "± dB", here.d.B * signs)
    equal("ds of the turned", there.d.s, "± ds", here.d.s * signs)
    equal("dA of the turned", there.d.A, "dA", here.d.A)


def turning_inputs(it: Asked, case: Inputs) -> None:
    """Without bias and mask, x Q, W Q and A Q for orthogonal Q give the same y, and dx Q and dA Q."""
    Q, (B, s, A) = case["turn"], case["factors"]
    moved = given(case, x=case["x"] @ Q, W=case["W"] @ Q, factors=Factors(B, s, A @ Q))
    equal("y of the turned", it("linear_forward", moved).y, "y", it("linear_forward", given(case)).y)
    there, here, turn = it("linear_backward", moved), it("linear_backward", given(case)), exact(Q)
    equal("dx of the turned", there.dx, "dx Q", here.dx @ turn)
    equal("dA of the turned", there.d.A, "dA Q", here.d.A @ turn)


def leading_axes_are_samples(it: Asked, case: Inputs) -> None:
    """Leading axes count samples: x of shape (2, n, d_in) gives what its 2n rows give."""
    folded = {
        name: a if a is None else a.reshape(2, -1, a.shape[1])
        for name, a in ((name, case[name]) for name in ("x", "dy", "dropout_mask"))
    }
    there, here = (it("linear_forward", c).y for c in (given(case, **folded), given(case)))
    equal("y, flattened", there.reshape(here.shape), "y of the rows", here)
    back, rows = it("linear_backward", given(case, **folded)), it("linear_backward", given(case))
    equal("dx, flattened", back.dx.reshape(rows.dx.shape), "dx of the rows", rows.dx)
    for part, a, b in zip("BsA", back.d, rows.d, strict=True):
        equal(f"d{part}", a, f"d{part} of the rows", b)


# A ZERO OF S


def no_gradient_through_a_zero(it: Asked, case: Inputs) -> None:
    """With s_i = 0 the task gradient of B_i and of A_i is zero."""
    B, s, A = case["factors"]
    d = it("linear_backward", given(case, factors=Factors(B, 0 * s, A))).d
    equal("dB at s = 0", d.B, "0", 0 * exact(B))
    equal("dA at s = 0", d.A, "0", 0 * exact(A))


def ds_is_free_of_s(it: Asked, case: Inputs) -> None:
    """ds does not depend on s, so that a triplet at zero can return: ds(s) = ds(t)."""
    here, there = (
        it("linear_backward", given(case, factors=replaced(case["factors"], s=s))).d.s
        for s in (case["factors"].s, case["other s"])
    )
    equal("ds at s", here, "ds at t", there)


PAIRS = strategies.sizes(1, 2).map(lambda n: 2 * n)

LAYER_LAWS: tuple[Law, ...] = (
    Law(adjoint_in_x, BACKWARD, with_second("x"), "dx_lacks_the_adapter"),
    Law(adjoint_in_B, BACKWARD, with_second("B"), "dB_rows_are_reversed"),
    Law(adjoint_in_s, BACKWARD, with_second("s"), "ds_is_averaged"),
    Law(adjoint_in_A, BACKWARD, with_second("A"), "dA_ignores_the_mask"),
    Law(triplet_balance, BACKWARD, layers, "dB_lacks_the_scale"),
    Law(second_order_symmetry, BACKWARD, two_ways, "dx_lacks_s"),
    Law(linear_in_s, FORWARD, with_second("s"), "s_is_taken_without_sign"),
    Law(increment_is_linear_in_s, ("increment",), with_second("s"), "increment_lacks_s"),
    Law(linear_in_x, FORWARD, with_second("x"), "relu_between_A_and_B"),
    Law(linear_in_dy, BACKWARD, with_second("dy"), "gradients_are_clipped_by_value"),
    Law(linear_in_the_scale, FORWARD, layers, "scale_is_applied_twice"),
    Law(bias_is_added, FORWARD, lambda dtype: layers(dtype, bias=True), "bias_is_dropped", ("bias",)),
    Law(
        mask_acts_on_the_adapter_alone, FORWARD, lambda dtype: layers(dtype, dropout=True), "mask_on_both_paths",
        ("dropout_mask",),
    ),
    Law(permuting_triplets, BACKWARD, with_order("r"), "B_is_reshaped"),
    Law(permuting_samples, BACKWARD, with_order("n"), "gradients_of_the_first_sample"),
    Law(permuting_outputs, BACKWARD, with_order("d_out"), "dB_rows_are_reversed"),
    Law(turning_signs, BACKWARD, with_signs, "s_is_taken_without_sign"),
    Law(turning_inputs, BACKWARD, turned_inputs, "A_is_reshaped"),
    Law(leading_axes_are_samples, BACKWARD, lambda dtype: layers(dtype, n=PAIRS), "gradients_of_the_first_sample"),
    Law(no_gradient_through_a_zero, BACKWARD, layers, "dA_lacks_s"),
    Law(ds_is_free_of_s, BACKWARD, with_second("s"), "ds_is_made_of_z"),
)  # fmt: skip
