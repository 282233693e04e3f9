"""Generated cases beside the laws: losses, schedules made from shapes, and whole runs under every convention."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

import adalora_ref as ref
from adalora_ref import strategies
from adalora_ref.budget import triplet_costs
from adalora_ref.convention import CONVENTIONS, Convention, convention
from adalora_ref.networks.mlp import MLP
from tests.conftest import same

# LOSSES

exact_dtypes = strategies.dtypes("float64", "float32")


@st.composite
def labelled(draw: DrawFn) -> tuple[Any, Any]:
    """Logits of eighths with zero to two leading axes, and a label for each sample."""
    leading = draw(st.sampled_from([(), (1,), (2,), (3,), (2, 2)]))
    classes = draw(strategies.sizes(1, 4))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=math.prod(leading), max_size=math.prod(leading)))
    kind = draw(st.sampled_from(["int64", "int8", "uint8"]))
    return draw(strategies.arrays((*leading, classes), dtype=draw(exact_dtypes))), np.asarray(labels, kind).reshape(
        leading
    )


@given(labelled(), st.integers(-4, 4))
def test_cross_entropy_knows_no_zero_of_logits(case: tuple[Any, Any], shift: int) -> None:
    """The same number added to all logits of all samples changes neither loss nor gradient."""
    logits, labels = case
    assert same(ref.cross_entropy(logits + logits.dtype.type(shift), labels), ref.cross_entropy(logits, labels))


@given(labelled())
def test_cross_entropy_pulls_towards_the_label(case: tuple[Any, Any]) -> None:
    """The loss is not negative; its gradient is at most 0 at the label, at least 0 elsewhere, and sums to 0."""
    logits, labels = case
    loss, gradient = ref.cross_entropy(logits, labels)
    hot = labels[..., None] == np.arange(logits.shape[-1])
    assert float(loss) >= 0.0
    assert np.all(gradient[hot] <= 0.0)
    assert np.all(gradient[~hot] >= 0.0)
    assert np.all(np.abs(np.sum(gradient, axis=-1)) <= 8 * np.finfo(logits.dtype).eps)


@given(labelled(), st.data())
def test_cross_entropy_lies_above_its_tangents(case: tuple[Any, Any], data: st.DataObject) -> None:
    """It is convex, and the gradient its slope: loss(z + v) ≥ loss(z) + ⟨dz, v⟩ for every v."""
    logits, labels = case
    step = data.draw(strategies.arrays(logits.shape, dtype=logits.dtype.name))
    loss, gradient = ref.cross_entropy(logits, labels)
    tangent = float(loss) + float(np.sum(gradient.astype(np.float64) * step))
    assert float(ref.cross_entropy(logits + step, labels)[0]) >= tangent - 64 * np.finfo(logits.dtype).eps


@given(st.sampled_from([(), (1,), (2,), (4, 2), (2, 1, 2)]), exact_dtypes, st.data())
def test_mean_square_is_its_expansion(shape: tuple[int, ...], dtype: str, data: st.DataObject) -> None:
    """It is quadratic: loss(o + v) = loss(o) + ⟨do, v⟩ + mean(v²), exactly where nothing rounds."""
    output, target, step = (data.draw(strategies.arrays(shape, dtype=dtype)) for _ in range(3))
    loss, gradient = ref.mean_square(output, target)
    assert ref.mean_square(output + step, target)[0] == loss + np.sum(gradient * step) + np.mean(step * step)


# SCHEDULES MADE FROM SHAPES

named_shapes = st.dictionaries(
    st.sampled_from("qkvo"), st.tuples(strategies.sizes(1, 9), strategies.sizes(1, 9)), min_size=1
)
clocks = st.fixed_dictionaries(
    {"warmup": strategies.sizes(0), "final": strategies.sizes(1), "total": strategies.sizes(7, 20)}
)


@given(named_shapes, strategies.sizes(2, 5), strategies.sizes(0, 2), clocks)
def test_ranks_are_counted_over_all_matrices(shapes: Any, initial: int, target: int, clock: Any) -> None:
    """b⁰ and b^T are the ranks times the number of matrices, whatever their shapes; by name or in a row is the same."""
    ranks = {"initial_rank": initial, "target_rank": target}
    plan = ref.BudgetSchedule.from_ranks(shapes, **ranks, **clock)
    assert (plan.initial, plan.target) == (initial * len(shapes), target * len(shapes))
    assert plan == ref.BudgetSchedule.from_ranks(list(shapes.values()), **ranks, **clock)


@given(named_shapes, st.integers(0, 99), st.integers(0, 9), clocks)
def test_parameters_buy_one_rank_in_every_matrix(shapes: Any, more: int, target: int, clock: Any) -> None:
    """b⁰ is what one rank in every matrix makes up, at most what was given, missed by less than one rank more."""
    one_rank = sum(triplet_costs(shapes))
    plan = ref.BudgetSchedule.from_parameters(shapes, initial=one_rank + more, target=min(target, one_rank), **clock)
    assert plan.initial % one_rank == 0
    assert 0 <= one_rank + more - plan.initial < one_rank
    network = MLP({"only": np.ones(next(iter(shapes.values())))})
    cost = dict(zip(network.weights, triplet_costs(list(shapes.values())[:1]), strict=True))
    if len(shapes) == 1:
        config = ref.Config(
            schedule=plan, initial_rank=plan.initial // one_rank, alpha=1.0, learning_rate=0.1, cost=cost
        )
        assert ref.init_state(network, config, np.random.default_rng(0)).factors["only"].s.shape == (
            config.initial_rank,
        )


# RUNS UNDER EVERY CONVENTION

Run = tuple[MLP, ref.Config, list[Any]]


@st.composite
def runs(draw: DrawFn) -> Run:
    """A network of one or two layers, some with a bias, a configuration, and a batch for each step."""
    count, rank = draw(strategies.sizes(1, 2)), draw(strategies.sizes(1, 2))
    widths, names = [draw(strategies.sizes(1, 2)) for _ in range(count + 1)], ["first", "last"][:count]
    weights = {n: draw(strategies.arrays((o, i))) for n, i, o in zip(names, widths, widths[1:], strict=False)}
    biases = {n: draw(strategies.arrays((W.shape[0],))) for n, W in weights.items() if draw(st.booleans())}
    labels = draw(st.booleans())
    target = draw(st.integers(0, count * rank))
    lengths: dict[str, Any] = {
        "warmup": strategies.sizes(0, 2), "window": strategies.sizes(1, 3), "final": strategies.sizes(1, 2)
    }  # fmt: skip
    plan = draw(strategies.schedules(target=target, falls_by=count * rank - target, whole=False, **lengths))
    kinds = st.integers(0, widths[-1] - 1).map(lambda label: np.asarray([label]))
    targets = kinds if labels else strategies.arrays((1, widths[-1]))
    batch = st.lists(st.tuples(strategies.arrays((1, widths[0])), targets), min_size=1, max_size=2)
    config = ref.Config(
        schedule=plan, initial_rank=rank, alpha=draw(st.sampled_from([1.0, 0.0, -2.0])), learning_rate=0.125,
        weight_decay=draw(st.sampled_from([0.0, 0.25])), clip_norm=draw(st.sampled_from([None, 0.25])),
    )  # fmt: skip
    network = MLP(weights, biases, ref.cross_entropy if labels else ref.mean_square)
    return network, config, [draw(batch) for _ in range(plan.total + 1)]


def trained(run: Run, rules: Convention, seed: int = 0) -> list[Any]:
    """The state at the start, then state and report after each step."""
    network, config, batches = run
    state = ref.init_state(network, config, np.random.default_rng(seed), convention=rules)
    return [(state, None), *ref.train(state, batches, network, config, convention=rules)]


every_convention = pytest.mark.parametrize("rules", CONVENTIONS.values(), ids=CONVENTIONS)


@every_convention
@given(run=runs())
@settings(max_examples=6)
def test_a_run_keeps_its_books(rules: Convention, run: Run) -> None:
    """Under every convention a budget is kept, who is dropped has s = 0, and the report follows from the masks."""
    network, config, _ = run
    costs = dict(zip(network.weights, triplet_costs([W.shape for W in network.weights.values()]), strict=True))
    for (before, _), (state, report) in zip(found := trained(run, rules), found[1:], strict=False):
        t = before.step + rules.first_step
        assert state.step == before.step + 1
        assert report.budget == rules.budget(config.schedule, t)
        if rules.allocates(config.schedule, t):
            kept = sum(report.kept.values())
            assert kept <= report.budget
            assert kept == report.budget or rules.allocate is not ref.allocate
        assert report.parameters == {name: report.kept[name] * cost for name, cost in costs.items()}
        for name, mask in state.masks.items():
            assert report.kept[name] == int(np.sum(mask))
            assert same([report.revived[name], report.dropped[name]],
                        [mask & ~before.masks[name], before.masks[name] & ~mask])  # fmt: skip
            if rules.allocates(config.schedule, t) or t > config.schedule.end_of_pruning:
                assert not np.any(state.factors[name].s[~mask])
            assert all(np.all(a >= 0) for average in state.importance[name] for a in average)
            assert np.all((report.penalty_share[name] >= 0) & (report.penalty_share[name] <= 1))


@every_convention
@given(run=runs(), cut=st.integers(0, 3))
@settings(max_examples=3)
def test_a_run_may_stop_and_resume(rules: Convention, run: Run, cut: int) -> None:
    """Training in two parts is training in one, bit for bit, and no state changes once it is made."""
    network, config, batches = run
    whole = trained(run, rules)
    kept = [[np.array(a) for f in state.factors.values() for a in f] for state, _ in whole]
    (state, _), *_ = islice(whole, cut, None)
    rest = list(ref.train(state, batches[cut:], network, config, convention=rules))
    assert len(rest) == len(batches) - cut
    assert same([list(s.factors.values()) for s, _ in rest], [list(s.factors.values()) for s, _ in whole[cut + 1 :]])
    assert same([[a for f in state.factors.values() for a in f] for state, _ in whole], kept)


@given(run=runs())
@settings(max_examples=6)
def test_the_baseline_neither_prunes_nor_moves_s(run: Run) -> None:
    """Under LORA every triplet lives, s stays 1, the penalty is 0, and B starts at 0, so that the layer does as W."""
    found = trained(run, ref.LORA)
    network, config, batches = run
    start = found[0][0]
    assert not any(np.any(f.B) for f in start.factors.values())
    for state, report in found[1:]:
        assert all(np.all(f.s == 1.0) for f in state.factors.values())
        assert all(np.all(mask) for mask in state.masks.values())
        assert (report.penalty, report.threshold) == (0.0, None)
    x, _ = batches[0][0]
    scales = ref.scales_of(start, config, convention=ref.LORA)
    zero = {name: ref.map_factors(np.zeros_like, f) for name, f in start.factors.items()}
    assert same(network.forward(x, start.factors, scales)[0], network.forward(x, zero, scales)[0])


@every_convention
@given(run=runs(), samples=st.integers(1, 3))
@settings(max_examples=3)
def test_leading_axes_of_a_network_are_samples(rules: Convention, run: Run, samples: int) -> None:
    """A network gives for samples in two axes what it gives for them in a row, forward and backward."""
    network, config, batches = run
    state = ref.init_state(network, config, np.random.default_rng(0), convention=rules)
    scales = ref.scales_of(state, config, convention=rules)
    x = np.concatenate([batches[0][0][0]] * samples)
    (row, cache), (high, other) = (network.forward(a, state.factors, scales) for a in (x, x[None]))
    assert same(high[0], row)
    assert same(list(network.backward(high, other).values()), list(network.backward(row, cache).values()))


@given(st.sampled_from(list(CONVENTIONS)), st.lists(st.booleans(), min_size=7, max_size=7))
def test_a_convention_is_known_by_its_name_in_any_case(name: str, upper: list[bool]) -> None:
    """Each letter may be of either case."""
    assert convention("".join(c if u else c.lower() for c, u in zip(name, upper, strict=False))) is CONVENTIONS[name]


@given(strategies.score_maps(margin=2.0**-40), st.data())
def test_a_threshold_keeps_no_tie(scores: Any, data: st.DataObject) -> None:
    """Under LORALIB and PEFT who is kept lies strictly above who is dropped, and where b = N all are kept."""
    whole = sum(s.shape[0] for s in scores.values())
    budget = data.draw(st.integers(0, whole) | st.just(whole))
    masks = ref.PEFT.allocate(scores, budget)
    kept, dropped = (np.concatenate([s[m ^ flip] for s, m in zip(scores.values(), masks.values(), strict=True)])
                     for flip in (False, True))  # fmt: skip
    assert kept.size <= budget
    assert kept.size == whole or budget < whole
    assert kept.size == 0 or dropped.size == 0 or np.min(kept) > np.max(dropped)
