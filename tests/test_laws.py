"""The laws: the reference keeps them all, each is broken by a known mistake, and the command says so."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, reproduce_failure, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

import adalora_ref as ref
from adalora_ref import strategies
from adalora_ref.cli import main
from adalora_ref.conformance.deviations import DEVIATIONS, planted, reference
from adalora_ref.conformance.expectations import Undecided
from adalora_ref.conformance.suite import read_manifest
from adalora_ref.conformance.target import Target
from adalora_ref.conformance.variants import VARIANTS
from adalora_ref.conformance.verdict import Verdict
from adalora_ref.laws import (
    LAWS,
    PROFILES,
    Broken,
    Law,
    allocator_machine,
    check,
    law_named,
    law_test,
    law_tests,
    run_law,
    run_laws,
    training_machine,
)
from adalora_ref.laws.asking import Asked
from adalora_ref.laws.command import exit_status
from adalora_ref.laws.importance import moments
from adalora_ref.laws.reproduction import keep
from adalora_ref.laws.running import Watch
from adalora_ref.laws.searching import LEAST

MISTAKES = {known.name: known for known in DEVIATIONS}
REFERENCE = Target("adalora_ref", reference())

QUICK = settings(PROFILES["quick"], database=None)
"""The profile of the test command; what is stored in a user's database plays no part."""

HUNTING = settings(QUICK, max_examples=200, phases=[Phase.generate])

every_law = pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
broken_laws = pytest.mark.parametrize("law", [law for law in LAWS if law.broken_by], ids=lambda law: law.name)


@pytest.mark.usefixtures("unchecked")
@every_law
def test_the_reference_keeps_the_law(law: Law) -> None:
    """The reference keeps every law, in every dtype, and at least one case decides."""
    watch = Watch()
    QUICK(law_test(law, REFERENCE, watch))()
    assert watch.examples > 0


@pytest.mark.thorough
@broken_laws
def test_a_known_mistake_breaks_the_law(law: Law) -> None:
    """The mistake that the law names is in the catalogue, sits in a function that the law calls, and is found."""
    known = MISTAKES[str(law.broken_by)]
    assert known.stage in law.stages
    with pytest.raises(Broken):
        HUNTING(law_test(law, Target(known.name, planted(known))))()


def test_all_but_two_laws_name_a_mistake() -> None:
    """There are at least 45 laws, each with a name and a sentence of its own; the last two need no mistake."""
    assert len(LAWS) >= 45
    assert len({law.name for law in LAWS}) == len({law.says for law in LAWS}) == len(LAWS)
    assert [law.name for law in LAWS if law.broken_by is None] == [law.name for law in LAWS[-2:]]


@pytest.mark.parametrize(
    "name",
    [
        "triplet_balance", "merge_then_unmerge", "data_parallel", "penalty_is_not_negative",
        "repeating_rows_leaves_scores", "halfway_an_eighth_is_left", "counts_exactly",
    ],
)  # fmt: skip
def test_shrinking_ends_where_a_hand_can_work(name: str) -> None:
    """The smallest case has entries of eighths, and no size above 2."""
    law = law_named(name)
    known = MISTAKES[str(law.broken_by)]
    found = run_law(law, Target(known.name, planted(known)), examples=200, seed=0)
    assert found.verdict is Verdict.FAIL
    numbers = list(_arrays(found.failure.case))
    assert all(max(a.shape, default=0) <= 2 for a in numbers), found.failure.case
    assert all((8 * entry).is_integer() for a in numbers for entry in a.astype(float).flat), found.failure.case


def _arrays(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, dict | list | tuple | ref.Factors):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _arrays(item)


DIFFERENT = {"fused_multiply_add", "merged_weights"}
"""Variants that round in a way of their own; the others are held to the bounds in test_mutants.py."""


@pytest.mark.thorough
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.name in DIFFERENT], ids=lambda variant: variant.name)
def test_correct_variants_keep_the_laws(variant: Any) -> None:
    """Other orders of summation, other forms and other roundings break no law."""
    target = Target(variant.name, variant.held)
    for law in LAWS:
        if not law.lacking(target) and "train_step" not in law.stages:
            settings(QUICK, max_examples=3)(law_test(law, target))()


# BOTH SIDES


def one(value: float = 1.0) -> Any:
    return np.full((1, 1), value)


def a_case(**changed: Any) -> dict[str, Any]:
    factors = ref.Factors(one(), np.ones(1), one())
    case = {"x": one(), "W": one(), "factors": factors, "scale": 1.0, "bias": None, "dropout_mask": None, "dy": one()}
    return case | changed


@settings(max_examples=50, derandomize=True, deadline=None)
@given(strategies.factors().flatmap(lambda like: moments(like, dtype="float64")))
def test_moments_are_those_of_a_history(drawn: tuple[Any, Any]) -> None:
    """Adam's second moment is never below the square of the first: m = 1 with v = 0 makes a step of 1/ε."""
    assert all(np.all(v >= m * m) for m, v in zip(*drawn, strict=True))


def test_the_message_names_both_sides() -> None:
    """y(2c) + y(0) = 2 y(c): with the scale applied twice, 2 x W + 4 is not 2 (x W + 1)."""
    known = MISTAKES["scale_is_applied_twice"]
    with pytest.raises(Broken) as told:
        check(law_named("linear_in_the_scale"), Target("twice", planted(known)), "float64", a_case())
    assert str(told.value) == (
        "y(2c) + y(0) = 2 y(c) must hold exactly, since nothing rounds here; "
        "got (y(2c) + y(0))[0, 0] = 6.0 and (2 y(c))[0, 0] = 4.0"
    )


def test_a_law_allows_what_the_bounds_add_up_to_and_no_more() -> None:
    """One unit in the last place is within the bounds of an inexact case, and beyond those of an exact one."""

    def forward(*args: Any, **options: Any) -> Any:
        y, cache = ref.linear_forward(*args, **options)
        return np.nextafter(y, np.inf), cache

    off = Target("off by one unit", SimpleNamespace(linear_forward=forward))
    third = a_case(x=one(1 / 3), W=one(0.1))
    check(law_named("linear_in_the_scale"), off, "float64", third)
    with pytest.raises(Broken, match="exactly"):
        check(law_named("linear_in_the_scale"), off, "float64", a_case())


def test_what_is_not_finite_or_raises_breaks_every_law() -> None:
    """NaN is never equal, and an exception of the target is a finding about it."""

    def nan(x: Any, W: Any, factors: Any, /, **_: Any) -> Any:
        return np.full((x.shape[0], W.shape[0]), np.nan), None

    for function, told in ((nan, "must be finite"), (lambda *_, **__: 1 / 0, "raised ZeroDivisionError")):
        with pytest.raises(Broken, match=told):
            check(law_named("linear_in_the_scale"), Target("t", SimpleNamespace(linear_forward=function)), "float64",
                  a_case())  # fmt: skip


def test_the_sum_of_the_shards_sensitivities_is_too_much() -> None:
    """The kept counterexample: w = 1, g = 1 and h = −1 have sensitivities 1 and 1, and their sum has 0."""
    zero, w = (ref.Factors(one(value), np.full(1, value), one(value)) for value in (0.0, 1.0))
    minus = ref.map_factors(np.negative, w)
    state = ref.Importance(zero, zero)
    parts = [ref.update_importance(state, w, g, beta1=0.0, beta2=0.0).sensitivity.s[0] for g in (w, minus)]
    assert (sum(parts), ref.update_importance(state, w, zero, beta1=0.0, beta2=0.0).sensitivity.s[0]) == (2.0, 0.0)


# MACHINES

RUNS = settings(QUICK, max_examples=6, stateful_step_count=10, phases=[Phase.generate])


@pytest.mark.parametrize("machine", [allocator_machine, training_machine])
def test_the_reference_runs_through_the_machines(machine: Any) -> None:
    """No order of steps, odd gradients, skips, saving and compressing breaks an invariant."""
    run_state_machine_as_test(machine(ref), settings=RUNS)


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        (allocator_machine, "keeps_one_less"),
        (allocator_machine, "prune_does_nothing"),
        (allocator_machine, "sensitivity_is_signed"),
        (allocator_machine, "scores_of_s_alone"),
        (training_machine, "mask_is_discarded"),
        (training_machine, "pruned_triplets_come_back"),
        (training_machine, "budget_per_matrix_in_training"),
    ],
)
def test_machines_find_mistakes(machine: Any, name: str) -> None:
    """A planted mistake breaks an invariant."""
    with pytest.raises(Broken):
        run_state_machine_as_test(machine(planted(MISTAKES[name])), settings=settings(RUNS, max_examples=60))


# AS TESTS OF ONE'S OWN SUITE


def test_law_tests_are_tests() -> None:
    """Each law is a test under its own name; one whose stages are lacking is skipped with the reason."""
    tests = law_tests(SimpleNamespace(merge=ref.merge, unmerge=ref.unmerge))
    assert len(tests) == len(LAWS)
    QUICK(tests["test_merge_then_unmerge"])()
    with pytest.raises(BaseException, match="the target has no linear_backward and no linear_forward"):
        tests["test_adjoint_in_x"]()


def test_pytest_collects_law_tests(tmp_path: Path) -> None:
    """In a user's file, one line makes every law a test, with the profile that is loaded there."""
    (tmp_path / "test_mine.py").write_text(
        "import hypothesis\nimport adalora_ref\nfrom adalora_ref.laws import LAWS, PROFILES, law_tests\n"
        "hypothesis.settings.register_profile('quick', PROFILES['quick'])\n"
        "hypothesis.settings.load_profile('quick')\n"
        "class Mine:\n    budget_at = staticmethod(adalora_ref.budget_at)\n"
        "globals().update(law_tests(Mine))\n",
        encoding="utf-8",
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    held = sum(law.stages == ("budget_at",) for law in LAWS)
    assert f"{held} passed, {len(LAWS) - held} skipped" in done.stdout, done.stdout + done.stderr


def test_a_blob_reproduces_the_failure() -> None:
    """What is printed for reproduce_failure runs the smallest case again, as users know it."""
    law, known = law_named("merge_then_unmerge"), MISTAKES["unmerge_adds"]
    target = Target(known.name, planted(known))
    failure = run_law(law, target, examples=50, seed=0).failure
    version, blob = eval(failure.blob.removeprefix("@reproduce_failure"))  # noqa: S307  our own text
    watch = Watch()
    with pytest.raises(Broken):
        reproduce_failure(version, blob)(settings(QUICK)(law_test(law, target, watch)))()
    assert watch.failure.message == failure.message


# WITHIN A TOTAL OF TIME


def test_time_is_shared_and_every_law_gets_its_examples() -> None:
    """With no time left each law still gets 25 examples; with time, as many as were asked for."""
    laws = [law_named("budget_never_rises"), law_named("phases_have_their_lengths")]
    found = list(run_laws(laws, REFERENCE, examples=1000, seed=0, seconds=0.0))
    assert [o.examples for o in found] == [LEAST, LEAST]
    found = list(run_laws(laws, REFERENCE, examples=60, seed=0, seconds=600.0))
    assert all(o.examples > LEAST for o in found)


def test_an_undecided_law_is_no_pass() -> None:
    """Where no case can be decided the verdict is inconclusive, never a pass."""
    law = law_named("bias_is_added")

    class WithoutBias:
        def linear_forward(self, x: Any, W: Any, factors: Any, /, *, scale: float) -> Any:
            return ref.linear_forward(x, W, factors, scale=scale)

    assert law.lacking(Target("mine", WithoutBias())) == "the target's linear_forward takes no bias"

    def undecided(it: Any, case: Any) -> None:
        """A bound that is not finite decides nothing."""
        raise Undecided

    outcome = run_law(Law(undecided, (), lambda _: st.just({}), None), REFERENCE, examples=25, seed=0)
    assert outcome.verdict is Verdict.INCONCLUSIVE
    assert exit_status([outcome]) == 3


# THE COMMAND

MINE = """
import adalora_ref

class Mine:
    merge = staticmethod(adalora_ref.merge)

    def unmerge(self, W, factors, /, *, scale):
        return adalora_ref.merge(W, factors, scale=scale)

class Right:
    merge = staticmethod(adalora_ref.merge)
    unmerge = staticmethod(adalora_ref.unmerge)

class Nothing:
    pass

class Interrupted:
    def merge(self, W, factors, /, *, scale):
        raise KeyboardInterrupt
    increment = merge
"""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a module of targets, in which the command runs."""
    (tmp_path / "law_targets.py").write_text(MINE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["laws", *arguments])


def test_the_command_shows_what_broke(elsewhere: Path) -> None:
    """The law, the smallest case, each call and the call that departs are printed; the reproduction breaks again."""
    done = run("law_targets:Mine", "--examples", "25", "--keep")
    assert done.exit_code == 1, done.output
    assert "merge_then_unmerge: broken, smallest case found, in float64" in done.output
    assert "departs  unmerge, W[0, 0]: got 3.0, expected 1.0, bound 0, since nothing rounds here" in done.output
    assert re.search("not run, the target has no increment: .*merging_adds_the_increment", done.output)
    assert "law_targets:Mine breaks laws: 2 of " in done.output
    again = subprocess.run(
        [sys.executable, "adalora-ref-laws/merge_then_unmerge/repro.py"], capture_output=True, text=True, check=False
    )
    assert again.returncode == 1
    assert "merge_then_unmerge is broken: unmerge(merge(W)) = W must hold exactly" in again.stderr
    right = subprocess.run(
        [sys.executable, "adalora-ref-laws/merge_then_unmerge/repro.py", "law_targets:Right"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (right.returncode, right.stdout) == (0, "merge_then_unmerge holds\n"), right.stderr


def test_kept_cases_are_golden_vectors(elsewhere: Path) -> None:
    """What is kept is a suite of vectors: right results pass, those that broke fail; a spoilt suite is left alone."""
    for _ in range(2):
        done = run("law_targets:Mine", "--law", "merge_then_unmerge", "--examples", "25", "--keep")
        assert done.exit_code == 1
    assert "kept as adalora-ref-laws/vectors/SPEC/unmerge/float64/merge_then_unmerge/1.json" in done.output
    suite = "adalora-ref-laws/vectors/SPEC"
    assert list(read_manifest(Path(suite)).cases) == [f"unmerge/float64/merge_then_unmerge/{n}" for n in (0, 1)]
    for name, status in (("Right", 0), ("Mine", 1)):
        answered = vectors("answer", suite, name, f"law_targets:{name}")
        assert answered.exit_code == 0, answered.output
        checked = vectors("check", suite, name)
        assert checked.exit_code == status, checked.output
    Path(suite, "manifest.json").write_text("{}", encoding="utf-8")
    done = run("law_targets:Mine", "--law", "merge_then_unmerge", "--examples", "25", "--keep")
    assert (done.exit_code, "not kept: " in done.output, "Traceback" in done.output) == (1, True, False)


def vectors(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["vectors", *arguments])


def test_a_call_of_every_stage_can_be_kept(tmp_path: Path) -> None:
    """Whatever the laws ask can be kept, and the reference passes what was kept."""
    stages = {stage for law in LAWS for stage in law.stages}
    asked: dict[str, tuple[Any, str]] = {}
    for law in LAWS:
        if law.stages and law.stages[-1] not in asked:
            asked |= {answer.stage.name: (answer, law.name) for answer in answers_to(law)}
    assert asked.keys() == stages
    paths = [keep(answer, name, tmp_path) for answer, name in asked.values()]
    assert all(path.is_relative_to(tmp_path / "SPEC") and path.is_file() for path in paths)
    assert vectors("answer", str(tmp_path / "SPEC"), str(tmp_path / "results"), "adalora_ref").exit_code == 0
    checked = vectors("check", str(tmp_path / "SPEC"), str(tmp_path / "results"))
    assert checked.exit_code == 0, checked.output


def answers_to(law: Law) -> list[Any]:
    """What the reference answers in the smallest case."""
    asked = Asked(REFERENCE, "float64")

    @given(law.cases("float64"))
    @settings(QUICK, max_examples=1)
    def ask(case: Any) -> None:
        with suppress(Undecided):
            law.holds(asked, case)

    ask()
    return asked.calls


def test_what_no_suite_can_hold_is_not_kept(tmp_path: Path) -> None:
    """A case in which the bound is not finite is not kept, and it says why; nothing is written."""
    answer = answers_to(law_named("linear_in_the_scale"))[0]
    answer.inputs |= {"scale": 1e300, "x": np.full_like(answer.inputs["x"], 1e300)}
    with pytest.raises(ValueError, match="not finite"):
        keep(answer, "linear_in_the_scale", tmp_path / "vectors")
    assert list(tmp_path.iterdir()) == []


def test_exit_statuses(elsewhere: Path) -> None:
    """0 where all laws that ran hold, 2 for wrong usage, each in one sentence without a traceback."""
    right = run("law_targets:Right", "--examples", "25")
    assert right.exit_code == 0, right.output
    assert "law_targets:Right keeps the laws: 2 of " in right.output
    for arguments, told in (
        (["law_targets:Nothing"], "has not the functions"),
        (["law_targets:Missing"], "has no 'Missing'"),
        (["--law", "gravity"], "there is no law 'gravity'; docs/laws.md lists all"),
        (["--out", "law_targets.py/x"], "reproductions must be written into a folder"),
    ):
        done = run(*arguments)
        assert done.exit_code == 2
        assert told in done.output
        assert "Traceback" not in done.output


def test_an_interruption_is_clean(elsewhere: Path) -> None:
    """Ctrl-C before any law is decided ends the run in one sentence with status 130, and nothing is written."""
    done = run("law_targets:Interrupted", "--law", "merging_adds_the_increment", "--examples", "25")
    assert (done.exit_code, done.output) == (130, "interrupted after 0 of 1 laws; reproductions written: 0\n")
    assert not (elsewhere / "adalora-ref-laws").exists()


def test_the_reference_is_the_default(elsewhere: Path) -> None:
    """Without a target the reference is held to the law that was named, and keeps it."""
    done = run("--law", "budget_never_rises", "--law", "counts_exactly", "--examples", "25")
    assert done.exit_code == 0, done.output
    assert "adalora_ref keeps the laws: 2 of 2 laws ran" in done.output


@given(strategies.linear_cases(dtype=strategies.dtypes()))
@settings(suppress_health_check=list(HealthCheck), max_examples=25, database=None)
def test_source_is_the_value(case: dict[str, Any]) -> None:
    """The Python text of a case evaluates to the case, every number and dtype the same."""
    from adalora_ref.laws.literal import source

    back = eval(source(case), {"array": np.array, "Factors": ref.Factors})  # noqa: S307  our own text
    for name in ("x", "W", "dy", "bias", "dropout_mask"):
        assert np.array_equal(case[name], back[name])
        assert case[name] is None or case[name].dtype == back[name].dtype
    for a, b in zip(case["factors"], back["factors"], strict=True):
        assert (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())


def test_the_page_lists_every_law() -> None:
    """docs/laws.md has a row for each law with its sentence, what it needs, and the mistake that breaks it."""
    page = (Path(__file__).parent.parent / "docs/laws.md").read_text(encoding="utf-8")
    rows = []
    for law in LAWS:
        needs = ", ".join(f"`{stage}`" for stage in law.stages) or "any"
        breaks = f"`{law.broken_by}`" if law.broken_by else "no single function"
        rows.append(f"| `{law.name}` | {law.says.replace('|', chr(92) + '|')} | {needs} | {breaks} |")
    assert [line for line in page.splitlines() if line.startswith("| `")] == rows
    assert f"## The {len(LAWS)} laws" in page
