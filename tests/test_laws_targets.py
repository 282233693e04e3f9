"""The laws against odd targets: whatever one returns, raises or takes, the command says what is wrong and goes on."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import Phase, find, settings
from hypothesis.database import InMemoryExampleDatabase

import adalora_ref as ref
from adalora_ref import Factors
from adalora_ref.cli import main
from adalora_ref.conformance.target import Target
from adalora_ref.conformance.verdict import Verdict
from adalora_ref.laws import PROFILES, Broken, check, law_named, law_tests, training_machine
from adalora_ref.laws.machine_runs import MACHINES, run_machine
from adalora_ref.laws.machines import beginnings
from adalora_ref.laws.searching import LEAST, run_law, run_laws

ONE = np.ones((1, 1))
WEIGHT = {"W": ONE, "factors": Factors(ONE, np.ones(1), ONE), "scale": 1.0}
SCORES = {"scores": {"q": np.asarray([1.0, 2.0])}, "budget": 1, "cost": None}
STATE = {"state": ref.Importance(Factors(ONE, np.ones(1), ONE), Factors(ONE, np.ones(1), ONE))}


class Held:
    """A target made of the functions that it is given."""

    def __init__(self, **functions: Any) -> None:
        self.__dict__.update(functions)


def broken(law: str, case: Any, **functions: Any) -> str:
    """What is said of a case that breaks a law."""
    with pytest.raises(Broken) as told:
        check(law_named(law), Target("odd", Held(**functions)), "float64", case)
    return str(told.value)


# FORM


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda S: S[:, None], "S of triplet_scores must have shape (1,); got (1, 1)"),
        (lambda S: S.astype(np.float32), "S of triplet_scores must have dtype float64; got float32"),
        (lambda S: S.tolist(), "S of triplet_scores must be an array; got list"),
        (lambda _: None, "S of triplet_scores must be an array; got NoneType"),
    ],
)
def test_scores_of_a_wrong_form_break_a_law(change: Any, told: str) -> None:
    """Shape, dtype and kind of an answer are looked at, even where its numbers are right."""
    case = STATE | {"order": [0]}
    assert broken("averages_may_change_places", case, triplet_scores=lambda s, /: change(ref.triplet_scores(s))) == told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda keep: {"q": keep["q"].astype(float)}, "keep[q] of allocate must have dtype bool; got float64"),
        (lambda keep: {"q": keep["q"].astype(int)}, "keep[q] of allocate must have dtype bool; got int64"),
        (lambda keep: {"q": keep["q"].tolist()}, "keep[q] of allocate must be an array; got list"),
        (lambda _: {}, "keep of allocate lacks q"),
        (lambda keep: keep | {"zzz": np.asarray([False])}, "keep of allocate must not have zzz"),
        (lambda _: None, "allocate must return a mask by the name of each matrix; got NoneType"),
    ],
)  # fmt: skip
def test_masks_of_a_wrong_form_break_a_law(change: Any, told: str) -> None:
    """Masks are arrays of bool, one for each matrix and no more."""

    def allocate(scores: Any, budget: Any, /) -> Any:
        return change(dict(ref.allocate(scores, budget)))

    assert broken("counts_exactly", SCORES, allocate=allocate) == told


def test_a_budget_that_is_no_whole_number_breaks_a_law() -> None:
    """A float or a text for a count is a wrong form, and no wrong usage."""
    plan = ref.BudgetSchedule(initial=2, target=1, warmup=1, final=1, total=4, interval=1)
    case = {"schedule": plan, "steps": [0, 1]}
    for answer, dtype in ((2.0, "float64"), ("2", "str32")):
        told = broken("budget_never_rises", case, budget_at=lambda _plan, _step, /, answer=answer: answer)
        assert told == f"b of budget_at must have dtype int64; got {dtype}"


def test_a_call_that_changes_its_input_breaks_a_law() -> None:
    """Merging in place gives the right numbers, and breaks the law all the same."""

    def merge(W: Any, factors: Any, /, *, scale: float) -> Any:
        W += ref.increment(factors, scale=scale)
        return W

    told = broken("merging_adds_the_increment", WEIGHT, merge=merge, increment=ref.increment)
    assert told == "merge: the call changed its input W"


# JUDGING


class EverySecondRight:
    """Wrong when it is asked something first, right when it is asked the same again."""

    def __init__(self) -> None:
        self.seen: set[Any] = set()

    def allocate(self, scores: Any, budget: int, /) -> Any:
        key = (repr([(k, v.tobytes()) for k, v in scores.items()]), budget)
        keep = ref.allocate(scores, budget)
        if key in self.seen:
            return keep
        self.seen.add(key)
        return {name: ~mask for name, mask in keep.items()}


def test_the_answer_that_broke_a_law_is_judged() -> None:
    """A target that is right when it is asked once more has broken the law; that it differed is said."""
    with pytest.raises(Broken):
        check(law_named("keeps_none_worse"), Target("odd", EverySecondRight()), "float64", SCORES)
    found = run_law(law_named("counts_exactly"), Target("odd", EverySecondRight()), examples=25)
    assert found.verdict is Verdict.FAIL
    assert "not again when the same case was tried once more" in found.failure.message


def test_a_law_is_not_broken_by_rounding_of_a_call_that_departs() -> None:
    """dA without s is additive over a batch but for rounding: other laws say what is wrong with it."""

    def backward(dy: Any, cache: Any, /) -> Any:
        dx, (dB, ds, dA) = ref.linear_backward(dy, cache)
        s = cache.factors.s
        return dx, Factors(dB, ds, np.divide(dA, s[:, None], out=dA.copy(), where=s[:, None] != 0))

    target = Target("odd", Held(linear_forward=ref.linear_forward, linear_backward=backward))
    assert run_law(law_named("splitting_a_batch"), target, examples=60).verdict is Verdict.PASS
    assert run_law(law_named("adjoint_in_A"), target, examples=60).verdict is Verdict.FAIL


def test_sides_that_print_alike_are_told_apart() -> None:
    """Where both sides are printed as one number, the message says how far apart they lie."""
    from adalora_ref.laws.measured import equal, measured

    with pytest.raises(Broken, match=r"got \(a\) = 1\.0 and \(b\) = 1\.0, which lie 1\.0e-30 apart"):
        equal("a", measured(1), "b", measured(1) + measured(1) * measured(1e-30))


# MACHINES


def raising(*_: Any, **__: Any) -> Any:
    raise KeyError("adam")


@pytest.mark.parametrize(
    ("train_step", "told"),
    [
        (raising, "train_step raised KeyError: 'adam'"),
        (lambda *_, **__: None, "train_step must return (state, report); got NoneType"),
    ],
    ids=["raises", "returns None"],
)
def test_a_machine_breaks_on_what_a_step_raises_or_returns(train_step: Any, told: str) -> None:
    """Every rule that calls the target is guarded, a step that is to be refused too."""
    begun = find(beginnings(), lambda _: True, settings=settings(phases=[Phase.generate], database=None))
    for skips in (False, True):
        state = training_machine(Held(train_step=train_step))()
        state.start(begun)
        with pytest.raises(Broken) as broken:
            state.skip() if skips else state._step(state.state.factors)
        assert str(broken.value) == told


def test_a_machine_without_its_functions_is_skipped() -> None:
    """The TestCase of a machine whose functions are lacking is skipped with the reason."""
    import unittest

    result = unittest.TestResult()
    training_machine(Held()).TestCase("runTest").run(result)
    assert [reason for _, reason in result.skipped] == ["the target has no train_step"]


# TIME AND NUMBER


def hanging(*_: Any, **__: Any) -> Any:
    while True:
        time.sleep(0.01)


def test_a_call_that_hangs_is_not_made_smaller() -> None:
    """A call gets what is left of the total, and a case on which it ran out is the last that is tried."""
    start = time.monotonic()
    found, machine = (
        next(iter(run_laws(laws, Target("odd", Held(**functions)), seconds=1.0, run=run)))
        for laws, run, functions in (
            ([law_named("counts_exactly")], run_law, {"allocate": hanging}),
            ([MACHINES[1]], run_machine, {"train_step": hanging}),
        )
    )
    assert time.monotonic() - start < 20
    for outcome, function in ((found, "allocate"), (machine, "train_step")):
        assert outcome.verdict is Verdict.FAIL
        assert outcome.failure.message == f"{function} took longer than 1 s"


def test_as_many_examples_as_were_asked_for() -> None:
    """Laws and machines try as many as were asked for; with a time and no number there is no other end."""
    law = law_named("phases_have_their_lengths")
    assert run_law(law, Target("r", ref), examples=3).examples == 3
    assert run_machine(MACHINES[1], Target("r", ref), examples=2).examples == 2
    assert run_law(law, Target("r", ref), seconds=1.0).examples > 4 * LEAST


def test_cases_that_held_are_counted_up_to_the_first_that_broke() -> None:
    """What holds while a failure is made smaller is no search."""

    def merge(W: Any, factors: Any, /, *, scale: float) -> Any:
        return ref.merge(W, factors, scale=scale) + (W.size > 2)

    target = Target("odd", Held(merge=merge, increment=ref.increment))
    found = run_law(law_named("merging_adds_the_increment"), target, examples=25)
    assert found.verdict is Verdict.FAIL
    assert found.examples < 25


@contextmanager
def storing_examples() -> Iterator[None]:
    """A profile with a database, as a user has by default."""
    before = settings.get_current_profile_name()
    settings.register_profile("storing", derandomize=False, database=InMemoryExampleDatabase())
    settings.load_profile("storing")
    yield
    settings.load_profile(before)


def test_a_failure_is_tried_first_in_the_next_run() -> None:
    """The database of Hypothesis works with a seed too: the next run, whatever its seed, starts from what broke."""
    calls: list[int] = []

    def merge(W: Any, factors: Any, /, *, scale: float) -> Any:
        calls.append(1)
        return ref.merge(W, factors, scale=scale) + (W.size > 2)

    target, law = Target("odd", Held(merge=merge, increment=ref.increment)), law_named("merging_adds_the_increment")
    with storing_examples():
        first = run_law(law, target, examples=100, seed=0)
        searched = len(calls)
        again = run_law(law, target, examples=100, seed=1)
    assert (first.failure.message, again.examples) == (again.failure.message, 0)
    assert len(calls) - searched < searched


# AS TESTS OF ONE'S OWN SUITE


def test_a_skipped_law_takes_settings_and_seeds() -> None:
    """A law whose functions are lacking is a Hypothesis test under its name, which is skipped with the reason."""
    test = law_tests(Held())["test_counts_exactly"]
    assert test.__name__ == "test_counts_exactly"
    with pytest.raises(BaseException, match="the target has no allocate"):
        hypothesis.seed(4)(settings(PROFILES["quick"], database=None)(test))()


def test_a_failing_law_test_names_its_calls() -> None:
    """What the command shows of a failure is noted on the failure of a test as well."""

    def merge(W: Any, factors: Any, /, *, scale: float) -> Any:
        return ref.merge(W, factors, scale=scale) + 1.0

    test = law_tests(Held(merge=merge, increment=ref.increment))["test_merging_adds_the_increment"]
    with pytest.raises(Broken) as told:
        settings(PROFILES["quick"], database=None, phases=[Phase.generate])(test)()
    notes = "\n".join(told.value.__notes__)
    assert re.search(r"  merge → W = .*\n  increment → ΔW = .*\ndeparts  merge, W\[0, 0\]: got ", notes)


# THE COMMAND

MODULE = """
import adalora_ref

class FloatBudget:
    def budget_at(self, schedule, step, /):
        return float(adalora_ref.budget_at(schedule, step))

class Raises:
    def orthogonality_penalty(self, factors, /):
        raise RuntimeError("boom" + chr(10) + "second line")

class Prints:
    def allocate(self, scores, budget, /):
        print("debug")
        return adalora_ref.allocate(scores, budget)

class Trains:
    def train_step(self, state, batch, network, config):
        raise KeyError("adam")

class Interrupted:
    budget_at = staticmethod(adalora_ref.budget_at)
    def allocate(self, scores, budget, /):
        raise KeyboardInterrupt
"""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a module of targets, in which the command runs."""
    (tmp_path / "odd_targets.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["laws", *arguments])


def script(path: str) -> Any:
    return subprocess.run([sys.executable, path], capture_output=True, text=True, check=False)


def test_a_wrong_form_is_no_wrong_usage(elsewhere: Path) -> None:
    """A float budget breaks its laws with status 1, one sentence each."""
    done = run("odd_targets:FloatBudget", "--law", "budget_never_rises", "--examples", "3")
    assert done.exit_code == 1, done.output
    assert "departs  b of budget_at must have dtype int64; got float64" in done.stdout
    assert "seed 0 · up to 3 examples" in done.stdout


def test_where_a_target_raised_is_shown(elsewhere: Path) -> None:
    """The call, the place in the target's code, and a message of two lines within its block; lists are tables."""
    done = run("odd_targets:Raises", "--law", "penalty_gradient_is_the_slope", "--examples", "3")
    assert "  broken   orthogonality_penalty raised RuntimeError: boom\n    second line" in done.stdout
    assert "orthogonality_penalty → no answer to work with" in done.stdout
    assert re.search(r"raised   in orthogonality_penalty, .*odd_targets\.py:10", done.stdout)
    assert re.search(r"ways\[0\]\.B +\[\[", done.stdout)
    again = script("adalora-ref-laws/penalty_gradient_is_the_slope/repro.py")
    assert again.returncode == 1
    assert "RuntimeError: boom" in again.stderr
    assert "odd_targets.py" in again.stderr


def test_what_a_target_prints_is_no_part_of_the_report(elsewhere: Path) -> None:
    """It goes to standard error."""
    done = run("odd_targets:Prints", "--law", "counts_exactly", "--examples", "3")
    assert (done.exit_code, "debug" in done.stdout, "debug" in done.stderr) == (0, False, True)


def test_a_broken_machine_leaves_a_reproduction(elsewhere: Path) -> None:
    """The rules are shown, a script repeats the run, and --keep says that it is not for machines."""
    done = run("odd_targets:Trains", "--law", "training_machine", "--examples", "3", "--keep")
    assert done.exit_code == 1, done.output
    assert "  rules\n    state.start(" in done.stdout
    assert "frozen_weights_stay" not in done.stdout
    assert "not kept: what breaks a machine is a run of calls" in done.stdout
    again = script("adalora-ref-laws/training_machine/repro.py")
    assert again.returncode == 1
    assert "training_machine is broken: train_step raised KeyError: 'adam'" in again.stderr


def test_an_interruption_shows_what_was_found(elsewhere: Path) -> None:
    """Ctrl-C ends the run with the laws that were decided, and status 130."""
    done = run("odd_targets:Interrupted", "--law", "budget_never_rises", "--law", "counts_exactly", "--examples", "3")
    assert done.exit_code == 130
    assert re.search(r"budget_never_rises +PASS +3", done.stdout)
    assert "interrupted after 1 of 2 laws; reproductions written: 0" in done.stdout


def test_a_reproduction_that_cannot_be_written_is_said(elsewhere: Path) -> None:
    """The laws are broken all the same: status 1, and a line about the file."""
    (elsewhere / "out").mkdir()
    (elsewhere / "out" / "budget_never_rises").write_text("in the way", encoding="utf-8")
    done = run("odd_targets:FloatBudget", "--law", "budget_never_rises", "--examples", "3", "--out", "out")
    assert done.exit_code == 1
    assert "budget_never_rises: the reproduction could not be written: " in done.stdout


def test_a_reproduction_elsewhere_ends_in_one_sentence(
    elsewhere: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Where the target cannot be imported the script says so, without a traceback."""
    run("odd_targets:FloatBudget", "--law", "budget_never_rises", "--examples", "3")
    path, away = elsewhere / "adalora-ref-laws/budget_never_rises/repro.py", tmp_path_factory.mktemp("away")
    done = subprocess.run([sys.executable, str(path)], cwd=away, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: there is no module 'odd_targets' to import")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("odd_targets:Prints", "--law", "adjoint_in_x"), "adjoint_in_x needs: linear_backward, linear_forward"),
        (("exec:./x",), "laws call functions; a program or a trace is for adalora-ref verify; got 'exec:./x'"),
        (("",), "a target is written package.module or package.module:object; got ''"),
        (("--time", "nan"), "the time must be a number of seconds; got nan"),
        (("--law", "counts_exact"), "spelled alike: counts_exactly"),
        (("--law", "alocator_machine"), "spelled alike: allocator_machine"),
    ],
)
def test_wrong_usage_is_said_in_one_sentence(elsewhere: Path, arguments: tuple[str, ...], told: str) -> None:
    """Status 2 and what to do instead."""
    done = run(*arguments)
    assert done.exit_code == 2
    assert told in done.stderr
    assert "Traceback" not in done.output
