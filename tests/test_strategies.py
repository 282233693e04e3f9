"""The strategies: what they draw is valid, has the property that its name says, and shrinks to what a hand can work."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from adalora_ref import BudgetSchedule, Factors, allocate, linear_backward, linear_forward, strategies
from adalora_ref.array import backend, dtype_name, to_numpy

ONCE = settings(database=None, derandomize=True, max_examples=200)


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


@given(strategies.factors(d_out=2, d_in=st.just(3), r=0, dtype="bfloat16"))
def test_arguments_are_values_or_strategies(factors: Factors) -> None:
    """A plain value and a strategy that draws it are the same argument."""
    assert [a.shape for a in factors] == [(2, 0), (0,), (0, 3)]
    assert dtype_name(factors.B) == "bfloat16"


def test_shrinking_ends_at_ones() -> None:
    """The smallest case has sizes and entries of one, and the smallest negative eighth is −1."""
    case = smallest(strategies.linear_cases(bias=False, dropout=False))
    assert [case[name].shape for name in ("x", "W", "dy")] == [(1, 1)] * 3
    assert [float(a.flat[0]) for a in (case["x"], case["W"], *case["factors"], case["dy"])] == [1.0] * 6
    assert smallest(strategies.eighths(), lambda value: value < 0) == -1.0


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


@given(strategies.conditioned(rows=3, columns=4, kappa=st.sampled_from([1.0, 10.0, 1e6])))
def test_conditioned(matrix: Any) -> None:
    """The largest singular value is 1, the smallest 1/κ."""
    values = np.linalg.svd(matrix, compute_uv=False)
    assert math.isclose(values[0], 1.0, rel_tol=1e-12)
    assert any(math.isclose(values[0] / values[-1], kappa, rel_tol=1e-6) for kappa in (1.0, 10.0, 1e6))


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


def test_unknown_names_are_refused() -> None:
    """A dtype or a layout that there is not is refused with the names of those that there are."""
    with pytest.raises(ValueError, match=r"the dtype must be one of float64, .*; got 'float8'"):
        smallest(strategies.arrays((1,), dtype="float8"))
    with pytest.raises(ValueError, match=r"the layout must be one of C, .*; got 'blocked'"):
        smallest(strategies.arrays((1,), layout="blocked"))
