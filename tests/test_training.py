"""Algorithm 1: its order, its conventions, and what stops it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import adalora_ref as ref
from adalora_ref import (
    LORA,
    LORALIB,
    PAPER,
    PEFT,
    SPEC,
    BudgetSchedule,
    Config,
    Factors,
    StepReport,
    TrainState,
    init_state,
    mean_square,
    scales_of,
    train,
    train_step,
)
from adalora_ref.array import dtype_name, to_numpy
from adalora_ref.convention import CONVENTIONS, Convention
from adalora_ref.networks.mlp import MLP
from tests.conftest import Library, close, same

SHAPES = {"a": (4, 3), "b": (2, 4)}
SCHEDULE = BudgetSchedule(initial=6, target=2, warmup=2, final=3, total=10, interval=2)
"""Allocations at 2, 4, 6 (pruning) and 7; the last phase is 7, 8, 9."""


def config(**given: Any) -> Config:
    return Config(**{"schedule": SCHEDULE, "initial_rank": 3, "alpha": 3.0, "learning_rate": 0.05} | given)


def network(library: Library, dtype: str = "float64", loss: Any = mean_square) -> MLP:
    rng = np.random.default_rng(10)
    weights = {name: library.draw(rng, *shape, dtype=dtype) for name, shape in SHAPES.items()}
    return MLP(weights, {"a": library.draw(rng, 4, dtype=dtype)}, loss)


def batch(library: Library, seed: int, micro: int = 1, rows: int = 3, dtype: str = "float64") -> list[Any]:
    rng = np.random.default_rng(seed)
    return [(library.draw(rng, rows, 3, dtype=dtype), library.draw(rng, rows, 2, dtype=dtype)) for _ in range(micro)]


def run(
    library: Library, steps: int, rules: Convention = SPEC, **given: Any
) -> tuple[list[TrainState], list[StepReport], MLP, Config]:
    """States from the start on, one more than reports."""
    net, settings = network(library), config(**given)
    states, reports = [init_state(net, settings, np.random.default_rng(0), convention=rules)], []
    batches = [batch(library, t) for t in range(steps)]
    for state, report in train(states[0], batches, net, settings, convention=rules):
        states.append(state)
        reports.append(report)
    return states, reports, net, settings


def objective(library: Library, net: MLP, state: TrainState, batches: list[Any], settings: Config) -> Any:
    """loss + γ ΣR as a function of the factors, at the scales of *state*."""
    scales = scales_of(state, settings)

    def f(factors: dict[str, Factors]) -> float:
        losses = [float(net.loss(net.forward(x, factors, scales)[0], target)[0]) for x, target in batches]
        penalty = sum(float(ref.orthogonality_penalty(held)[0]) for held in factors.values())
        return math.fsum(losses) / len(losses) + settings.orthogonality_weight * penalty

    return f


def followed(library: Library, settings: Config, rules: Convention = SPEC, **given: Any) -> tuple[Any, Any]:
    """The gradient that a step follows, which with β1 = 0 is the first moment; and what is needed to check it."""
    net, settings = network(library), replace(settings, adam_beta1=0.0)
    state = init_state(net, settings, np.random.default_rng(0), convention=rules)
    state = state._replace(factors={n: library.draw_factors(np.random.default_rng(5), *SHAPES[n], 3) for n in SHAPES})
    batches = batch(library, 1, **given)
    after, report = train_step(state, batches, net, settings, convention=rules)
    return {name: held.first for name, held in after.optimizer.items()}, (net, state, batches, settings, after, report)


# IS THE GRADIENT


@pytest.mark.parametrize("micro", [1, 3])
def test_it_follows_the_gradient_of_the_whole_objective(library: Library, micro: int) -> None:
    """A central difference of mean loss + γ ΣR along a random direction is ⟨gradient, direction⟩."""
    gradient, (net, state, batches, settings, _, report) = followed(library, config(), micro=micro)
    f = objective(library, net, state, batches, settings)
    rng = np.random.default_rng(7)
    way = {name: library.draw_factors(rng, *shape, 3) for name, shape in SHAPES.items()}

    def at(t: float) -> float:
        return f({
            n: Factors(*(w + t * h for w, h in zip(held, way[n], strict=True))) for n, held in state.factors.items()
        })  # fmt: skip

    slope = sum(float(np.sum(to_numpy(g) * to_numpy(h)))
                for n in gradient for g, h in zip(gradient[n], way[n], strict=True))  # fmt: skip
    assert math.isclose((at(1e-5) - at(-1e-5)) / 2e-5, slope, rel_tol=1e-6)
    assert math.isclose(report.loss + report.penalty, at(0.0), rel_tol=1e-14)


def test_the_penalty_counts_once_whatever_the_number_of_micro_batches(library: Library) -> None:
    """A batch given twice is the batch: loss, penalty and gradient stay."""
    gradient, (net, state, batches, settings, _, report) = followed(library, config())
    after, again = train_step(state, batches * 2, net, settings)
    assert (again.loss, again.penalty) == (report.loss, report.penalty)
    assert all(close(after.optimizer[n].first, gradient[n], within=1e-15) for n in gradient)


def test_micro_batches_are_averaged(library: Library) -> None:
    """Two micro-batches of one row are one batch of two rows, for a loss that is a mean."""
    net, settings = network(library), config()
    state = init_state(net, settings, np.random.default_rng(0))
    rows = batch(library, 3, micro=2, rows=1)
    whole = [tuple(library.xp.concat([pair[k] for pair in rows]) for k in (0, 1))]
    split, joined = (train_step(state, given, net, settings) for given in (rows, whole))
    assert math.isclose(split[1].loss, joined[1].loss, rel_tol=1e-14)
    assert all(close(split[0].optimizer[n].first, joined[0].optimizer[n].first, within=1e-13) for n in SHAPES)


def test_clipping_bounds_the_norm_over_all_matrices(library: Library) -> None:
    """‖g‖ over all factors becomes c · ‖g‖ / (‖g‖ + 1e-6); a gradient that is short enough stays as it is."""
    free, _ = followed(library, config())
    short, _ = followed(library, config(clip_norm=0.125))
    long, _ = followed(library, config(clip_norm=1e6))
    norm = math.sqrt(sum(float(np.sum(to_numpy(g) ** 2)) for held in free.values() for g in held))
    factor = 0.125 / (norm + 1e-6)
    assert norm > 1
    assert all(close(short[n], ref.map_factors(lambda g: g * factor, free[n]), within=1e-14) for n in free)
    assert all(same(long[n], free[n]) for n in free)


# THE ORDER


@pytest.mark.parametrize("rules", [SPEC, PEFT], ids=lambda rules: rules.name)
def test_what_sensitivity_sees(library: Library, rules: Convention) -> None:
    """SPEC: the gradient before clipping at the weights before the step; PEFT: the clipped one at those after it."""
    clipped, (_, state, _, settings, after, _) = followed(library, config(clip_norm=0.125), rules)
    free, _ = followed(library, config(), rules)
    pairs = {"SPEC": (state.factors, free), "PEFT": (after.factors, clipped)}[rules.name]
    betas = {"beta1": settings.importance_beta1, "beta2": settings.importance_beta2}
    for name in SHAPES:
        expected = ref.update_importance(state.importance[name], pairs[0][name], pairs[1][name], **betas)
        assert close(after.importance[name], expected, within=1e-12)


def test_averages_run_until_the_last_phase(library: Library) -> None:
    """They change at every step t < T − t_f, allocation or not, and never again."""
    states, _, _, settings = run(library, 10)
    changed = [not same(one.importance, two.importance) for one, two in pairwise(states)]
    assert changed == [t < settings.schedule.end_of_pruning for t in range(10)]


def test_the_mask_is_applied_when_it_is_made_and_in_the_last_phase(library: Library) -> None:
    """s of a dropped triplet is 0 after an allocation and throughout the last phase; in between it moves."""
    states, reports, _, settings = run(library, 10)
    masked = []
    for state in states[1:]:
        dropped = [~to_numpy(mask) for mask in state.masks.values()]
        values = [to_numpy(f.s)[gone] for f, gone in zip(state.factors.values(), dropped, strict=True)]
        masked.append(bool(sum(len(v) for v in values)) and not any(np.any(v) for v in values))
    budgets = [ref.budget_at(settings.schedule, t) for t in range(10)]
    assert [r.budget for r in reports] == budgets == [6, 6, 6, 4, 2, 2, 2, 2, 2, 2]
    assert masked == [False, False, False, False, True, False, True, True, True, True]
    assert [sum(r.kept.values()) for r in reports] == [6, 6, 6, 6, 2, 2, 2, 2, 2, 2]


def test_pruning_leaves_the_rest_alone(library: Library) -> None:
    """An allocation zeroes s of the dropped; B, A, the moments and all other s are what they are without it."""
    states, _, net, settings = run(library, 4)
    never = replace(SPEC, allocates=lambda schedule, t: False)
    pruned, report = train_step(states[4], batch(library, 4), net, settings)
    free, _ = train_step(states[4], batch(library, 4), net, settings, convention=never)
    assert sum(report.kept.values()) == 2
    assert same(pruned.optimizer, free.optimizer)
    assert same(pruned.importance, free.importance)
    for name in SHAPES:
        keep = to_numpy(pruned.masks[name])
        assert same((pruned.factors[name].B, pruned.factors[name].A), (free.factors[name].B, free.factors[name].A))
        assert np.array_equal(to_numpy(pruned.factors[name].s), np.where(keep, to_numpy(free.factors[name].s), 0))


def test_the_scale_follows_the_latest_allocation(library: Library) -> None:
    """α / r_init before the first allocation; from the step after one, α / max(1, kept); PAPER keeps α / r_init."""
    states, reports, _, settings = run(library, 10)
    for state, report in zip(states[1:], reports, strict=True):
        assert scales_of(state, settings) == {n: 3.0 / max(1, kept) for n, kept in report.kept.items()}
    assert scales_of(states[0], settings) == {"a": 1.0, "b": 1.0}
    assert scales_of(states[-1], settings, convention=PAPER) == {"a": 1.0, "b": 1.0}


def test_the_last_allocation_uses_the_averages_as_they_stand(library: Library) -> None:
    """The masks at T − t_f are those of the scores that the step before left, at the target."""
    states, _, _, settings = run(library, 10)
    scores = {name: ref.triplet_scores(held) for name, held in states[7].importance.items()}
    assert same(states[8].masks, ref.allocate(scores, settings.schedule.target))
    assert same(states[10].masks, states[8].masks)


def test_the_order_is_that_of_the_network(library: Library) -> None:
    """A state whose dictionaries come in another order is the same state: ties go to the first layer, costs by name."""
    states, _, net, settings = run(library, 7)
    none = {n: ref.init_importance(f) for n, f in states[7].factors.items()}
    tied = states[7]._replace(importance=none)
    turned = TrainState(tied.step, *(dict(reversed(held.items())) for held in tied[1:]))
    (state, report), (other, same_report) = (train_step(s, batch(library, 7), net, settings) for s in (tied, turned))
    assert report.kept == {"a": 2, "b": 0}
    assert report.parameters == same_report.parameters == {"a": 16, "b": 0}
    assert list(other.masks) == ["a", "b"]
    assert all(same(state.masks[n], other.masks[n]) and same(state.factors[n].B, other.factors[n].B) for n in SHAPES)


def test_the_release_selects_anew_in_the_last_phase_and_peft_does_not(library: Library) -> None:
    """With T − t_f no multiple of ΔT, LORALIB reaches its target one step after PEFT, and both stay there."""
    kept = {r.name: [sum(report.kept.values()) for report in run(library, 10, r)[1]] for r in (LORALIB, PEFT)}
    assert kept == {"LORALIB": [6] * 4 + [2] * 6, "PEFT": [6] * 4 + [2] * 6}
    masks = {r.name: [report.threshold is not None for report in run(library, 10, r)[1]] for r in (LORALIB, PEFT)}
    assert masks["LORALIB"] == [False] * 4 + [True, False, True, False, True, True]
    assert masks["PEFT"] == [False] * 4 + [True, False, True, True, False, False]


def test_the_paper_counts_from_one(library: Library) -> None:
    """Under PAPER everything happens one step earlier in the state's count."""
    due = {r.name: [rep.step for rep in run(library, 10, r)[1] if rep.threshold is not None] for r in (SPEC, PAPER)}
    assert due == {"SPEC": [2, 4, 6, 7], "PAPER": [1, 3, 5, 6]}


def test_lora_runs_through_the_same_step(library: Library) -> None:
    """s stays 1 without a moment, nothing is pruned or penalised, and B and A move, B from zero."""
    settings = {"schedule": BudgetSchedule(initial=6, target=6, warmup=0, final=0, total=5)}
    states, reports, _, _ = run(library, 5, LORA, **settings)
    assert not any(np.any(to_numpy(f.B)) for f in states[0].factors.values())
    for state, report in zip(states[1:], reports, strict=True):
        assert all(np.all(to_numpy(f.s) == 1) for f in state.factors.values())
        assert all(not np.any(to_numpy(held.first.s)) for held in state.optimizer.values())
        assert (report.penalty, sum(report.kept.values()), report.threshold) == (0.0, 6, None)
    assert all(np.all(to_numpy(f.B) != 0) for f in states[-1].factors.values())


# THE REPORT


def test_a_report_by_hand(library: Library) -> None:
    """Budget, kept, parameters, threshold, revived and dropped all say what the masks and scores say."""
    states, reports, _, _ = run(library, 10)
    for before, after, report in zip(states, states[1:], reports, strict=False):
        masks = {n: to_numpy(m) for n, m in after.masks.items()}
        assert report.step == before.step == after.step - 1
        assert report.kept == {n: int(m.sum()) for n, m in masks.items()}
        assert report.parameters == {"a": 8 * report.kept["a"], "b": 7 * report.kept["b"]}
        assert same(report.revived, {n: m & ~to_numpy(before.masks[n]) for n, m in masks.items()})
        assert same(report.dropped, {n: ~m & to_numpy(before.masks[n]) for n, m in masks.items()})
        scores = [to_numpy(ref.triplet_scores(after.importance[n]))[m] for n, m in masks.items()]
        expected = float(min(np.concatenate(scores))) if ref.allocates_at(SCHEDULE, report.step) else None
        assert report.threshold == expected
    assert sum(int(np.sum(to_numpy(m))) for r in reports for m in r.dropped.values()) >= 4


def test_the_penalty_share(library: Library) -> None:
    """p / (p + q) of |w ⊙ γ∇R| and |w ⊙ ∇loss|, by triplet: 1 where the loss has no gradient, 0 without γ."""
    net, state = network(library), None
    shares = {}
    for weight in (0.0, 0.1):
        settings = config(orthogonality_weight=weight)
        state = init_state(net, settings, np.random.default_rng(0))
        shares[weight] = train_step(state, batch(library, 1), net, settings)[1].penalty_share
    assert state is not None
    assert all(not np.any(to_numpy(share)) for share in shares[0.0].values())
    scales = scales_of(state, settings)
    x, target = batch(library, 1)[0]
    output, cache = net.forward(x, state.factors, scales)
    task = net.backward(net.loss(output, target)[1], cache)
    for name, factors in state.factors.items():
        _, regular = ref.orthogonality_penalty(factors)

        def sizes(g: Factors, factors: Factors = factors) -> Any:
            B, s, A = (np.abs(to_numpy(w) * to_numpy(part)) for w, part in zip(factors, g, strict=True))
            return s + B.mean(axis=0) + A.mean(axis=1)

        p, q = 0.1 * sizes(regular), sizes(task[name])
        assert close(shares[0.1][name], p / (p + q), within=1e-12)


# LAWS


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("rules", CONVENTIONS.values(), ids=lambda rules: rules.name)
def test_a_run_is_known_by_its_seed_and_changes_nothing_it_was_given(library: Library, rules: Convention) -> None:
    """Two runs from one seed are identical bit for bit, and no state, batch or weight is touched by a later step."""
    given: dict[str, Any] = {}
    if rules is LORA:
        given = {"schedule": BudgetSchedule(initial=6, target=6, warmup=0, final=0, total=6)}
    states, reports, net, settings = run(library, 6, rules, **given)

    def bits(value: Any) -> list[bytes]:
        return [np.asarray(a).tobytes() for a in flat_state(value)]

    before = [bits(state) for state in states]
    again, reports_again, _, _ = run(library, 6, rules, **given)
    assert [bits(state) for state in states] == before == [bits(state) for state in again]
    assert [r.loss for r in reports] == [r.loss for r in reports_again]
    given_batch = batch(library, 0)
    held = [to_numpy(a).tobytes() for a in (*given_batch[0], *net.weights.values())]
    train_step(states[0], given_batch, net, settings, convention=rules)
    assert [to_numpy(a).tobytes() for a in (*given_batch[0], *net.weights.values())] == held


def flat_state(state: TrainState) -> list[Any]:
    """Every array of a state, on the host."""
    factors = [
        held
        for n in state.factors
        for held in (state.factors[n], *state.importance[n], state.optimizer[n].first, state.optimizer[n].second)
    ]
    return [to_numpy(a) for held in factors for a in held] + [to_numpy(m) for m in state.masks.values()]


def test_every_library_computes_the_same(library: Library) -> None:
    """A run on any library is the run on NumPy, but for rounding."""
    states, reports, _, _ = run(library, 10)
    xp = ref.array.backend("numpy")
    expected, expected_reports, _, _ = run(Library("numpy", xp, None), 10)
    assert [r.kept for r in reports] == [r.kept for r in expected_reports]
    for one, two in zip(flat_state(states[-1]), flat_state(expected[-1]), strict=True):
        assert np.allclose(one, two, rtol=1e-9, atol=1e-15)


@pytest.mark.usefixtures("unchecked")
@given(target=st.integers(0, 6), final=st.integers(1, 3), interval=st.integers(1, 4), warmup=st.integers(0, 3))
def test_the_target_is_reached(target: int, final: int, interval: int, warmup: int) -> None:
    """Whatever the schedule, the last phase keeps exactly the target, and no step keeps more than its budget."""
    library = Library("numpy", ref.array.backend("numpy"), None)
    schedule = BudgetSchedule(
        initial=6, target=target, warmup=warmup, final=final, total=warmup + 3 + final, interval=interval
    )
    _, reports, _, _ = run(library, schedule.total, schedule=schedule)
    kept = [sum(report.kept.values()) for report in reports]
    assert kept[schedule.end_of_pruning :] == [target] * final
    assert all(k >= report.budget for k, report in zip(kept, reports, strict=True))
    assert all(k == r.budget for k, r in zip(kept, reports, strict=True) if ref.allocates_at(schedule, r.step))


def test_a_budget_of_parameters(library: Library) -> None:
    """With a cost the budget counts parameters: at the end at most the target, and less than one triplet below it."""
    cost = {"a": 8, "b": 7}
    schedule = BudgetSchedule.from_parameters(SHAPES, initial=45, target=20, warmup=1, final=2, total=6)
    _, reports, _, _ = run(library, 6, schedule=schedule, cost=cost)
    assert schedule.initial == 45 == sum(reports[0].parameters.values())
    spent = sum(reports[-1].parameters.values())
    assert 20 - 8 < spent <= 20


def test_revived_triplets(library: Library) -> None:
    """Between allocations a dropped s moves, and with scores that favour it the triplet returns."""
    turns = iter([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]] * 20)
    fickle = replace(SPEC, score=lambda importance, weights: library.floats(next(turns)))
    schedule = BudgetSchedule(initial=3, target=1, warmup=0, final=1, total=6, interval=2)
    rng = np.random.default_rng(1)
    net = MLP({"only": library.draw(rng, 2, 3)}, loss=mean_square)
    settings = config(schedule=schedule)
    state = init_state(net, settings, rng)
    reports = [
        report for _, report in train(state, [batch(library, t) for t in range(6)], net, settings, convention=fickle)
    ]
    back = [to_numpy(report.revived["only"]).tolist() for report in reports]
    assert [sum(row) for row in back] == [0, 0, 0, 0, 0, 1]
    assert reports[5].kept == {"only": 1}


# WHAT STOPS IT


def poisoned(net: MLP, **parts: Callable[..., Any]) -> Any:
    """A network with some of its parts replaced."""
    methods = {name: getattr(net, name) for name in ("weights", "forward", "loss", "backward")}
    return type("Poisoned", (), {k: staticmethod(v) if callable(v) else v for k, v in (methods | parts).items()})()


@pytest.mark.parametrize(
    ("quantity", "matrix"), [("loss", "the network"), ("gradient of B", "b"), ("weight of s", "a"), ("score", "a")]
)
def test_what_is_not_finite_stops_the_run(library: Library, quantity: str, matrix: str) -> None:
    """The error names step, matrix and quantity; the state before that step goes on as if nothing had happened."""
    states, _, net, settings = run(library, 3)
    state, good, rules, bad_net, bad_settings = states[3], batch(library, 3), SPEC, net, settings
    nan = library.floats([float("nan")])
    if quantity == "loss":
        bad_net = poisoned(net, loss=lambda output, target: (nan[0], output))
    if quantity == "gradient of B":

        def backward(doutput: Any, cache: Any) -> Any:
            grads = net.backward(doutput, cache)
            B, s, A = grads["b"]
            return grads | {"b": Factors(B * nan, s, A)}

        bad_net = poisoned(net, backward=backward)
    if quantity == "weight of s":
        rules = replace(
            SPEC,
            trained=lambda held, moved: Factors(
                moved.B, moved.s * nan if held is state.factors["a"] else moved.s, moved.A
            ),
        )
    if quantity == "score":
        rules = replace(SPEC, score=lambda importance, weights: ref.triplet_scores(importance) * nan)
    with pytest.raises(FloatingPointError, match=rf"^step 3, {matrix}: the {quantity} is not finite$"):
        train_step(state, good, bad_net, bad_settings, convention=rules)
    expected, _ = train_step(run(library, 3)[0][3], good, net, settings)
    found, _ = train_step(state, good, net, settings)
    assert all(np.array_equal(a, b) for a, b in zip(flat_state(found), flat_state(expected), strict=True))


@pytest.mark.parametrize(("quantity", "size", "step"), [("penalty", 1e80, 8), ("second moment of B", 1e-3, 8)])
def test_what_overflows_behind_a_finite_loss_stops_the_run(
    library: Library, quantity: str, size: float, step: int
) -> None:
    """A penalty or a moment that is not finite is seen in every phase, though loss and gradient are finite."""

    def loss(output: Any, target: Any) -> Any:
        return output[0, 0] * 0, output * 0 + (1e200 if size < 1 else 0.0)

    net = network(library, loss=loss)
    settings = config(orthogonality_weight=1e-9)
    state = init_state(net, settings, np.random.default_rng(0))
    B, s, A = state.factors["a"]
    ones = Factors(B * 0 + size, s * 0 + 1.0, A * 0 + 1.0)
    state = state._replace(step=step, factors=state.factors | {"a": ones})
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match=rf"^step {step}, a: the {quantity} is not"):
        train_step(state, batch(library, 1), net, settings)


def test_a_huge_gradient_norm_stops_the_run(library: Library) -> None:
    """A gradient whose square overflows has no norm to clip by."""
    net = network(library, loss=lambda output, target: (output[0, 0], output * 1e200))
    settings = config(clip_norm=1.0)
    state = init_state(net, settings, np.random.default_rng(0))
    message = r"^step 0, all matrices: the gradient norm is not finite$"
    with np.errstate(over="ignore"), pytest.raises(FloatingPointError, match=message):
        train_step(state, batch(library, 0), net, settings)


def test_schedules_that_do_not_fit(library: Library) -> None:
    """The initial budget is the sum of ranks; SPEC wants a last phase, the release does without."""
    net = network(library)
    with pytest.raises(ValueError, match="must be what the initial ranks make up, 6; got 5"):
        init_state(net, config(schedule=replace(SCHEDULE, initial=5)), np.random.default_rng(0))
    short = config(schedule=replace(SCHEDULE, final=0))
    with pytest.raises(ValueError, match="under SPEC the last phase needs at least 1 step"):
        init_state(net, short, np.random.default_rng(0))
    for rules in (PAPER, LORALIB, PEFT):
        assert init_state(net, short, np.random.default_rng(0), convention=rules).step == 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_weights_are_adapted_by_float32_factors(dtype: str) -> None:
    """Factors, averages and moments are float32 from the start and stay so; the weights stay as they are."""
    kind, rng = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16), np.random.default_rng(0)
    net = MLP({name: rng.standard_normal(shape).astype(kind) for name, shape in SHAPES.items()}, loss=mean_square)
    settings = config()
    state = init_state(net, settings, rng)
    pair = (rng.standard_normal((3, 3)).astype(kind), rng.standard_normal((3, 2)).astype(kind))
    for after in (state, train_step(state, [pair], net, settings)[0]):
        held = [f for n in SHAPES for f in (after.factors[n], *after.importance[n], after.optimizer[n].first)]
        assert {dtype_name(a) for f in held for a in f} == {"float32"}
    assert {dtype_name(W) for W in net.weights.values()} == {dtype}
