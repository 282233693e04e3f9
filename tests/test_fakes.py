"""The kit under fakes: what is none, answers nothing, or misbehaves is seen for what it is, and spoils no report."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import adalora_ref as ref
from adalora_ref.conformance.bad_input import hand_bad_input
from adalora_ref.conformance.checking import check_stages, stage_named
from adalora_ref.conformance.deviations import DEVIATIONS, planted
from adalora_ref.conformance.own_run import CONFIG, check_run
from adalora_ref.conformance.seen import case_inputs
from adalora_ref.conformance.stages import STAGES
from adalora_ref.conformance.target import CannotExpress, Target
from adalora_ref.conformance.verdict import Row, Verdict, exit_status
from adalora_ref.convention import SPEC
from tests.pages import run


def check(held: Any, *names: str, cases: int = 12, **options: Any) -> list[Row]:
    """Check the stages of those names, or all."""
    stages = [stage_named(name) for name in names] or list(STAGES)
    return list(check_stages([Target("held", held)], stages, SPEC, cases=cases, seed=0, **options))


def target(**functions: Callable[..., Any]) -> Any:
    return SimpleNamespace(**functions)


# ONE CALL


def changes_its_input(factors: Any, keep: Any, /) -> Any:
    factors.s[~keep] = 0
    return factors


class Odd(BaseException):
    """No exception of the usual kind."""


def raised(error: BaseException) -> Any:
    raise error


def deeper(state: Any) -> Any:
    return deeper(state)


def returns_numpy_scalars(state: Any, /) -> Any:
    return [float(x) for x in ref.triplet_scores(state)]


FAKES = {
    "zeros": ("triplet_scores", lambda state: np.zeros_like(state.sensitivity.s), "S["),
    "NaN": ("triplet_scores", lambda state: np.full_like(state.sensitivity.s, np.nan), "S["),
    "raises": ("triplet_scores", lambda state: 1 / 0, "raised ZeroDivisionError: division by zero"),
    "exits": ("triplet_scores", lambda state: sys.exit(0), "raised SystemExit: 0"),
    "shape": ("triplet_scores", lambda state: ref.triplet_scores(state)[:, None], "S must have shape ("),
    "dtype": (
        "triplet_scores",
        lambda state: ref.triplet_scores(state).astype(np.float16),
        "S must have dtype float64",
    ),
    "list": ("triplet_scores", returns_numpy_scalars, "the results lack S; beyond them stands S[0]"),
    "changes its input": ("prune", changes_its_input, "the call changed its input factors.s"),
    "misses a matrix": ("allocate", lambda scores, budget: {}, "the results lack keep[layer0]"),
    "raises nothing known": ("triplet_scores", lambda state: raised(Odd()), "raised Odd"),
    "recursion": ("triplet_scores", lambda state: deeper(state), "raised RecursionError"),  # noqa: PLW0108
    "memory": ("triplet_scores", lambda state: raised(MemoryError("no room")), "raised MemoryError: no room"),
    "not implemented": ("triplet_scores", lambda state: raised(NotImplementedError()), "raised NotImplementedError"),
    "the inputs themselves": ("update_importance", lambda state, *_, **__: state, "state.sensitivity.B"),
    "nothing": ("triplet_scores", lambda state: None, "the results lack S; beyond them stands nothing"),
    "a string": ("triplet_scores", lambda state: "high", "S must have shape ("),
    "integers": ("triplet_scores", lambda state: ref.triplet_scores(state).astype(int), "S must have dtype float64"),
    "objects": ("triplet_scores", lambda state: ref.triplet_scores(state).astype(object), "S must have dtype float64"),
    "wrong number of results": (
        "adamw_step",
        lambda *a, **k: (1, 2, 3),
        "adamw_step must return (factors, state); got tuple of 3",
    ),
}


@pytest.mark.parametrize("name", FAKES)
def test_fakes_fail_for_what_they_are(name: str) -> None:
    """Zeros, NaN, exceptions, wrong shapes, dtypes, names and changed inputs fail, and the reason says which."""
    function, fake, reason = FAKES[name]
    (row,) = check(target(**{function: fake}), function)
    assert row.verdict is Verdict.FAIL
    failed = row.first_failure
    assert failed is not None
    assert reason in (failed.divergence.where if failed.divergence else failed.reason)


def test_a_target_that_hangs_is_interrupted() -> None:
    """A call that takes too long fails with the limit as its reason; the others of its stage are listed as not run."""

    def hangs(state: Any, /) -> Any:
        try:
            time.sleep(100)
        except Exception:  # noqa: BLE001  a target may swallow what it can
            time.sleep(100)

    (row,) = check(target(triplet_scores=hangs), "triplet_scores", seconds=0.2)
    assert (row.verdict, row.run, len(row.checks)) == (Verdict.FAIL, 1, 24)
    assert row.checks[0].reason == "triplet_scores took longer than 0.2 s and was interrupted"
    assert {held.reason for held in row.checks[1:]} == {"not tried, after a call that took too long"}


def test_a_target_that_is_not_deterministic_is_warned_of() -> None:
    """Results that differ between two calls with the same arguments are a warning, even where both are right."""
    calls_made = itertools.count()

    def unsteady(factors: Any, /, *, scale: float) -> Any:
        B, s, A = factors
        return scale * (B @ (s[:, None] * A)) if next(calls_made) % 2 else (scale * B * s) @ A

    (row,) = check(target(increment=unsteady), "increment", dtypes=["float32"])
    assert row.verdict is Verdict.WARN
    warned = next(c for c in row.checks if c.verdict is Verdict.WARN)
    assert warned.reason == "two calls with the same arguments returned different results"


def test_a_result_must_stay_what_it_was() -> None:
    """A target that writes every result into one buffer changes what it returned before, and fails for that."""
    buffer = np.zeros(100)

    def scores(state: Any, /) -> Any:
        found = ref.triplet_scores(state)
        view = buffer.astype(found.dtype, copy=False)[: len(found)]
        view[:] = found
        return view

    (row,) = check(target(triplet_scores=scores), "triplet_scores", dtypes=["float64"])
    assert row.first_failure is not None
    assert row.first_failure.reason == "the call changed S that an earlier call returned"


def test_results_of_another_library_fail() -> None:
    """A target that takes arrays of one library and returns those of another fails."""

    def on_the_host(state: Any, /) -> Any:
        return np.asarray(ref.array.to_numpy(ref.triplet_scores(state)))

    held = target(triplet_scores=on_the_host, array_library="array_api_strict")
    (row,) = check(held, "triplet_scores")
    assert row.first_failure is not None
    assert row.first_failure.reason == "S must be an array of array_api_strict; got numpy.ndarray"


def test_expected_values_come_after_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle is asked when the target has returned, so that a target cannot read the answer off the stack."""
    order: list[str] = []
    stage = stage_named("triplet_scores")

    def expect(inputs: Any, lane: Any) -> Any:
        order.append("oracle")
        return stage.expect(inputs, lane)

    def scores(state: Any, /) -> Any:
        order.append("target")
        return ref.triplet_scores(state)

    list(check_stages([Target("t", target(triplet_scores=scores))], [stage._replace(expect=expect)], SPEC,
                      dtypes=["float64"], cases=3, seed=5))  # fmt: skip
    assert order == ["target", "target", "oracle", "target", "oracle", "target", "oracle"]  # the first is asked twice


def test_an_input_may_be_handed_back() -> None:
    """Sharing memory with an input is no failure, where that is the right result."""

    def prune(factors: Any, keep: Any, /) -> Any:
        return ref.Factors(factors.B, ref.prune(factors, keep).s, factors.A)

    (row,) = check(target(prune=prune), "prune")
    assert row.verdict is Verdict.PASS


# WHERE USE IS


def clipped(factors: Any, /, *, scale: float) -> Any:
    return ref.increment(factors, scale=min(scale, 1.0))


def forgetful(weights: Any, grads: Any, state: Any, /, **options: Any) -> Any:
    moved, (first, second, _) = ref.adamw_step(weights, grads, state._replace(steps=min(state.steps, 999)), **options)
    return moved, ref.AdamState(first, second, state.steps + 1)


@pytest.mark.parametrize(("function", "fake"), [("increment", clipped), ("adamw_step", forgetful)])
def test_cases_reach_as_far_as_use(function: str, fake: Any) -> None:
    """A scale above 1 and step 1001 are usual, so what is wrong only there fails."""
    (row,) = check(target(**{function: fake}), function, dtypes=["float64"])
    assert row.verdict is Verdict.FAIL


def test_the_scale_hangs_on_no_option() -> None:
    """With bias and mask, with either and with neither, a forward pass is asked for with every scale."""
    cases = [case_inputs(stage_named("linear_forward"), "float64", 0, number) for number in range(24)]
    drawn = {(c["scale"], c["bias"] is None, c["dropout_mask"] is None) for c in cases}
    assert len(drawn) == 5 * 4


# EVERYWHERE


def everywhere(function: Callable[..., Any]) -> Any:
    return target(**{stage.needs[0]: function for stage in STAGES})


def test_nothing_implemented_fails_everywhere() -> None:
    """Functions that all raise NotImplementedError are there, so they fail; nothing passes."""

    def missing(*_: Any, **__: Any) -> Any:
        raise NotImplementedError

    rows = check(everywhere(missing), cases=6, dtypes=["float64"])
    assert {row.verdict for row in rows} == {Verdict.FAIL}
    assert exit_status(rows) == 1


def test_always_skipping_passes_nothing() -> None:
    """A target that says of every call that it cannot express it has run nothing: status 3."""

    def skips(*_: Any, **__: Any) -> Any:
        raise CannotExpress("not today")

    rows = check(everywhere(skips), cases=3, dtypes=["float64"])
    assert {row.verdict for row in rows} == {Verdict.NOT_RUN}
    assert exit_status(rows) == 3


def test_always_zero_fails_where_zero_is_wrong() -> None:
    """Zeros of the right form pass only the stages whose result is zero."""

    def zeros(state: Any, /) -> Any:
        return np.zeros_like(state.sensitivity.s)

    held = target(triplet_scores=zeros, increment=lambda f, /, *, scale: 0 * ref.increment(f, scale=scale),
                  init_importance=ref.init_importance)  # fmt: skip
    verdicts = {row.stage: row.verdict for row in check(held, "increment", "init_importance", "triplet_scores")}
    assert verdicts == {"increment": Verdict.FAIL, "init_importance": Verdict.PASS, "triplet_scores": Verdict.FAIL}


# A WHOLE RUN


def train(change: Callable[[Any], Any]) -> Any:
    """The reference's training step, what it returns passed through *change*."""

    def train_step(state: Any, batch: Any, network: Any, config: Any, /) -> Any:
        return change(ref.train_step(state, batch, network, config))

    return target(train_step=train_step)


def run_of(held: Any, **options: Any) -> Row:
    return check_run(Target("held", held), SPEC, dtypes=["float64"], seed=0, **options)


def test_a_right_run_passes_and_shows_its_growth() -> None:
    """The reference's own run passes at every step, drifts by nothing in float64, and shows it."""
    row = run_of(train(lambda after: after))
    assert (row.verdict, row.run) == (Verdict.PASS, CONFIG.schedule.total)
    assert [g.step for g in row.growth] == list(range(CONFIG.schedule.total))
    assert max(g.apart for g in row.growth) < 1e-13
    assert "step 0: " in row.note


def test_a_state_in_another_order_is_right() -> None:
    """A run whose states come back with their dictionaries by the alphabet, as from jax.jit, goes on from them."""

    def by_name(after: Any) -> Any:
        state, report = after
        held = {f: dict(sorted(v.items())) for f, v in state._asdict().items() if f != "step"}
        return state._replace(**held), report

    assert run_of(train(by_name)).verdict is Verdict.PASS


def test_a_state_of_named_tuples_of_ones_own_is_right() -> None:
    """Records with the same fields in another order are read by name, all the way down."""

    def turned(record: Any) -> Any:
        names = ("B", "s", "A") if isinstance(record, ref.Factors) else record._fields
        own = namedtuple("Own", names[::-1])  # type: ignore[misc]  # noqa: PYI024
        return own(**{name: getattr(record, name) for name in names})

    def own_state(after: Any) -> Any:
        state, report = after
        halves = {n: i._replace(**{h: turned(getattr(i, h)) for h in i._fields}) for n, i in state.importance.items()}
        state = state._replace(
            factors={n: turned(f) for n, f in state.factors.items()},
            importance={n: turned(i) for n, i in halves.items()},
            optimizer={n: turned(o) for n, o in state.optimizer.items()},
        )
        return turned(state), report

    assert run_of(train(own_state)).verdict is Verdict.PASS


@pytest.mark.usefixtures("unchecked")  # a diagnosis makes hundreds of steps
def test_a_mistake_of_one_step_fails_at_that_step() -> None:
    """A run that goes wrong at step 4 fails there alone, since later steps are judged from its own state; it grows."""

    def spoilt(after: Any) -> Any:
        state, report = after
        if state.step != 5:
            return after
        moved = {n: ref.Factors(B, s + 1e-6, A) for n, (B, s, A) in state.factors.items()}
        return state._replace(factors=moved), report

    row = run_of(train(spoilt))
    assert [c.case for c in row.checks if c.verdict is Verdict.FAIL] == ["run/float64/step 4"]
    assert max(g.apart for g in row.growth[:4]) < 1e-13
    assert row.growth[4].apart > 1e-7
    assert row.diagnosis.startswith("matches no known mistake")
    assert "; where it is wrong, state.factors[embed].s depends on " in row.diagnosis


@pytest.mark.usefixtures("unchecked")
def test_a_run_is_diagnosed() -> None:
    """A known mistake is named in a whole run as in a single step, and so is another convention."""
    known = next(d for d in DEVIATIONS if d.name == "pruning_clears_the_moments")
    assert run_of(planted(known)).diagnosis.startswith(f"matches `{known.name}` in all ")

    def as_peft(*given: Any) -> Any:
        return ref.train_step(*given, convention=ref.PEFT)

    row = run_of(target(train_step=as_peft))
    assert (row.verdict, row.conventions) == (Verdict.FAIL, ("PEFT",))
    assert row.stage == "whole run of train_step"  # no comma: the report lists the stages that differ with commas


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda after: raised(SystemExit(0)), "train_step raised SystemExit: 0"),
        (lambda after: time.sleep(60), "train_step took longer than 3 s"),
        (lambda after: None, "train_step must return (state, report); got NoneType"),
        (lambda after: (after[0]._replace(factors={}), after[1]), "the factors of the new state must have the shapes"),
    ],
)
def test_a_run_that_cannot_go_on_fails_where_it_ends(change: Any, reason: str) -> None:
    """What raises, hangs or returns no state fails at its step, and the run ends there."""
    row = run_of(train(change), seconds=3)
    assert (row.verdict, row.run) == (Verdict.FAIL, 1)
    assert reason in row.checks[0].reason


# BAD INPUT


def test_the_reference_refuses_all_bad_input() -> None:
    """What the kit hands over as bad input is bad: the reference refuses all of it."""
    handed = hand_bad_input(Target("adalora_ref", ref))
    assert len(handed) >= 15
    assert [h for h in handed if not h.refused] == []


def test_what_is_accepted_is_listed_and_not_failed(tmp_path: Path) -> None:
    """A lenient target conforms all the same; the report lists what it accepts, and so does the JSON."""
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def prune(factors, keep, /):\n"
        "    B, s, A = factors\n"
        "    return B, np.where(keep, s, 0 * s), A\n",
        encoding="utf-8",
    )
    done = run(tmp_path, "verify", "mine", "--stage", "prune", "--preset", "quick", "--json", "v.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert "bad input: 0 of 2 refused; this is no part of the verdict" in done.stdout
    assert "  prune accepts a mask of 0 and 1; one mask entry for two triplets" in done.stdout
    held = json.loads((tmp_path / "v.json").read_text(encoding="utf-8"))["bad_input"]
    assert [h["function"] for h in held] == ["prune", "prune"]


def test_bad_input_may_hang_or_exit() -> None:
    """However a target refuses bad input, the kit goes on."""
    handed = hand_bad_input(Target("mine", target(budget_at=lambda schedule, step: sys.exit(1))))
    assert {h.refused for h in handed} == {"SystemExit: 1"}


# THE COMMAND


def test_what_a_target_prints_is_not_in_the_report(tmp_path: Path) -> None:
    """A target that floods standard output, when imported and when called, leaves the report as it is."""
    (tmp_path / "mine.py").write_text(
        "from adalora_ref import prune as right\n"
        "print('imported')\n"
        "def prune(factors, keep, /):\n"
        "    print('flood\\n' * 1000)\n"
        "    return right(factors, keep)\n",
        encoding="utf-8",
    )
    done = run(tmp_path, "verify", "mine", "--preset", "quick")
    assert done.returncode == 0
    assert "flood" not in done.stdout
    assert "imported" not in done.stdout
    assert done.stdout.splitlines()[-1].startswith("mine conforms: ")
    assert done.stderr.count("flood") > 1000


def test_no_function_at_all_is_wrong_usage(tmp_path: Path) -> None:
    """An object with none of the functions is refused with status 2."""
    (tmp_path / "mine.py").write_text("class Mine:\n    name = 'nothing'\n", encoding="utf-8")
    done = run(tmp_path, "verify", "mine:Mine")
    assert (done.returncode, done.stdout) == (2, "")
    assert "has none of the functions that can be checked" in done.stderr


# FORMS


def changed_state(given: Any, change: Callable[[Any], Any]) -> Any:
    state, report = ref.train_step(*given)
    return change(state), report


def plain(factors: Any) -> Any:
    return {name: tuple(held) for name, held in factors.items()}


FORMS: dict[str, tuple[str, Callable[..., Any], str]] = {
    "no cache": (
        "linear_forward",
        lambda x, W, f, /, *, scale: ref.linear_forward(x, W, f, scale=scale)[0],
        "linear_forward must return (y, cache); got an array of shape (",
    ),
    "no gradient": (
        "orthogonality_penalty",
        lambda f, /: ref.orthogonality_penalty(f)[0],
        "orthogonality_penalty must return (R, factors); got an array of shape ()",
    ),
    "flat": (
        "orthogonality_penalty",
        lambda f, /: (1.0, *ref.orthogonality_penalty(f)[1]),
        "orthogonality_penalty must return (R, factors); got tuple of 4",
    ),
    "two factors": (
        "prune",
        lambda f, keep, /: tuple(ref.prune(f, keep))[:2],
        "factors must be Factors, or unpack as B, s, A; got tuple of 2",
    ),
    "objects": (
        "triplet_scores",
        lambda state, /: np.array([object()] * len(state.sensitivity.s)),
        "S must have dtype float64; got object",
    ),
    "a dictionary for factors": (
        "prune",
        lambda f, keep, /: dict(zip("BsA", ref.prune(f, keep), strict=True)),
        "factors must be Factors, or unpack as B, s, A; got dict",
    ),
    "a dictionary for the moments": (
        "init_adamw",
        lambda f, /: ref.init_adamw(f)._asdict(),
        "the state of init_adamw must unpack as first, second, steps; got dict",
    ),
    "a dictionary for one of the averages": (
        "init_importance",
        lambda f, /: (ref.init_importance(f).sensitivity, dict(zip("BsA", f, strict=True))),
        "the uncertainty must be Factors, or unpack as B, s, A; got dict",
    ),
    "a dictionary for the state": (
        "init_state",
        lambda *given: ref.init_state(*given)._asdict(),
        "the state of init_state must be TrainState or a named tuple with step, factors, importance, optimizer, masks",
    ),
    "tuples in the state": (
        "train_step",
        lambda *given: changed_state(given, lambda state: state._replace(factors=plain(state.factors))),
        "factors[first] in the state of train_step must be Factors or a named tuple with B, s, A; got tuple of 3",
    ),
    "a list of factors": (
        "train_step",
        lambda *given: changed_state(given, lambda state: state._replace(factors=list(state.factors.values()))),
        "factors in the state of train_step must be a dictionary by matrix; got list of 2",
    ),
    "a list of masks": (
        "train_step",
        lambda *given: changed_state(given, lambda state: state._replace(masks=list(state.masks.values()))),
        "masks in the state of train_step must be a dictionary by matrix; got list of 2",
    ),
    "no report": (
        "train_step",
        lambda *given: (ref.train_step(*given)[0], {}),
        "the report of train_step must be StepReport or a named tuple with step, loss, ",
    ),
    "bytes for masks": (
        "allocate",
        lambda scores, budget, /: {n: m.astype("u1") for n, m in ref.allocate(scores, budget).items()},
        "keep[layer0] must have dtype bool; got uint8",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_wrong_form_is_said_and_explained_by_nothing_else(name: str) -> None:
    """What has not the form that its function must return is told so: no exception of the target, no known mistake."""
    function, fake, reason = FORMS[name]
    (row,) = check(target(**{function: fake}), function, dtypes=["float64"])
    assert row.first_failure is not None
    assert row.first_failure.reason.startswith(reason)
    assert row.diagnosis == ""


def test_a_narrower_format_is_recognised() -> None:
    """What computes float64 results in float32 is told so; a mistake of the same stage is not."""

    def narrow(factors: Any, /, *, scale: float) -> Any:
        B, s, A = (a.astype(np.float32) for a in factors)
        return (scale * (B * s) @ A).astype(factors.s.dtype)

    def wrong(factors: Any, /, *, scale: float) -> Any:
        return 1.001 * ref.increment(factors, scale=scale)

    said = [check(target(increment=f), "increment", dtypes=["float64"])[0].diagnosis for f in (narrow, wrong)]
    assert said[0].startswith("matches no known mistake, but is off by no more than computing in float32 makes; ")
    assert said[1].startswith("matches no known mistake; ")


def test_a_few_roundings_are_called_so() -> None:
    """A decimal that stands for 1 − β is another double; what it makes is not called an error of float32."""

    def literal(weights: Any, grads: Any, state: Any, /, **options: Any) -> Any:
        moved, (_, second, steps) = ref.adamw_step(weights, grads, state, **options)
        arrays = zip(state.first, grads, strict=True)
        decimal = ref.Factors(*(0.9 * m + 0.1 * g if m.dtype == "f8" else m for m, g in arrays))
        return moved, ref.AdamState(decimal, second, steps)

    (row,) = check(target(adamw_step=literal), "adamw_step", dtypes=["float64"])
    assert row.diagnosis.startswith("matches no known mistake, but is off by a few roundings alone, as where ")


def test_a_mixture_is_called_no_convention(tmp_path: Path) -> None:
    """What is PEFT's but for one function is told where it fails, under either convention, and no more."""
    (tmp_path / "mine.py").write_text(
        "from adalora_ref import PEFT, allocate\n"
        "from adalora_ref.conformance.deviations import reference\n"
        "budget_at, allocates_at = reference(PEFT).budget_at, reference(PEFT).allocates_at\n",
        encoding="utf-8",
    )
    under = {name: run(tmp_path, "verify", "mine", "--convention", name).stdout for name in ("SPEC", "PEFT")}
    assert "\nas far as it fails, this is convention PEFT, not SPEC: 2 differences, budget_at" in under["SPEC"]
    assert "\nas far as it fails, this is convention SPEC, not PEFT: 1 difference, allocate" in under["PEFT"]
    assert "  diagnosis  right under the convention SPEC" in under["PEFT"]


def test_what_swallows_every_interruption_ends_the_command(tmp_path: Path) -> None:
    """A bare except in a loop cannot hold the kit: the command ends with status 2 and one sentence."""
    (tmp_path / "mine.py").write_text(
        "import time\n"
        "import adalora_ref.conformance.checking as checking\n"
        "checking.check_case.__defaults__ = (0.2,)\n"
        "checking.check_stages.__kwdefaults__['seconds'] = 0.2\n"
        "def triplet_scores(state):\n"
        "    while True:\n"
        "        try:\n"
        "            time.sleep(0.05)\n"
        "        except BaseException:\n"
        "            pass\n",
        encoding="utf-8",
    )
    done = run(tmp_path, "verify", "mine", "--stage", "triplet_scores")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: the target took too long, and swallows what interrupts it: a bare except in a loop?\n"
