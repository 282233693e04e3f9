"""Refusals on generated cases: calls that are drawn are taken, and refused with one argument that breaks its rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import array_api_strict
import jaxtyping
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

import adalora_ref as ref
from adalora_ref import strategies
from adalora_ref.array import LIBRARIES, backend, device, namespace
from adalora_ref.convention import CONVENTIONS, convention
from adalora_ref.networks.mlp import MLP
from tests.test_bad_input import raised_by_us


@pytest.fixture(scope="module", autouse=True)
def _our_messages() -> Iterator[None]:
    """Switch jaxtyping off, so that what is raised is the package's own."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


# CALLS, GOOD AND SPOILT


class Call(NamedTuple):
    """A function with arguments, those by place and those by name."""

    function: Callable[..., Any]
    given: tuple[Any, ...]
    named: dict[str, Any]

    def __call__(self) -> Any:
        """Do it."""
        return self.function(*self.given, **self.named)

    def argument(self, place: int | str) -> Any:
        """One of them."""
        return self.named[place] if isinstance(place, str) else self.given[place]

    def spoilt(self, place: int | str, bad: Any) -> Call:
        """The same call with *bad* in one place."""
        if isinstance(place, str):
            return self._replace(named=self.named | {place: bad})
        return self._replace(given=(*self.given[:place], bad, *self.given[place + 1 :]))


def call(function: Callable[..., Any], *given: Any, **named: Any) -> SearchStrategy[Call]:
    """Calls whose arguments are plain values or strategies."""
    by_name = st.fixed_dictionaries({name: drawn(value) for name, value in named.items()})
    return st.builds(Call, st.just(function), st.tuples(*map(drawn, given)), by_name)


def drawn(value: Any) -> SearchStrategy[Any]:
    """A strategy as it is; a plain value always."""
    return value if isinstance(value, SearchStrategy) else st.just(value)


class Rule(NamedTuple):
    """Good calls, the place of one argument, and what breaks its rule; that may be made of the good argument."""

    good: SearchStrategy[Call]
    place: int | str
    bad: SearchStrategy[Any] | Callable[[Any], SearchStrategy[Any]]


def seen(value: Any) -> Any:
    """All numbers in *value*, and the state of generators."""
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, ref.Factors | list | tuple):
        return [seen(item) for item in value]
    if isinstance(value, dict):
        return {key: seen(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return [seen(getattr(value, field.name)) for field in fields(value)]
    return repr(value)


# WHAT BREAKS A RULE

NAN, INF = float("nan"), float("inf")

no_integers = st.booleans() | st.floats() | st.text(max_size=3) | st.none()
no_reals = (
    st.booleans() | st.text(max_size=3) | st.none() | st.complex_numbers() | st.builds(np.ones, st.integers(0, 3))
)
no_arrays = st.none() | st.text(max_size=3) | st.floats() | st.lists(st.floats(), max_size=3) | st.just(np.float64)
no_objects = st.none() | st.integers() | st.text(max_size=3)
no_names = st.text(max_size=8).filter(lambda name: name.upper() not in CONVENTIONS and name not in LIBRARIES)
no_pairs = st.lists(st.integers(1, 9), max_size=4).filter(lambda pair: len(pair) != 2) | st.integers(1, 9)
not_finite = st.sampled_from([NAN, INF, -INF]) | st.integers(2**1024)


def below(least: int) -> SearchStrategy[int]:
    """Integers that are too small."""
    return st.integers(max_value=least - 1)


def outside(least: float, end: float = INF) -> SearchStrategy[Any]:
    """Reals outside [least, end), and what is not finite."""
    low = st.floats(max_value=least, exclude_max=True, allow_infinity=False)
    return not_finite | low | (st.floats(min_value=end) if end < INF else st.nothing())


def other_dtype(a: Any) -> SearchStrategy[Any]:
    """The array in a dtype that is not real floating."""
    return st.sampled_from(["int64", "bool", "complex128", "object", "<U1"]).map(a.astype)


def other_shape(a: Any) -> SearchStrategy[Any]:
    """The array longer by one along an axis, or with one more axis."""
    longer = st.integers(0, a.ndim - 1).map(lambda axis: np.concatenate([a, np.take(a, [0], axis)], axis))
    return longer | st.just(a[..., None])


def other_library(a: Any) -> SearchStrategy[Any]:
    """The array in another library."""
    return st.just(array_api_strict.asarray(a))


def other_rank(f: ref.Factors) -> SearchStrategy[ref.Factors]:
    """Factors of one more triplet."""
    return strategies.factors(d_out=f.B.shape[0], d_in=f.A.shape[1], r=f.s.shape[0] + 1)


def without_one(named: dict[str, Any]) -> SearchStrategy[dict[str, Any]]:
    """The mapping without one of its names."""
    return st.sampled_from(list(named)).map(lambda gone: {n: v for n, v in named.items() if n != gone})


def with_one(bad: Any) -> Callable[[dict[str, Any]], SearchStrategy[dict[str, Any]]]:
    """The mapping with something bad under one of its names."""
    return lambda named: st.builds(lambda name, value: {**named, name: value}, st.sampled_from(list(named)), drawn(bad))


# GOOD CALLS

array, vector = strategies.arrays((2, 3)), strategies.arrays((2,))
factors = strategies.factors(d_out=2, d_in=3, r=2)
shapes = st.dictionaries(st.sampled_from("qkv"), st.tuples(strategies.sizes(), strategies.sizes()), min_size=1)
steps = {"warmup": 1, "final": 1, "total": st.integers(3, 9)}
scores = strategies.score_maps(ranks=st.integers(1, 3))

halves = call(ref.Factors, strategies.arrays((2, 2), dtype="float16"), vector, array)
strict = call(ref.Factors, *(strategies.arrays(shape, xp=array_api_strict) for shape in ((2, 2), (2,), (2, 3))))
new = call(ref.Factors, strategies.arrays((2, 2)), vector, array)
mapped = call(ref.map_factors, lambda a, b: a - b, factors, factors)
spread = call(lambda f, held: ref.map_factors(f, *held), lambda *a: a[0], st.lists(factors, min_size=1, max_size=2))
start = call(ref.init_factors, st.builds(np.random.default_rng, st.integers(0, 9)), 2, strategies.sizes(), 1,
             std=st.floats(0, 1), like=vector)  # fmt: skip
forward = call(ref.linear_forward, array, array, factors, scale=strategies.EIGHTHS, bias=vector, dropout_mask=array)
backward = call(ref.linear_backward, strategies.arrays((2, 2)), forward.map(lambda good: good()[1]))
merged = call(ref.merge, array, factors, scale=strategies.EIGHTHS)
entropy = call(ref.cross_entropy, array, st.lists(st.integers(0, 2), min_size=2, max_size=2).map(np.asarray))
squared = call(ref.mean_square, array, array)
updated = call(ref.update_importance, factors.map(ref.init_importance), factors, factors,
               beta1=st.floats(0, 0.9), beta2=st.floats(0, 0.9))  # fmt: skip
moved = call(ref.adamw_step, factors, factors, factors.map(ref.init_adamw), learning_rate=st.floats(0, 1))
chosen = call(ref.allocate, scores, 0)
paid = scores.flatmap(lambda held: call(ref.allocate, st.just(held), 0, cost=st.just(dict.fromkeys(held, 3))))
threshold = call(ref.PEFT.allocate, scores, 0, cost=None)
pruned = call(ref.prune, factors, st.lists(st.booleans(), min_size=2, max_size=2).map(np.asarray))
ranked = call(ref.BudgetSchedule.from_ranks, shapes, initial_rank=st.integers(2, 4), target_rank=st.integers(0, 2),
              **steps)  # fmt: skip
costed = call(ref.BudgetSchedule.from_parameters, shapes, initial=st.integers(21, 99), target=0, **steps)
asked = call(ref.budget_at, strategies.schedules(), st.integers(0, 99))

layers = st.builds(lambda q, v: {"q": q, "v": v}, array, strategies.arrays((1, 2)))  # in forward order
network = st.builds(lambda held: MLP(held, loss=ref.mean_square), layers)
layered = call(MLP, layers, st.fixed_dictionaries({"q": vector}), loss=ref.mean_square)
plan = ref.BudgetSchedule(initial=4, target=2, warmup=1, final=1, total=5)
told = call(ref.Config, schedule=plan, initial_rank=2, alpha=strategies.EIGHTHS, learning_rate=st.floats(0, 1),
            clip_norm=st.floats(0.5, 2), cost=st.just({"q": 3, "v": 3}))  # fmt: skip
config = ref.Config(schedule=plan, initial_rank=2, alpha=2.0, learning_rate=0.125)
rng = st.builds(np.random.default_rng, st.integers(0, 9))
begun = call(ref.init_state, network, config, rng)
trained = network.flatmap(
    lambda net: call(
        ref.train_step,
        ref.init_state(net, config, np.random.default_rng(0)),
        st.tuples(st.tuples(array, strategies.arrays((2, 1)))),
        st.just(net),
        config,
    )
)
stepped = st.builds(lambda good: good._replace(function=lambda *a: list(ref.train(*a))).spoilt(1, [good.given[1]]),
                    trained)  # fmt: skip
passed = network.flatmap(
    lambda net: call(net.forward, array, st.just({"q": start_of(2, 3), "v": start_of(1, 2)}), st.just({"q": 1, "v": 1}))
)
returned = st.builds(
    lambda good: Call(good.function.__self__.backward, (np.ones((2, 1)), good()[1]), {}),
    passed,
)


def start_of(d_out: int, d_in: int) -> ref.Factors:
    """The factors of a matrix before training."""
    return ref.init_factors(np.random.default_rng(0), d_out, d_in, 2, like=np.ones(1))


def answering(*answers: Any) -> SearchStrategy[MLP]:
    """Networks whose loss answers something of these."""
    return st.builds(lambda held, answer: MLP(held, loss=lambda *_: answer), layers, st.sampled_from(answers))


def with_state(**bad: Any) -> Callable[[Any], SearchStrategy[Any]]:
    """The state with bad fields."""
    return lambda state: st.just(state._replace(**bad))


def as_told(**changed: Any) -> SearchStrategy[ref.Config]:
    """A `Config` with something changed."""
    given = {"schedule": plan, "initial_rank": 2, "alpha": 2.0, "learning_rate": 0.125} | changed
    return st.builds(ref.Config, **{name: drawn(value) for name, value in given.items()})


PARTS = ("weights", "forward", "loss", "backward")

RULES: dict[str, Rule] = {
    "B-is-an-array": Rule(new, 0, no_arrays),
    "s-is-floating": Rule(new, 1, other_dtype),
    "s-has-one-axis-of-r": Rule(new, 1, other_shape),
    "A-is-of-the-same-library": Rule(new, 2, other_library),
    "A-is-on-the-same-device": Rule(strict, 2, lambda a: st.just(a.to_device(array_api_strict.Device("device1")))),
    "16-bit-dtypes-do-not-meet": Rule(halves, 1, lambda a: st.just(a.astype(ml_dtypes.bfloat16))),
    "something-is-an-array": Rule(call(namespace, array), 0, st.none()),
    "f-is-a-function": Rule(mapped, 0, st.integers()),
    "f-maps-something": Rule(spread, 1, st.just([])),
    "factors-are-Factors": Rule(mapped, 1, lambda f: st.just(tuple(f))),
    "factors-are-alike": Rule(mapped, 2, other_rank),
    "rng-is-a-generator": Rule(start, 0, st.integers()),
    "d_out-is-an-integer": Rule(start, 1, no_integers),
    "d_in-is-at-least-1": Rule(start, 2, below(1)),
    "r-is-at-least-0": Rule(start, 3, below(0)),
    "std-is-real": Rule(start, "std", no_reals),
    "std-is-at-least-0": Rule(start, "std", outside(0.0)),
    "like-is-floating": Rule(start, "like", other_dtype),
    "x-fits": Rule(forward, 0, lambda x: st.just(x[:, :2]) | st.just(x[0, 0])),
    "W-fits": Rule(forward, 1, other_shape),
    "scale-is-real": Rule(forward, "scale", no_reals),
    "scale-is-finite": Rule(forward, "scale", not_finite),
    "bias-is-an-array": Rule(forward, "bias", st.floats()),
    "bias-fits": Rule(forward, "bias", other_shape),
    "mask-fits": Rule(forward, "dropout_mask", other_shape),
    "dy-fits": Rule(backward, 0, other_shape),
    "cache-is-a-cache": Rule(backward, 1, lambda cache: st.just(tuple(cache))),
    "merged-W-fits": Rule(merged, 0, other_shape),
    "labels-are-integers": Rule(entropy, 1, lambda labels: st.just(labels * 1.0)),
    "labels-fit": Rule(entropy, 1, other_shape),
    "labels-are-classes": Rule(entropy, 1, lambda labels: st.sampled_from([labels + 3, labels - 3])),
    "target-fits": Rule(squared, 1, other_shape),
    "beta1-is-below-1": Rule(updated, "beta1", outside(0.0, 1.0)),
    "beta2-is-real": Rule(updated, "beta2", no_reals),
    "the-rate-is-at-least-0": Rule(moved, "learning_rate", outside(0.0)),
    "scores-are-a-mapping": Rule(chosen, 0, no_objects),
    "scores-are-of-a-matrix": Rule(chosen, 0, st.just({})),
    "scores-are-arrays": Rule(chosen, 0, with_one(no_arrays)),
    "scores-have-one-axis": Rule(chosen, 0, with_one(strategies.arrays((1, 1)))),
    "scores-are-finite": Rule(
        chosen, 0, with_one(st.sampled_from([NAN, INF, -INF]).map(lambda bad: np.asarray([bad])))
    ),
    "budget-is-an-integer": Rule(chosen, 1, no_integers),
    "budget-is-at-least-0": Rule(chosen, 1, below(0)),
    "budget-is-at-most-all": Rule(chosen, 1, st.integers(10)),
    "cost-is-a-mapping": Rule(paid, "cost", st.integers()),
    "cost-names-the-matrices": Rule(paid, "cost", without_one),
    "cost-is-at-least-1": Rule(paid, "cost", with_one(below(1))),
    "costs-can-be-added": Rule(paid, "cost", with_one(st.integers(2**63))),
    "a-threshold-has-no-cost": Rule(threshold, "cost", st.dictionaries(st.text(max_size=2), st.integers())),
    "a-threshold-keeps-at-most-all": Rule(threshold, 1, st.integers(10)),
    "keep-is-boolean": Rule(pruned, 1, lambda keep: st.sampled_from(["int64", "float64"]).map(keep.astype)),
    "keep-fits": Rule(pruned, 1, other_shape),
    "shapes-are-iterable": Rule(ranked, 0, st.integers()),
    "shapes-are-of-a-matrix": Rule(ranked, 0, st.sampled_from([{}, []])),
    "shapes-are-pairs": Rule(ranked, 0, with_one(no_pairs)),
    "shapes-are-of-integers": Rule(ranked, 0, with_one(st.tuples(no_integers, st.just(1)))),
    "one-rank-is-affordable": Rule(costed, "initial", st.integers(0, 2)),
    "step-is-at-least-0": Rule(asked, 1, below(0)),
    "schedule-is-a-schedule": Rule(asked, 0, no_objects),
    "a-network-has-layers": Rule(layered, 0, st.just({})),
    "layers-follow-each-other": Rule(layered, 0, with_one(strategies.arrays((4, 5)) | vector)),
    "biases-fit": Rule(layered, 1, with_one(strategies.arrays((3,)))),
    "biases-are-of-layers": Rule(layered, 1, st.builds(lambda b: {"z": b}, vector)),
    "loss-is-a-function": Rule(layered, "loss", no_objects),
    "all-layers-have-factors": Rule(passed, 1, without_one),
    "all-layers-have-scales": Rule(passed, 2, without_one),
    "all-layers-are-cached": Rule(returned, 1, lambda cache: st.just(cache[:1])),
    "alpha-is-real": Rule(told, "alpha", no_reals),
    "clip-norm-is-above-0": Rule(told, "clip_norm", st.floats(-9, 0)),
    "cost-of-a-run-is-a-mapping": Rule(told, "cost", st.integers()),
    "cost-of-a-run-is-at-least-1": Rule(told, "cost", with_one(below(1))),
    "a-network-has-its-parts": Rule(
        begun, 0, st.sampled_from(PARTS).map(lambda gone: SimpleNamespace(**{p: {} for p in PARTS if p != gone}))
    ),
    "a-network-has-matrices": Rule(begun, 0, st.just(SimpleNamespace(**{part: {} for part in PARTS}))),
    "weights-are-matrices": Rule(
        begun, 0, st.builds(lambda w: SimpleNamespace(**{part: {"q": w} for part in PARTS}), vector)
    ),
    "initial-is-the-sum-of-ranks": Rule(begun, 1, as_told(initial_rank=st.integers(3, 9))),
    "a-run-has-a-last-phase": Rule(
        begun, 1, as_told(schedule=strategies.schedules(target=2, falls_by=2, final=0, whole=False))
    ),
    "cost-names-the-network's": Rule(begun, 1, as_told(cost=st.dictionaries(st.sampled_from("kv"), st.just(3)))),
    "a-batch-is-not-empty": Rule(trained, 1, st.just([])),
    "a-batch-is-of-pairs": Rule(trained, 1, st.lists(array, min_size=1, max_size=3)),
    "a-loss-answers-two": Rule(trained, 2, answering(None, 1.0, (1.0,), (1.0, None))),
    "a-loss-is-a-number": Rule(trained, 2, answering((1j, np.ones((2, 1))), (np.ones(2), np.ones((2, 1))))),
    "a-state-has-its-matrices": Rule(trained, 0, with_state(optimizer={})),
    "a-state-holds-factors": Rule(trained, 0, with_state(factors={"q": 1, "v": 2})),
    "batches-are-iterable": Rule(stepped, 1, st.integers()),
    "a-convention-has-a-name": Rule(call(convention, st.sampled_from(list(CONVENTIONS))), 0, no_names),
    "a-library-has-a-name": Rule(call(backend, "numpy"), 0, no_names | st.integers()),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@given(data=st.data())
@settings(max_examples=4)
def test_what_breaks_a_rule_is_refused(rule: Rule, data: st.DataObject) -> None:
    """A good call is taken; with one argument spoilt, TypeError or ValueError says so, and nothing changes."""
    good = data.draw(rule.good)
    spoils = rule.bad if isinstance(rule.bad, SearchStrategy) else rule.bad(good.argument(rule.place))
    bad = good.spoilt(rule.place, data.draw(spoils))
    before = seen(bad.given), seen(bad.named)
    with pytest.raises((TypeError, ValueError)) as caught:
        bad()
    assert raised_by_us(caught.value), caught.value
    assert len(str(caught.value).splitlines()) == 1
    assert (seen(bad.given), seen(bad.named)) == before
    good()


@given(strategies.invalid_schedules())
def test_an_invalid_schedule_is_refused(given: dict[str, Any]) -> None:
    """A schedule that breaks one rule is refused, and the message says what was given."""
    with pytest.raises((TypeError, ValueError), match=r"; got "):
        ref.BudgetSchedule(**given)


@given(no_objects | st.lists(st.floats()) | st.binary())
def test_what_is_no_array_reports_no_device(thing: Any) -> None:
    """What reports no device has none, and nothing is raised."""
    assert device(thing) is None
