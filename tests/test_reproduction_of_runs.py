"""Allocators, whole runs, recorded runs and programs that fail leave a script, too, which NumPy alone can run."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

import adalora_ref as ref
from adalora_ref.conformance import allocator_check, reproduction, standalone_program
from adalora_ref.conformance.allocator_check import check_allocator
from adalora_ref.conformance.checking import PRESETS
from adalora_ref.conformance.deviations import DEVIATIONS, planted
from adalora_ref.conformance.feed import SCRIPTS, Script, feed
from adalora_ref.conformance.minimise import size
from adalora_ref.conformance.minimise_feed import SAID, decided, minimise_feed, right
from adalora_ref.conformance.reproduction import ALONE, MARKER, UNSTEADY
from adalora_ref.conformance.scripted import Allocator
from adalora_ref.conformance.target import Target
from adalora_ref.conformance.trace import EQUATIONS, Judge, Run
from adalora_ref.conformance.trace_case import recorded
from adalora_ref.conformance.trace_diagnosis import wide
from adalora_ref.conformance.trace_file import write_trace
from adalora_ref.conformance.verdict import Verdict, compare
from adalora_ref.convention import CONVENTIONS, SPEC, Convention
from tests.alone import run_alone, scripts, verify
from tests.pages import VERIFY, blocks
from tests.test_program import GOES_ON, HONEST
from tests.test_trace import CONFIG, JUDGE, RIGHT

pytestmark = pytest.mark.usefixtures("unchecked")

PLAIN = (Path(__file__).parent / "plain_adalora.py").read_text(encoding="utf-8")


def spoilt(text: str, *changes: tuple[str, str]) -> str:
    for before, after in changes:
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


def told(said: tuple[int, str]) -> dict[str, str]:
    """What a script prints of the first quantity that departs."""
    return dict(line.split(maxsplit=1) for line in said[1].splitlines()[1:])


# ALLOCATORS

(ALLOCATOR,) = blocks("allocator.md", "python")

IN_ALLOCATOR = {
    "update_importance": ("np.abs(ipt - self.exp_avg_ipt[name])", "np.abs(ipt - old_ipt)"),
    "budget_at": ("* left**3 // window**3", "* left // window"),
    "allocates_at": ("(step - s.warmup) % s.interval", "step % s.interval"),
    "triplet_scores": ("+ A.mean(axis=1)", "+ A.sum(axis=1)"),
    "allocate": ("kept[order[:budget]]", "kept[order[: budget - 1]]"),
    "masks": ('"masks": dict(self.kept)', '"masks": {n: k ^ (step == 7) for n, k in self.kept.items()}'),
    "prune": ("if due or step > end:", "if due:"),
}  # fmt: skip

IN_CALLS = {
    "raises": (("parameters, gradients = self", "1 / (step - 2)\n        parameters, gradients = self"), "it raised"),
    "start raises": (("self.allocator = Rank", "1 / 0\n        self.allocator = Rank"), "it raised ZeroDivisionError"),
    "changes its input": (('": value.copy()', '": value'), "the call changed its input steps["),
    "changes an answer": (('"masks": dict(self.kept)', '"masks": self.kept'), "update changed masks["),
}


@pytest.fixture
def small_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """Play a smaller script alone, and take half a second to make it smaller still, which is what time allows."""
    shapes = {"embed": (2, 1), "gate": (1, 2), "block": (1, 1), "head": (1, 1)}
    for name in set(SCRIPTS) - {""}:
        monkeypatch.delitem(SCRIPTS, name)
    monkeypatch.setitem(SCRIPTS, "", Script(shapes))
    monkeypatch.setattr(reproduction, "minimise_feed", partial(minimise_feed, seconds=0.5))


def test_every_quantity_of_an_allocator_is_shown_again(small_script: None, tmp_path: Path) -> None:
    """An allocator that is wrong everywhere is shown so by a script a quantity; once mended, by none of them."""
    file = tmp_path / "mine.py"
    file.write_text(spoilt(ALLOCATOR, *IN_ALLOCATOR.values()), encoding="utf-8")
    report = verify(tmp_path, "mine:allocator", "--dtype", "float64")
    assert report.exit_code == 1, report.output
    paths = scripts(*(f"allocator-{quantity}" for quantity in IN_ALLOCATOR))
    assert [f"  reproduce  python {path}" in report.output.splitlines() for path in paths] == [True] * len(paths)
    wrong = run_alone(tmp_path, *paths)
    for quantity, path in zip(IN_ALLOCATOR, paths, strict=True):
        assert wrong[path][0] == 1
        assert wrong[path][1].startswith(f"{quantity} of mine:allocator departs from the specification.\n")
        assert told(wrong[path])["quantity"].startswith(quantity)
        assert told(wrong[path]).keys() >= {"equation", "got", "expected", "bound"}
    file.write_text(ALLOCATOR, encoding="utf-8")
    mended = run_alone(tmp_path, *paths)
    assert [mended[path] for path in paths] == [
        (0, f"{quantity} of mine:allocator does not depart: in this case its results are what they should be.\n")
        for quantity in IN_ALLOCATOR
    ]


@pytest.mark.parametrize("name", IN_CALLS)
def test_a_call_of_an_allocator_that_fails_is_shown_again(small_script: None, name: str, tmp_path: Path) -> None:
    """An allocator that raises, or changes what it was given or has answered, is shown to; mended, it is not."""
    change, reason = IN_CALLS[name]
    file = tmp_path / "mine.py"
    file.write_text(spoilt(ALLOCATOR, change), encoding="utf-8")
    assert verify(tmp_path, "mine:allocator", "--dtype", "float32").exit_code == 1
    (path,) = scripts("allocator-update")
    status, said = run_alone(tmp_path, path)[path]
    assert (status, f"  reason     {reason}" in said) == (1, True), said
    file.write_text(ALLOCATOR, encoding="utf-8")
    assert run_alone(tmp_path, path)[path][0] == 0


STRICT = """
import adalora_ref as ref
import array_api_strict as xp
from adalora_ref.conformance.scripted import Allocator

class Wrong(Allocator):
    array_library = "array_api_strict"

    def update(self, step, weights, grads):
        said = super().update(step, weights, grads)
        return said | {"scores": said["scores"] and {n: 2 * a for n, a in said["scores"].items()}}

allocator = Wrong(ref)
"""


def test_an_allocator_of_another_library_is_fed_its_arrays(small_script: None, tmp_path: Path) -> None:
    """The script makes arrays of the library that the target declares, and says that it needs it."""
    (tmp_path / "mine.py").write_text(STRICT, encoding="utf-8")
    assert verify(tmp_path, "mine:allocator", "--dtype", "float64").exit_code == 1
    (path,) = scripts("allocator-triplet_scores")
    assert "with NumPy and array_api_strict beside the target" in (tmp_path / path).read_text(encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(VERIFY.parents[1])}  # this target is made of the reference
    for text, status in ((STRICT, 1), (STRICT.replace("2 * a", "a"), 0)):
        (tmp_path / "mine.py").write_text(text, encoding="utf-8")
        done = subprocess.run([sys.executable, path], cwd=tmp_path, capture_output=True, env=environment, check=False)
        assert (done.returncode, done.stderr) == (status, b"")


def found(held: Any, stage: str) -> Any:
    target = Target("mine", held)
    row = next(r for r in check_allocator(target, SPEC, dtypes=["float64"], seed=0) if r.stage == stage)
    return target, row.first_failure


def test_a_feed_is_made_small_and_plain(small_script: None) -> None:
    """Ū from the previous Ī needs one step of one 1 × 1 matrix at rank 1, with numbers of one digit."""
    held = Allocator(planted(next(d for d in DEVIATIONS if d.name == "uncertainty_uses_previous_mean")))
    case = minimise_feed(*spread(found(held, "update_importance")))
    assert case.again
    ((weights, grads),) = case.feed.steps
    assert size((weights, grads))[0] == 6
    numbers = [float(x) for f in (*weights.values(), *grads.values()) for a in f for x in a.reshape(-1)]
    assert all(x == float(f"{x:.1g}") for x in numbers)


def spread(held: Any) -> Any:
    target, failed = held
    return target, SPEC, failed, 0


def test_a_failure_of_an_allocator_that_does_not_show_again_is_said_to(small_script: None, tmp_path: Path) -> None:
    """An allocator that is wrong once, in no process again: the report says so, and the script of itself."""
    change = ('"budget": budget', '"budget": budget + (step == 1 and once())')
    (tmp_path / "mine.py").write_text(ONCE + spoilt(ALLOCATOR, change), encoding="utf-8")
    report = verify(tmp_path, "mine:allocator", "--dtype", "float64")
    (path,) = scripts("allocator-budget_at")
    assert f"  reproduce  python {path}{UNSTEADY}" in report.output.splitlines()
    assert f"as small as it still did{ALONE}." in (tmp_path / path).read_text(encoding="utf-8").splitlines()[0]
    assert run_alone(tmp_path, path)[path][0] == 0


ONCE = """
def once():
    try:
        open("once", "x").close()
    except FileExistsError:
        return 0
    return 1
"""


def test_an_allocator_is_tried_in_a_process_of_its_own(small_script: None, tmp_path: Path) -> None:
    """What is wrong in the first run of a process alone is shown by a script, and is not called unsteady."""
    change = ('"budget": budget', '"budget": budget + (step == 1 and CALLS.append(1) is None and len(CALLS) == 1)')
    (tmp_path / "mine.py").write_text("CALLS = []\n" + spoilt(ALLOCATOR, change), encoding="utf-8")
    report = verify(tmp_path, "mine:allocator", "--dtype", "float64")
    (path,) = scripts("allocator-budget_at")
    assert f"  reproduce  python {path}" in report.output.splitlines()
    said = run_alone(tmp_path, path)[path]
    assert (said[0], told(said)["step"]) == (1, "1, the last that it is fed")


def test_an_allocator_that_forgets_nothing_is_fed_twice(
    small_script: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where start keeps the masks of the run before, the script makes that run first; mended, it is content."""
    monkeypatch.setitem(SCRIPTS, "/ties", SCRIPTS[""])
    kept = "self.kept = {layer: np.ones(len(w.s), dtype=bool) for layer, w in weights.items()}"
    again = "old = getattr(self, 'kept', {})\n        " + kept.replace(
        "np.ones", "old[layer] if layer in old else np.ones"
    )
    (tmp_path / "mine.py").write_text(spoilt(ALLOCATOR, (kept, again)), encoding="utf-8")
    report = verify(tmp_path, "mine:allocator", "--dtype", "float64")
    (path,) = scripts("allocator-masks")
    assert f"  reproduce  python {path}" in report.output.splitlines()
    said = run_alone(tmp_path, path)[path]
    assert (said[0], told(said)["step"]) == (1, "0, when it is fed for the second time")
    (tmp_path / "mine.py").write_text(ALLOCATOR, encoding="utf-8")
    assert run_alone(tmp_path, path)[path][0] == 0


def test_rounding_never_decides_what_a_script_expects() -> None:
    """Twins that tie may decide a mask, since all their numbers are equal; other triplets that tie may not."""
    ties = feed(SCRIPTS["/ties"], "float64", 0)
    assert decided(ties, right(ties, SPEC, "float64"))

    half = {n: ref.map_factors(lambda a: np.full_like(a, 0.5), f) for n, f in ties.steps[0][0].items()}
    third = {n: ref.map_factors(lambda a: np.full_like(a, 0.25), f) for n, f in half.items()}
    swapped = third | {"embed": half["embed"]}, half | {"embed": third["embed"]}  # the same products
    flat = ties._replace(steps=(swapped,) * 6)
    assert decided(flat, right(flat, SPEC, "float64")) is False


def test_every_quantity_of_an_allocator_has_its_script() -> None:
    """The quantities that scripts know are those that are checked."""
    assert list(SAID) == ["update", *allocator_check.STAGES_SEEN]
    assert set(IN_ALLOCATOR) == set(allocator_check.STAGES_SEEN)


# WHOLE RUNS


def test_a_step_of_a_whole_run_is_shown_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that goes wrong at t = 3 alone is shown from the state that the run had reached there."""
    monkeypatch.setitem(PRESETS, "quick", 1)
    wrong = spoilt(PLAIN, ("each(lambda g: gamma * g, dR)", "each(lambda g: (state.step != 3) * gamma * g, dR)"))
    (tmp_path / "plain.py").write_text(wrong, encoding="utf-8")
    (tmp_path / "mine.py").write_text("from plain import train_step\n", encoding="utf-8")
    report = verify(tmp_path, "mine", "--preset", "quick", "--dtype", "float64")
    (path,) = scripts("train_step-run")
    assert f"  reproduce  python {path}" in report.output.splitlines()
    folder = tmp_path / "adalora-ref-repro"
    assert [held.name for held in folder.iterdir()] == ["train_step-run"]
    assert sorted(held.name for held in (folder / "train_step-run").iterdir()) == [MARKER, "data.npz", "repro.py"]
    said = run_alone(tmp_path, path)[path]
    assert (said[0], told(said)["quantity"][:27]) == (1, "state.optimizer[embed].firs")
    assert told(said)["equation"].startswith("Algorithm 1: m ← β1 m + (1 − β1) g, ")
    assert told(said)["step"] == "3"
    (tmp_path / "plain.py").write_text(PLAIN, encoding="utf-8")
    assert run_alone(tmp_path, path)[path][0] == 0


def test_a_step_that_is_wrong_after_others_is_shown_after_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a target remembers of earlier steps is made by a script too, and a mended target departs from nothing."""
    monkeypatch.setitem(PRESETS, "quick", 1)
    text = "from plain import train_step as right\nSEEN = set()\ndef train_step(state, batch, network, config):\n"
    remembers = "    SEEN.add(state.step)\n    state, report = right(state, batch, network, config)\n"
    wrong = "    return (state._replace(step=0) if {0, 1, 2, 3} <= SEEN else state), report\n"
    (tmp_path / "plain.py").write_text(PLAIN, encoding="utf-8")
    (tmp_path / "mine.py").write_text(text + remembers + wrong, encoding="utf-8")
    report = verify(tmp_path, "mine", "--dtype", "float64", "--preset", "quick")
    (path,) = scripts("train_step-run")
    assert f"  reproduce  python {path}" in report.output.splitlines()
    assert "after the steps before it." in (tmp_path / path).read_text(encoding="utf-8").splitlines()[0]
    said = run_alone(tmp_path, path)[path]
    assert (said[0], told(said)["step"], told(said)["quantity"]) == (1, "3", "state.step"), said
    (tmp_path / "mine.py").write_text("from plain import train_step\n", encoding="utf-8")
    assert run_alone(tmp_path, path)[path][0] == 0


# RECORDED RUNS


@pytest.mark.parametrize("rules", CONVENTIONS.values(), ids=CONVENTIONS)
def test_formulas_agree_with_the_oracles(rules: Convention) -> None:
    """Every formula makes of a run's inputs what the oracles do, within the bound, under every convention."""
    run = Run(tuple(RIGHT), Judge(CONFIG, rules, "float64"), "trace", "")
    for run_, stages in ((run, EQUATIONS), (unscored(run), ("allocate",))):
        for stage in stages:
            held = list(recorded(run_, stage))
            assert held or (rules.name, stage) in {("LORA", "triplet_scores"), ("LORA", "allocate")}
            for r in held:
                made = np.asarray(r.formula(**wide(r.inputs)))
                verdict, _, divergence, reason = compare(r.quantity, made.astype(r.expected.dtype), r.expected)
                assert verdict in (Verdict.PASS, Verdict.WARN), (r.quantity, r.step, divergence, reason)


def unscored(run: Run) -> Run:
    """The run without its scores."""
    return run._replace(steps=tuple(step._replace(scores=None) for step in run.steps))


def half(held: Any, part: str) -> Any:
    """One array of the matrix a halved."""
    return held | {"a": replace(held["a"], **{part: getattr(held["a"], part) / 2})}


def wrong_run() -> list[Any]:
    """The right run, a number of each quantity wrong at some step."""
    steps = list(RIGHT)

    def change(number: int, **fields: Any) -> None:
        steps[number] = steps[number]._replace(**fields)

    change(2, weights=half(RIGHT[2].weights, "B"))
    change(1, clipped=half(RIGHT[1].clipped, "s"))
    change(4, moved=half(RIGHT[4].moved, "A"))
    mean, deviation = RIGHT[3].importance["a"]
    uneven = type(RIGHT[3].importance["a"])(mean, replace(deviation, B=deviation.B / 2))
    change(3, importance=RIGHT[3].importance | {"a": uneven}, scores=RIGHT[3].scores | {"a": RIGHT[3].scores["a"] * 3})
    change(5, masks={n: ~mask for n, mask in RIGHT[5].masks.items()})
    change(7, budget=7, due=True, after=half(RIGHT[7].after, "B"))
    change(6, budget=RIGHT[6].budget, masks=RIGHT[6].masks | {"b": ~RIGHT[6].masks["b"]})
    change(2, masks={n: ~mask for n, mask in RIGHT[2].masks.items()}, weights=steps[2].weights)
    return steps


def test_every_quantity_of_a_recorded_run_is_shown(tmp_path: Path) -> None:
    """A script a stage has the recorded number, the right one, and what the formula in it makes of the inputs."""
    write_trace(tmp_path / "run.safetensors", wrong_run(), JUDGE)
    outputs = ("--json", "report.json", "--junit", "report.xml")
    report = verify(tmp_path, "trace:run.safetensors", *outputs)
    paths = scripts(*(f"trace-{stage}" for stage in EQUATIONS))
    assert [f"  reproduce  python {path}" in report.output.splitlines() for path in paths] == [True] * len(paths)
    rows = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["rows"]
    assert [row["reproduction"] for row in rows] == [f"python {path}" for path in paths]
    failures = [case.text or "" for case in ET.parse(tmp_path / "report.xml").iter("failure")]  # noqa: S314  our own
    assert all(sum(text.endswith(f"  reproduce  python {path}") for text in failures) == 1 for path in paths)
    shown = run_alone(tmp_path, *paths)
    for stage, path in zip(EQUATIONS, paths, strict=True):
        said = told(shown[path])
        assert (shown[path][0], said["quantity"][: len(stage)]) == (1, stage)
        got, expected, computed = (
            float(ast.literal_eval(said[name].split(",")[0])) for name in ("got", "expected", "computed")
        )
        assert np.isclose(computed, expected, rtol=1e-12, atol=0.0)
        assert got != expected


def test_large_data_lies_beside_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond so many numbers, arrays are read from a file without pickles, and the script says the same."""
    write_trace(tmp_path / "run.safetensors", wrong_run()[4:6], JUDGE)
    (path,) = scripts("trace-allocate")
    said = []
    for largest in (10**6, 0):
        monkeypatch.setattr("adalora_ref.conformance.script_parts.LARGEST", largest)
        verify(tmp_path, "trace:run.safetensors", "--stage", "allocate")
        said.append(run_alone(tmp_path, path)[path])
        text = (tmp_path / path).read_text(encoding="utf-8")
        assert ("allow_pickle=False" in text) is (tmp_path / path).with_name("data.npz").exists() is (largest == 0)
    assert said[0] == said[1]


def test_options_and_foreign_folders(tmp_path: Path) -> None:
    """--repro writes elsewhere, --no-repro nowhere, and what is not ours stays: with runs as with functions."""
    write_trace(tmp_path / "run.safetensors", wrong_run()[6:], JUDGE)
    asked = ("trace:run.safetensors", "--stage", "prune")
    assert "  reproduce  python a/trace-prune/repro.py" in verify(tmp_path, *asked, "--repro", "a").output
    assert "reproduce" not in verify(tmp_path, *asked, "--no-repro").output
    theirs = tmp_path / "adalora-ref-repro" / "trace-prune"
    theirs.mkdir(parents=True)
    assert "not written: 'adalora-ref-repro/trace-prune' is no reproduction" in verify(tmp_path, *asked).output
    assert list(theirs.iterdir()) == []


def test_a_recorded_array_of_the_wrong_form(tmp_path: Path) -> None:
    """A recorded array of another dtype than the file says is refused, and leaves no reproduction."""
    steps = list(RIGHT)
    narrow = {n: ref.map_factors(lambda a: a.astype(np.float32), f) for n, f in RIGHT[2].weights.items()}
    steps[2] = steps[2]._replace(weights=narrow)
    write_trace(tmp_path / "run.safetensors", steps, JUDGE)
    done = verify(tmp_path, "trace:run.safetensors")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "must have the dtype and the initial rank of the metadata, float64 and 2; got float32 and 2" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run.safetensors"]


# PROGRAMS


def test_a_program_is_asked_again(tmp_path: Path) -> None:
    """The script of a program speaks to it as the kit does: it shows the wrong result, and none once it is mended."""
    right, program = HONEST + GOES_ON, tmp_path / "program.py"
    program.write_text(spoilt(right, ("due = [t == end or", "due = [t == end + 1 or")), encoding="utf-8")
    spec = f"exec:{sys.executable} -S -E program.py"
    report = verify(tmp_path, spec, "--preset", "quick")
    (path,) = scripts("allocates_at")
    assert f"  reproduce  python {path}" in report.output.splitlines()
    said = run_alone(tmp_path, path)[path]
    assert (said[0], told(said)["quantity"]) == (1, "due[0]")
    program.write_text(right, encoding="utf-8")
    assert run_alone(tmp_path, path)[path][0] == 0
    for goes_on, reason in (
        ("say(told)\nfor r in requests(): say({'id': r['id'], 'error': 'no room'})\n", 'it answered {"id": 0, "error"'),
        ("say(told)\n", "the program ended with exit status 0 and did not answer"),
        ("say(told)\nfor r in requests(): say({'id': r['id'], 'ok': True})\n", "the results cannot be read"),
    ):
        program.write_text(HONEST + goes_on, encoding="utf-8")
        status, text = run_alone(tmp_path, path)[path]
        assert (status, f"  reason     {reason}" in text) == (1, True), text
    for begins, reason in (
        ("raise SystemExit(3)\n", "it ended with exit status 3 and did not answer the greeting"),
        ("say({'error': 'no licence'})\n", 'to the greeting it answered {"error": "no licence"}'),
    ):
        program.write_text(HONEST + begins, encoding="utf-8")
        done = subprocess.run([sys.executable, path], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"the program cannot be started here ({reason}): run this where it can be\n"


def test_a_program_that_is_late_is_told_from_one_that_ended(tmp_path: Path) -> None:
    """Before the greeting is answered that is no failure of a case, but after it is."""
    program = tmp_path / "late.py"
    command = f"{sys.executable} -S -E {program}"
    program.write_text(HONEST + "time.sleep(60)\n", encoding="utf-8")
    with pytest.raises(
        standalone_program.Unstarted, match=r"it took longer than 0\.3 s and did not answer the greeting"
    ):
        standalone_program.asked(command, {}, seconds=0.3)
    program.write_text(HONEST + "say(told)\ntime.sleep(60)\n", encoding="utf-8")
    assert standalone_program.asked(command, {}, seconds=0.3) == "the program took longer than 0.3 s and did not answer"


def test_a_script_of_a_program_has_its_numbers(tmp_path: Path) -> None:
    """The arguments, their arrays and what must come back stand in the script, and no file beside it is read."""
    (tmp_path / "program.py").write_text(HONEST + ADDS, encoding="utf-8")
    assert verify(tmp_path, f"exec:{sys.executable} -S -E program.py", "--preset", "quick").exit_code == 1
    (path,) = scripts("merge")
    text = (tmp_path / path).read_text(encoding="utf-8")
    assert '"arguments": {' in text
    assert re.search(r'"W": np\.array\(\[\[[-0-9., ]+\]\], dtype=np\.float64\)', text)
    assert re.search(r'"W": Wanted\(\s*high=np\.array', text)
    for file in (tmp_path / path).parent.iterdir():
        file.unlink() if file.name != "repro.py" else None
    said = run_alone(tmp_path, path)[path]
    assert (said[0], told(said)["reason"][:22]) == (1, "the results lack ['W']"), said


ADDS = """
told["stages"] = ["merge"]
say(told)
for r in requests():
    with open(r["tensors"], "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    tensors(r["results"], wrong=("F64", "d", [len(header)]))
    say({"id": r["id"], "ok": True})
"""


def test_a_program_in_c_is_asked_again(tmp_path: Path) -> None:
    """The example in C with its mistake departs, without it it does not; where it is gone, the status is 2."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("the program in C needs a compiler named cc; there is none")
    build = [compiler, "-std=c99", "-o", str(tmp_path / "adalora"), str(VERIFY / "adalora.c"), "-lm"]
    subprocess.run([*build, "-DMISTAKE"], check=True)
    asked = ("exec:./adalora", "--preset", "quick", "--stage", "update_importance", "--dtype", "float32")
    assert verify(tmp_path, *asked).exit_code == 1
    (path,) = scripts("update_importance")
    said = run_alone(tmp_path, path)[path]
    assert (said[0], told(said)["quantity"][:17]) == (1, "state.uncertainty")
    subprocess.run(build, check=True)
    assert run_alone(tmp_path, path)[path][0] == 0
    (tmp_path / "adalora").chmod(0o644)
    assert run_alone(tmp_path, path)[path] == (2, "")
    (tmp_path / "adalora").unlink()
    assert run_alone(tmp_path, path)[path] == (2, "")


# TEXT


def test_a_script_imports_what_python_has_and_numpy(tmp_path: Path) -> None:
    """Nothing else is imported by the script of a recorded run."""
    write_trace(tmp_path / "run.safetensors", wrong_run()[4:6], JUDGE)
    verify(tmp_path, "trace:run.safetensors", "--stage", "allocate")
    (path,) = scripts("trace-allocate")
    nodes = list(ast.walk(ast.parse((tmp_path / path).read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names = plain | {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name for name in names if name.split(".")[0] not in sys.stdlib_module_names} == {"numpy"}
