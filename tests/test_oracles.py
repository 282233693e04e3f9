"""The oracles: worked by hand, equal to the core where arithmetic is exact, derived by the complex step."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import adalora_ref as ref
from adalora_ref import convention
from adalora_ref.conformance import oracle_run, oracles
from adalora_ref.conformance.bounds import ARITHMETIC, DIGITS, number
from adalora_ref.conformance.lifting import evaluate, lift, ratio
from adalora_ref.conformance.target import leaves
from adalora_ref.networks.mlp import MLP

ONE = ([[2]], [3], [[1, 4]])
"""B, s, A of one triplet of a (1, 2) matrix: ΔW = 3 · (2, 8) = (6, 24)."""


def eighths(rng: np.random.Generator, *shape: int) -> Any:
    """Draw multiples of 1/8 up to 2 in magnitude."""
    return rng.integers(-16, 16, size=shape, endpoint=True) / 8


def factors_of(rng: np.random.Generator, d_out: int, d_in: int, r: int) -> ref.Factors:
    """Draw factors of eighths."""
    return ref.Factors(eighths(rng, d_out, r), eighths(rng, r), eighths(rng, r, d_in))


def flat(value: Any) -> list[Any]:
    """List every number of an oracle's result, in order."""
    if isinstance(value, tuple | list | dict):
        return [n for item in (value.values() if isinstance(value, dict) else value) for n in flat(item)]
    return [value]


# WORKED BY HAND


def test_layer_by_hand() -> None:
    """One sample through one triplet gives the numbers of a pencil, with bias and mask, and back."""
    options: Any = {"scale": Fraction(1, 2)}
    assert oracles.linear_forward([[1, 2]], [[1, 0]], ONE, **options, bias=[5]) == [[33]]  # 1 + 5 + ½ (6 + 48)
    assert oracles.linear_forward([[1, 2]], [[1, 0]], ONE, **options, dropout_mask=[[0, 2]]) == [[49]]  # 1 + ½ · 4 · 24
    dx, (dB, ds, dA) = oracles.linear_backward([[1]], [[1, 2]], [[1, 0]], ONE, **options)
    assert dx == [[4, 12]]  # (1, 0) + ½ (6, 24)
    assert (dB, ds, dA) == ([[Fraction(27, 2)]], [9], [[3, 6]])  # u = 9, v = 1
    dx, (_, _, dA) = oracles.linear_backward([[1]], [[1, 2]], [[1, 0]], ONE, **options, dropout_mask=[[0, 2]])
    assert (dx, dA) == ([[1, 24]], [[0, 12]])


def test_increment_and_merge_by_hand() -> None:
    """ΔW = scale · B diag(s) A is added by merge, taken off by unmerge, and zero without triplets."""
    half = Fraction(1, 2)
    assert oracles.increment(ONE, scale=half, d_in=2) == [[3, 12]]
    assert oracles.merge([[1, 1]], ONE, scale=half) == [[4, 13]]
    assert oracles.unmerge([[4, 13]], ONE, scale=half) == [[1, 1]]
    assert oracles.increment(([[], []], [], []), scale=half, d_in=3) == [[0, 0, 0], [0, 0, 0]]


def test_penalty_by_hand() -> None:
    """B = (2), A = (0, 2): both defects are 3, so R = 18 with gradients 24, and 6 with gradients 4 without squares."""
    factors = ([[2]], [7], [[0, 2]])
    assert oracles.orthogonality_penalty(factors) == (18, ([[24]], [0], [[0, 24]]))
    assert oracles.orthogonality_norm(factors) == (6, ([[4]], [0], [[0, 4]]))
    assert oracles.orthogonality_norm(([[1]], [7], [[0, -1]])) == (0, ([[0]], [0], [[0, 0]]))


def test_importance_by_hand() -> None:
    """I = 6, Ī = ½ · 2 + ½ · 6 = 4, Ū = ¼ · 1 + ¾ · |6 − 4| for every entry; scores are products, averaged."""

    def of(value: int) -> Any:
        return [[value]], [value], [[value, value]]

    mean, deviation = oracles.update_importance(
        (of(2), of(1)), of(-2), of(3), beta1=Fraction(1, 2), beta2=Fraction(1, 4)
    )
    assert (mean, deviation) == (of(4), ([[Fraction(7, 4)]], [Fraction(7, 4)], [[Fraction(7, 4)] * 2]))
    assert oracles.triplet_scores((([[1], [3]], [2], [[4]]), ([[1], [1]], [3], [[2]]))) == [16]  # 6 + (1 + 3) / 2 + 8


def test_schedule_by_hand() -> None:
    """12 → 4 with t_i = 2, T − t_f = 6: 4 + 8 · (4/4, 3/4, 2/4, 1/4)³, floored; due every third step and at 6."""
    schedule = ref.BudgetSchedule(initial=12, target=4, warmup=2, final=3, total=9, interval=3)
    steps = range(9)
    assert [oracles.budget_at(schedule, t) for t in steps] == [12, 12, 12, 7, 5, 4, 4, 4, 4]
    assert [t for t in steps if oracles.allocates_at(schedule, t)] == [2, 5, 6]
    assert [oracles.phase_at(schedule, t)[0] for t in steps] == list("wwppppfff")
    assert [t for t in steps if oracles.allocates_as_released(schedule, t)] == [3, 6, 7, 8]
    assert [t for t in steps if oracles.allocates_as_peft(schedule, t)] == [3, 6]
    assert [oracles.budget_in_doubles(schedule, t) for t in steps] == [12, 12, 12, 7, 5, 4, 4, 4, 4]


def test_budget_in_doubles_is_one_off_where_doubles_are() -> None:
    """4 + 1000 · (3/5)³ is 220, and 219 truncated from doubles."""
    schedule = ref.BudgetSchedule(initial=1004, target=4, warmup=0, final=1, total=6)
    assert (oracles.budget_at(schedule, 2), oracles.budget_in_doubles(schedule, 2)) == (220, 219)


def test_allocation_by_hand() -> None:
    """Ties go to the earlier place; costs stop at the first that does not fit; a threshold drops its ties."""
    scores = {"q": [3.0, 1.0], "v": [1.0, 2.0]}
    assert oracles.allocate(scores, 3) == {"q": [True, True], "v": [False, True]}
    assert oracles.allocate(scores, 7, cost={"q": 5, "v": 3}) == {"q": [True, False], "v": [False, False]}
    assert oracles.allocate_above_threshold(scores, 3) == {"q": [True, False], "v": [False, True]}
    assert oracles.allocate_above_threshold(scores, 4) == {"q": [True, True], "v": [True, True]}
    assert oracles.prune(([[1, 2]], [5, 7], [[3], [4]]), [False, True]) == ([[1, 2]], [0, 7], [[3], [4]])
    assert oracles.compress(([[1, 2]], [5, 7], [[3], [4]]), [False, True]) == ([[2]], [7], [[4]])


def test_adamw_by_hand() -> None:
    """From zero moments the first step has the length of the rate, after the decay."""
    zero, grads, weights = (([[n]], [abs(n)], [[n]]) for n in (0.0, 4.0, -8.0))
    rates = {"learning_rate": 0.25, "epsilon": 0.0, "weight_decay": 1.0, "beta1": 0.5, "beta2": 0.75}
    weights, grads, zero, rates = lift((weights, grads, zero, rates), DIGITS.mpf)
    w, moments = oracles.adamw_step(weights, grads, (zero, zero, 0), **rates)
    assert w == ([[-6.25]], [5.75], [[-6.25]])  # ¾ · (∓8) − ¼
    assert moments == (([[2]], [2], [[2]]), ([[4]], [4], [[4]]), 1)


def test_losses_by_hand() -> None:
    """Two equal logits cost log 2 with gradient ½, −½; the gaps 2 and 0 cost 2 with gradient 2 · 2 / 2."""
    loss, gradient = oracles.cross_entropy([[DIGITS.mpf(0)] * 2], [1])
    assert abs(loss - DIGITS.log(2)) < 1e-45
    assert [float(g) for g in gradient[0]] == [0.5, -0.5]
    assert oracles.mean_square([[3, 1]], [[1, 1]]) == (2, [[2, 0]])


# THE SAME AS THE CORE


@pytest.mark.parametrize("seed", range(20))
def test_rational_stages_equal_the_core_exactly(seed: int) -> None:
    """On eighths and sizes that are powers of 2, where doubles are exact, core and Fraction oracle are equal."""
    rng = np.random.default_rng(seed)
    d_out, d_in, r = (int(d) for d in rng.choice([1, 2, 4], 3))
    r = 0 if seed == 0 else r
    x, W, dy, b = eighths(rng, 4, d_in), eighths(rng, d_out, d_in), eighths(rng, 4, d_out), eighths(rng, d_out)
    factors, grads = factors_of(rng, d_out, d_in, r), factors_of(rng, d_out, d_in, r)
    mask = rng.integers(0, 2, x.shape) * 2.0
    state = ref.Importance(*(ref.map_factors(np.abs, factors_of(rng, d_out, d_in, r)) for _ in range(2)))
    y, cache = ref.linear_forward(x, W, factors, scale=0.375, bias=b, dropout_mask=mask)
    core = [
        y,
        ref.linear_backward(dy, cache),
        ref.increment(factors, scale=0.375),
        ref.merge(W, factors, scale=0.375),
        ref.unmerge(W, factors, scale=0.375),
        ref.orthogonality_penalty(factors),
        ref.update_importance(state, factors, grads, beta1=0.5, beta2=0.75),
        ref.triplet_scores(state),
        ref.mean_square(y, dy),
    ]
    x, W, dy, b, w, g, mask, held = lift((x, W, dy, b, factors, grads, mask, tuple(state)), Fraction)
    scale = Fraction(3, 8)
    y_exact = oracles.linear_forward(x, W, w, scale=scale, bias=b, dropout_mask=mask)
    oracle = [
        y_exact,
        oracles.linear_backward(dy, x, W, w, scale=scale, dropout_mask=mask),
        oracles.increment(w, scale=scale, d_in=d_in),
        oracles.merge(W, w, scale=scale),
        oracles.unmerge(W, w, scale=scale),
        oracles.orthogonality_penalty(w),
        oracles.update_importance(held, w, g, beta1=Fraction(1, 2), beta2=Fraction(3, 4)),
        oracles.triplet_scores(held),
        oracles.mean_square(y_exact, dy),
    ]
    got = [Fraction(float(n)) for _, a in leaves(core) for n in np.ravel(a)]
    assert got
    assert got == flat(oracle)


@pytest.mark.parametrize("seed", range(50))
def test_steering_equals_the_core(seed: int) -> None:
    """Budgets, allocation steps, phases and choices are the core's, under every convention."""
    rng = np.random.default_rng(seed)
    target, warmup, window, final = (int(n) for n in rng.integers([0, 0, 1, 0], [30, 9, 40, 9]))
    schedule = ref.BudgetSchedule(
        initial=target + int(rng.integers(0, 2000)), target=target, warmup=warmup, final=final,
        total=warmup + window + final, interval=int(rng.integers(1, 8)),
    )  # fmt: skip
    pairs = [
        (ref.budget_at, oracles.budget_at),
        (ref.allocates_at, oracles.allocates_at),
        (ref.phase_at, oracles.phase_at),
        (convention.budget_in_doubles, oracles.budget_in_doubles),
        (convention.allocates_as_released, oracles.allocates_as_released),
        (convention.allocates_as_peft, oracles.allocates_as_peft),
    ]
    for core, oracle in pairs:
        steps = range(schedule.total + 3)
        assert [core(schedule, t) for t in steps] == [oracle(schedule, t) for t in steps], core.__name__
    scores = {f"m{i}": rng.integers(0, 4, rng.integers(1, 5)) / 4 for i in range(3)}
    plain, whole = {n: a.tolist() for n, a in scores.items()}, sum(map(len, scores.values()))
    cost, budget = {n: int(rng.integers(1, 9)) for n in scores}, int(rng.integers(0, whole + 1))
    for got, expected in (
        (ref.allocate(scores, budget), oracles.allocate(plain, budget)),
        (ref.allocate(scores, budget, cost=cost), oracles.allocate(plain, budget, cost=cost)),
        (convention.allocate_above_threshold(scores, budget), oracles.allocate_above_threshold(plain, budget)),
    ):
        assert {n: a.tolist() for n, a in got.items()} == expected


# THE COMPLEX STEP


H = DIGITS.mpf(10) ** -25
"""Length of the imaginary step: what it neglects is of relative size H² = 1e-50."""


def stepped(values: Any, place: int) -> Any:
    """Return nested lists as complex numbers of 50 digits, the one at *place* moved by iH."""
    counter = iter(range(10_000))

    def move(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(move(item) for item in value)
        return DIGITS.mpc(value, H if next(counter) == place else 0)

    return move(values)


def gradient_of(f: Any, values: Any) -> list[Any]:
    """Im f(x + iH) / H for every number in *values*."""
    return [f(stepped(values, place)).imag / H for place in range(len(flat(values)))]


def weighed(y: Any, dy: Any) -> Any:
    """Σ dy · y, a scalar whose gradient is what a backward pass returns for dy."""
    return sum((a * b for a, b in zip(flat(y), flat(dy), strict=True)), DIGITS.mpc(0))


def assert_gradient(derivative: list[Any], backward: Any, core: Any, expected: dict[str, Any]) -> None:
    """Demand that the oracle's backward is the derivative to 40 digits, and the core within its bound of both."""
    found = flat(backward)
    assert len(found) == len(derivative) > 0
    scale = max(abs(d) for d in derivative)
    assert all(abs(a - b) <= scale * DIGITS.mpf("1e-40") for a, b in zip(found, derivative, strict=True))
    for path, value in leaves(core):
        assert np.max(ratio(value, expected[path]), initial=0.0) <= 1.0, path
    high = np.concatenate([np.ravel(expected[path].high) for path, _ in leaves(core)])
    np.testing.assert_allclose(high, [float(d) for d in derivative], rtol=1e-15, atol=1e-300)


def gaussian_factors(rng: np.random.Generator, d_out: int, d_in: int, r: int) -> ref.Factors:
    """Draw factors from N(0, 1)."""
    return ref.Factors(*(rng.standard_normal(shape) for shape in ((d_out, r), (r,), (r, d_in))))


@pytest.mark.parametrize("masked", [False, True])
def test_layer_backward_is_the_gradient(masked: bool) -> None:  # noqa: FBT001
    """dx, dB, ds, dA are the derivatives of Σ dy · y."""
    rng = np.random.default_rng(1)
    x, W, dy = rng.standard_normal((2, 3)), rng.standard_normal((4, 3)), rng.standard_normal((2, 4))
    factors, options = gaussian_factors(rng, 4, 3, 2), {"scale": 1 / 3}
    if masked:
        options["dropout_mask"] = rng.integers(0, 2, x.shape) * 2.0
    grads = ref.linear_backward(dy, ref.linear_forward(x, W, factors, **options)[1])
    expected = evaluate(oracles.linear_backward, dy, x, W, factors, **options, working="float64", like=grads)
    x, W, dy, factors, options = lift((x, W, dy, factors, options), DIGITS.mpf)
    derivative = gradient_of(lambda v: weighed(oracles.linear_forward(v[0], W, v[1], **options), dy), (x, factors))
    assert_gradient(derivative, oracles.linear_backward(dy, x, W, factors, **options), grads, expected)


@pytest.mark.parametrize("name", ["orthogonality_penalty", "orthogonality_norm"])
def test_penalty_gradient_is_the_gradient(name: str) -> None:
    """The second result is the derivative of the first."""
    factors = gaussian_factors(np.random.default_rng(2), 3, 4, 2)
    oracle, core = getattr(oracles, name), getattr(ref, name)(factors)[1]
    expected = evaluate(lambda f: oracle(f)[1], factors, working="float64", like=core)
    held = lift(factors, DIGITS.mpf)
    assert_gradient(gradient_of(lambda f: oracle(f)[0], held), oracle(held)[1], core, expected)


@pytest.mark.parametrize("name", ["cross_entropy", "mean_square"])
def test_loss_gradient_is_the_gradient(name: str) -> None:
    """The second result is the derivative of the first."""
    rng = np.random.default_rng(3)
    output = rng.standard_normal((3, 4))
    target = rng.integers(0, 4, 3) if name == "cross_entropy" else rng.standard_normal((3, 4))
    oracle, core = getattr(oracles, name), getattr(ref, name)(output, target)[1]
    expected = evaluate(lambda o, t: oracle(o, t)[1], output, target, working="float64", like=core)
    output, target = lift((output, target), DIGITS.mpf)
    assert_gradient(gradient_of(lambda o: oracle(o, target)[0], output), oracle(output, target)[1], core, expected)


def test_network_backward_is_the_gradient() -> None:
    """The gradients of every layer are the derivatives of Σ dy · output, through tanh."""
    rng = np.random.default_rng(4)
    net = MLP({"a": rng.standard_normal((3, 2)), "b": rng.standard_normal((2, 3))}, {"a": rng.standard_normal(3)})
    factors = {"a": gaussian_factors(rng, 3, 2, 1), "b": gaussian_factors(rng, 2, 3, 2)}
    x, dy, scales = rng.standard_normal((2, 2)), rng.standard_normal((2, 2)), {"a": 0.75, "b": 1 / 3}
    core = net.backward(dy, net.forward(x, factors, scales)[1])

    def backward(x: Any, dy: Any, net: Any, factors: Any, scales: Any) -> Any:
        return oracle_run.mlp_backward(dy, oracle_run.mlp_forward(x, net, factors, scales), net, factors, scales)

    expected = evaluate(backward, x, dy, net, factors, scales, working="float64", like=core)
    x, dy, held, factors, scales = lift((x, dy, net, factors, scales), DIGITS.mpf)
    derivative = gradient_of(
        lambda f: weighed(oracle_run.mlp_forward(x, held, dict(zip("ab", f, strict=True)), scales)[-1], dy),
        tuple(factors.values()),
    )
    assert_gradient(derivative, backward(x, dy, held, factors, scales), core, expected)


def test_plain_complex_numbers_serve_too() -> None:
    """The step works with Python's complex numbers, to double precision."""
    rng = np.random.default_rng(5)
    z, labels = rng.standard_normal((1, 3)), [2]
    for c in range(3):
        row = [complex(v, 1e-30 if i == c else 0.0) for i, v in enumerate(z[0])]
        loss, _ = oracles.cross_entropy([row], labels)
        assert math.isclose(loss.imag / 1e-30, ref.cross_entropy(z, np.asarray(labels))[1][0, c], rel_tol=1e-13)


# LIFTING


def test_lift_keeps_form_and_numbers() -> None:
    """Arrays become nested lists of exactly their numbers, in every dtype; integers, booleans and None stay."""
    third = np.asarray([1 / 3], dtype=np.float32)
    value = {"a": third, "n": np.asarray([[1, 2]]), "k": np.asarray([True]), "none": None, "i": 3}
    assert lift(value, Fraction) == {
        "a": [Fraction(float(third[0]))], "n": [[1, 2]], "k": [True], "none": None, "i": 3,
    }  # fmt: skip
    assert lift(ref.Factors(np.ones((1, 2)), np.ones(2), np.ones((2, 1))), Fraction) == ([[1, 1]], [1, 1], [[1], [1]])
    config = SimpleNamespace(scale=0.5)
    assert lift((config, 0.5), Fraction, lambda c: ("hyper", c)) == (config, ("hyper", 0.5))


def test_evaluate_names_and_shapes_results_like_the_arrays_given() -> None:
    """Each result has the path, shape and dtype of its array, also where there are no samples and no triplets."""
    x, W = np.ones((0, 2)), np.ones((3, 2))
    factors = ref.Factors(np.ones((3, 0)), np.ones(0), np.ones((0, 2)))
    like = {"dx": x, "d": factors}
    expected = evaluate(
        oracles.linear_backward, np.ones((0, 3)), x, W, factors, scale=1.0, working="float64", like=like
    )
    assert {path: e.high.shape for path, e in expected.items()} == {
        "[dx]": (0, 2), "[d].B": (3, 0), "[d].s": (0,), "[d].A": (0, 2),
    }  # fmt: skip
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        evaluate(lambda a: a, x, working="float64", like=(x, x))


def test_high_and_low_make_up_fifty_digits() -> None:
    """What a double cannot hold of the value is in the second part."""
    third = evaluate(lambda a: [a[0] / 3], np.ones(1), working="float64", like=np.ones(1))[""]
    assert third.high[0] == 1 / 3
    assert third.low[0] == float(DIGITS.mpf(1) / 3 - DIGITS.mpf(1 / 3)) != 0.0


def test_ratio_never_passes_what_it_cannot_compare() -> None:
    """0/0 is 0; x/0, NaN and infinity are infinite; another shape is refused, nothing is broadcast."""
    exact = evaluate(lambda a: a, np.ones(2), working="float64", like=np.ones(2))[""]
    assert ratio(np.ones(2), exact).tolist() == [0.0, 0.0]
    assert ratio(np.asarray([1.0 + 2**-52, 1.0]), exact).tolist() == [math.inf, 0.0]
    unbounded = evaluate(lambda a: [a[0] / 0, a[1]], np.ones(2), working="float64", like=np.ones(2))[""]
    for expected in (exact, unbounded):
        assert ratio(np.asarray([math.nan, math.inf]), expected).tolist() == [math.inf, math.inf]
    for shape in ((), (1,), (2, 1), (0,)):
        with pytest.raises(ValueError, match="shape"):
            ratio(np.ones(shape), exact)


def test_twins_cover_every_convention() -> None:
    """Every function that a convention is made of, but for the initial factors, has a twin."""
    lift_here = partial(number, arithmetic=ARITHMETIC["float64"])
    for held in convention.CONVENTIONS.values():
        functions = vars(lift(held, lift_here))
        named = {k for k, f in functions.items() if callable(f) and k != "initial"}
        assert named
        assert all(functions[name] in oracle_run.TWINS for name in named)
