"""Stateful allocators: the right one passes, known mistakes are named where they sit, and a bad protocol is refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adalora_ref as ref
from adalora_ref.conformance import allocator_check, scripted
from adalora_ref.conformance.allocator_check import check_allocator
from adalora_ref.conformance.cases import NAMES
from adalora_ref.conformance.deviations import DEVIATIONS, planted, reference
from adalora_ref.conformance.scripted import CONFIG, Allocator
from adalora_ref.conformance.target import Target, TargetError, tree_map
from adalora_ref.conformance.verdict import Row, Verdict
from adalora_ref.convention import CONVENTIONS, PEFT, SPEC, Convention
from tests.alone import run_alone, scripts
from tests.pages import blocks, lacking, run

pytestmark = pytest.mark.usefixtures("unchecked")  # the reference's own annotations are not the matter here


@pytest.fixture(autouse=True)
def one_script(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Play the script with ties alone, which is what time allows; the reference plays all."""
    if "all_scripts" not in request.fixturenames:
        monkeypatch.setattr(allocator_check, "SCRIPTS", {"/ties": allocator_check.SCRIPTS["/ties"]})


@pytest.fixture
def all_scripts() -> None:
    """Asks for all scripts."""


SILENT = ("importance", "scores", "budget", "due", "after")


class Changed:
    """The reference's allocator, what it says passed through *change*."""

    def __init__(self, change: Callable[..., dict[str, Any]], held: Any = ref, kind: Any = Allocator) -> None:
        self.change, self.inner = change, kind(held)
        self.start = self.inner.start

    def update(self, step: int, weights: Any, grads: Any) -> dict[str, Any]:
        return self.change(self.inner.update(step, weights, grads), step, weights)


def without(*keys: str) -> Callable[..., dict[str, Any]]:
    return lambda said, step, weights: {key: value for key, value in said.items() if key not in keys}


def check(held: Any, rules: Convention = SPEC, **options: Any) -> dict[str, Row]:
    options = {"dtypes": ("float64",), "seed": 0} | options
    return {row.stage: row for row in check_allocator(Target("mine", held), rules, **options)}


def failed(rows: dict[str, Row]) -> list[str]:
    return [name for name, row in rows.items() if row.verdict is Verdict.FAIL]


# WHAT IS RIGHT


@pytest.mark.parametrize("rules", [SPEC, PEFT], ids=lambda rules: rules.name)
def test_the_reference_is_a_right_allocator(rules: Convention, all_scripts: None) -> None:
    """An allocator made of the reference's functions passes every stage, and every check of it runs, in each dtype."""
    rows = check(Allocator(reference(rules)), rules, dtypes=("float32" if rules is SPEC else "float64",))
    assert {row.verdict for row in rows.values()} == {Verdict.PASS}
    assert list(rows) == ["update", *allocator_check.STAGES_SEEN]
    assert all(row.run == len(row.checks) for row in rows.values())


def test_masks_alone_are_judged() -> None:
    """An allocator that shows nothing but masks is held against the averages that the script makes."""
    rows = check(Changed(without(*SILENT)))
    assert {name for name, row in rows.items() if row.verdict is Verdict.PASS} == {"update", "allocate", "masks"}
    assert all(
        row.verdict is Verdict.NOT_RUN for name, row in rows.items() if name not in {"update", "allocate", "masks"}
    )
    assert rows["allocate"].run == len(rows["allocate"].checks) > 0


def test_scores_without_averages_are_judged() -> None:
    """Scores are held against the averages that the script makes, where the allocator shows none."""
    right, wrong = (check(Changed(without("importance"), held)) for held in (ref, planted(named("scores_of_s_alone"))))
    assert right["triplet_scores"].verdict is Verdict.PASS
    assert failed(wrong) == ["triplet_scores"]


@pytest.mark.parametrize("order", [sorted, reversed])
def test_the_order_of_a_dictionary_is_of_no_matter(order: Callable[[Any], Any]) -> None:
    """The matrices are in the forward order of the feed, in whatever order an allocator's dictionaries have them."""

    def turned(said: dict[str, Any], step: int, weights: Any) -> dict[str, Any]:
        return {k: {n: v[n] for n in order(list(v))} if isinstance(v, dict) else v for k, v in said.items()}

    assert {row.verdict for row in check(Changed(turned)).values()} == {Verdict.PASS}
    row = check(Changed(turned, planted(named("ties_go_to_the_later"))))["allocate"]
    assert row.diagnosis.startswith("matches `ties_go_to_the_later` at every step")


def test_the_script_has_what_it_is_about() -> None:
    """Allocations by both rules of the schedule, twins that tie at the threshold, and a pair without a gradient."""
    schedule = CONFIG.schedule
    due = {
        rules.name: [t for t in range(schedule.total) if rules.allocates(schedule, t)] for rules in CONVENTIONS.values()
    }
    assert due["SPEC"] == [2, 5, 8, 11, 13]
    assert due["PEFT"] == [3, 6, 9, 12, 13]
    budgets = [ref.budget_at(schedule, t) for t in due["SPEC"]]
    assert any(b % 2 for b in budgets)
    assert any(6 < b < 12 for b in budgets)


# WHAT IS WRONG


def named(name: str) -> Any:
    return next(known for known in DEVIATIONS if known.name == name)


@lru_cache
def planted_rows(name: str) -> dict[str, Row]:
    return check(Allocator(planted(named(name))))


WRONG = [
    "averages_start_at_one",
    "uncertainty_uses_previous_mean",
    "sensitivity_of_the_sum",
    "scores_add_mean_and_uncertainty",
    "scores_of_s_alone",
    "linear_schedule",
    "quadratic_schedule",
    "interval_counts_from_zero_once",
    "ties_are_dropped",
    "ties_are_kept",
    "ties_go_to_the_first_name",
    "ties_go_to_the_last_name",
    "budget_per_matrix",
    "prune_does_nothing",
]


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_named_where_it_sits(name: str) -> None:
    """A planted mistake fails its stage and no other, and is named, alone but for a twin; so are step and matrix."""
    rows, stage = planted_rows(name), named(name).stage.replace("init_importance", "update_importance")
    assert failed(rows) == [stage]
    twin = ", `budget_per_matrix_with_at_least_one`, which this run cannot tell apart" * (name == "budget_per_matrix")
    assert rows[stage].diagnosis.startswith(f"matches `{name}`{twin} at every step: ")
    first = rows[stage].first_failure
    assert first is not None
    assert first.case.startswith("float64")
    assert "/step " in first.case
    assert first.divergence is not None
    assert any(f"[{n}]" in first.divergence.quantity for n in NAMES) or stage in ("budget_at", "allocates_at")


def only_at_allocations(held: Allocator) -> Any:
    class Waits(Allocator):
        def update(self, step: int, weights: Any, grads: Any) -> dict[str, Any]:
            before = self.importance
            due = ref.allocates_at(self.schedule, step)
            self.importance = before if due else {n: ref.init_importance(f) for n, f in weights.items()}
            if not due:
                said = super().update(step, weights, grads)
                self.importance = before
                return {**said, "importance": before}
            return super().update(step, weights, grads)

    return Waits(held)


def unmasked_at_the_end(said: dict[str, Any], step: int, weights: Any) -> dict[str, Any]:
    return said if said["due"] else {**said, "after": weights}


def masked_always(said: dict[str, Any], step: int, weights: Any) -> dict[str, Any]:
    return {**said, "after": {n: ref.prune(f, said["masks"][n]) for n, f in weights.items()}}


class NeverFreezes(Allocator):
    """Updates its averages in the last phase too."""

    def update(self, step: int, weights: Any, grads: Any) -> dict[str, Any]:
        if step < self.schedule.end_of_pruning:
            return super().update(step, weights, grads)
        self.importance = {
            n: ref.update_importance(self.importance[n], weights[n], grads[n], **self.betas) for n in weights
        }
        return super().update(step, weights, grads)


IN_RUNS = {
    "averages_never_freeze": (NeverFreezes(ref), "update_importance"),
    "averages_only_at_allocations": (only_at_allocations(ref), "update_importance"),
    "pruned_triplets_come_back": (Changed(unmasked_at_the_end), "prune"),
    "masked_between_allocations": (Changed(masked_always), "prune"),
}


@pytest.mark.parametrize("name", IN_RUNS)
def test_a_mistake_of_the_order_is_named(name: str) -> None:
    """Averages that wait, a mask that is not applied in the last phase or always: what no single function does."""
    held, stage = IN_RUNS[name]
    rows = check(held)
    assert failed(rows) == [stage]
    assert rows[stage].diagnosis.startswith(f"matches `{name}` at every step: ")


@pytest.mark.parametrize("name", ["linear_schedule", "ties_are_dropped"])
def test_masks_alone_name_a_mistake(name: str) -> None:
    """Where masks are all that is shown, the diagnosis finds the allocator that would have kept just these."""
    rows = check(Changed(without(*SILENT), planted(named(name))))
    assert failed(rows) == ["allocate"]
    assert f"`{name}`" in rows["allocate"].diagnosis


@pytest.mark.parametrize("name", ["one_beta", "uncertainty_uses_previous_mean", "sensitivity_is_signed"])
def test_scores_without_averages_name_a_mistake(name: str) -> None:
    """Wrong averages that are not shown are known by the scores that they make."""
    rows = check(Changed(without("importance"), planted(named(name))))
    assert failed(rows) == ["triplet_scores"]
    assert rows["triplet_scores"].diagnosis.startswith(f"matches `{name}` at every step: ")


class ScoresFirst(Allocator):
    """Scores by the averages of the step before."""

    def update(self, step: int, weights: Any, grads: Any) -> dict[str, Any]:
        before = iter(self.importance.values())
        self.held = reference()
        self.held.triplet_scores = lambda _: ref.triplet_scores(next(before))
        return super().update(step, weights, grads)


IN_WHOLE = {
    "mask_from_stale_scores": (ScoresFirst, "triplet_scores"),
    "averages_never_freeze": (NeverFreezes, "update_importance"),
}


@pytest.mark.parametrize("keys", [(), ("importance",), SILENT], ids=["all", "no averages", "masks alone"])
@pytest.mark.parametrize("name", IN_WHOLE)
def test_a_whole_allocator_is_named_by_what_it_shows(name: str, keys: Any, all_scripts: None) -> None:
    """Scores of the step before and averages that go on, by averages, by scores, by masks alone."""
    kind, stage = IN_WHOLE[name]
    rows = check(Changed(without(*keys), kind=kind))
    first = "allocate" if keys is SILENT else "triplet_scores" if keys else stage
    assert failed(rows) == [first]
    assert f"`{name}`" in rows[first].diagnosis


def test_right_scores_beside_wrong_averages_match_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that are not those of the averages shown, and yet right, are not what every harmless mistake makes."""

    def halved(said: dict[str, Any], step: int, weights: Any) -> dict[str, Any]:
        return {**said, "importance": tree_map(lambda a: a / 2, said["importance"])}

    monkeypatch.setattr(allocator_check, "dependence", lambda *_, **__: "perturbed")
    assert check(Changed(halved))["triplet_scores"].diagnosis == "matches no known mistake; perturbed"


def test_right_numbers_of_a_wrong_form_match_no_mistake() -> None:
    """Averages in float64, where the run is in float32, are no numerical mistake: the reason says it all."""

    def widened(said: dict[str, Any], step: int, weights: Any) -> dict[str, Any]:
        return {**said, "importance": tree_map(lambda a: a.astype(np.float64), said["importance"])}

    rows = check(Changed(widened), dtypes=("float32",))
    first = rows["update_importance"].first_failure
    assert first is not None
    assert "must have dtype float32; got float64" in first.reason
    assert rows["update_importance"].diagnosis == ""


BY_MASKS = ("init_importance", "update_importance", "triplet_scores", "budget_at", "allocates_at", "allocate")
HIDDEN = {
    "uncertainty_uses_previous_mean": "every score has the same wrong factor",
    "averages_in_float16": "three digits are enough, nearly always",
    "budget_in_doubles": "no budget is beyond 2⁵³",
    "allocates_outside_pruning": "nothing that it is made of changes then",
    "skips_what_does_not_fit": "an allocator has no cost",
    "ignores_the_cost": "an allocator has no cost",
    "ties_go_to_the_first_name": "of equal computed scores either may be kept",
    "scores_are_compared_in_single": "no two are so close",
}


@pytest.mark.parametrize("name", ["one_beta", "averages_start_at_first_value"])
def test_masks_alone_show_wrong_averages(name: str, all_scripts: None) -> None:
    """Among many triplets a wrong average moves one over the threshold, and is named by the masks that it makes."""
    rows = check(Changed(without(*SILENT), planted(named(name))))
    assert failed(rows) == ["allocate"]
    assert f"`{name}`" in rows["allocate"].diagnosis


@pytest.mark.thorough
@pytest.mark.parametrize("name", [d.name for d in DEVIATIONS if d.stage in BY_MASKS and not d.equivalent])
def test_masks_alone_show_all_but_what_they_hide(name: str, all_scripts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every known mistake of an allocator moves a mask, but for those of which it is said why they cannot."""
    monkeypatch.setattr(allocator_check, "replayed", lambda *_: [])  # whether it fails, not why
    monkeypatch.setattr(allocator_check, "dependence", lambda *_, **__: "")
    assert bool(failed(check(Changed(without(*SILENT), planted(named(name)))))) is (name not in HIDDEN)


def test_what_nothing_known_explains_is_told_by_what_it_was_fed() -> None:
    """Averages of s that are masked hang on the budget and on what the other matrices were fed, and should not."""

    class Masked(Allocator):
        def update(self, step: int, weights: Any, grads: Any) -> dict[str, Any]:
            masked = {n: ref.Factors(f.B, f.s * self.masks[n], f.A) for n, f in grads.items()}
            return super().update(step, weights, masked)

    row = check(Masked(ref))["update_importance"]
    assert row.diagnosis.startswith("matches no known mistake; update_importance[")
    hangs, beyond = row.diagnosis.removesuffix(", though it should not").split(", and on ")
    assert "sensitivity.s at step" in hangs
    assert "beta1" in hangs
    assert "schedule.target" in beyond
    assert "beta1" not in beyond


def test_what_is_refused_says_nothing() -> None:
    """An allocator that refuses another schedule than its own is not said to hang on it, nor to ignore it."""

    class Strict(Allocator):
        def start(self, weights: Any, schedule: Any, **betas: float) -> None:
            if schedule != CONFIG.schedule:
                raise ValueError("another schedule")
            super().start(weights, schedule, **betas)

        def update(self, step: int, weights: Any, grads: Any) -> dict[str, Any]:
            said = super().update(step, weights, grads)
            return {**said, "scores": said["scores"] and {n: 1.01 * s for n, s in said["scores"].items()}}

    diagnosis = check(Strict(ref))["triplet_scores"].diagnosis
    assert diagnosis.endswith("the same inputs as it should")
    assert "schedule" not in diagnosis


def test_another_convention_is_told() -> None:
    """An allocator as PEFT has it fails under SPEC in the schedule and the selection, and PEFT explains both."""
    rows = check(Allocator(reference(PEFT)))
    assert failed(rows) == ["allocates_at", "allocate"]
    assert "PEFT" in set(rows["allocates_at"].conventions) & set(rows["allocate"].conventions)
    assert rows["allocates_at"].note == "the first quantity to depart, at float64/ties/step 2"


# FAKES


def raises(said: dict[str, Any], step: int, weights: Any) -> dict[str, Any]:
    if step == 4:
        raise SystemExit(0)
    return said


def hangs(said: dict[str, Any], step: int, weights: Any) -> dict[str, Any]:
    if step == 3:
        time.sleep(60)
    return said


def changes_weights(said: dict[str, Any], step: int, weights: Any) -> dict[str, Any]:
    weights["gate"].s[:] = 0
    return said


def writes_into_one_buffer() -> Callable[..., dict[str, Any]]:
    buffer: dict[str, Any] = {}

    def change(said: dict[str, Any], step: int, weights: Any) -> dict[str, Any]:
        for n, mask in said["masks"].items():
            buffer.setdefault(n, mask.copy())[:] = mask
        return {**said, "masks": dict(buffer)}

    return change


FAKES = {
    "raises": (raises, "step 4", "update raised SystemExit: 0"),
    "hangs": (hangs, "step 3", "update took longer than 0.3 s and was interrupted"),
    "changes its input": (changes_weights, "step 0", "update changed weights[gate].s, which it was given"),
    "one buffer": (writes_into_one_buffer(), "step 5", "that the step before returned"),
}


@pytest.mark.parametrize("name", FAKES)
def test_an_allocator_that_does_not_answer_fails(name: str) -> None:
    """What raises, hangs, or changes an input or an earlier result fails at its step; the steps before are judged."""
    change, step, reason = FAKES[name]
    rows = check(Changed(change), seconds=0.3 if name == "hangs" else 60.0)
    first = rows["update"].first_failure
    assert first is not None
    assert first.case.endswith(step)
    assert reason in first.reason
    assert failed(rows) == ["update"]


def test_after_a_call_that_hangs_no_script_is_played(all_scripts: None) -> None:
    """What hangs in the second script is not waited for in the third; what was wrong in the first is named."""
    starts: list[int] = []

    def hangs_later(said: dict[str, Any], step: int, weights: Any) -> dict[str, Any]:
        starts.extend([step] * (step == 0))
        if len(starts) == 2:
            time.sleep(60)
        return without("importance")(said, step, weights)

    rows = check(Changed(hangs_later, planted(named("one_beta"))), seconds=1.0)
    assert [c.verdict for c in rows["update"].checks] == [Verdict.PASS, Verdict.FAIL, Verdict.NOT_RUN]
    assert rows["update"].checks[2].reason == "not tried, after a call that took too long"
    assert len(starts) == 2
    assert rows["triplet_scores"].diagnosis.startswith("matches `one_beta`")


FORMS = {
    "no dictionary": (lambda said, *_: [1], "must return a dictionary with masks"),
    "no masks": (without("masks"), "must return a dictionary with masks"),
    "unknown key": (lambda said, *_: {**said, "rank": 3}, "got masks, importance, scores, budget, due, after, rank"),
    "masks in a row": (lambda said, *_: {**said, "masks": np.ones(3)}, "masks must be a dictionary by matrix"),
    "masks in lists": (
        lambda said, *_: {**said, "masks": {n: m.tolist() for n, m in said["masks"].items()}},
        r"masks must be arrays of booleans, \(r,\) by matrix; got a list for embed",
    ),
    "scores in lists": (
        lambda said, *_: {**said, "scores": said["scores"] and {n: s.tolist() for n, s in said["scores"].items()}},
        r"scores must be arrays of numbers, \(r,\) by matrix; got a list for embed",
    ),
    "two factors": (
        lambda said, *_: {**said, "after": {n: (f.B, f.s) for n, f in said["after"].items()}},
        "returned what has not the form asked for",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_another_protocol_is_wrong_usage(name: str) -> None:
    """What `update` returns in another form is refused in one sentence."""
    change, message = FORMS[name]
    with pytest.raises(TargetError, match=message.replace("[", r"\[")):
        check(Changed(change))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda said, *_: {**said, "masks": {n: m[:, None] for n, m in said["masks"].items()}}, "must have shape (3,)"),
        (lambda said, *_: {**said, "masks": {n: m * 1.0 for n, m in said["masks"].items()}}, "must have dtype bool"),
        (
            lambda said, *_: {**said, "masks": {"embed": said["masks"]["embed"]}},
            "masks must have what its inputs have; it lacks block, gate, head",
        ),
    ],
)
def test_masks_of_a_wrong_form_fail(change: Any, reason: str) -> None:
    """Masks of another shape, dtype, or without a matrix fail, and the reason says which."""
    rows = check(Changed(lambda said, step, weights: change(said)))
    first = rows["masks"].first_failure
    assert first is not None
    assert reason in first.reason
    assert rows["masks"].diagnosis == rows["allocate"].diagnosis == ""


def test_a_matrix_too_many_is_named() -> None:
    """A mask of a matrix that was not fed stands beyond what there should be."""
    rows = check(Changed(lambda said, *_: {**said, "masks": said["masks"] | {"tail": said["masks"]["gate"]}}))
    first = rows["masks"].first_failure
    assert first is not None
    assert first.reason == "masks must have what its inputs have; beyond that it has tail"


def test_a_wrong_number_of_triplets_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """An allocation that keeps one more than the budget is told by how many it keeps, and how many it should."""
    held = reference()
    held.allocate = lambda scores, budget: ref.allocate(scores, min(budget + 1, 12))
    monkeypatch.setattr(allocator_check, "dependence", lambda *_, **__: "perturbed")
    row = check(Allocator(held))["allocate"]
    assert row.diagnosis == "matches no known mistake; it keeps 8 triplets instead of 7 at step 5; perturbed"


def test_scores_of_a_wrong_shape_fail() -> None:
    """Scores (r, 1) are no scores, even if their numbers are right."""

    def column(said: dict[str, Any], step: int, weights: Any) -> dict[str, Any]:
        scores = said["scores"]
        return {**said, "scores": scores and {n: s[:, None] for n, s in scores.items()}}

    first = check(Changed(column))["triplet_scores"].first_failure
    assert first is not None
    assert "must have shape (3,); got (3, 1)" in first.reason


def test_expected_values_come_after_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is expected of an allocator before it has answered every step of every script."""
    order: list[str] = []
    explained = allocator_check.explained
    monkeypatch.setattr(allocator_check, "explained", lambda *args: order.append("expected") or explained(*args))
    check(Changed(lambda said, *_: order.append("answered") or said))
    assert order == ["answered"] * CONFIG.schedule.total + ["expected"]


def test_nan_is_reported(all_scripts: None) -> None:
    """A NaN gradient is no part of the verdict: it is said whether it was refused, and else who was kept."""
    refused = scripted.hand_nan(Target("mine", Allocator(ref)))
    assert "scores must be finite" in refused.refused

    def kept(scores: Any, budget: int) -> Any:
        return ref.allocate({n: np.nan_to_num(s, nan=1e9) for n, s in scores.items()}, budget)

    held = reference()
    held.allocate = kept
    accepted = scripted.hand_nan(Target("mine", Allocator(held)))
    assert (accepted.refused, accepted.given.endswith("it keeps 3")) == ("", True)


# THE PAGE


def test_the_page_shows_what_is_printed(tmp_path: Path) -> None:
    """The file of docs/verify/allocator.md conforms as the page shows, and fails as it shows with one line changed."""
    (file,), (right, wrong, again) = blocks("allocator.md", "python"), blocks("allocator.md", "text")
    (tmp_path / "my_adalora.py").write_text(file, encoding="utf-8")
    done = run(tmp_path, "verify", "my_adalora:allocator")
    assert (done.returncode, lacking(right, done.stdout)) == (0, []), done.stderr
    spoilt = file.replace("deviation = np.abs(ipt - self.exp_avg_ipt[name])", "deviation = np.abs(ipt - old_ipt)")
    assert spoilt != file
    (tmp_path / "my_adalora.py").write_text(spoilt, encoding="utf-8")
    done = run(tmp_path, "verify", "my_adalora:allocator")
    assert (done.returncode, lacking(wrong, done.stdout)) == (1, [])
    (path,) = scripts("allocator-update_importance")
    status, said = run_alone(tmp_path, path)[path]
    assert (status, lacking(again, said)) == (1, [])
