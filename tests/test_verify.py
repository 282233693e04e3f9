"""The kit from outside: what conforms passes, every known mistake is caught and named, and nothing is passed over."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from rich.console import Console

import adalora_ref as ref
from adalora_ref.conformance import calls, cases, expectations
from adalora_ref.conformance.checking import PRESETS, check_stages, stage_named
from adalora_ref.conformance.command import PLANTED, installed_libraries
from adalora_ref.conformance.dependence import Asked, dependence, parts, perturbations, together
from adalora_ref.conformance.deviations import DEVIATIONS, planted, reference
from adalora_ref.conformance.diagnosis import narrower
from adalora_ref.conformance.known import Deviation
from adalora_ref.conformance.report import Report, show
from adalora_ref.conformance.seen import Seen, case_inputs, expectation
from adalora_ref.conformance.stages import STAGES
from adalora_ref.conformance.target import CannotExpress, Lane, Target
from adalora_ref.conformance.verdict import Expected, Row, Verdict, compare, exit_status
from adalora_ref.convention import CONVENTIONS, SPEC, Convention

DTYPES = ("float64", "float32", "float16", "bfloat16")


def check(held: Any, *names: str, rules: Convention = SPEC, cases: int = 24, **options: Any) -> list[Row]:
    """Check the stages of those names, or all."""
    stages = [stage_named(name) for name in names] or list(STAGES)
    return list(check_stages([Target("held", held)], stages, rules, cases=cases, seed=0, **options))


def target(**functions: Callable[..., Any]) -> Any:
    return SimpleNamespace(**functions)


# WHAT CONFORMS


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
@pytest.mark.parametrize("library", ["numpy", "array_api_strict", "cupy"])
def test_the_reference_conforms(library: str, stage: Any) -> None:
    """The reference passes every stage in every dtype of every library, and every check of it runs and decides."""
    usable, absent = installed_libraries()
    if library not in usable:
        pytest.skip(next(reason for reason in absent if library in reason))
    held = Target("adalora_ref", reference(SPEC), library)
    (row,) = check_stages([held], [stage], SPEC, cases=12, seed=3)
    assert row.verdict is Verdict.PASS, row
    assert row.run == len(row.checks) == 12 * len(held.usable_dtypes)
    assert row.inconclusive == 0
    assert {check.dtype for check in row.checks} == set(held.usable_dtypes)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("rules", CONVENTIONS.values(), ids=lambda rules: rules.name)
def test_the_reference_conforms_under_every_convention(rules: Convention) -> None:
    """Under a convention the reference passes all stages that have a meaning there; only costs may not run."""
    stages = [stage for stage in STAGES if stage.holds_under(rules)]
    rows = list(check_stages([Target("r", reference(rules))], stages, rules, dtypes=["float64"], cases=12, seed=1))
    assert {row.verdict for row in rows} == {Verdict.PASS}
    silent = {c.stage for row in rows for c in row.checks if c.verdict is Verdict.NOT_RUN}
    assert silent <= {"allocate"}


def test_a_convention_is_not_another() -> None:
    """Held against SPEC, the release's schedule and selection fail, each under the name of what it does."""
    rows = check(reference(CONVENTIONS["LORALIB"]), "budget_at", "allocates_at", "allocate")
    assert [row.verdict for row in rows] == [Verdict.FAIL] * 3
    for row, name in zip(rows, ("budget_in_doubles", "interval_counts_from_zero", "ties_are_dropped"), strict=True):
        assert f"`{name}`" in row.diagnosis


def test_other_orders_of_summation_pass() -> None:
    """Merged weights, reversed sums and products taken in another order are correct."""

    def merged(x: Any, W: Any, factors: Any, /, *, scale: float, bias: Any = None) -> Any:
        B, s, A = factors
        y = x @ (W + (scale * B * s) @ A).T
        return y if bias is None else y + bias, None

    def backwards(x: Any, W: Any, factors: Any, /, *, scale: float, bias: Any = None) -> Any:
        B, s, A = (part[..., ::-1] for part in (factors.B, factors.s, factors.A.T))
        y = x[..., ::-1] @ W[:, ::-1].T + ((x[..., ::-1] @ A[::-1]) * s) @ (scale * B).T
        return y if bias is None else y + bias, None

    for forward in (merged, backwards):
        (row,) = check(target(linear_forward=forward), "linear_forward", cases=200)
        assert row.verdict is Verdict.PASS, row.first_failure
        assert row.run >= 200


def test_what_unpacks_as_factors_is_factors() -> None:
    """A target may return its factors as any three arrays in a row."""

    def prune(factors: Any, keep: Any, /) -> Any:
        return tuple(ref.prune(factors, keep))

    def update_importance(*args: Any, **options: Any) -> Any:
        return [list(held) for held in ref.update_importance(*args, **options)]

    rows = check(target(prune=prune, update_importance=update_importance), "prune", "update_importance")
    assert [row.verdict for row in rows] == [Verdict.PASS] * 2


# WHAT DOES NOT


@pytest.mark.usefixtures("unchecked")  # the reference's annotations are not what is tested, and take half of the time
@pytest.mark.thorough
@pytest.mark.parametrize("known", [d for d in DEVIATIONS if not d.equivalent], ids=lambda known: known.name)
def test_every_known_mistake_is_caught_and_named(known: Deviation) -> None:
    """A planted mistake fails the stage that its entry names, with its name as the only diagnosis, and no other.

    In float64, for speed; `tests/benchmarks/mutants.py` hunts them in float32 too.
    """
    (row,) = check(planted(known), known.stage, dtypes=["float64"])
    assert row.verdict is Verdict.FAIL
    assert row.diagnosis.startswith(f"matches `{known.name}` in all ")


@pytest.mark.parametrize("known", [d for d in DEVIATIONS if d.equivalent], ids=lambda known: known.name)
def test_what_only_looks_like_a_mistake_passes(known: Deviation) -> None:
    """An entry that states why it is equivalent fails no check."""
    (row,) = check(planted(known), known.stage)
    assert row.verdict is Verdict.PASS


def test_the_catalogue_is_well_formed() -> None:
    """Names are unique, stages exist, and sentences neither begin with a capital nor end with a full stop."""
    assert len({known.name for known in DEVIATIONS}) == len(DEVIATIONS)
    assert any(known.name == PLANTED for known in DEVIATIONS)
    for known in DEVIATIONS:
        stage_named(known.stage)
        assert known.says
        assert not known.says.endswith(".")


def test_an_unknown_mistake_matches_nothing() -> None:
    """What no entry computes is called unknown, even if it lies close to one, and is told by what it hangs on."""
    (row,) = check(target(triplet_scores=lambda state: 1.0001 * ref.triplet_scores(state)), "triplet_scores")
    assert row.verdict is Verdict.FAIL
    assert row.diagnosis.startswith(
        "matches no known mistake; where it is wrong, S depends on state, the same inputs as it should"
    )


def test_a_state_is_whatever_unpacks_as_one() -> None:
    """Moments in plain tuples are the same state; two moments without a step are none, which is said."""

    def plain(*given: Any, **options: Any) -> Any:
        weights, (first, second, step) = ref.adamw_step(*given, **options)
        return tuple(weights), (tuple(first), tuple(second), step)

    def halved(*given: Any, **options: Any) -> Any:
        weights, state = ref.adamw_step(*given, **options)
        return weights, state[:2]

    def fresh(like: Any) -> Any:
        first, second, steps = ref.init_adamw(like)
        return tuple(first), tuple(second), steps

    held = target(adamw_step=plain, init_adamw=fresh, init_importance=lambda like: fresh(like)[:2])
    for row in check(held, "adamw_step", "init_adamw", "init_importance"):
        assert row.verdict is Verdict.PASS
    (wrong,) = check(target(adamw_step=halved), "adamw_step")
    assert wrong.first_failure is not None
    assert wrong.first_failure.reason == "the state of adamw_step must unpack as first, second, steps; got tuple of 2"


def test_a_result_is_told_by_the_inputs_that_it_ignores() -> None:
    """Where nothing known matches, each input is perturbed: here A in one, the scale in the other."""

    def scores(state: Any, /) -> Any:
        product = state.sensitivity.B * state.uncertainty.B
        return 1.5 * product.mean(axis=0) + state.sensitivity.s * state.uncertainty.s

    def unmerge(W: Any, factors: Any, /, *, scale: float) -> Any:
        return W - ref.increment(factors, scale=1.25)

    first, second = check(target(triplet_scores=scores, unmerge=unmerge), "triplet_scores", "unmerge")
    assert first.diagnosis.endswith("but not on state.sensitivity.A, state.uncertainty.A, though it should")
    assert second.diagnosis.endswith("but not on scale, though it should")


def test_a_quantity_that_hangs_on_too_much_is_told() -> None:
    """A result that depends on an input which has no place in its equation says so."""

    def prune(factors: Any, keep: Any, /) -> Any:
        B, s, A = ref.prune(factors, keep)
        return ref.Factors(B + 0.5 * factors.s, s, A)

    (row,) = check(target(prune=prune), "prune")
    assert row.diagnosis.endswith("and on factors.s, though it should not")


def test_what_either_refuses_says_nothing() -> None:
    """An input that the reference or the target refuses is no evidence of what either depends on."""

    def theirs(inputs: Any) -> bytes:
        return repr(inputs).encode()

    def ours(inputs: Any) -> bytes | None:
        return None if inputs["b"] != 0.5 else repr(inputs["a"]).encode()

    asked = [Asked({"a": 0.5, "b": 0.5, "c": 0.5}, theirs, ours)]
    assert dependence("q", asked, smooth=True) == "q depends on a, and on c, though it should not"
    asked = [Asked(inputs, ours, theirs) for inputs, theirs, ours in asked]
    assert dependence("q", asked, smooth=True) == "q depends on a, but not on c, though it should"
    assert "took over 0 s" in dependence("q", asked, smooth=True, seconds=0.0)


def test_what_took_too_long_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """When time is up, what the cases before have shown is said."""
    clock = [0.0]
    monkeypatch.setattr("adalora_ref.conformance.dependence.time", SimpleNamespace(monotonic=lambda: clock[0]))

    def slow(inputs: Any) -> bytes:
        clock[0] += 2.0 * inputs["late"]
        return repr(inputs).encode()

    def ours(inputs: Any) -> bytes:
        return repr(inputs["a"]).encode()

    asked = [Asked({"a": 0.5, "b": 0.5, "late": late}, slow, ours) for late in (False, True)]
    assert dependence("q", asked, smooth=True, seconds=1.0) == "q depends on a, and on b, though it should not"
    assert "took over 1 s" in dependence("q", asked[1:], smooth=True, seconds=1.0)


def says(theirs: Callable[[Any], Any], ours: Callable[[Any], Any], *, smooth: bool, **inputs: Any) -> str:
    """What is said of q, computed from these inputs."""

    def answer(rule: Callable[[Any], Any]) -> Callable[[Any], bytes]:
        return lambda held: repr(rule(SimpleNamespace(**held))).encode()

    return dependence("q", [Asked(inputs, answer(theirs), answer(ours))], smooth=smooth)


SENTENCES = {
    "the same": (lambda i: 2 * i.a, lambda i: i.a, "depends on a, the same inputs as it should"),
    "too few": (lambda i: i.a, lambda i: i.a + i.b, "depends on a, but not on b, though it should"),
    "too many": (lambda i: i.a + i.b, lambda i: i.a, "depends on a, and on b, though it should not"),
    "another": (lambda i: i.a, lambda i: i.b, "depends on a, though it should not, but not on b, though it should"),
    "all three": (
        lambda i: i.a + i.b,
        lambda i: i.a + i.c,
        "depends on a, and on b, though it should not, but not on c, though it should",
    ),
    "in steps": (lambda i: math.floor(i.a), lambda i: i.a, "depends on a, the same inputs as it should"),
    "none": (lambda i: 1, lambda i: i.a, "depends on none of its inputs, though it should on a"),
    "a constant": (lambda i: 1, lambda i: 2, "depends on none of its inputs, as it should"),
}

SEEN = {
    "the same": (lambda i: 2 * i.a, lambda i: i.a, "moved with a, as the right one did"),
    "too few": (lambda i: i.a, lambda i: i.a + i.b, "moved with a, and stayed where b moved the right one"),
    "too many": (lambda i: i.a + i.b, lambda i: i.a, "moved with a, and with b, where the right one stayed"),
    "another": (
        lambda i: i.a,
        lambda i: i.b,
        "moved with a, where the right one stayed, and stayed where b moved the right one",
    ),
    "a constant": (lambda i: 1, lambda i: 2, "moved with none of its inputs"),
}


def test_the_sign_of_a_zero_is_no_dependence() -> None:
    """Nought times factors is nought, whatever their signs; so it is said to depend on none of them."""

    def rounded(factors: Any, /, *, scale: float) -> Any:
        return ref.increment(factors, scale=float(round(min(scale, 0.4))))

    (row,) = check(SimpleNamespace(increment=rounded), "increment")
    assert row.diagnosis.endswith("ΔW depends on none of its inputs, though it should on factors, scale")


@pytest.mark.parametrize("case", SENTENCES)
def test_each_input_is_named_once(case: str) -> None:
    """What moves both, the wrong one alone and the right one alone stands in three places of one sentence."""
    theirs, ours, sentence = SENTENCES[case]
    assert says(theirs, ours, smooth=True, a=0.5, b=3, c=np.ones(2)) == f"q {sentence}"


@pytest.mark.parametrize("case", SEEN)
def test_what_may_stay_is_told_by_what_was_seen(case: str) -> None:
    """Of a mask or a count nothing is said that it should do."""
    theirs, ours, sentence = SEEN[case]
    assert says(theirs, ours, smooth=False, a=2, b=3) == f"q {sentence}"


def inner(value: Any, path: str = "") -> dict[str, Any]:
    """Every part of a value, and every part of these, by name."""
    found = {path: value}
    for name, item, _ in parts(value):
        found |= inner(item, path + name if path else name.strip("[]"))
    return found


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_no_input_that_is_drawn_stays_what_it_is(stage: Any) -> None:
    """Whatever is perturbed becomes another number, in every case that is drawn; no number is left out."""
    for index in range(24):
        inputs = case_inputs(stage, "float64", 0, index)
        before, moved, tried = inner(inputs), set(), set()
        for name, changed in perturbations(inputs):
            tried.add(name)
            if repr(inner(changed)[name]) != repr(before[name]):
                moved.add(name)
        empty = {name for name, value in before.items() if isinstance(value, np.ndarray) and not value.size}
        assert tried - moved <= empty


@pytest.mark.parametrize(
    ("stage", "names"),
    {
        "allocate": {"budget", "cost[embed]"},
        "adamw_step": {"state.steps"},
        "budget_at": {"steps", "schedule.warmup", "schedule.interval"},
        "train_step": {"state.step", "state.optimizer[first].steps", "config.schedule.final", "batch[0][1]"},
    }.items(),
)
def test_whole_numbers_are_moved_up_and_down(stage: str, names: set[str]) -> None:
    """Budgets, costs, steps and labels are inputs too."""
    inputs = case_inputs(stage_named(stage), "float64", 0, 7)
    before = inner(inputs)
    seen: dict[str, set[bool]] = {}
    for name, changed in perturbations(inputs):
        seen.setdefault(name, set()).add(bool(np.all(np.asarray(inner(changed)[name]) > np.asarray(before[name]))))
    assert names <= {name for name, ways in seen.items() if ways == {True, False}}


def test_steps_that_are_ignored_are_told() -> None:
    """An optimiser that takes every step for its tenth is said not to depend on the number of steps."""

    def tenth(weights: Any, grads: Any, state: Any, /, **options: Any) -> Any:
        moved, after = ref.adamw_step(weights, grads, state._replace(steps=9), **options)
        return moved, after._replace(steps=state.steps + 1)

    (row,) = check(target(adamw_step=tenth), "adamw_step")
    assert row.diagnosis.endswith("but not on state.steps, though it should")


def test_a_schedule_is_told_by_what_it_reads() -> None:
    """A budget that is frozen between allocations moved with the interval, with which the right one stays."""

    def frozen(schedule: Any, step: int, /) -> int:
        pruning = schedule.warmup <= step < schedule.end_of_pruning
        return ref.budget_at(schedule, step - (step - schedule.warmup) % schedule.interval if pruning else step)

    (row,) = check(target(budget_at=frozen), "budget_at")
    assert row.diagnosis.endswith("and with schedule.interval, where the right one stayed")


def test_what_holds_where_it_is_wrong_is_said_of_that() -> None:
    """Averages that are wrong where β1 is 0, and there hang on the old ones, are not said never to depend on β1."""

    def held(state: Any, weights: Any, grads: Any, /, *, beta1: float, beta2: float) -> Any:
        return ref.update_importance(state, weights, grads, beta1=max(beta1, 0.3), beta2=beta2)

    (row,) = check(target(update_importance=held), "update_importance")
    assert row.diagnosis.endswith(
        "; where it is wrong, state.sensitivity.B depends on weights.B, grads.B, and on state.sensitivity.B, "
        "though it should not, but not on beta1, though it should"
    )


def test_parts_are_named_together() -> None:
    """A whole stands for all its parts, a star for all that differ in their brackets, and nothing for less."""
    among = ["w[a].B", "w[a].s", "w[b].B", "w[b].s", "beta"]
    assert together(among[:4], among) == "w"
    assert together(["w[a].B", "w[a].s", "beta"], among) == "w[a], beta"
    assert together(["w[a].B", "w[b].B"], among) == "w[*].B"
    assert together(["w[a].B", "beta"], among) == "w[a].B, beta"


def test_a_mask_is_said_to_depend_on_what_moves_it(tmp_path: Path) -> None:
    """What an allocation of every matrix depends on is never called too much, and a constant has no list of nothing."""

    def all_kept(scores: Any, budget: int, /, *, cost: Any = None) -> Any:
        return {name: np.ones_like(s, dtype=bool) for name, s in scores.items()}

    def ties_kept(scores: Any, budget: int, /, *, cost: Any = None) -> Any:
        flat = np.sort(np.concatenate(list(scores.values())))[::-1]
        return {name: (s >= flat[budget - 1]) if budget else np.zeros_like(s, dtype=bool) for name, s in scores.items()}

    said = []
    for allocate in (all_kept, ties_kept):
        target = Target("mine", SimpleNamespace(allocate=allocate, dtypes=("float64",)))
        (row,) = check_stages([target], [stage_named("allocate")], SPEC, cases=24, seed=0)
        said.append(row.diagnosis)
    assert "moved with none of its inputs, and stayed where scores[" in said[0]
    assert said[0].endswith("moved the right one")
    assert "should" not in said[1]


def test_another_convention_is_told() -> None:
    """Where everything that failed is right under another convention, the verdict names that one."""
    held = reference(CONVENTIONS["PEFT"])
    rows = check(held, "linear_forward", "budget_at", "allocates_at")
    assert [row.verdict for row in rows] == [Verdict.PASS, Verdict.FAIL, Verdict.FAIL]
    assert rows[1].conventions == ("LORALIB", "PEFT")
    assert rows[2].conventions == ("PEFT",)
    console = Console(file=StringIO(), width=10_000)
    show(Report("held", "SPEC", "default", 0, tuple(rows), 1), console)
    assert (
        "as far as it fails, this is convention PEFT, not SPEC: 2 differences, budget_at, allocates_at"
        in console.file.getvalue()
    )


def test_a_convention_that_cannot_judge_what_failed_is_not_told() -> None:
    """A convention that knows no cost explains no failure of the cases with costs, though all others are right."""

    def skips(scores: Any, budget: int, /, *, cost: Any = None) -> Any:
        keep, left = {name: np.zeros(len(s), dtype=bool) for name, s in scores.items()}, budget
        ranked = sorted((-float(s), k, i) for k, held in enumerate(scores.values()) for i, s in enumerate(held))
        for _, k, i in ranked:
            name = list(scores)[k]
            price = 1 if cost is None else cost[name]
            if price <= left:  # and on with what is cheaper
                keep[name][i], left = True, left - price
        return keep

    (row,) = check(target(allocate=skips), "allocate")
    assert row.verdict is Verdict.FAIL
    assert row.conventions == ()


@pytest.mark.parametrize(("got", "told"), [(0.9, False), (1 + 2.0**-12, True)], ids=["gross", "small"])
def test_a_gross_error_is_none_of_a_narrow_format(got: float, *, told: bool) -> None:
    """A tenth is not called an error of bfloat16, though a wide bound would let it pass for one; 2⁻¹² is."""
    bound = np.full(1, 64 * 2.0**-53)
    expected = {"R": Expected(np.ones(1), np.zeros(1), bound, bound, "float64")}
    outputs = {"R": np.array([got])}
    lane = Lane("float64", "float32", SPEC)
    seen = Seen(Target("mine", target()), lane, 0, 0, {}, outputs, outputs, expected, failed=True)
    assert bool(narrower([seen])) is told


def test_what_is_made_first_departs_first() -> None:
    """A wrong second moment is the first divergence of a step of AdamW, not the weight that it leads to."""

    def step(weights: Any, grads: Any, state: Any, /, **options: Any) -> Any:
        return ref.adamw_step(weights, ref.map_factors(lambda g: g * g.dtype.type(1.01), grads), state, **options)

    (row,) = check(target(adamw_step=step), "adamw_step")
    assert row.first_failure.divergence.quantity.startswith("state.first")


def test_one_error_in_the_last_place_of_float64_is_seen() -> None:
    """A relative error of 1e-12, far below what float32 shows, fails in float64 alone."""

    def slightly(W: Any, factors: Any, /, *, scale: float) -> Any:
        merged = ref.merge(W, factors, scale=scale)
        return merged * merged.dtype.type(1 + 1e-12)

    (row,) = check(target(merge=slightly), "merge")
    assert {c.dtype for c in row.checks if c.verdict is Verdict.FAIL} == {"float64"}


@pytest.mark.parametrize(
    ("error", "verdict"),
    [(0.0, Verdict.PASS), (0.2, Verdict.PASS), (0.9, Verdict.WARN), (1.0, Verdict.WARN), (1.1, Verdict.FAIL)],
)
def test_the_verdict_is_the_bound(error: float, verdict: Verdict) -> None:
    """Up to the sharp tier it is PASS, up to the worst case WARN, above it FAIL; here the two are ½ and 1."""
    ones = np.ones(2)
    expected = Expected(100 * ones, 0 * ones, ones, 0.5 * ones, "float64")
    found, ratio, divergence, _ = compare("y", np.asarray([100.0, 100.0 + error]), expected)
    assert (found, round(ratio, 12)) == (verdict, error)
    assert (divergence.where if divergence else None) == ("y[1]" if verdict is Verdict.FAIL else None)


def test_a_bound_that_says_nothing_decides_nothing() -> None:
    """A bound above a tenth of the value, or an infinite one, is inconclusive; an error above it still fails."""
    ones = np.ones(2)
    wide, endless = (Expected(4 * ones, 0 * ones, bound * ones, bound * ones, "float64") for bound in (1.0, np.inf))
    assert compare("y", 4 * ones, wide)[0] is Verdict.INCONCLUSIVE
    assert compare("y", 4 * ones, endless)[0] is Verdict.INCONCLUSIVE
    assert compare("y", 6 * ones, wide)[0] is Verdict.FAIL


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        ("PASS WARN", 0),
        ("PASS NOT_RUN", 0),
        ("PASS FAIL INCONCLUSIVE", 1),
        ("PASS INCONCLUSIVE", 3),
        ("NOT_RUN NOT_RUN", 3),
    ],
)
def test_exit_statuses(verdicts: str, status: int) -> None:
    """1 where anything failed, 3 where a stage could not be decided or nothing ran at all, else 0."""
    rows = [Row(f"s{i}", "", Verdict[name], ()) for i, name in enumerate(verdicts.split())]
    assert exit_status(rows) == status


# WHAT DID NOT RUN


def test_what_is_missing_is_listed_never_passed() -> None:
    """A function that is missing, an option, a dtype: each check says why it did not run, and the stage is no PASS."""
    (absent,) = check(target(prune=ref.prune), "compress")
    assert absent.verdict is Verdict.NOT_RUN
    assert {c.reason for c in absent.checks} == {"the target has no compress"}

    (partly,) = check(target(allocate=lambda scores, budget: ref.allocate(scores, budget)), "allocate")  # noqa: PLW0108
    assert partly.verdict is Verdict.PASS
    assert 0 < partly.run < len(partly.checks)
    assert {c.reason for c in partly.checks if c.reason} == {"the target's allocate takes no cost"}

    (refused,) = check(target(prune=ref.prune, dtypes=("float32",)), "prune", dtypes=["float64"])
    assert {c.reason for c in refused.checks} == {"the target has no float64 on numpy"}


def test_a_target_may_say_what_it_cannot_express() -> None:
    """`CannotExpress` is listed as not run, in the target's words."""

    def prune(factors: Any, keep: Any, /) -> Any:
        raise CannotExpress("masks live elsewhere")

    (row,) = check(target(prune=prune), "prune")
    assert (row.verdict, row.checks[0].reason) == (Verdict.NOT_RUN, "masks live elsewhere")


def test_an_undecided_allocation_is_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rounding may decide who is kept, a step of training is inconclusive, neither PASS nor FAIL."""
    monkeypatch.setattr(expectations, "_decided", lambda state: False)
    expectation.cache_clear()
    (row,) = check(reference(SPEC), "train_step", dtypes=["float32"], cases=12)
    expectation.cache_clear()
    undecided = [c for c in row.checks if c.verdict is Verdict.INCONCLUSIVE]
    assert undecided
    assert {c.reason for c in undecided} == {"scores lie too close to the threshold to tell who is kept"}
    assert {c.verdict for c in row.checks} == {Verdict.INCONCLUSIVE, Verdict.PASS}


# CASES


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_cases_are_the_same_everywhere(stage: Any) -> None:
    """A case is known by stage, dtype, seed and index; it is drawn anew, equal, and another index draws another."""
    lane = calls.Lane("float64", "float32", SPEC)
    first, again, other = (case_inputs(stage, "float64", 0, index) for index in (4, 4, 5))
    one, two, three = (stage.expect(inputs, lane) for inputs in (first, again, other))
    assert all(np.array_equal(one[name].high, two[name].high) for name in one)
    assert str(first) == str(again) != str(other)
    assert one.keys() == two.keys()
    assert three


SHORTER = {"init_state": {9, 17}, "train_step": {9, 17}, "allocate": {9}}


def sides(value: Any) -> set[int]:
    """The lengths of all axes of all arrays inside a value."""
    if isinstance(value, np.ndarray):
        return set(value.shape)
    return {side for _, item, _ in parts(value) for side in sides(item)}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("stage", [s for s in STAGES if s.draw is not cases.schedule], ids=lambda stage: stage.name)
def test_some_cases_end_beyond_a_block(stage: Any, dtype: str) -> None:
    """The default preset has sides beyond blocks of 8, 16 and 32, as many as the oracle can afford; none fills one."""
    lane, found = calls.Lane(dtype, "float32", SPEC), set()
    for index in range(PRESETS["default"]):
        inputs = case_inputs(stage, dtype, 0, index)
        found |= sides(inputs) | sides({n: want.high for n, want in stage.expect(inputs, lane).items()})
    for least in SHORTER.get(stage.name, {9, 17, 33, 65}):
        assert any(least <= side < 2 * least - 2 for side in found), sorted(found)
    assert not {side for side in found if side > 8 and side % 8 == 0 and stage.name != "allocate"}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "name", ["ties_go_to_the_first_name", "ties_go_to_the_last_name", "scores_are_compared_in_single"]
)
def test_the_quick_preset_sees_order_and_digits(name: str, seed: int) -> None:
    """Whatever the seed, a few cases tell forward order from that of names, and scores apart that float32 does not."""
    known = next(d for d in DEVIATIONS if d.name == name)
    target = Target("held", planted(known))
    (row,) = check_stages([target], [stage_named("allocate")], SPEC, dtypes=["float64"], cases=6, seed=seed)
    assert row.verdict is Verdict.FAIL


def test_a_tiny_increment_is_no_zero() -> None:
    """What sets to zero all entries below 1e-13 fails."""

    def increment(factors: Any, /, *, scale: float) -> Any:
        found = ref.increment(factors, scale=scale)
        return np.where(np.abs(found) < 1e-13, found * 0, found)

    (row,) = check(target(increment=increment), "increment", dtypes=["float64"])
    assert row.verdict is Verdict.FAIL


def test_presets_grow() -> None:
    """quick, default and thorough draw more and more cases."""
    assert PRESETS["quick"] < PRESETS["default"] < PRESETS["thorough"]


# THE COMMAND


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with some targets in it."""
    (tmp_path / "mine.py").write_text(
        "from adalora_ref import prune, triplet_scores\n"
        "class Wrong:\n"
        "    def triplet_scores(self, state): return state.sensitivity.s * state.uncertainty.s\n"
        "    prune = staticmethod(prune)\n"
        "    note = 'no function'\n"
        "class Elsewhere(Wrong):\n"
        "    array_library = 'tensorflow'\n"
        "class Tiny(Wrong):\n"
        "    dtypes = ('float8',)\n"
        "class Single(Wrong):\n"
        "    dtypes = 'float16'\n"
        "class Needy(Wrong):\n"
        "    def __init__(self, rank):\n"
        "        self.rank = rank\n",
        encoding="utf-8",
    )
    (tmp_path / "broken.py").write_text("import no_such_thing\n", encoding="utf-8")
    (tmp_path / "exits.py").write_text("raise SystemExit(0)\n", encoding="utf-8")
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(ref.__file__).parents[1]), "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", "adalora_ref", "verify", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_target_that_is_right(folder: Path) -> None:
    """A module with some functions conforms; the last line says how many checks ran of how many; status 0."""
    done = run(folder, "mine", "--preset", "quick")
    assert (done.returncode, done.stderr) == (0, "")
    assert "prune                  PASS     12/12   exact" in done.stdout
    assert done.stdout.splitlines()[-1] == "mine conforms: 24 of 252 checks ran, 0 of them inconclusive"
    assert "not run, the target has no such function: init_factors, linear_forward" in done.stdout


def test_a_target_that_is_wrong(folder: Path) -> None:
    """A failing stage has its verdict on its line; then equation, element, numbers and diagnosis; status 1."""
    done = run(folder, "mine:Wrong", "--preset", "quick", "--json", "verdict.json", "--junit", "verdict.xml")
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert any(line.split()[:3] == ["triplet_scores", "FAIL", "12/12"] for line in lines)
    assert "  equation   (9) S_i = (Ī·Ū)(s_i) + mean_j (Ī·Ū)(B_ji) + mean_j (Ī·Ū)(A_ij)" in lines
    assert any(line.startswith("  diagnosis  matches `scores_of_s_alone` in all 12 cases") for line in lines)
    assert "\x1b" not in done.stdout
    assert all(line == line.rstrip() for line in lines)

    verdict = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    assert (verdict["target"], verdict["status"], verdict["specification"]) == ("mine:Wrong", 1, ref.SPECIFICATION)
    rows = {row["stage"]: row for row in verdict["rows"]}
    assert (rows["prune"]["verdict"], rows["triplet_scores"]["verdict"]) == ("PASS", "FAIL")
    suite = ET.parse(folder / "verdict.xml").getroot()  # noqa: S314  our own file
    cases = suite.findall("testcase")
    assert len(cases) == int(suite.attrib["tests"]) == sum(len(row["checks"]) for row in verdict["rows"])
    assert len(suite.findall("testcase/failure")) == int(suite.attrib["failures"]) > 0
    assert len(suite.findall("testcase/skipped")) == int(suite.attrib["skipped"]) > 0
    assert len({case.attrib["name"] for case in cases}) == len(cases)
    assert sorted(path.name for path in folder.iterdir() if "verdict" in path.name) == ["verdict.json", "verdict.xml"]


def test_a_stage_named_twice_runs_once(folder: Path) -> None:
    """A stage that is asked for twice has one row, and one dtype may be declared without a tuple."""
    done = run(folder, "mine:Single", "--preset", "quick", "--stage", "prune", "--stage", "prune")
    assert done.stdout.splitlines()[-1] == "mine:Single conforms: 6 of 6 checks ran, 0 of them inconclusive"


def test_letters_that_a_stream_lacks_are_escaped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where standard output knows ASCII alone, the verdict comes out all the same."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = run(folder, "mine:Wrong", "--preset", "quick", "--stage", "triplet_scores")
    assert (done.returncode, done.stderr) == (1, "")
    assert "(9) S_i = (\\u012a" in done.stdout


@pytest.mark.parametrize(
    ("dtype", "got", "told"), [("bool", [True, True], (True, False)), ("int64", [3, 3], (3, 2))], ids=["bool", "int"]
)
def test_what_is_no_fraction_is_shown_as_it_is(dtype: str, got: list[Any], told: tuple[Any, Any]) -> None:
    """A mask departs as True from False, and a count as 3 from 2, not as 3.0."""
    expected = Expected.exact(np.array([got[0], told[1]], dtype=dtype), dtype)
    divergence = compare("kept", np.array(got, dtype=dtype), expected)[2]
    assert divergence is not None
    assert (repr(divergence.got), repr(divergence.expected)) == tuple(map(repr, told))


def test_what_is_required_must_run(folder: Path) -> None:
    """A stage named by --require that did not run makes status 3, and the verdict says so."""
    done = run(folder, "mine", "--preset", "quick", "--require", "merge", "--stage", "prune", "--stage", "merge")
    said = "mine is undecided: 12 of 24 checks ran, 0 of them inconclusive; required, but not run: merge"
    assert done.returncode == 3
    assert done.stdout.splitlines()[-1] == said
    assert run(folder, "mine", "--preset", "quick", "--require", "prune", "--stage", "prune").returncode == 0


def test_without_a_target_both_verdicts_are_shown(folder: Path) -> None:
    """The reference passes, a planted mistake is caught and named, and the last line is the one to type."""
    done = run(folder, "--preset", "quick")
    assert (done.returncode, done.stderr) == (0, "")
    assert "adalora_ref conforms" in done.stdout
    assert f"diagnosis  matches `{PLANTED}`" in done.stdout
    assert done.stdout.splitlines()[-1].strip() == "adalora-ref verify your_module:your_object"


def test_the_example_of_the_readme(tmp_path: Path) -> None:
    """The file that the README shows fails as the README shows, line by line."""
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    _, file, _, shown, _ = text[text.index("`mine.py`") :].split("```")[:5]
    (tmp_path / "mine.py").write_text(file.removeprefix("python"), encoding="utf-8")
    done = run(tmp_path, "mine:Mine")
    lines = [line for line in shown.removeprefix("text").splitlines() if line]
    assert done.returncode == 1
    assert len(lines) == 8
    assert set(lines) <= set(done.stdout.splitlines())


def test_what_a_target_raises_steers_no_terminal(tmp_path: Path) -> None:
    """Escape sequences and signs that turn text around do not get from an exception into any form of the verdict."""
    code = (
        "class Mine:\n    def triplet_scores(self, state, /):\n"
        "        raise ValueError('\\x1b[2J gone \\u202e turned \\x9b1m')\n"
    )
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    done = run(tmp_path, "mine:Mine", "--preset", "quick", "--no-repro", "--json", "v.json", "--junit", "v.xml")
    assert done.returncode == 1
    assert "raised ValueError: \ufffd[2J gone \ufffd turned \ufffd1m" in done.stdout
    said = [done.stdout, done.stderr, *((tmp_path / name).read_text(encoding="utf-8") for name in ("v.json", "v.xml"))]
    assert not {"\x1b", "\x9b", "\u202e"} & set("".join(said))
    assert ET.fromstring(said[3]).tag == "testsuite"  # noqa: S314  the kit wrote it just now
    assert "\\u001b" not in said[2]


BAD = {
    "no module": (["nowhere"], "there is no module 'nowhere'"),
    "no object": (["mine:Nobody"], "'mine' has no 'Nobody'"),
    "no name": (["../mine.py"], "a target is written package.module or package.module:object; got '../mine.py'"),
    "no function": (["mine:Wrong.note"], "'mine:Wrong.note' has none of the functions that can be checked"),
    "library": (
        ["mine:Elsewhere"],
        "mine:Elsewhere.array_library cannot be used here: the array library must be one of",
    ),
    "declared dtype": (
        ["mine:Tiny"],
        "mine:Tiny.dtypes must be among float64, float32, float16, bfloat16; got ('float8',)",
    ),
    "broken": (["broken"], "the target 'broken' raised ModuleNotFoundError when it was imported"),
    "exits": (["exits"], "the target 'exits' raised SystemExit when it was imported"),
    "needs arguments": (
        ["mine:Needy"],
        "the target 'mine:Needy' raised TypeError when it was called without arguments",
    ),
    "convention": (
        ["mine", "--convention", "HF"],
        "the convention must be one of SPEC, PAPER, LORALIB, PEFT, LORA; got",
    ),
    "stage": (["mine", "--stage", "merg"], "the stage must be one of init_factors, linear_forward"),
    "required stage": (["mine", "--require", "merg"], "the stage must be one of"),
    "dtype": (["mine", "--dtype", "int8"], "the dtype must be one of float64, float32, float16, bfloat16; got 'int8'"),
    "json folder": (["mine", "--json", "no/such.json"], "a report must be written to a file in a folder that exists"),
    "json to a stream": (["mine", "--json", "-"], "written to a file in a folder that exists; got '-'"),
    "junit folder": (["mine", "--junit", "."], "a report must be written to a file in a folder that exists; got '.'"),
    "seed": (["mine", "--seed", "-1"], "-1 is not in the range x>=0"),
    "preset": (["mine", "--preset", "slow"], "'slow' is not one of"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_usage(name: str, folder: Path) -> None:
    """Wrong usage is one sentence on stderr and status 2; of a broken target its own traceback, none of our frames."""
    arguments, message = BAD[name]
    done = run(folder, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert str(Path(ref.__file__).parent) not in done.stderr
    assert ("Traceback" in done.stderr) == (name in ("broken", "exits"))
    assert not [path for path in folder.rglob("*") if "json" in path.name or "xml" in path.name]
