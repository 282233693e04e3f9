"""The kit under test: planted mistakes are killed where they sit, and correct variants are let through."""

from __future__ import annotations

import json
import math
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import adalora_ref as ref
from adalora_ref import convention
from adalora_ref.cli import main
from adalora_ref.conformance import mistakes_in_training
from adalora_ref.conformance.allocator_check import check_allocator
from adalora_ref.conformance.checking import check_case, check_stages, stage_named
from adalora_ref.conformance.deviations import DEVIATIONS, planted
from adalora_ref.conformance.diagnosis import near
from adalora_ref.conformance.known import Deviation
from adalora_ref.conformance.mistakes_in_pruning import keep_the_worst
from adalora_ref.conformance.mutants import holds, hunt, try_variants
from adalora_ref.conformance.seen import expectation
from adalora_ref.conformance.stages import STAGES
from adalora_ref.conformance.target import Lane, Target, spoken
from adalora_ref.conformance.variants import VARIANTS, Variant
from adalora_ref.conformance.verdict import Expected, Verdict
from adalora_ref.convention import SPEC

CHECKS = 200
"""Of each variant; `adalora-ref mutants --preset thorough` makes a thousand."""


@pytest.mark.thorough
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_no_correct_variant_fails(variant: Variant) -> None:
    """Another order, library or rounding is correct: no false alarm in random cases."""
    (trial,) = try_variants([variant], checks=CHECKS, seed=1)
    if trial.absent:
        pytest.skip(trial.absent)
    assert trial.checks >= CHECKS
    assert [c for row in trial.rows for c in row.checks if c.verdict is Verdict.FAIL] == []


def test_there_are_a_dozen_variants() -> None:
    """At least twelve variants are here, each with a name and a sentence of its own."""
    assert len({v.name for v in VARIANTS}) == len({v.says for v in VARIANTS}) == len(VARIANTS) >= 12


FIRST_OF_EACH_STAGE = list({known.stage: known for known in reversed(DEVIATIONS)}.values())[::-1]


@pytest.mark.thorough
@pytest.mark.parametrize("pair", list(pairwise(FIRST_OF_EACH_STAGE)), ids=lambda pair: f"{pair[0].name}-{pair[1].name}")
def test_two_mistakes_at_once_are_both_found(pair: tuple[Deviation, Deviation]) -> None:
    """With two mistakes planted, the first that departs is the first of the two, and each is named where it sits."""
    stages = [stage for stage in STAGES if {known.stage for known in pair} & set(stage.needs)]
    rows = list(check_stages([Target("two", planted(*pair))], stages, SPEC, cases=12, seed=0))
    failed = [row.stage for row in rows if row.verdict is Verdict.FAIL]
    order = [stage.name for stage in STAGES]
    assert failed[0] == min((known.stage for known in pair), key=order.index)
    diagnoses = {row.stage: row.diagnosis for row in rows}
    for known in pair:
        assert known.stage in failed
        # The backward pass is checked through the target's own forward pass, so a mistake there changes it too.
        if {other.stage for other in pair} != {"linear_forward", "linear_backward"}:
            assert f"`{known.name}`" in diagnoses[known.stage]


def test_a_variant_that_is_wrong_is_no_variant() -> None:
    """A trial of something incorrect counts false alarms, and the kit does not hold."""
    wrong = Variant("wrong", "", SimpleNamespace(triplet_scores=lambda state: 2 * ref.triplet_scores(state)))
    (trial,) = try_variants([wrong], checks=20, seed=0)
    assert trial.false_alarms > 0
    assert not holds((), [trial])


def test_a_mistake_that_is_none_survives() -> None:
    """What computes as the reference does is not killed, and the kit does not hold."""
    (found,) = hunt([Deviation("none", "prune", "nothing is wrong", ref.prune)], cases=6, seed=0)
    assert not found.killed
    assert not holds([found], ())


def test_mistakes_that_cannot_be_told_apart_are_named_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two entries compute the same, the diagnosis names both and says that it cannot tell them apart."""

    def inverted(factors: Any, keep: Any, /) -> Any:
        return ref.prune(factors, np.logical_not(keep))

    twin = Deviation("twin", "prune", "the same in other words", inverted)
    monkeypatch.setattr("adalora_ref.conformance.diagnosis.DEVIATIONS", (*DEVIATIONS, twin))
    (found,) = hunt([twin], cases=12, seed=0)
    assert "matches `prune_is_inverted`, `twin`, which these cases cannot tell apart" in found.own.diagnosis
    assert not found.named


FIELDS: dict[str, dict[str, Any]] = {
    "scale": {"scale": lambda alpha, *_: alpha},
    "penalty": {"penalty": convention.no_penalty},
    "trained": {"trained": convention.s_is_held},
    "sensitivity": {"sensitivity": convention.after_the_step},
    "allocate": {"allocate": keep_the_worst},
}
"""One mistake for each of several fields of a convention, all in one step of training."""


@cache
def first_departures(*names: str) -> dict[int, int]:
    """For every case of a training step that fails under these mistakes, which result departs first."""
    fields = {field: rule for name in names for field, rule in FIELDS[name].items()}
    stage, held = stage_named("train_step"), SimpleNamespace(train_step=mistakes_in_training._under(**fields))
    lane, found = Lane("float64", "float32", SPEC), {}
    for index in range(12):
        check = check_case(stage, Target("mistaken", held), lane, 0, index, [])
        if check.divergence is not None:
            order = [spoken(path) for path in expectation(stage, lane, 0, index)]
            found[index] = order.index(check.divergence.quantity)
    return found


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("pair", list(combinations(FIELDS, 2)), ids="-".join)
def test_two_mistakes_in_one_step_show_the_earlier_first(pair: tuple[str, str]) -> None:
    """With two mistakes in a training step, what is reported is what the one that acts earlier makes wrong."""
    one, other, both = first_departures(pair[0]), first_departures(pair[1]), first_departures(*pair)
    assert one
    assert other
    assert one != other
    assert both == {case: min(held[case] for held in (one, other) if case in held) for case in one.keys() | other}


class Allocator:
    """A stateful allocator, made of the reference with mistakes planted in it."""

    dtypes = ("float64",)

    def __init__(self, *mistakes: Deviation) -> None:
        self.held = planted(*mistakes)

    def start(self, weights: Any, schedule: Any, *, beta1: float, beta2: float) -> None:
        self.schedule, self.betas = schedule, {"beta1": beta1, "beta2": beta2}
        self.importance = {n: self.held.init_importance(f) for n, f in weights.items()}
        self.masks = {n: np.ones(f.s.shape, bool) for n, f in weights.items()}

    def update(self, step: int, weights: Any, grads: Any) -> dict[str, Any]:
        held, schedule = self.held, self.schedule
        if step < schedule.end_of_pruning:
            self.importance = {
                n: held.update_importance(i, weights[n], grads[n], **self.betas) for n, i in self.importance.items()
            }
        budget, due = held.budget_at(schedule, step), held.allocates_at(schedule, step)
        scores = {n: held.triplet_scores(i) for n, i in self.importance.items()}
        self.masks = held.allocate(scores, budget) if due else self.masks
        applied = due or step > schedule.end_of_pruning
        after = {n: held.prune(f, self.masks[n]) if applied else f for n, f in weights.items()}
        said = {"masks": self.masks, "importance": self.importance, "budget": budget, "due": due, "after": after}
        return said | ({"scores": scores} if due else {})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "names",
    [
        ("uncertainty_uses_previous_mean", "scores_of_means"),
        ("keeps_the_worst", "prune_is_inverted"),
    ],
    ids="-".join,
)
def test_two_mistakes_in_a_recorded_run_are_told_apart(names: tuple[str, str]) -> None:
    """In a run from step to step each of two mistakes is found in its own quantity, and nothing that follows is."""
    mistakes = [next(d for d in DEVIATIONS if d.name == name) for name in names]
    rows = check_allocator(Target("two", Allocator(*mistakes)), SPEC, seed=0)
    assert [row.stage for row in rows if row.verdict is Verdict.FAIL] == [d.stage for d in mistakes]
    for known in mistakes:
        row = next(row for row in rows if row.stage == known.stage)
        assert f"`{known.name}`" in row.diagnosis


def test_an_equivalent_entry_must_pass_and_is_not_counted() -> None:
    """What only looks like a mistake survives, and its kill would mean that the kit does not hold."""
    (known,) = [d for d in DEVIATIONS if d.name == "gap_is_transposed"]
    (found,) = hunt([known], cases=6, seed=0)
    assert not found.counts
    assert holds([found], ())
    wrong = known._replace(function=lambda factors, /: ref.orthogonality_norm(factors))
    assert not holds(list(hunt([wrong], cases=6, seed=0)), ())


def test_what_is_not_a_number_on_both_sides_is_alike() -> None:
    """Infinities and NaN do not keep a mistake from being recognised; a number where one should be does."""
    want = Expected.exact(np.array([1.0, 2.0, 3.0]), "float64")
    odd = np.array([-math.inf, math.nan, 3.0])
    assert near(odd, odd, want)
    assert not near(np.array([-math.inf, 2.0, 3.0]), odd, want)
    assert not near(np.array([math.inf, math.nan, 3.0]), odd, want)


def test_the_command_prints_the_matrix(tmp_path: Path) -> None:
    """`adalora-ref mutants` has a row a mistake with the checks that failed, and writes the matrix as JSON."""
    arguments = ["mutants", "--stage", "prune", "--preset", "quick", "--json", str(tmp_path / "m.json")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    assert "prune_is_inverted" in result.output
    assert "3 of 3 mistakes killed" in result.output
    matrix = json.loads((tmp_path / "m.json").read_text())
    assert {m["name"] for m in matrix["mistakes"]} == {d.name for d in DEVIATIONS if d.stage == "prune"}
    assert all(failed and run for m in matrix["mistakes"] for failed, run in m["failed"].values())
    for m in matrix["mistakes"]:
        failed, run = m["failed"]["prune"]
        assert len(m["checks"]) == run
        assert list(m["checks"].values()).count("FAIL") == failed


def test_the_command_hunts_in_one_dtype() -> None:
    """--dtype takes the mistakes to that dtype alone; an unknown one is refused."""
    result = CliRunner().invoke(main, ["mutants", "--stage", "prune", "--preset", "quick", "--dtype", "float32"])
    assert result.exit_code == 0
    assert "/6 " in result.output
    refused = CliRunner().invoke(main, ["mutants", "--dtype", "float8"])
    assert refused.exit_code == 2
