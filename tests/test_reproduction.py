"""A failure leaves a folder that shows it again, small, without the kit; and never takes a folder of someone else's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

import adalora_ref as ref
from adalora_ref.conformance import reproduction, standalone, standalone_network
from adalora_ref.conformance.checking import check_stages, stage_named
from adalora_ref.conformance.deviations import DEVIATIONS, planted, reference
from adalora_ref.conformance.literals import literal
from adalora_ref.conformance.minimise import Minimised, minimise, size
from adalora_ref.conformance.reproduction import MARKER, UNSTEADY, Place, with_reproduction
from adalora_ref.conformance.script import OF_A_STEP
from adalora_ref.conformance.seen import case_inputs
from adalora_ref.conformance.stages import STAGES
from adalora_ref.conformance.target import Lane, Target, leaves, spoken
from adalora_ref.conformance.verdict import Row
from adalora_ref.convention import PEFT, SPEC, Convention
from tests.alone import run_alone, scripts, verify

pytestmark = pytest.mark.usefixtures("unchecked")

ROOT = Path(ref.__file__).parents[1]
PLAIN = (Path(__file__).parent / "plain_adalora.py").read_text(encoding="utf-8")

MISTAKES = {
    "init_factors": ("(std * rng.standard_normal((d_out, r)))", "(2 * std * rng.standard_normal((d_out, r)))"),
    "linear_forward": ("y = x @ W.T + scale * (", "y = x @ W.T + ("),
    "linear_backward": ("return dy @ W + (", "return dy @ W - ("),
    "increment": ("return scale * ((B * s) @ A)", "return (B * s) @ A"),
    "merge": ("return W + increment(factors, scale=scale)", "return W + increment(factors, scale=2.0)"),
    "unmerge": ("return W - increment(factors, scale=scale)", "return W - increment(factors, scale=2.0)"),
    "orthogonality_penalty": ("Factors(4 * (B @ left)", "Factors(2 * (B @ left)"),
    "orthogonality_norm": ("return norms[0] + norms[1]", "return norms[0]"),
    "init_importance": ("return Importance(zeros, zeros)", "return Importance(zeros, each(np.ones_like, like))"),
    "update_importance": ("state[1], now, mean)", "state[1], now, state[0])"),
    "triplet_scores": ("lambda m, u: m * u", "lambda m, u: m + u"),
    "phase_at": ("if step < schedule.warmup", "if step <= schedule.warmup"),
    "budget_at": ("* left**3 // window**3", "* left // window"),
    "allocates_at": ("(step - schedule.warmup) %", "step %"),
    "allocate": ("if budget < 0", "if budget <= 0"),
    "prune": ("np.zeros_like(factors.s)", "-factors.s"),
    "compress": ("return Factors(factors.B[:, keep]", "return Factors(2 * factors.B[:, keep]"),
    "init_adamw": ("AdamState(zeros, zeros, 0)", "AdamState(zeros, zeros, 1)"),
    "adamw_step": ("np.sqrt(v / (1 - beta2**t))", "np.sqrt(v)"),
    "init_state": ("np.ones(r, dtype=bool)", "np.zeros(r, dtype=bool)"),
    "train_step": ("each(lambda g: gamma * g, dR)", "each(lambda g: 0 * g, dR)"),
}


def spoilt(*stages: str) -> str:
    text = PLAIN
    for stage in stages:
        right, wrong = MISTAKES[stage]
        assert text.count(right) == 1, stage
        text = text.replace(right, wrong)
    return text


# A PLANTED MISTAKE IN EVERY STAGE


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The report on a target that is wrong everywhere; its reproductions; the same once it is repaired."""
    folder, environment = tmp_path_factory.mktemp("spoilt"), {**os.environ, "PYTHONPATH": str(ROOT)}
    report = ""
    for name, stages in (("spoilt", list(MISTAKES)[:-1]), ("step", ["train_step"])):
        (folder / f"{name}.py").write_text(spoilt(*stages), encoding="utf-8")
        command = [sys.executable, "-m", "adalora_ref", "verify", name, "--preset", "quick", "--dtype", "float64"]
        command += [f"--stage={stage}" for stage in stages]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, "")
        report += done.stdout
    wrong = run_alone(folder, *scripts(*MISTAKES))
    for name in ("spoilt", "step"):
        (folder / f"{name}.py").write_text(PLAIN, encoding="utf-8")
    return report, wrong, run_alone(folder, *scripts(*MISTAKES))


@pytest.mark.parametrize("stage", MISTAKES)
def test_every_failure_is_shown_again(told: Any, stage: str) -> None:
    """The report names a script that needs NumPy alone; it shows the failure, status 1; repaired, the status is 0."""
    report, wrong, right = told
    (path,) = scripts(stage)
    assert f"  reproduce  python {path}" in report.splitlines()
    status, text = wrong[path]
    name = "step" if stage == "train_step" else "spoilt"
    assert (status, text.splitlines()[0]) == (1, f"{stage} of {name} departs from the specification.")
    equation = f"Algorithm 1: {OF_A_STEP[STATE]}" if stage == "train_step" else stage_named(stage).equation
    assert f"  equation   {equation}" in text.splitlines()
    assert [line.split()[0] for line in text.splitlines()[2:6]] == ["quantity", "got", "expected", "bound"]
    assert right[path] == (0, f"{stage} of {name} does not depart: in this case its results are what they should be.\n")


TUPLES = (
    PLAIN
    + """

_right = init_adamw, adamw_step, init_importance


def _tuples(*held):
    return tuple(tuple(part) if hasattr(part, "B") else part for part in held)


def init_adamw(like, /):
    return _tuples(*_right[0](like))


def adamw_step(weights, grads, state, /, **options):
    moved, state = _right[1](weights, grads, state, **options)
    return tuple(moved), _tuples(*state)


def init_importance(like, /):
    return _tuples(*_right[2](like))
"""
)


def test_states_of_plain_tuples_are_shown_too(tmp_path: Path) -> None:
    """What the stages take as a state the scripts take, too: they show the number that departs, and 0 once mended."""
    stages = ["init_importance", "init_adamw", "adamw_step"]
    text = TUPLES
    for stage in stages:
        text = text.replace(*MISTAKES[stage])
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    report = verify(tmp_path, "mine", "--preset", "quick", "--dtype", "float64", *(f"--stage={s}" for s in stages))
    assert report.exit_code == 1, report.output
    wrong = run_alone(tmp_path, *scripts(*stages))
    assert {(status, said.splitlines()[2].split()[0]) for status, said in wrong.values()} == {(1, "quantity")}
    (tmp_path / "mine.py").write_text(TUPLES, encoding="utf-8")
    assert {status for status, _ in run_alone(tmp_path, *scripts(*stages)).values()} == {0}


STATE = r"state\.optimizer"


def test_every_result_of_a_step_has_its_equation() -> None:
    """Each pattern names some result of a training step, and whatever a step returns, but for its number, has words."""
    stage, lane = stage_named("train_step"), Lane("float64", "float64", SPEC)
    paths = list(map(spoken, stage.expect(case_inputs(stage, "float64", 0, 0), lane)))
    named = {path: next((p for p in OF_A_STEP if re.match(p, path)), None) for path in [*paths, "report.threshold"]}
    assert {path for path, pattern in named.items() if pattern is None} == {"report.step", "state.step"}
    assert set(named.values()) - {None} == set(OF_A_STEP)


def test_every_stage_has_a_mistake() -> None:
    """The table of mistakes has all stages, and so has the table of calls that is written into scripts."""
    assert list(MISTAKES) == [stage.name for stage in STAGES]


def test_the_plain_implementation_conforms(tmp_path: Path) -> None:
    """What the tests spoil is right before, and what conforms leaves no folder."""
    (tmp_path / "spoilt.py").write_text(PLAIN, encoding="utf-8")
    stages = [f"--stage={stage}" for stage in MISTAKES]
    done = verify(tmp_path, "spoilt", "--preset", "quick", "--dtype", "float64", *stages)
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["spoilt.py"]


# WHAT A CASE IS MADE TO


def failing(
    held: Any, stage: str, rules: Convention = SPEC, dtype: str = "float64", cases: int = 6
) -> tuple[Target, Row]:
    target = Target("mine", held)
    (row,) = check_stages([target], [stage_named(stage)], rules, dtypes=[dtype], cases=cases, seed=0)
    assert row.first_failure is not None
    return target, row


def minimised(held: Any, stage: str, dtype: str = "float64", **options: Any) -> Minimised:
    target, row = failing(held, stage, dtype=dtype, **options)
    return minimise(stage_named(stage), target, Lane(dtype, "float32", SPEC), row.first_failure)


def test_a_case_is_made_small_and_plain() -> None:
    """Scores that are sums instead of products: one triplet of a 1 × 1 matrix, and nothing but noughts and ones."""
    case = minimised(
        planted(next(d for d in DEVIATIONS if d.name == "scores_add_mean_and_uncertainty")), "triplet_scores"
    )
    assert case.again
    assert size(case.inputs) == (12, 0)  # averages, weights and gradients of B, s and A
    numbers = [float(x) for _, a in leaves(case.inputs["state"]) for x in a.reshape(-1)]
    assert sorted(numbers) == [0, 0, 0, 0, 0, 1]


def test_a_case_keeps_what_its_failure_needs() -> None:
    """A mistake in the third row of three shows in no smaller case, so three rows stay; the numbers become plain."""

    def forward(x: Any, W: Any, factors: Any, /, *, scale: float) -> Any:
        y = ref.linear_forward(x, W, factors, scale=scale)[0]
        return np.concatenate([y[..., :2], 1.5 * y[..., 2:]], axis=-1), None

    case = minimised(SimpleNamespace(linear_forward=forward), "linear_forward", cases=24)
    assert case.inputs["W"].shape[0] > 2
    assert set(np.unique(case.inputs["W"])) <= {0.0, 1.0}


def test_few_scores_compete() -> None:
    """Ties that go to the lower index and then to the earlier matrix need three scores, a budget of 2, and no costs."""

    def allocate(scores: Any, budget: int, /, *, cost: Any = None) -> Any:
        keep = {name: np.zeros(len(row), bool) for name, row in scores.items()}
        ranked = sorted((-float(v), i, k, n) for k, (n, row) in enumerate(scores.items()) for i, v in enumerate(row))
        for _, i, _, n in ranked:
            price = 1 if cost is None else cost[n]
            if price > budget:
                break
            keep[n][i], budget = True, budget - price
        return keep

    case = minimised(SimpleNamespace(allocate=allocate), "allocate", cases=24).inputs
    assert (size(case["scores"])[0], case["cost"]) == (3, None)
    assert case["budget"] <= 2


def test_a_schedule_is_asked_about_one_step() -> None:
    """Of a schedule that goes wrong at one step, that step alone is asked about."""
    held = SimpleNamespace(budget_at=lambda schedule, t: ref.budget_at(schedule, t) + (t == schedule.warmup))
    case = minimised(held, "budget_at")
    assert case.inputs["steps"] == [case.inputs["schedule"].warmup]


def test_a_minimised_case_obeys_the_rules() -> None:
    """What the stage refuses is not tried: betas stay below 1, and the reference takes the case."""
    held = planted(next(d for d in DEVIATIONS if d.name == "uncertainty_uses_previous_mean"))
    case = minimised(held, "update_importance")
    assert 0 <= case.inputs["beta1"] < 1
    ref.update_importance(
        *(case.inputs[n] for n in ("state", "weights", "grads")), beta1=case.inputs["beta1"], beta2=0.5
    )


def test_a_failure_that_does_not_show_again_is_said_to(tmp_path: Path) -> None:
    """A target that is wrong once leaves its case as it was found, and the report says that it did not fail again."""
    calls: list[int] = []

    def once(state: Any, /) -> Any:
        calls.append(0)
        return ref.triplet_scores(state) + (len(calls) == 1)

    target, row = failing(SimpleNamespace(triplet_scores=once), "triplet_scores")
    found = with_reproduction(row, [target], SPEC, Place(tmp_path, "mine"))
    assert found.reproduction.endswith(UNSTEADY)
    assert size(
        minimised(SimpleNamespace(triplet_scores=lambda s: ref.triplet_scores(s) + 1), "triplet_scores").inputs
    ) < (size(case_inputs(stage_named("triplet_scores"), "float64", 0, 0)))


# OTHER FAILURES

FAKES = {
    "raises": ("prune", "def prune(factors, keep): 1 / 0", "it raised ZeroDivisionError: division by zero"),
    "exits": ("prune", "def prune(factors, keep): raise SystemExit(0)", "it raised SystemExit: 0"),
    "changes its input": (
        "prune",
        "def prune(factors, keep):\n    factors.s[~keep] = 0\n    return factors",
        "the call changed its input factors.s",
    ),
    "another shape": (
        "triplet_scores",
        "def triplet_scores(state): return state.sensitivity.s[:, None]",
        "S must have shape (",
    ),
    "another form": ("triplet_scores", "def triplet_scores(state): return [1.0]", "the results lack ['S']"),
    "another library": (
        "triplet_scores",
        "import array_api_strict as xp\ndef triplet_scores(state): return xp.asarray([1.0])",
        "S must be an array of numpy; got <class 'array_api_strict._array_object.Array'>",
    ),
    "changes an earlier result": (
        "triplet_scores",
        (
            "import numpy as np\nheld = np.zeros(9)\ndef triplet_scores(state):\n"
            "    mean, uncertainty = state\n    S = held[: len(mean.s)]\n"
            "    S[:] = mean.s * uncertainty.s\n    S += (mean.B * uncertainty.B).mean(0)\n"
            "    S += (mean.A * uncertainty.A).mean(1)\n    return S"
        ),
        "the call changed S that an earlier call returned",
    ),
    "NaN": ("triplet_scores", "def triplet_scores(state): return state[0].s * float('nan')", "quantity   S[0]"),
}


@pytest.mark.parametrize("name", FAKES)
def test_failures_of_other_kinds_are_shown_too(name: str, tmp_path: Path) -> None:
    """What raises, exits, changes inputs or results, or has the wrong form is shown by a script as what it is."""
    stage, text, reason = FAKES[name]
    (tmp_path / "mine.py").write_text(text + "\n", encoding="utf-8")
    report = verify(tmp_path, "mine", "--preset", "quick", "--dtype", "float64", "--stage", stage)
    assert report.exit_code == 1, report.output
    (path,) = scripts(stage)
    assert f"  reproduce  python {path}" in report.output.splitlines()
    status, said = run_alone(tmp_path, path)[path]
    assert status == 1
    assert reason in said


def test_a_target_that_hangs_is_shown_and_ends() -> None:
    """A script whose target hangs says where, and ends with status 1."""
    code = (
        "from adalora_ref.conformance import standalone as s\n"
        "import time\n"
        "s.found = lambda _: None\n"
        "s.main('mine', dict, lambda _: time.sleep(60), dict, stage='prune', equation='', seconds=0.2)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Timeout" in done.stderr


def test_arrays_of_another_library(tmp_path: Path) -> None:
    """A target that takes arrays of another library is given them by the script."""
    (tmp_path / "mine.py").write_text(
        "array_library = 'array_api_strict'\n"
        "def triplet_scores(state):\n"
        "    assert type(state.sensitivity.s).__module__.startswith('array_api_strict')\n"
        "    return state.sensitivity.s * state.uncertainty.s\n",
        encoding="utf-8",
    )
    assert verify(tmp_path, "mine", "--preset", "quick").exit_code == 1
    (path,) = scripts("triplet_scores")
    assert run_alone(tmp_path, path)[path][0] == 1
    assert "with NumPy and array_api_strict beside the target" in (tmp_path / path).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("dtype", "stage"), [("bfloat16", "triplet_scores"), ("bfloat16", "merge"), ("float16", "merge")]
)
def test_sixteen_bits(dtype: str, stage: str, tmp_path: Path) -> None:
    """Cases in 16 bits are written and read back as they are."""
    (tmp_path / "mine.py").write_text(
        f"dtypes = ('{dtype}',)\n"
        "def triplet_scores(state): return state.sensitivity.s\n"
        "def merge(W, factors, *, scale): return W\n",
        encoding="utf-8",
    )
    assert verify(tmp_path, "mine", "--preset", "quick", "--stage", stage).exit_code == 1
    (path,) = scripts(stage)
    status, said = run_alone(tmp_path, path)[path]
    assert (status, "quantity" in said) == (1, True)


def test_a_convention_is_handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under another convention a training step is given it; the script then needs adalora_ref, and says so."""
    monkeypatch.setattr(reproduction, "minimise", partial(minimise, seconds=0.5))
    target, row = failing(planted(next(d for d in DEVIATIONS if d.stage == "train_step")), "train_step", PEFT)
    found = with_reproduction(row, [target], PEFT, Place(tmp_path, "right"))
    (tmp_path / "right.py").write_text("from adalora_ref import train_step\n", encoding="utf-8")
    text = (tmp_path / "train_step" / "repro.py").read_text(encoding="utf-8")
    assert "with NumPy and adalora_ref beside the target" in text
    assert "convention=adalora_ref.PEFT" in text
    command = [sys.executable, found.reproduction.split()[1]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


# TEXT


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int64", "bool"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 0), (0, 2), (2, 2, 2), (3, 40)])
def test_text_gives_the_same_numbers_back(dtype: str, shape: tuple[int, ...]) -> None:
    """An array written as text is read back bit for bit, NaN, infinities and both zeros too."""
    rng = np.random.default_rng(0)
    held = np.asarray(rng.standard_normal(shape) * 10.0 ** rng.integers(-9, 5, shape)).astype(
        ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    )
    if held.size > 3 and held.dtype.kind not in "bi":
        held.reshape(-1)[:4] = [np.nan, np.inf, -np.inf, -0.0]
    read = eval(literal({"a": [held]}), {"np": np, "ml_dtypes": ml_dtypes})["a"][0]  # noqa: S307  our own text
    assert (read.dtype, read.shape, read.tobytes()) == (held.dtype, held.shape, held.tobytes())


def test_text_of_everything_else() -> None:
    """Records, tuples of one, strings with quotes and numbers that are not finite are read back as they are."""
    value = {"a": (1,), 'b"': [None, True, "x\\'\"\n"], "c": (), "d": {}, "e": [], "f": [-1e300, float("inf")]}
    assert eval(literal(value), {"np": np}) == value  # noqa: S307  our own text
    wide = {"long": [list(range(60)), ("x" * 50, "y" * 50)]}
    assert eval(literal(wide)) == wide  # noqa: S307  our own text
    schedule = ref.BudgetSchedule(initial=9, target=3, warmup=1, final=1, total=5)
    assert literal(schedule) == "BudgetSchedule(initial=9, target=3, warmup=1, final=1, total=5)"


@pytest.mark.parametrize("name", ["Factors", "Importance", "AdamState", "BudgetSchedule", "Config", "TrainState"])
def test_stand_ins_are_like_the_records(name: str) -> None:
    """The records of a script have the fields, defaults and form of the real ones."""
    ours = getattr(ref, name)
    theirs = getattr(standalone, name, None) or getattr(standalone_network, name)
    assert theirs.__annotations__.keys() == ours.__annotations__.keys()
    assert issubclass(theirs, tuple) == issubclass(ours, tuple)
    for field in ours.__annotations__:
        held = [getattr(kind, "__dataclass_fields__", {}).get(field) for kind in (ours, theirs)]
        assert held[0] is None or held[0].default == held[1].default


@pytest.mark.parametrize("labels", [True, False])
def test_the_network_of_a_script_is_ours(labels: bool) -> None:  # noqa: FBT001
    """Its output, loss and gradients are those of the network that the kit hands over."""
    inputs = case_inputs(stage_named("train_step"), "float64", 0, 2 if labels else 1)
    assert inputs["labels"] is labels
    ours = ref.networks.mlp.MLP(inputs["weights"], inputs["biases"], ref.cross_entropy if labels else ref.mean_square)
    theirs = standalone_network.MLP(inputs["weights"], inputs["biases"], labels=labels)
    scales = dict.fromkeys(inputs["weights"], 0.75)
    x, target = inputs["batch"][0]
    got = []
    for network in (ours, theirs):
        output, cache = network.forward(x, inputs["state"].factors, scales)
        loss, doutput = network.loss(output, target)
        grads = network.backward(doutput, cache)
        got.append([output, loss, doutput, *(a for f in grads.values() for a in f)])
    assert all(np.allclose(a, b, rtol=1e-12, atol=1e-14) for a, b in zip(*got, strict=True))


# FOLDERS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a target that fails."""
    (tmp_path / "mine.py").write_text("def triplet_scores(state): return state[0].s\n", encoding="utf-8")
    return tmp_path


QUICK = ("mine", "--preset", "quick", "--dtype", "float64")


def test_another_folder(folder: Path) -> None:
    """--repro writes elsewhere, and makes the folder; --no-repro writes nothing."""
    assert "  reproduce  python a/b/triplet_scores/repro.py" in verify(folder, *QUICK, "--repro", "a/b").output
    assert (folder / "a/b/triplet_scores/repro.py").is_file()
    assert "reproduce" not in verify(folder, *QUICK, "--no-repro").output
    assert not (folder / "adalora-ref-repro").exists()


def test_a_reproduction_is_replaced_whole(folder: Path) -> None:
    """On the next run the folder of the stage is another, nothing is left beside it, and other stages' stay."""
    verify(folder, *QUICK)
    ours = folder / "adalora-ref-repro"
    (ours / "triplet_scores" / "old").touch()
    (ours / "prune").mkdir()
    (ours / "prune" / MARKER).touch()
    assert verify(folder, *QUICK).exit_code == 1
    assert sorted(path.name for path in ours.iterdir()) == ["prune", "triplet_scores"]
    assert sorted(path.name for path in (ours / "triplet_scores").iterdir()) == [MARKER, "repro.py"]


def test_a_folder_of_another_stops_its_own_stage_alone(folder: Path) -> None:
    """A foreign folder is the reason of its own stage; the others' reproductions are written."""
    with (folder / "mine.py").open("a", encoding="utf-8") as file:
        file.write("def prune(factors, keep): return factors\n")
    theirs = folder / "adalora-ref-repro" / "prune"
    theirs.mkdir(parents=True)
    said = verify(folder, *QUICK).output.splitlines()
    assert "  reproduce  python adalora-ref-repro/triplet_scores/repro.py" in said
    assert "'adalora-ref-repro/prune' is no reproduction" in next(line for line in said if "not written" in line)
    assert list(theirs.iterdir()) == []


def test_the_command_can_be_pasted(folder: Path) -> None:
    """A folder with a blank in its name is quoted, in the report and in the script; one without a name is refused."""
    assert "  reproduce  python 'a b/triplet_scores/repro.py'" in verify(folder, *QUICK, "--repro", "a b").output
    text = (folder / "a b/triplet_scores/repro.py").read_text(encoding="utf-8")
    assert "    python 'a b/triplet_scores/repro.py'" in text.splitlines()
    asked = verify(folder, *QUICK, "--repro", "")
    assert (asked.exit_code, "a folder must have a name; got ''" in asked.stderr) == (2, True)


def test_a_diagnosis_of_all_cases_is_not_carried_to_a_smaller_one(tmp_path: Path) -> None:
    """By how much it was off, and on what it hung, need not hold there; a known mistake does."""
    told = []
    for text in (PLAIN + NARROW, spoilt("triplet_scores")):
        (tmp_path / "mine.py").write_text(text, encoding="utf-8")
        report = verify(tmp_path, "mine", "--preset", "quick", "--dtype", "float64", "--stage", "triplet_scores")
        (path,) = scripts("triplet_scores")
        told.append(("  diagnosis  matches `" in report.output, "diagnosis=" in (tmp_path / path).read_text("utf-8")))
    assert told == [(False, False), (True, True)]


NARROW = """
in_doubles = triplet_scores
def triplet_scores(state):
    return in_doubles(state).astype("float32").astype("float64")
"""


@pytest.mark.parametrize("link", [False, True])
def test_a_folder_of_another_is_left_alone(folder: Path, link: bool) -> None:  # noqa: FBT001
    """What has no marker of ours is not replaced: a remark by default, status 2 before any work if it was asked for."""
    (folder / "theirs").mkdir()
    (folder / "theirs" / "thesis.txt").touch()
    (folder / "adalora-ref-repro").mkdir()
    place = folder / "adalora-ref-repro" / "triplet_scores"
    place.symlink_to(folder / "theirs") if link else (folder / "theirs").rename(place)
    done = verify(folder, *QUICK)
    assert done.exit_code == 1
    assert "  reproduce  not written: 'adalora-ref-repro/triplet_scores' is no reproduction" in done.output
    asked = verify(folder, *QUICK, "--repro", "adalora-ref-repro")
    assert (asked.exit_code, asked.stdout) == (2, "")
    assert (place / "thesis.txt").exists()


def test_a_folder_that_cannot_be_written(folder: Path) -> None:
    """A file in the place of the folder is status 2 before any work if it was asked for, else a remark."""
    (folder / "adalora-ref-repro").touch()
    done = verify(folder, *QUICK)
    assert (done.exit_code, "  reproduce  not written: reproductions must be" in done.output) == (1, True)
    for place in ("mine.py", "mine.py/below", "adalora-ref-repro"):
        asked = verify(folder, *QUICK, "--repro", place)
        assert (asked.exit_code, asked.stdout) == (2, "")
        assert "reproductions must be written to a folder" in asked.stderr
    both = verify(folder, *QUICK, "--repro", "a", "--no-repro")
    assert (both.exit_code, "--repro and --no-repro exclude each other" in both.stderr) == (2, True)


def test_a_disk_that_is_full_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If writing fails midway, the old reproduction stays as it was, and the report says why there is no new one."""
    verify(folder, *QUICK)
    ours = folder / "adalora-ref-repro"
    before = (ours / "triplet_scores" / "repro.py").read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("adalora_ref.conformance.reproduction.Path.write_text", full)
    done = verify(folder, *QUICK)
    monkeypatch.undo()
    assert "  reproduce  not written: [Errno 28] No space left on device" in done.output.splitlines()
    assert [path.name for path in ours.iterdir()] == ["triplet_scores"]
    assert (ours / "triplet_scores" / "repro.py").read_bytes() == before


def test_the_demonstration_writes_nothing(tmp_path: Path) -> None:
    """Without a target, the planted mistake leaves no folder behind."""
    assert verify(tmp_path, "--preset", "quick", "--stage", "prune").exit_code == 0
    assert list(tmp_path.iterdir()) == []


def test_a_case_as_data(tmp_path: Path) -> None:
    """A target that is no Python object gets its case as JSON and tensors, with what is expected and the bounds."""
    target, row = failing(
        SimpleNamespace(init_factors=reference(SPEC).init_factors, merge=lambda W, f, scale: W), "merge"
    )
    found = with_reproduction(row, [target], SPEC, Place(tmp_path, None))
    assert found.reproduction == f"{tmp_path.as_posix()}/merge"
    told = json.loads((tmp_path / "merge" / "case.json").read_text(encoding="utf-8"))
    inputs, expected = (load_file(tmp_path / "merge" / f"{name}.safetensors") for name in ("inputs", "expected"))
    assert told["arguments"]["factors"]["B"] == {"tensor": "factors.B"}
    assert inputs.keys() == {"W", "factors.B", "factors.s", "factors.A"}
    factors = ref.Factors(*(inputs[f"factors.{name}"] for name in "BsA"))
    error = np.abs(ref.merge(inputs["W"], factors, scale=told["arguments"]["scale"]) - expected["W value"])
    assert np.all(error <= expected["W bound"])
