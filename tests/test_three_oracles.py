"""Three oracles on drawn cases: the reference, plain loops on fractions, and plain loops at fifty digits."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from adalora_ref import strategies
from adalora_ref.conformance import oracle_run, oracles
from adalora_ref.conformance.bounds import DIGITS
from adalora_ref.conformance.deviations import reference
from adalora_ref.conformance.lifting import lift
from adalora_ref.conformance.target import Target
from adalora_ref.laws.allocation import budgets, costs
from adalora_ref.laws.asking import Asked
from adalora_ref.laws.budget import schedules
from adalora_ref.laws.importance import optimised, states, updates
from adalora_ref.laws.layer_cases import layers, with_keep
from adalora_ref.laws.penalty import some_factors
from adalora_ref.laws.runs import steps
from adalora_ref.networks.mlp import MLP
from tests.test_oracles import H, flat, gradient_of, weighed

REFERENCE = Target("adalora_ref", reference())
FEW = settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
DTYPES = strategies.dtypes("float64", "float32")


def flattened(case: dict[str, Any]) -> tuple[Any, ...]:
    return case["x"], case["W"], case["factors"]


CASES: dict[str, Any] = {
    "linear_forward": layers,
    "linear_backward": layers,
    "increment": layers,
    "merge": layers,
    "unmerge": layers,
    "orthogonality_penalty": some_factors,
    "orthogonality_norm": some_factors,
    "update_importance": updates,
    "triplet_scores": states,
    "phase_at": schedules,
    "budget_at": schedules,
    "allocates_at": schedules,
    "allocate": lambda dtype: budgets(dtype) | costs(dtype),
    "prune": with_keep,
    "compress": with_keep,
    "adamw_step": optimised,
    "train_step": steps,
}
"""What is drawn for each stage; the three that only make zeros or draw normal numbers have nothing to draw."""

RATIONAL: dict[str, Any] = {
    "linear_forward": lambda i: (flattened(i), {n: i[n] for n in ("scale", "bias", "dropout_mask")}),
    "linear_backward": lambda i: ((i["dy"], *flattened(i)), {n: i[n] for n in ("scale", "dropout_mask")}),
    "increment": lambda i: ((i["factors"],), {"scale": i["scale"], "d_in": i["W"].shape[1]}),
    "merge": lambda i: ((i["W"], i["factors"]), {"scale": i["scale"]}),
    "unmerge": lambda i: ((i["W"], i["factors"]), {"scale": i["scale"]}),
    "orthogonality_penalty": lambda i: ((i["factors"],), {}),
    "update_importance": lambda i: (
        (tuple(i["state"]), i["weights"], i["grads"]),
        {n: i[n] for n in ("beta1", "beta2")},
    ),
    "triplet_scores": lambda i: ((tuple(i["state"]),), {}),
}
"""The stages without roots and exponentials, with the arguments of their plain loops."""


@pytest.mark.parametrize("stage", list(CASES))
def test_the_reference_lies_within_the_bounds_of_fifty_digits(stage: str) -> None:
    """On every drawn case of every stage the reference lies within its bound of the plain loops at fifty digits."""

    @FEW
    @given(DTYPES.flatmap(lambda dtype: st.tuples(st.just(dtype), CASES[stage](dtype))))
    def holds(drawn: tuple[str, Any]) -> None:
        dtype, case = drawn
        assert Asked(REFERENCE, dtype)(stage, case).departure() is None

    holds()


@pytest.mark.parametrize("stage", list(RATIONAL))
def test_fractions_and_fifty_digits_agree_and_what_is_exact_is_equal(stage: str) -> None:
    """The loops agree on fractions and at fifty digits; where no order of evaluation rounds, the reference is equal."""

    @FEW
    @given(CASES[stage]("float64"))
    def holds(case: Any) -> None:
        arguments, options = RATIONAL[stage](case)
        oracle = getattr(oracles, stage)
        a, b = (
            flat(oracle(*lift(arguments, kind), **lift(options, kind)))
            for kind in (Fraction, lambda value: DIGITS.mpf(float(value)))
        )
        assert len(a) == len(b)
        largest = max((abs(x) for x in a), default=Fraction(0))
        assert all(abs(DIGITS.mpf(x.numerator) / x.denominator - y) <= 1e-45 * max(1, largest) for x, y in
                   zip(map(Fraction, a), b, strict=True))  # fmt: skip
        answer = Asked(REFERENCE, "float64")(stage, case)
        got = [n for array in answer.host.values() for n in np.ravel(array)]
        exact = [error == 0 for want in answer.expected.values() for error in np.ravel(want.error)]
        assert all(Fraction(float(x)) == y for x, y, rounds_not in zip(got, a, exact, strict=True) if rounds_not)

    holds()


# DERIVATIVES


def small(draw: Any) -> dict[str, Any]:
    two = strategies.sizes(1, 2)
    return draw(strategies.linear_cases(n=two, d_out=two, d_in=two, r=two, bias=False))


def exactly(value: Any) -> Any:
    return lift(value, DIGITS.mpf)


def assert_derivative(found: list[Any], derivative: list[Any]) -> None:
    """Equal to forty digits of the largest."""
    top = max((abs(d) for d in derivative), default=DIGITS.mpf(0))
    assert len(found) == len(derivative) > 0
    assert all(abs(a - b) <= max(top, 1) * DIGITS.mpf("1e-40") for a, b in zip(found, derivative, strict=True))


@FEW
@given(st.data())
def test_layer_backward_is_the_complex_step(data: st.DataObject) -> None:
    """dx, dB, ds and dA are the derivatives of ⟨dy, y⟩ on every drawn case, with and without a mask."""
    case = data.draw(st.composite(small)())
    x, W, dy, factors, mask = exactly((case["x"], case["W"], case["dy"], case["factors"], case["dropout_mask"]))
    options = {"scale": exactly(case["scale"]), "dropout_mask": mask}
    derivative = gradient_of(lambda v: weighed(oracles.linear_forward(v[0], W, v[1], **options), dy), (x, factors))
    assert_derivative(flat(oracles.linear_backward(dy, x, W, factors, **options)), derivative)


@pytest.mark.parametrize("name", ["orthogonality_penalty", "orthogonality_norm"])
def test_penalty_gradients_are_the_complex_step(name: str) -> None:
    """The gradient of either penalty is its derivative on every drawn case, away from zero for the norm form."""
    oracle = getattr(oracles, name)

    @FEW
    @given(some_factors("float64", r=strategies.sizes(1, 2)))
    def holds(case: Any) -> None:
        factors = exactly(case["factors"])
        assume(name == "orthogonality_penalty" or _away_from_zero(factors))
        assert_derivative(flat(oracle(factors)[1]), gradient_of(lambda f: oracle(f)[0], factors))

    holds()


def _away_from_zero(factors: Any) -> bool:
    return all(sum(z * z for row in Z for z in row) > 0.01 for Z in oracles._defects(factors))


# SECOND ORDER


def assert_symmetric(gradient: Any, point: list[Any], ways: tuple[list[Any], list[Any]]) -> None:
    """⟨u, D∇[v]⟩ = ⟨v, D∇[u]⟩, the directional derivatives by the complex step, to forty digits."""

    def along(way: list[Any]) -> list[Any]:
        return [
            DIGITS.mpc(n).imag / H
            for n in gradient([p + DIGITS.mpc(0, H) * w for p, w in zip(point, way, strict=True)])
        ]

    u, v = ways
    left, right = (sum(a * b for a, b in zip(*pair, strict=True)) for pair in ((u, along(v)), (v, along(u))))
    assert abs(left - right) <= max(1, abs(left)) * DIGITS.mpf("1e-40")


def shaped(numbers: Any, like: Any) -> Any:
    """Numbers in a row, in the nested form of *like*."""
    if isinstance(like, list | tuple):
        return type(like)(shaped(numbers, item) for item in like)
    return next(numbers)


def directions(data: st.DataObject, count: int) -> tuple[list[Any], list[Any]]:
    way = st.lists(strategies.EIGHTHS, min_size=count, max_size=count).map(lambda w: [DIGITS.mpf(n) for n in w])
    return data.draw(way, label="u"), data.draw(way, label="v")


@FEW
@given(st.data())
def test_layer_is_symmetric_in_second_order(data: st.DataObject) -> None:
    """Over x, B, s, A and dy jointly the derivatives of (dx, dB, ds, dA, y) are symmetric."""
    case = data.draw(st.composite(small)())
    W, mask, scale = exactly((case["W"], case["dropout_mask"], case["scale"]))
    form = exactly((case["x"], case["factors"], case["dy"]))
    options = {"scale": scale, "dropout_mask": mask}

    def gradient(numbers: list[Any]) -> list[Any]:
        x, factors, dy = shaped(iter(numbers), form)
        y = oracles.linear_forward(x, W, factors, **options)
        return flat((oracles.linear_backward(dy, x, W, factors, **options), y))

    point = flat(form)
    assert_symmetric(gradient, point, directions(data, len(point)))


@pytest.mark.parametrize("name", ["orthogonality_penalty", "orthogonality_norm"])
def test_penalties_are_symmetric_in_second_order(name: str) -> None:
    """Over B, s and A jointly the derivatives of the gradient are symmetric, away from zero for the norm form."""
    oracle = getattr(oracles, name)

    @FEW
    @given(some_factors("float64", r=strategies.sizes(1, 2)), st.data())
    def holds(case: Any, data: st.DataObject) -> None:
        form = exactly(case["factors"])
        assume(_away_from_zero(form))
        point = flat(form)
        assert_symmetric(
            lambda numbers: flat(oracle(shaped(iter(numbers), form))[1]), point, directions(data, len(point))
        )

    holds()


@pytest.mark.parametrize("loss", ["cross_entropy", "mean_square"])
def test_losses_are_symmetric_in_second_order(loss: str) -> None:
    """The derivatives of the gradients of the losses are symmetric; mean square over output and target jointly."""

    @FEW
    @given(st.lists(strategies.EIGHTHS, min_size=6, max_size=6), st.data())
    def holds(entries: list[float], data: st.DataObject) -> None:
        point = [DIGITS.mpf(n) for n in entries]

        def gradient(numbers: list[Any]) -> list[Any]:
            first, second = [numbers[:3]], [numbers[3:]]
            if loss == "cross_entropy":
                return flat(oracles.cross_entropy(first + second, [0, 2])[1])
            found = flat(oracles.mean_square(first, second)[1])
            return [*found, *(-g for g in found)]

        assert_symmetric(gradient, point, directions(data, len(point)))

    holds()


@FEW
@given(st.data())
def test_network_is_its_complex_step_and_symmetric(data: st.DataObject) -> None:
    """Through tanh, the gradients of two layers are derivatives, and theirs are symmetric over all factors jointly."""
    arrays = strategies.arrays
    weights = {"a": data.draw(arrays((2, 1))), "b": data.draw(arrays((1, 2)))}
    net = MLP(weights, {"a": data.draw(arrays((2,)))})
    shapes = {"a": (2, 1), "b": (1, 2)}
    factors = {n: data.draw(strategies.factors(d_out=o, d_in=i, r=1)) for n, (o, i) in shapes.items()}
    x, dy, scales = exactly((data.draw(arrays((1, 1))), data.draw(arrays((1, 1))), {"a": 0.75, "b": 0.5}))
    held, form = exactly(net), exactly(tuple(factors.values()))

    def forward(found: Any) -> list[Any]:
        return oracle_run.mlp_forward(x, held, dict(zip("ab", found, strict=True)), scales)

    def gradient(numbers: list[Any]) -> list[Any]:
        found = shaped(iter(numbers), form)
        named = dict(zip("ab", found, strict=True))
        return flat(oracle_run.mlp_backward(dy, forward(found), held, named, scales))

    assert_derivative(gradient(flat(form)), gradient_of(lambda f: weighed(forward(f)[-1], dy), form))
    assert_symmetric(gradient, flat(form), directions(data, len(flat(form))))
