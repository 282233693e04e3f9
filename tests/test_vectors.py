"""Golden vectors: what is right passes, whatever is changed is reported as what it is, and nothing hostile gets in."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner, Result

from adalora_ref.cli import main
from adalora_ref.conformance import suite_writing, tiny
from adalora_ref.conformance.answers import ENDING, Given
from adalora_ref.conformance.cases import NUMPY_DTYPES
from adalora_ref.conformance.deviations import DEVIATIONS, planted, reference
from adalora_ref.conformance.known import Deviation
from adalora_ref.conformance.seen import case_inputs
from adalora_ref.conformance.serial import inputs_of, plain_of, tensors_of, with_normals
from adalora_ref.conformance.stages import STAGES
from adalora_ref.conformance.suite import TINY, Case, read_case, read_manifest
from adalora_ref.conformance.suite_writing import LeftOut, add_case, export
from adalora_ref.conformance.target import Lane, spoken
from adalora_ref.conformance.tensor_files import read, write
from adalora_ref.conformance.vectors_check import _judge, check
from adalora_ref.conformance.verdict import Expected, Verdict, compare, deviation
from adalora_ref.convention import LORALIB, PEFT, SPEC

FEW = ("linear_forward", "init_factors", "init_state", "prune")

SCHEMA = TINY.parent / "schema"
REEXPORT = (
    "python -m adalora_ref vectors export --preset tiny DIR, and put DIR in place of adalora_ref/conformance/vectors"
)


def command(*args: Any) -> Result:
    return CliRunner().invoke(main, ["vectors", *map(str, args)])


def tiny_cases() -> Iterator[Case]:
    manifest = read_manifest(TINY)
    return (read_case(TINY, manifest, name) for name in manifest.cases)


@pytest.fixture(autouse=True, scope="module")
def _unchecked() -> Iterator[None]:
    """Switch the check of annotations off: it would take most of the time, and say what the package should."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the reference makes of the tiny suite."""
    results = tmp_path_factory.mktemp("answered") / "results"
    done = command("answer", "tiny", results, "adalora_ref")
    assert done.exit_code == 0, done.output
    return results


@pytest.fixture
def results(answered: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return shutil.copytree(answered, tmp_path / "results")


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Some stages of the tiny suite, to spoil."""
    manifest = read_manifest(TINY)
    few = {name: files for name, files in manifest.cases.items() if name.split("/")[0] in FEW}
    for file in (file for files in few.values() for file in files):
        (tmp_path / "suite" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TINY / file, tmp_path / "suite" / file)
    suite_writing.write_manifest(tmp_path / "suite", manifest._replace(cases=few))
    return tmp_path / "suite"


@pytest.fixture
def few(answered: Path, tmp_path: Path) -> Path:
    """The results of these stages."""
    for stage in FEW:
        shutil.copytree(answered / stage, tmp_path / "few" / stage)
    return tmp_path / "few"


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny suite, exported again."""
    folder = tmp_path_factory.mktemp("again") / "suite"
    export(folder, SPEC, preset="tiny", dtypes=("float64", "float32"))
    return folder


def case_file(results: Path, name: str) -> Path:
    return results / (name + ENDING)


def respoken(path: Path, change: Callable[[dict[str, Any]], Any], *, metadata: bool = False) -> None:
    """Write a file of results again, its tensors changed; without the metadata that names the case, unless wanted."""
    held = read(path)
    tensors = dict(held.tensors)
    change(tensors)
    write(path, tensors, held.metadata if metadata else None)


def refused(done: Result, *words: str) -> bool:
    """Whether a command ended in one sentence and status 2, with nothing else said."""
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line.startswith("Error: ") and all(word in line for word in words) and len(line) < 1000


# WHAT IS RIGHT PASSES


@pytest.mark.parametrize("dtypes", [("float64", "float32"), ("float16", "bfloat16")], ids="-".join)
def test_the_reference_passes_what_it_exported(dtypes: tuple[str, ...], tmp_path: Path) -> None:
    """A suite that is exported and answered by the reference conforms in every dtype, all of it conclusive."""
    chosen = [word for dtype in dtypes for word in ("--dtype", dtype)]
    stages = ("linear_backward", "triplet_scores", "allocate", "init_state")
    chosen += [word for stage in stages for word in ("--stage", stage)]
    assert command("export", tmp_path / "s", "--preset", "quick", "--seed", 7, *chosen).exit_code == 0
    assert command("answer", tmp_path / "s", tmp_path / "r", "adalora_ref").exit_code == 0
    done = command("check", tmp_path / "s", tmp_path / "r")
    assert done.exit_code == 0, done.output
    count = len(read_manifest(tmp_path / "s").cases)
    assert f"conforms: {count} of {count} checks ran, 0 of them inconclusive" in done.stdout


def test_the_tiny_suite_passes(answered: Path) -> None:
    """The suite of the package is named tiny, and the reference passes all of it."""
    done = command("check", "tiny", answered)
    assert done.exit_code == 0, done.output
    assert {line.split()[0] for line in done.stdout.splitlines() if " PASS " in line} == {s.name for s in STAGES}


@pytest.mark.parametrize("rules", [LORALIB, PEFT], ids=lambda rules: rules.name)
def test_other_conventions_have_suites(rules: Any, tmp_path: Path) -> None:
    """A suite of another convention holds its values; what it cannot express is left out and listed."""
    stages = ("--preset", "tiny", "--stage", "allocate", "--stage", "budget_at")
    done = command("export", tmp_path / "s", "--convention", rules.name, *stages)
    assert "4 left out" in done.stdout
    assert "it knows no cost" in done.stdout
    assert command("answer", tmp_path / "s", tmp_path / "r", "adalora_ref").exit_code == 0
    assert command("check", tmp_path / "s", tmp_path / "r").exit_code == 0
    assert command("export", tmp_path / "spec", *stages).exit_code == 0
    wrong = command("check", tmp_path / "spec", tmp_path / "r")
    assert wrong.exit_code == 1
    assert f"this is convention {rules.name}, not SPEC: 2 differences, budget_at, allocate" in wrong.stdout


def test_results_in_one_file(answered: Path, tmp_path: Path) -> None:
    """One safetensors file with tensors CASE/result stands for a folder."""
    files = answered.rglob("*" + ENDING)
    tensors = {
        f"{path.relative_to(answered).as_posix().removesuffix(ENDING)}/{name}": a
        for path in files
        for name, a in read(path).tensors.items()
    }
    write(tmp_path / "one.safetensors", tensors)
    assert command("check", "tiny", tmp_path / "one.safetensors").exit_code == 0
    del tensors["prune/float64/tiny/0/factors.B"]
    write(tmp_path / "one.safetensors", tensors)
    done = command("check", "tiny", tmp_path / "one.safetensors")
    assert done.exit_code == 1
    assert "the results lack factors.B" in done.stdout


def test_inputs_come_back() -> None:
    """The arguments of every stage survive the way to JSON and tensors and back, in type and value."""
    for stage in STAGES:
        for index in range(6):
            inputs = with_normals(case_inputs(stage, "float32", 0, index))
            back = inputs_of(json.loads(json.dumps(plain_of(inputs))), tensors_of(inputs))
            assert plain_of(back) == json.loads(json.dumps(plain_of(inputs)))
            assert all(tensors_of(back)[name] is a for name, a in tensors_of(inputs).items())
            assert kinds(back) == kinds(inputs)


def kinds(value: Any) -> Any:
    """The type of a value, and those of its parts."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return type(value), [kinds(part) for part in parts]


# THE TINY SUITE


def test_golden_values_are_what_they_were(again: Path) -> None:
    """No golden input and no golden value differs from the stored one: a change of them is a major release."""
    stored, exported = read_manifest(TINY), read_manifest(again)
    for name in stored.cases:
        before, now = read_case(TINY, stored, name), read_case(again, exported, name)
        assert all(np.array_equal(a, tensors_of(now.inputs)[key]) for key, a in tensors_of(before.inputs).items())
        assert before.expected.keys() == now.expected.keys()
        for key, want in before.expected.items():
            assert want.high.tobytes() == now.expected[key].high.tobytes(), f"{name}: {key} is another number now"


def test_the_stored_suite_is_the_exported_one(again: Path) -> None:
    """The stored suite is byte for byte what is exported now, but for the version of the package."""
    stored, exported = (
        {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (TINY, again)
    )
    versions = [json.loads(held["manifest.json"])["package"].encode() for held in (stored, exported)]
    exported["manifest.json"] = exported["manifest.json"].replace(versions[1], versions[0])
    assert [name for name in {**stored, **exported} if stored.get(name) != exported.get(name)] == [], REEXPORT


def test_the_tiny_suite_is_tiny_and_whole() -> None:
    """It has every stage in float64 and float32, catches nearly every known mistake, and is below 1 MB."""
    cases = list(tiny_cases())
    assert {(c.stage.name, c.lane.dtype) for c in cases} == {
        (s.name, d) for s in STAGES for d in ("float64", "float32")
    }
    assert sum(path.stat().st_size for path in TINY.rglob("*") if path.is_file()) < 1_000_000
    caught = {mistake for case in cases for mistake in case.catches}
    mistakes = {d.name for d in DEVIATIONS if not d.equivalent}
    assert len(caught) >= 0.95 * len(mistakes), mistakes - caught


def test_a_pencil_is_enough() -> None:
    """Every number given is a small multiple of 1/32, sizes are at most 3, and the JSON shows what the tensors hold."""
    for path in TINY.rglob("*[0-9].json"):
        said = json.loads(path.read_text(encoding="utf-8"))
        given = read(path.with_suffix(".inputs.safetensors")).tensors
        wanted = read(path.with_suffix(".expected.safetensors")).tensors
        for entry, held in [*((e, given) for e in said["inputs"]), *((e, wanted) for e in said["results"])]:
            a = held[entry["name"]]
            assert np.array_equal(np.asarray(entry["numbers"]).reshape(a.shape), a.astype(np.float64))
        drawn = ("normals", "steps")
        hand = [a for name, a in given.items() if not name.startswith(drawn) and a.dtype.kind == "f"]
        assert all(np.all(32 * a == np.round(32 * a)) and np.all(np.abs(a) <= 16) for a in hand), path
        assert all(max(a.shape, default=0) <= 3 for a in given.values()), path


def test_catches_are_true() -> None:
    """A mistake that a case claims to catch gives a wrong result there; one that it does not name, none."""
    for case in tiny_cases():
        if case.lane.dtype == "float32" and case.stage.name == "update_importance":
            mistakes = [d for d in DEVIATIONS if d.stage == case.stage.name]
            wrong = [d.name for d in mistakes if _judge(case, Given(made_by(d, case))).check.verdict is Verdict.FAIL]
            assert tuple(wrong) == case.catches


def made_by(mistake: Deviation, case: Case) -> dict[str, Any]:
    from adalora_ref.conformance.target import Target, on_host

    target = Target(mistake.name, planted(mistake))
    outputs = target.answer(case.stage, target.hand_over(case.inputs), case.lane)
    return {spoken(path): on_host(a) for path, a in outputs.items()}


# WHAT IS CHANGED IS REPORTED


def test_every_changed_element_is_seen() -> None:
    """Whichever element of whichever result of the tiny suite is moved by more than its bound, the case fails there."""
    moved = 0
    for case in tiny_cases():
        right = {
            path: want.high.astype(NUMPY_DTYPES.get(want.dtype, want.dtype)) for path, want in case.expected.items()
        }
        assert _judge(case, Given({spoken(path): a for path, a in right.items()})).check.verdict is Verdict.PASS
        for path, want in case.expected.items():
            for place in np.ndindex(want.high.shape):
                verdict, _, divergence, _ = compare(spoken(path), just_outside(right[path], want, place), want)
                assert verdict is Verdict.FAIL
                assert divergence is not None
                assert (divergence.quantity, divergence.element) == (spoken(path), place)
                moved += 1
            if want.high.size:
                wrong = just_outside(right[path], want, place)
                held = Given({spoken(p): wrong if p == path else a for p, a in right.items()})
                assert _judge(case, held).check.divergence[:6] == divergence[:6]  # type: ignore[index]
    assert moved > 2000


def just_outside(right: Any, want: Expected, place: tuple[int, ...]) -> Any:
    """The result with one element moved to the next number that lies beyond its bound."""
    wrong = right.copy()
    if wrong.dtype.kind in "biu":
        wrong[place] = ~wrong[place] if wrong.dtype.kind == "b" else wrong[place] + 1
        return wrong
    wrong[place] = float(want.high[place]) + float(want.error[place])
    while deviation(wrong, want)[0][place] <= want.error[place]:
        wrong[place] = np.nextafter(wrong[place], wrong.dtype.type(np.inf))
    return wrong


def reported(results: Path, *words: str) -> bool:
    """Whether the check fails, and says all that."""
    done = command("check", "tiny", results)
    assert done.exit_code == 1, done.output
    return all(word in done.stdout for word in words)


def test_a_changed_element_is_named(results: Path) -> None:
    """The report names the element, what was got, what was expected, and the bound."""
    path = case_file(results, "linear_forward/float64/tiny/1")
    respoken(path, lambda held: held["y"].__setitem__((0, 1), 4.75 + 2.0**-50))
    assert reported(
        results, "first in linear_forward/float64/tiny/1", "quantity   y[0, 1]", "expected   4.75", "bound      0"
    )


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FC00000, 0x7F800000], ids=["signalling NaN", "NaN", "infinity"])
def test_what_is_not_finite_fails(results: Path, bits: int) -> None:
    """NaN of either kind and infinity fail as any wrong number does, without a warning of NumPy."""
    path = case_file(results, "linear_forward/float32/tiny/0")
    respoken(path, lambda held: held.update(y=np.array([[bits]], np.uint32).view(np.float32)))
    assert reported(results, "first in linear_forward/float32/tiny/0", "quantity   y[0, 0]")


def test_a_renamed_tensor_is_named(results: Path) -> None:
    """A tensor under another name is lacking under its own, and stands beyond what is asked for."""
    respoken(case_file(results, "linear_forward/float64/tiny/0"), lambda held: held.update({"Y": held.pop("y")}))
    assert reported(results, "the results lack y; beyond them stands Y")


def test_a_changed_shape_is_named(results: Path) -> None:
    """A result of another shape is refused, even with the same numbers."""
    respoken(case_file(results, "linear_forward/float64/tiny/1"), lambda held: held.update(y=held["y"].reshape(4)))
    assert reported(results, "y must have shape (2, 2); got (4,)")


def test_a_changed_dtype_is_named(results: Path) -> None:
    """A result of another dtype is refused, even with the same numbers."""
    path = case_file(results, "linear_forward/float64/tiny/1")
    respoken(path, lambda held: held.update(y=held["y"].astype(np.float32)))
    assert reported(results, "y must have dtype float64; got float32")


def test_a_dropped_file_is_not_run(results: Path) -> None:
    """A case without a result is NOT RUN and named; a stage without any fails what is required of it."""
    case_file(results, "allocate/float32/tiny/1").unlink()
    shutil.rmtree(results / "prune")
    done = command("check", "tiny", results)
    assert done.exit_code == 0
    assert "1 of 16 checks did not run: there is no result of allocate/float32/tiny/1" in done.stdout
    assert "not run, there is no result: prune" in done.stdout
    assert "139 of 146 checks ran" in done.stdout
    assert command("check", "tiny", results, "--require", "prune").exit_code == 3
    assert command("check", "tiny", results, "--require", "allocate").exit_code == 0


@pytest.mark.parametrize("left", [0, 7, 40, -1])
def test_a_truncated_file_is_refused(results: Path, left: int) -> None:
    """A file that is cut off is no result, and nothing is reported of the others."""
    path = case_file(results, "linear_forward/float64/tiny/1")
    path.write_bytes(path.read_bytes()[:left])
    assert refused(command("check", "tiny", results, "--json", results.parent / "v.json"), "linear_forward")
    assert not (results.parent / "v.json").exists()


def pairs() -> list[tuple[str, str]]:
    """Two cases of each stage with the same form, whose right results are not each other's."""
    found: dict[str, tuple[str, str]] = {}
    cases = [case for case in tiny_cases() if case.lane.dtype == "float64"]
    for one in cases:
        for other in cases:
            if (
                one.stage is other.stage
                and one.name < other.name
                and all(not mutual(a, b) for a, b in ((one, other), (other, one)))
            ):
                found.setdefault(one.stage.name, (one.name, other.name))
    return list(found.values())


def mutual(one: Case, other: Case) -> bool:
    """Whether two cases have results of other forms, or the same results."""
    values = {spoken(path): want.high.astype(want.dtype) for path, want in one.expected.items()}
    found = _judge(other, Given(values)).check
    return found.verdict is not Verdict.FAIL or found.divergence is None


@pytest.mark.parametrize("metadata", [True, False], ids=["named in the file", "known by their numbers"])
def test_swapped_cases_are_named(results: Path, metadata: bool) -> None:  # noqa: FBT001  a parameter of the test
    """Results in another case's place are reported as the results of the case that they are of."""
    swapped = pairs()
    assert len(swapped) >= 8
    for one, other in swapped:
        files = [case_file(results, name) for name in (one, other)]
        for path in files:
            respoken(path, lambda _: None, metadata=metadata)
        first, second = (path.read_bytes() for path in files)
        files[0].write_bytes(second)
        files[1].write_bytes(first)
    _, rows = check(TINY, results)
    reasons = {c.case: c.reason for row in rows for c in row.checks if c.verdict is Verdict.FAIL}
    assert reasons.keys() == {name for pair in swapped for name in pair}
    for one, other in swapped:
        assert reasons[one].startswith(f"these are the results of case {other!r}")
        assert reasons[other].startswith(f"these are the results of case {one!r}")
    assert not any(row.conventions for row in rows)


def test_results_of_a_missing_case_are_recognised(results: Path) -> None:
    """Where one file took the place of another, its own case has no result, and its numbers say whose they are."""
    path = case_file(results, "merge/float64/tiny/1")
    respoken(path, lambda _: None)
    path.replace(case_file(results, "unmerge/float64/tiny/1"))
    assert reported(
        results, "these are the results of case 'merge/float64/tiny/1'", "no result of merge/float64/tiny/1"
    )


def test_a_known_mistake_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong results that equal a known mistake's are diagnosed as that mistake, as verify does."""
    monkeypatch.chdir(tmp_path)
    name = "uncertainty_uses_previous_mean"
    (tmp_path / "spoilt.py").write_text(
        "from adalora_ref.conformance.deviations import DEVIATIONS, planted\n"
        f"held = planted(next(d for d in DEVIATIONS if d.name == {name!r}))\n"
    )
    assert command("answer", "tiny", "r", "spoilt:held").exit_code == 0
    assert reported(Path("r"), f"matches `{name}` in all 8 cases", "first in update_importance/float64/tiny/0")


def test_what_a_target_lacks_has_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that lacks a function or raises leaves cases without a result, and the command says why."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "partly.py").write_text(
        "from adalora_ref import prune\ndef increment(factors, *, scale):\n    raise RuntimeError('no')\n"
    )
    done = command("answer", "tiny", "r", "partly")
    assert "6 of 146 cases answered" in done.stdout
    assert "6 cases have no result: increment raised RuntimeError: no" in done.stdout
    assert "8 cases have no result: the target has no adamw_step" not in done.stdout
    assert "4 cases have no result: the target has no adamw_step" in done.stdout
    checked = command("check", "tiny", "r")
    assert checked.exit_code == 0
    assert "6 of 146 checks ran" in checked.stdout


def test_reports_of_vectors(results: Path, tmp_path: Path) -> None:
    """JSON and JUnit have a check for each case, as those of verify."""
    respoken(case_file(results, "linear_forward/float64/tiny/0"), lambda held: held.update(y=held["y"] + 1))
    done = command("check", "tiny", results, "--json", tmp_path / "v.json", "--junit", tmp_path / "v.xml")
    assert done.exit_code == 1
    said = json.loads((tmp_path / "v.json").read_text(encoding="utf-8"))
    assert (said["preset"], said["status"], sum(len(row["checks"]) for row in said["rows"])) == ("tiny", 1, 146)
    xml = (tmp_path / "v.xml").read_text(encoding="utf-8")
    assert 'tests="146" failures="1"' in xml
    assert 'name="linear_forward/float64/tiny/0/results"' in xml


# WHAT IS HOSTILE IS REFUSED


def rehashed(suite: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the JSON of a case, or with no name the manifest; the manifest says the hash of what there is."""
    path = suite / (f"{name}.json" if name else "manifest.json")
    said = json.loads(path.read_text(encoding="utf-8"))
    change(said)
    path.write_text(json.dumps(said), encoding="utf-8")
    if name:
        refreshed(suite, name)


def refreshed(suite: Path, name: str) -> None:
    """Write the hashes of a case's files into the manifest."""

    def change(manifest: dict[str, Any]) -> None:
        entry = next(entry for entry in manifest["cases"] if entry["name"] == name)
        entry["files"] = {file: hashlib.sha256((suite / file).read_bytes()).hexdigest() for file in entry["files"]}

    rehashed(suite, "", change)


FORWARD = "linear_forward/float64/tiny/1"


def rewritten(suite: Path, **tensors: Any) -> None:
    """Replace expected tensors of a case by others, in all hashes too."""
    path = suite / f"{FORWARD}.expected.safetensors"
    write(path, {**read(path).tensors, **{name.replace("_", "/"): a for name, a in tensors.items()}})
    held = read(path).tensors
    digests = {name: hashlib.sha256(a.tobytes()).hexdigest() for name, a in held.items()}
    rehashed(suite, FORWARD, lambda said: said["results"][0].update(sha256=digests, exact=len(held) == 1))


MANIFESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "of another suite version": lambda m: m.update(suite=2),
    "of another specification": lambda m: m.update(specification="0.9"),
    "of another format": lambda m: m.update(format="onnx"),
    "of an unknown convention": lambda m: m.update(convention="MINE"),
    "with a path that leads away": lambda m: m["cases"][0].update(name="../../etc/passwd"),
    "with an absolute path": lambda m: m["cases"][0].update(name="/etc/float64/0/1"),
    "with files that lead away": lambda m: m["cases"][0].update(
        files={f"../{name}": digest for name, digest in m["cases"][0]["files"].items()}
    ),
    "with a case twice": lambda m: m["cases"].append(m["cases"][0]),
    "with an unknown stage": lambda m: m["cases"][0].update(name="no_such_stage/float64/0/1"),
    "with a number that is a word": lambda m: m["cases"][0].update(name="prune/float64/0/1e3"),
    "with a name that is a list": lambda m: m["cases"][0].update(name=[]),
    "with another hash": lambda m: m["cases"][0]["files"].update({next(iter(m["cases"][0]["files"])): "0" * 64}),
    "with a hash that is none": lambda m: m["cases"][0]["files"].update({next(iter(m["cases"][0]["files"])): None}),
    "without cases": lambda m: m.pop("cases"),
    "with another member": lambda m: m.update(more=1),
    "with a seed that is true": lambda m: m.update(seed=True),
    "with cases that are words": lambda m: m.update(cases=["prune/float64/0/1"]),
    "with dtypes that are lists": lambda m: m.update(dtypes=[[], {}]),
    "with a strange reason": lambda m: m.update(left_out={"prune/float64/0/1": 1}),
    "with control characters": lambda m: m.update(convention="\x1b[2J\ud800"),
}


@pytest.mark.parametrize("change", MANIFESTS.values(), ids=MANIFESTS.keys())
def test_hostile_manifests_are_refused(suite: Path, few: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """A manifest that breaks a rule ends the command in one sentence."""
    rehashed(suite, "", change)
    assert refused(command("check", suite, few))


HOSTILE_CASES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "of another name": lambda c: c.update(name="linear_forward/float64/tiny/0"),
    "of another stage": lambda c: c["case"].update(stage="merge"),
    "of another dtype": lambda c: c["case"].update(dtype="float32"),
    "without arguments": lambda c: c["case"].update(arguments={"x": {"tensor": "nothing"}}),
    "with a tensor that is a list": lambda c: c["case"]["arguments"].update(x={"tensor": []}),
    "with schedules that are words": lambda c: c["case"]["arguments"].update(seed=1, config={}, weights={}),
    "with factors that do not fit": lambda c: c["case"]["arguments"]["factors"].update(s={"tensor": "x"}),
    "with another shape": lambda c: c["inputs"][0].update(shape=[3, 2]),
    "with an array less": lambda c: c["inputs"].pop(),
    "with an array twice": lambda c: c["inputs"].append(c["inputs"][0]),
    "with a result less": lambda c: c["results"].pop(),
    "that is exact and is not": lambda c: c["results"][0].update(exact=False),
    "that is exact by the number one": lambda c: c["results"][0].update(exact=1),
    "with a result in brackets": lambda c: c["results"][0].update(name="[y]"),
    "with a hash that is a word": lambda c: c["results"][0].update(sha256="word"),
    "with mistakes that are paths": lambda c: c.update(catches=["../../x"]),
    "with results that are words": lambda c: c.update(results=["y"]),
}


@pytest.mark.parametrize("change", HOSTILE_CASES.values(), ids=HOSTILE_CASES.keys())
def test_hostile_cases_are_refused(suite: Path, few: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """A case that breaks a rule ends the command in one sentence, even if its hash is right."""
    rehashed(suite, FORWARD, change)
    assert refused(command("check", suite, few), "linear_forward")


def test_bounds_that_let_anything_pass_are_refused(suite: Path, few: Path) -> None:
    """An expected value that is NaN, or a bound that is infinite, NaN or below 0, would judge nothing."""
    zeros = np.zeros((2, 2))
    for spoilt in (
        {"y": np.full((2, 2), np.nan)},
        {"y_rest": zeros, "y_bound": zeros + np.inf, "y_sharp": zeros},
        {"y_rest": zeros, "y_bound": zeros - 1, "y_sharp": zeros},
        {"y_rest": zeros, "y_bound": zeros, "y_sharp": zeros + np.nan},
        {"y_rest": zeros + np.nan, "y_bound": zeros, "y_sharp": zeros},
    ):
        copy = suite.with_name("copy")
        shutil.copytree(suite, copy)
        rewritten(copy, **spoilt)
        assert refused(command("check", copy, few), "must be finite")
        shutil.rmtree(copy)


@pytest.mark.parametrize(
    "change",
    [
        {"d_out": 10**9, "d_in": 10**9},
        {"r": 10**9},
        {"normals": {"tensor": "normals.B"}},
        {"normals": {}},
        {"normals": None},
    ],
    ids=str,
)
def test_nobody_draws_a_billion_numbers(suite: Path, few: Path, change: dict[str, Any]) -> None:
    """Sizes in the arguments are those of the normals beside them, which must be there."""
    rehashed(suite, "init_factors/float64/tiny/0", lambda said: said["case"]["arguments"].update(change))
    assert refused(command("check", suite, few), "init_factors/float64/tiny/0.json: the arguments do not fit together")


def test_no_schedule_goes_on_for_ever(suite: Path, few: Path) -> None:
    """A schedule of 2⁶³ steps, through which a diagnosis would walk, is refused before anything is judged."""
    name = "init_state/float64/tiny/0"
    rehashed(suite, name, lambda said: said["case"]["arguments"]["config"]["schedule"].update(total=2**63))
    respoken(case_file(few, name), lambda held: held.update({"state.step": held["state.step"] + 1}))
    assert refused(command("check", suite, few), name, "a schedule must have at most 1048576 steps")


def test_a_result_of_nothing_known_has_no_inputs_to_perturb(suite: Path, few: Path) -> None:
    """What no known mistake makes is called so, with what to do: numbers alone cannot be asked again."""
    respoken(case_file(few, FORWARD), lambda held: held.update({"y": held["y"] * 1.0001}))
    done = command("check", suite, few)
    assert done.exit_code == 1
    assert "  diagnosis  matches no known mistake; numbers alone have no inputs to perturb: " in done.stdout


def test_a_diagnosis_computes_with_anything(suite: Path, few: Path) -> None:
    """Where results are wrong and arguments are none that anyone can compute with, the verdict stands alone."""
    name = "prune/float64/tiny/0"
    rehashed(suite, name, lambda said: said["case"].update(arguments={"keep": "none"}))
    respoken(case_file(few, name), lambda held: held.update({"factors.s": held["factors.s"] + 1}))
    done = command("check", suite, few)
    assert done.exit_code == 1
    assert f"first in {name}" in done.stdout
    assert "  diagnosis  " not in done.stdout


def test_a_suite_on_disk_is_checked(suite: Path, few: Path) -> None:
    """A file that is lacking, changed, a link or too large, and JSON that has two readings, are refused."""
    path = suite / f"{FORWARD}.inputs.safetensors"
    held = path.read_bytes()
    path.write_bytes(held[:-1] + b"\x01")
    assert refused(command("check", suite, few), "is not the file of the manifest")
    path.unlink()
    assert refused(command("check", suite, few), "there is no file")
    (suite / "elsewhere").write_bytes(held)
    path.symlink_to(suite / "elsewhere")
    assert refused(command("check", suite, few), "a link")
    path.unlink()
    with path.open("wb") as file:
        file.truncate(2**31)
    assert refused(command("check", suite, few), "is larger than")
    manifest = suite / "manifest.json"
    for text in (
        '{"format": "adalora-ref vectors", "format": 1}',
        "[" * 10**5,
        '{"a": NaN}',
        "[]",
        "",
        "\ufeff{}",
        '{"a": ' + "1" * 5000 + "}",
    ):
        manifest.write_text(text, encoding="utf-8")
        assert refused(command("check", suite, few), "manifest.json")
    assert refused(command("check", suite / "nowhere", few), "there is no folder")


def header(said: bytes = b"", **entries: Any) -> bytes:
    """A safetensors file of a header and eight bytes."""
    said = said or json.dumps(entries).encode()
    return len(said).to_bytes(8, "little") + said + bytes(8)


ENTRY = {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}
HOSTILE_FILES = {
    "absurd header length": (2**63).to_bytes(8, "little") + b"{}",
    "absurd shape": header(y={"dtype": "F64", "shape": [2**30, 2**30, 2**30], "data_offsets": [0, 8]}),
    "absurd empty shape": header(y={"dtype": "F64", "shape": [0, *[2**30] * 7], "data_offsets": [0, 0]}),
    "negative shape": header(y={**ENTRY, "shape": [-1]}),
    "true as a length": header(y={**ENTRY, "shape": [True]}),
    "sizes that do not fit": header(y={**ENTRY, "shape": [2]}),
    "offsets beyond the end": header(y={**ENTRY, "shape": [2], "data_offsets": [0, 16]}),
    "overlap": header(y=ENTRY, z=ENTRY),
    "unknown dtype": header(y={**ENTRY, "dtype": "I128"}),
    "a list for a header": header(b'[["y", {}]]'),
    "a key twice": header(b'{"y": %s, "y": %s}' % ((json.dumps(ENTRY).encode(),) * 2)),
    "control characters": header(**{"\x1b[2J": ENTRY}),
    "half a character": header(**{"\ud800": ENTRY}),
    "metadata of numbers": header(y=ENTRY, __metadata__={"case": 1}),
    "a boolean of 2": header(y={"dtype": "BOOL", "shape": [8], "data_offsets": [0, 8]})[:-1] + b"\x02",
    "no file at all": b"{}",
}


@pytest.mark.parametrize("data", HOSTILE_FILES.values(), ids=HOSTILE_FILES.keys())
@pytest.mark.parametrize("form", ["folder", "file"])
def test_hostile_results_are_refused(suite: Path, few: Path, data: bytes, form: str) -> None:
    """A file of results that breaks a rule of the format ends the command in one sentence."""
    path = case_file(few, FORWARD)
    path.write_bytes(data)
    assert refused(command("check", suite, few if form == "folder" else path), path.name)


def test_results_lead_nowhere_else(suite: Path, few: Path, tmp_path: Path) -> None:
    """Links, results of no case, and names that climb out are refused; other files beside results are left alone."""
    (few / "notes.txt").write_text("mine")
    assert command("check", suite, few).exit_code == 0
    path = case_file(few, FORWARD)
    held = path.read_bytes()
    path.unlink()
    (tmp_path / "away").write_bytes(held)
    path.symlink_to(tmp_path / "away")
    assert refused(command("check", suite, few), "is a link")
    path.unlink()
    (few / "prune" / "float64" / "tiny" / "99.safetensors").write_bytes(held)
    assert refused(command("check", suite, few), "'prune/float64/tiny/99', which is no case of the suite")
    write(tmp_path / "one.safetensors", {"../../../../etc/y": np.zeros(1)})
    assert refused(command("check", suite, tmp_path / "one.safetensors"), "no case of the suite")
    write(tmp_path / "one.safetensors", {"y": np.zeros(1)})
    assert refused(command("check", suite, tmp_path / "one.safetensors"), "stage/dtype/source/number/result")
    assert refused(command("check", suite, tmp_path / "nothing"), "there is no folder and no file of results")


def test_a_result_that_is_far_too_large_is_not_read(suite: Path, few: Path) -> None:
    """A file of results has room for what is asked for, and little more."""
    with case_file(few, FORWARD).open("wb") as file:
        file.truncate(2**21)
    assert refused(command("check", suite, few), "is larger than")


# NOTHING HALF-WRITTEN


def test_export_overwrites_nothing(tmp_path: Path) -> None:
    """A folder that is not empty is refused and left as it was; an empty one is taken."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("words")
    assert refused(command("export", tmp_path / "mine", "--preset", "tiny"), "must not exist, or be empty")
    assert refused(command("answer", "tiny", tmp_path / "mine", "adalora_ref"), "must not exist, or be empty")
    assert refused(command("export", tmp_path / "no" / "where", "--preset", "tiny"), "in one that exists")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "thesis.tex"]
    (tmp_path / "empty").mkdir()
    assert command("export", tmp_path / "empty", "--preset", "tiny", "--stage", "prune").exit_code == 0
    assert read_manifest(tmp_path / "empty").cases


def test_an_interrupted_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the midst of an export ends it with status 130, and nothing stays behind."""
    written = []

    def interrupted(*args: Any, **options: Any) -> Any:
        written.append(args)
        if len(written) == 3:
            raise KeyboardInterrupt
        return write_case(*args, **options)

    write_case = suite_writing.write_case
    monkeypatch.setattr(suite_writing, "write_case", interrupted)
    done = command("export", tmp_path / "s", "--preset", "tiny", "--stage", "prune")
    assert done.exit_code == 130
    assert len(written) == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [("--stage", "nothing"), ("--dtype", "int8"), ("--convention", "MINE"), ("--seed", "-1"), ("--preset", "huge")],
    ids=lambda options: options[0],
)
def test_wrong_usage(tmp_path: Path, options: tuple[str, ...]) -> None:
    """What is asked for and does not exist is refused with status 2, before anything is written."""
    done = command("export", tmp_path / "s", *options)
    assert done.exit_code == 2
    assert options[1] in done.stderr
    assert list(tmp_path.iterdir()) == []


# KEPT CASES, AND THE FORM


def test_a_case_is_kept(tmp_path: Path) -> None:
    """One case can be added to a suite; its number is new, its arrays may lie in memory as they like."""
    stage, folder = STAGES[1], tmp_path / "kept"
    lane = Lane("float64", "float32", SPEC)
    inputs = case_inputs(stage, "float64", 5, 1)
    strided = {**inputs, "W": np.asfortranarray(inputs["W"]), "x": inputs["x"][::-1]}
    names = [add_case(folder, stage, given, lane) for given in (inputs, strided)]
    assert names == ["linear_forward/float64/kept/0", "linear_forward/float64/kept/1"]
    back = read_case(folder, read_manifest(folder), names[1])
    assert np.array_equal(back.inputs["W"], inputs["W"])
    assert np.array_equal(back.inputs["x"], inputs["x"][::-1])
    assert command("answer", folder, tmp_path / "r", "adalora_ref").exit_code == 0
    assert command("check", folder, tmp_path / "r").exit_code == 0
    with pytest.raises(ValueError, match="the suite is of SPEC"):
        add_case(folder, stage, inputs, lane._replace(convention=PEFT))
    with pytest.raises(ValueError, match="a short word"):
        add_case(folder, stage, inputs, lane, "../x")
    assert sorted(read_manifest(folder).cases) == names


def test_what_is_undecided_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A case of which two correct computations may differ, or whose bound is not finite, is in no suite."""
    stage = STAGES[1]
    huge = case_inputs(stage, "float32", 0, 1) | {"scale": 1e300}
    with pytest.raises(LeftOut, match="not finite"):
        add_case(tmp_path / "s", stage, huge, Lane("float32", "float32", SPEC))
    assert not (tmp_path / "s").exists()
    monkeypatch.setitem(tiny.CASES, "linear_forward", lambda _: [huge])
    done = command("export", tmp_path / "s", "--preset", "tiny", "--stage", "linear_forward", "--dtype", "float32")
    assert "0 cases of convention SPEC in float32, 1 left out" in done.stdout
    assert read_manifest(tmp_path / "s").left_out.keys() == {"linear_forward/float32/tiny/0"}


def test_the_schema_validates_every_file(tmp_path: Path) -> None:
    """Manifest and cases are as the JSON Schemas say, those of the package and those drawn, and nothing else is."""
    chosen = [word for stage in ("init_factors", "allocate", "budget_at", "adamw_step") for word in ("--stage", stage)]
    done = command(
        "export", tmp_path / "s", "--preset", "quick", "--dtype", "bfloat16", "--convention", "PEFT", *chosen
    )
    assert done.exit_code == 0
    schemas = {
        name: json.loads((SCHEMA / f"{name}.schema.json").read_text(encoding="utf-8")) for name in ("manifest", "case")
    }
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    validators = {name: jsonschema.Draft202012Validator(schema) for name, schema in schemas.items()}
    seen = 0
    for path in (*TINY.rglob("*.json"), *(tmp_path / "s").rglob("*.json")):
        said = json.loads(path.read_text(encoding="utf-8"))
        kind = "manifest" if path.name == "manifest.json" else "case"
        validators[kind].validate(said)
        assert not validators[kind].is_valid({**said, "more": 1})
        assert all(not validators[kind].is_valid({k: v for k, v in said.items() if k != key}) for key in said)
        seen += 1
    assert seen == 2 + len(read_manifest(TINY).cases) + len(read_manifest(tmp_path / "s").cases)


def test_names_are_the_same_everywhere() -> None:
    """The tensors of a case are those that its JSON names, and every one is needed by its arguments."""
    for path in TINY.rglob("*[0-9].json"):
        said = json.loads(path.read_text(encoding="utf-8"))
        text = json.dumps(said["case"]["arguments"], ensure_ascii=False)
        assert all(json.dumps({"tensor": e["name"]}, ensure_ascii=False) in text for e in said["inputs"])
        assert said["case"]["stage"] == path.relative_to(TINY).parts[0]


def test_the_reference_has_what_suites_ask() -> None:
    """Every stage has a tiny case."""
    assert tiny.CASES.keys() == {stage.name for stage in STAGES}
    assert all(hasattr(reference(), stage.needs[0]) for stage in STAGES)
