"""The strategies: what they draw is valid, has the property that its name says, and shrinks to what a hand can work."""

from __future__ import annotations

import inspect
import math
from fractions import Fraction
from typing import Any

import array_api_strict
import ml_dtypes
import numpy as np
import pytest
from hypothesis import Phase, example, find, given, settings
from hypothesis import strategies as st

from adalora_ref import BudgetSchedule, Factors, allocate, linear_backward, linear_forward, strategies
from adalora_ref.array import backend, dtype_name, to_numpy

ONCE = settings(database=None, derandomize=True, max_examples=200)
AS_DRAWN = settings(ONCE, phases=[Phase.generate], max_examples=5)


def smallest(strategy: st.SearchStrategy[Any], condition: Any = lambda _: True) -> Any:
    return find(strategy, condition, settings=ONCE)


@given(strategies.linear_cases(dtype=strategies.dtypes(), layout=strategies.layouts()))
def test_linear_cases_are_arguments_of_the_layer(case: dict[str, Any]) -> None:
    """Every case goes through both passes, in the dtype that was asked for, from every layout."""
    y, cache = linear_forward(
        case["x"], case["W"], case["factors"], scale=case["scale"], bias=case["bias"], dropout_mask=case["dropout_mask"]
    )
    dx, grads = linear_backward(case["dy"], cache)
    assert dx.shape == case["x"].shape
    assert y.dtype == case["x"].dtype == grads.B.dtype


@pytest.mark.parametrize("layout", strategies.LAYOUTS)
def test_layouts(layout: str) -> None:
    """Each layout is what it is called, and holds the same numbers."""
    a = smallest(strategies.arrays((2, 3), entries=st.just(0.5), layout=layout))
    expected = {
        "C": a.flags.c_contiguous,
        "Fortran": a.flags.f_contiguous and not a.flags.c_contiguous,
        "strided": not a.flags.c_contiguous and not a.flags.f_contiguous,
        "read-only": not a.flags.writeable,
        "zero-size": a.size == 0,
    }
    assert expected[layout]
    assert np.all(a == 0.5)


@pytest.mark.parametrize("library", ["numpy", "array_api_strict", "torch", "jax"])
def test_xp_chooses_the_library(library: str) -> None:
    """Arrays belong to the library that was asked for, and have its dtype."""
    try:
        xp = backend(library)
    except RuntimeError as error:
        pytest.skip(str(error))
    case = smallest(strategies.linear_cases(xp=xp, dtype="float32", bias=True, dropout=True))
    kind = type(xp.zeros((1,)))
    assert all(isinstance(a, kind) for a in (case["x"], case["W"], case["bias"], case["dropout_mask"], case["dy"]))
    assert {dtype_name(a) for a in case["factors"]} == {"float32"}
    scores = smallest(strategies.score_maps(xp=xp))
    assert all(isinstance(a, kind) for a in scores.values())


ONES = Factors(np.ones((2, 1)), np.ones(1), np.ones((1, 3)))
HALVES: dict[str, Any] = {"dtype": "float16", "entries": 0.5, "xp": np}
STRICT: dict[str, Any] = {"dtype": "float32", "entries": 0.5, "xp": array_api_strict}
SIZES: dict[str, Any] = {"d_out": 2, "d_in": 3, "r": 0}
PLAN = BudgetSchedule(initial=2, target=1, warmup=1, final=1, total=4)

EVERY_ARGUMENT: dict[str, dict[str, Any]] = {
    "sizes": {"least": 2, "most": 2},
    "eighths": {"most": 0},
    "realistic": {"typical": 0.0},
    "arrays": {"shape": (2, 1), "layout": "zero-size", **STRICT},
    "factors": {**SIZES, "layout": "strided", **HALVES},
    "gradients": {"like": ONES, **STRICT},
    "linear_cases": {"n": 0, **SIZES, "scale": 0, "bias": False, "dropout": True, "layout": "Fortran", **STRICT},
    "orthogonal": {"n": 1, "dtype": "bfloat16", "xp": np},
    "conditioned": {"rows": 2, "columns": 3, "kappa": 4, "dtype": "float32", "xp": array_api_strict},
    "importance_states": {"like": ONES, "fresh": False, **STRICT},
    "schedules": {"target": 0, "falls_by": 3, "warmup": 0, "window": 2, "final": 0, "interval": 1, "whole": True},
    "score_maps": {"matrices": 2, "ranks": 2, "margin": 0, "dtype": "bfloat16", "xp": np},
    "scripts": {"schedule": PLAN, "shapes": {"q": (1, 2)}, "r": 2, **STRICT},
}


def form(value: Any) -> Any:
    """What is fixed by the arguments: sizes, dtypes and libraries, and what is no array."""
    if isinstance(value, dict):
        return {name: form(item) for name, item in value.items()}
    if isinstance(value, list | tuple | Factors):
        return [form(item) for item in value]
    return (type(value), value.shape, dtype_name(value)) if hasattr(value, "shape") else value


@pytest.mark.parametrize("name", EVERY_ARGUMENT)
def test_every_argument_is_a_value_or_a_strategy(name: str) -> None:
    """A plain value, zero too, and a strategy that draws it are the same argument, for every argument there is."""
    make, plain = getattr(strategies, name), EVERY_ARGUMENT[name]
    assert set(inspect.signature(make).parameters) == set(plain)
    drawn = {argument: st.just(value) for argument, value in plain.items()}

    @settings(database=None, derandomize=True, max_examples=5)
    @given(make(**plain), make(**drawn))
    def alike(one: Any, other: Any) -> None:
        assert form(one) == form(other) or (name == "eighths" and one == other)

    alike()


def test_no_strategy_is_forgotten() -> None:
    """The test of every argument knows every strategy that has one."""
    public = [getattr(strategies, name) for name in strategies.__all__]
    having = {f.__name__ for f in public if inspect.isfunction(f) and inspect.signature(f).parameters}
    assert having == set(EVERY_ARGUMENT) | {"dtypes", "layouts"}


@given(strategies.dtypes(st.just("float32"), "float64"), strategies.layouts(st.just("C"), "Fortran"))
def test_names_are_values_or_strategies(dtype: str, layout: str) -> None:
    """The names to choose from may be drawn."""
    assert dtype in {"float32", "float64"}
    assert layout in {"C", "Fortran"}


def test_zero_is_a_value() -> None:
    """Where 0 was asked for, none are drawn."""
    assert smallest(strategies.score_maps(matrices=0)) == {}
    assert smallest(strategies.linear_cases(n=0))["x"].shape == (0, 1)


BAD: dict[str, tuple[Any, Any, str]] = {
    "dtypes": (strategies.dtypes, "flot32", "the dtype must be one of float64, .*; got 'flot32'"),
    "layouts": (strategies.layouts, "F", "the layout must be one of C, .*; got 'F'"),
    "sizes": (lambda v: strategies.sizes(2, v), 1, "most must be an integer of at least 2; got 1"),
    "eighths": (strategies.eighths, -1, "most must be an integer of at least 0; got -1"),
    "typical": (strategies.realistic, math.inf, "typical must be a finite real number; got inf"),
    "shape": (strategies.arrays, 2, "shape must be of type tuple; got int"),
    "length": (strategies.arrays, (-1,), "a length of the shape must be an integer of at least 0; got -1"),
    "dtype": (lambda v: strategies.arrays((1,), dtype=v), "float8", "the dtype must be one of .*; got 'float8'"),
    "layout": (lambda v: strategies.arrays((1,), layout=v), "blocked", "the layout must be one of .*; got 'blocked'"),
    "entries": (lambda v: strategies.arrays((1,), entries=v), "1", "entries must be real numbers; got '1'"),
    "xp": (lambda v: strategies.arrays((1,), xp=v), "numpy", "xp must be a namespace of the array API.*'numpy'"),
    "16 bits": (lambda v: strategies.linear_cases(dtype=v, xp=array_api_strict), "float16",
                "16-bit dtypes are supported on NumPy and CuPy alone; got float16 of array_api_strict"),
    "d_out": (lambda v: strategies.factors(d_out=v), 0, "d_out must be an integer of at least 1; got 0"),
    "like": (strategies.gradients, 1.0, "like must be of type Factors; got float"),
    "scale": (lambda v: strategies.linear_cases(scale=v), math.nan, "scale must be a finite real number; got nan"),
    "bias": (lambda v: strategies.linear_cases(bias=v), 1, "bias must be of type bool; got int"),
    "kappa below 1": (lambda v: strategies.conditioned(kappa=v), 0.5, "kappa must be .* in \\[1, inf\\); got 0.5"),
    "kappa of zero": (lambda v: strategies.conditioned(kappa=v), 0, "kappa must be .* in \\[1, inf\\); got 0"),
    "infinite kappa": (lambda v: strategies.conditioned(kappa=v), math.inf, "kappa must be .*; got inf"),
    "window": (lambda v: strategies.schedules(window=v), 0, "window must be an integer of at least 1; got 0"),
    "ranks": (lambda v: strategies.score_maps(matrices=1, ranks=v), -1, "ranks must be .* at least 0; got -1"),
    "margin": (lambda v: strategies.score_maps(margin=v), -0.5, "margin must be .* in \\[0, 1\\); got -0.5"),
    "shapes": (lambda v: strategies.scripts(shapes=v), {"q": (1, 0)}, "both at least 1; got \\(1, 0\\) for q"),
    "schedule": (lambda v: strategies.scripts(schedule=v), 3, "schedule must be of type BudgetSchedule; got int"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "value", "sentence"), BAD.values(), ids=BAD)
def test_bad_arguments_are_refused(make: Any, value: Any, sentence: str) -> None:
    """A plain value that breaks a rule is refused at once, a drawn one when it is drawn, both in one sentence."""
    with pytest.raises((TypeError, ValueError), match=sentence):
        make(value)
    with pytest.raises((TypeError, ValueError), match=sentence):
        find(make(st.just(value)), lambda _: True, settings=AS_DRAWN)


def test_what_overflows_is_refused() -> None:
    """An entry that is no finite number of the dtype is refused instead of made infinite."""
    with pytest.raises(ValueError, match=r"entries must lie in the range of float16; got 65520\.0"):
        smallest(strategies.arrays((1,), dtype="float16", entries=65520.0))
    with pytest.raises(ValueError, match=r"kappa must be 1 for a single row or column; got 4\.0 for \(1, 2\)"):
        smallest(strategies.conditioned(rows=1, columns=2, kappa=4.0))
    with pytest.raises(ValueError, match="an array of layout zero-size must have an axis"):
        smallest(strategies.arrays((), layout="zero-size"))


@example(1 + 2.0**-8 + 2.0**-40)
@example(2.0**-134)
@given(st.floats(-3e38, 3e38))
def test_bfloat16_is_rounded_once(value: float) -> None:
    """An entry becomes the nearest number of the dtype, the even one of two, though NumPy goes by way of float32."""
    kind = ml_dtypes.bfloat16
    (found,) = strategies.arguments.rounded(np.asarray([value]), "bfloat16")
    away = abs(Fraction(float(found)) - Fraction(value))
    for end in (-np.inf, np.inf):
        other = np.nextafter(found, kind(end))
        beyond = abs(Fraction(float(other)) - Fraction(value))
        assert away < beyond or (away == beyond and int(found.view(np.uint16)) % 2 == 0)


def test_arrays_are_rounded_once() -> None:
    """An array has the entries that were drawn, each rounded once."""
    entry = 1 + 2.0**-8 + 2.0**-40
    assert smallest(strategies.arrays((1,), dtype="bfloat16", entries=st.just(entry))).tolist() == [1.0078125]


def test_shrinking_ends_at_ones() -> None:
    """The smallest case has sizes and entries of one, and the smallest negative eighth is −1."""
    case = smallest(strategies.linear_cases(bias=False, dropout=False))
    assert [case[name].shape for name in ("x", "W", "dy")] == [(1, 1)] * 3
    assert [float(a.flat[0]) for a in (case["x"], case["W"], *case["factors"], case["dy"])] == [1.0] * 6
    assert smallest(strategies.eighths(), lambda value: value < 0) == -1.0
    assert smallest(strategies.arrays((2,), entries=strategies.realistic(1e-7))).tolist() == [1e-7, 1e-7]


@given(strategies.eighths(), strategies.ordinary(), strategies.realistic(1e-7))
def test_magnitudes(eighth: float, ordinary: float, tiny: float) -> None:
    """Eighths are k/8 with |k| ≤ 16, ordinary numbers at most 2, realistic ones of the order that was asked for."""
    assert (8 * eighth).is_integer()
    assert abs(eighth) <= 2
    assert abs(ordinary) <= 2
    assert abs(tiny) <= 2e-7


@given(strategies.orthogonal(strategies.sizes(1, 4)))
def test_orthogonal_is_exact(Q: Any) -> None:
    """Q Qᵀ is the identity, bit for bit."""
    assert np.array_equal(Q @ Q.T, np.eye(len(Q)))


KAPPAS = [1.0, 10.0, 1e6]


@given(st.sampled_from(KAPPAS), st.data())
def test_conditioned(kappa: float, data: st.DataObject) -> None:
    """The largest singular value is 1 and the smallest 1/κ, but for the rounding of the entries."""
    matrix = data.draw(strategies.conditioned(rows=strategies.sizes(2, 4), columns=3, kappa=kappa))
    values = np.linalg.svd(matrix, compute_uv=False)
    assert math.isclose(values[0], 1.0, rel_tol=1e-14)
    assert math.isclose(values[0] / values[-1], kappa, rel_tol=16 * kappa * np.finfo(np.float64).eps)


def test_conditioned_shrinks_to_hand_work() -> None:
    """The smallest case is diagonal, and one without zeros has entries of few digits."""
    two: dict[str, Any] = {"rows": 2, "columns": 2, "kappa": 10.0}
    assert smallest(strategies.conditioned(**two)).tolist() == [[1.0, 0.0], [0.0, 0.1]]
    full = smallest(strategies.conditioned(**two), lambda matrix: np.all(matrix != 0))
    assert all(entry == round(entry, 4) for entry in full.flat), full


@given(strategies.schedules() | strategies.boundary_schedules())
def test_schedules_are_valid(schedule: BudgetSchedule) -> None:
    """A schedule falls, and has a phase of pruning."""
    assert schedule.target <= schedule.initial
    assert schedule.warmup < schedule.end_of_pruning


@given(strategies.invalid_schedules())
def test_invalid_schedules_are_refused(arguments: dict[str, Any]) -> None:
    """What breaks a rule is refused by `BudgetSchedule`."""
    with pytest.raises((TypeError, ValueError)):
        BudgetSchedule(**arguments)


@given(strategies.score_maps(margin=2.0**-20), st.data())
def test_score_maps_are_scores(scores: dict[str, Any], data: st.DataObject) -> None:
    """Scores are finite, and an allocation takes them."""
    whole = sum(map(len, scores.values()))
    budget = data.draw(st.integers(0, whole))
    assert sum(int(mask.sum()) for mask in allocate(scores, budget).values()) == budget


@pytest.mark.parametrize(
    "kind",
    [
        lambda row: len(set(row)) < len(row),
        lambda row: any(0 < abs(a - b) <= 2.0**-20 * abs(a) for a in row for b in row),
        lambda row: any(a == 0 and math.copysign(1, a) < 0 for a in row),
        lambda row: any(0 < a < 2.0**-1022 for a in row),
        lambda row: any(a > 1e307 for a in row),
    ],
    ids=["ties", "near ties", "negative zero", "subnormal", "huge"],
)
def test_score_maps_reach(kind: Any) -> None:
    """Ties, near ties at the chosen margin, negative zeros, subnormals and huge numbers are all drawn."""
    found = smallest(
        strategies.score_maps(margin=2.0**-20), lambda scores: kind([float(s) for a in scores.values() for s in a])
    )
    assert found


@pytest.mark.parametrize("dtype", strategies.DTYPES)
def test_score_maps_know_their_dtype(dtype: str) -> None:
    """Scores that no list holds are drawn, and a margin that the dtype cannot express makes neighbours, not ties."""
    row = strategies.score_maps(matrices=1, ranks=2, margin=1e-30, dtype=dtype).map(lambda scores: scores["layer0"])
    smallest(row, lambda a: all(2.0 < float(score) < float(ml_dtypes.finfo(a.dtype).max) for score in a))
    low, high = smallest(row, lambda a: 0.125 <= float(a[0]) < float(a[1]) < 0.126)
    assert np.nextafter(low, high) == high


@given(strategies.scripts())
def test_scripts_cover_a_schedule(script: dict[str, Any]) -> None:
    """A script has a gradient of every matrix for each step of its schedule, which starts from all triplets."""
    assert len(script["gradients"]) == script["schedule"].total
    assert script["schedule"].initial == sum(f.s.shape[0] for f in script["weights"].values())
    for step in script["gradients"]:
        assert {n: g.B.shape for n, g in step.items()} == {n: f.B.shape for n, f in script["weights"].items()}


@given(strategies.importance_states(fresh=st.booleans(), dtype="float16"))
def test_states_are_wide_and_not_negative(state: Any) -> None:
    """Averages of 16-bit factors are float32, and have no sign."""
    for held in state:
        assert all(a.dtype == np.float32 and bool(np.all(to_numpy(a) >= 0)) for a in held)
