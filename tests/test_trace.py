"""Traces: a right run passes, a mistake is reported at its step and stage, and files from anywhere are survived."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import adalora_ref as ref
from adalora_ref.cli import main
from adalora_ref.conformance import growth, trace_file
from adalora_ref.conformance.trace import Judge, Run, Step, admissible
from adalora_ref.conformance.trace_diagnosis import explained
from adalora_ref.conformance.trace_file import read_trace, write_trace
from adalora_ref.conformance.verdict import Row, Verdict
from adalora_ref.convention import CONVENTIONS, LORALIB, SPEC
from tests.alone import run_alone, scripts
from tests.pages import blocks, lacking, run

pytestmark = pytest.mark.usefixtures("unchecked")

CONFIG = ref.Config(
    schedule=ref.BudgetSchedule(initial=4, target=2, warmup=1, final=2, total=8, interval=2),
    initial_rank=2,
    alpha=2.0,
    learning_rate=0.01,
    weight_decay=0.1,
    clip_norm=0.004,
)
JUDGE = Judge(CONFIG, SPEC, "float64")
SHAPES = {"b": (2, 3), "a": (3, 2)}


def recorded(judge: Judge = JUDGE) -> list[Step]:
    """A right run, made of the reference's functions; the forward order of the matrices is not the alphabet's."""
    config, rng = judge.config, np.random.default_rng(0)
    kind = np.dtype(judge.working)
    like = np.zeros(1, kind)
    weights = {n: ref.init_factors(rng, *shape, 2, like=like) for n, shape in SHAPES.items()}
    moments = {n: ref.init_adamw(f) for n, f in weights.items()}
    averages = {n: ref.init_importance(f) for n, f in weights.items()}
    masks, steps = {n: np.ones(2, dtype=bool) for n in weights}, []
    for t in range(config.schedule.total):
        gradient = {
            n: ref.map_factors(lambda a: (1e-3 * rng.standard_normal(a.shape)).astype(kind), f)
            for n, f in weights.items()
        }
        norm = float(np.sqrt(sum(float(np.sum(a.astype(np.float64) ** 2)) for f in gradient.values() for a in f)))
        factor = kind.type(min(1.0, (config.clip_norm or np.inf) / (norm + 1e-6)))
        clipped = {n: ref.Factors(*(g * factor for g in f)) for n, f in gradient.items()}
        rates = {"learning_rate": config.learning_rate, "weight_decay": config.weight_decay}
        both = {n: ref.adamw_step(f, clipped[n], moments[n], **rates) for n, f in weights.items()}
        moved, moments = ({n: pair[k] for n, pair in both.items()} for k in (0, 1))
        if t < config.schedule.end_of_pruning:
            betas = {"beta1": config.importance_beta1, "beta2": config.importance_beta2}
            averages = {n: ref.update_importance(averages[n], weights[n], gradient[n], **betas) for n in weights}
        budget, due, scores = ref.budget_at(config.schedule, t), ref.allocates_at(config.schedule, t), None
        if due:
            scores = {n: ref.triplet_scores(state) for n, state in averages.items()}
            masks = ref.allocate(scores, budget)
        masked = due or t > config.schedule.end_of_pruning
        after = {n: ref.prune(f, masks[n]) for n, f in moved.items()} if masked else moved
        steps.append(Step(t, weights, gradient, clipped, moved, moments, averages, budget, due, scores, masks, after))
        weights = after
    return steps


RIGHT = recorded()


def verdict(steps: Sequence[Step], judge: Judge = JUDGE) -> dict[str, Row]:
    return {row.stage: row for row in explained([Run(tuple(steps), judge, "trace", judge.working)])}


def failed(rows: dict[str, Row]) -> list[tuple[str, str]]:
    """Stage and case of everything that failed."""
    checks = [check for row in rows.values() for check in row.checks if check.verdict is Verdict.FAIL]
    return list(dict.fromkeys((check.stage, check.case) for check in checks))


# THE RUN


@pytest.mark.parametrize("working", ["float64", "float32"])
def test_a_right_run_passes(working: str, tmp_path: Path) -> None:
    """Written, read back and checked, a right run passes every stage, and every check of it runs."""
    judge = JUDGE._replace(working=working)
    write_trace(tmp_path / "run.safetensors", recorded(judge), judge)
    steps, again = read_trace(tmp_path / "run.safetensors")
    assert (again, list(steps[0].weights or {})) == (judge, ["b", "a"])
    rows = verdict(steps, again)
    assert {row.verdict for row in rows.values()} == {Verdict.PASS}
    assert all(row.run == len(row.checks) for row in rows.values())
    assert list(rows) == [
        "weights", "clip", "adamw_step", "update_importance", "budget_at", "allocates_at", "triplet_scores",
        "allocate", "masks", "prune",
    ]  # fmt: skip


def scaled(field: str, part: Callable[[Any], Any]) -> Callable[[Step], Step]:
    """A step in which one part of one quantity of matrix a is off by a millionth."""

    def spoil(step: Step) -> Step:
        return step._replace(**{field: {**getattr(step, field), "a": part(getattr(step, field)["a"])}})

    return spoil


def longer_s(factors: Any) -> Any:
    return ref.Factors(factors.B, factors.s * (1 + 1e-6), factors.A)


SPOILT: dict[str, tuple[int, Callable[[Step], Step], list[str]]] = {
    "clip": (2, scaled("clipped", longer_s), ["clip", "adamw_step"]),
    "adamw_step": (4, scaled("optimizer", lambda m: m._replace(first=longer_s(m.first))), ["adamw_step"]),
    "update_importance": (
        3, scaled("importance", lambda i: i._replace(uncertainty=longer_s(i.uncertainty))),
        ["update_importance", "triplet_scores"],
    ),
    "budget_at": (2, lambda step: step._replace(budget=4), ["budget_at"]),
    "allocates_at": (
        2, lambda step: step._replace(due=True, scores=RIGHT[1].scores),
        ["allocates_at", "triplet_scores", "allocate"],
    ),
    "triplet_scores": (5, scaled("scores", lambda s: s * (1 + 1e-6)), ["triplet_scores"]),
    "allocate": (5, scaled("masks", np.logical_not), ["allocate", "prune"]),
    "masks": (4, scaled("masks", np.logical_not), ["masks"]),
    "prune": (7, scaled("after", lambda f: ref.Factors(f.B, f.s + 1e-9, f.A)), ["prune"]),
    "weights": (6, scaled("weights", longer_s), ["weights", "adamw_step"]),
}  # fmt: skip


@pytest.mark.parametrize("stage", SPOILT)
def test_a_mistake_is_reported_at_its_step(stage: str) -> None:
    """What is spoilt at one step fails there first; the next step is judged by what it was given, and no step later."""
    number, spoil, here = SPOILT[stage]
    steps = [spoil(step) if step.number == number else step for step in RIGHT]
    rows = verdict(steps)
    found = failed(rows)
    order = list(rows)
    assert min(found, key=lambda pair: (pair[1], order.index(pair[0]))) == (stage, f"float64/step {number}")
    assert {case for _, case in found} <= {f"float64/step {number}", f"float64/step {number + 1}"}
    assert {name for name, case in found if case.endswith(f"step {number}")} <= set(here)


def test_a_mistake_at_every_step_is_named() -> None:
    """A run whose mask is not applied in the last phase is recognised, and the first departure is marked."""
    steps = [s if s.number != 7 else s._replace(after=s.moved) for s in RIGHT]
    row = verdict(steps)["prune"]
    assert row.diagnosis.startswith("matches `pruned_triplets_come_back` at every step")


def test_a_record_of_nothing_known_has_no_inputs_to_perturb() -> None:
    """What no known mistake makes is called so, with what to do: numbers alone cannot be asked again."""
    number, spoil, _ = SPOILT["triplet_scores"]
    row = verdict([spoil(step) if step.number == number else step for step in RIGHT])["triplet_scores"]
    assert row.diagnosis.startswith("matches no known mistake; numbers alone have no inputs to perturb: ")


def test_a_wrong_budget_is_one_mistake() -> None:
    """Who is kept is judged by the run's own budget: a schedule that is wrong spoils budget_at alone."""

    def other(step: Step) -> Step:
        if step.number != 3 or step.scores is None:
            return step
        masks = ref.allocate(step.scores, 3)
        return step._replace(
            budget=3, masks=masks, after={n: ref.prune(f, masks[n]) for n, f in (step.moved or {}).items()}
        )

    found = failed(verdict([other(step) for step in RIGHT]))
    assert ("budget_at", "float64/step 3") in found
    assert "allocate" not in {stage for stage, _ in found}


# WHAT IS LEFT OUT


NEEDS = {
    "weights": {"weights", "adamw_step", "update_importance", "masks"},
    "gradient": {"clip", "adamw_step", "update_importance"},
    "clipped": {"clip", "adamw_step", "update_importance"},
    "moved": {"adamw_step", "update_importance", "prune"},
    "optimizer": {"adamw_step"},
    "importance": {"update_importance", "triplet_scores"},
    "budget": {"budget_at"},
    "due": {"allocates_at"},
    "scores": {"triplet_scores"},
    "masks": {"allocate", "masks", "prune"},
    "after": {"weights", "prune"},
}


@pytest.mark.parametrize("field", NEEDS)
def test_what_is_left_out_is_not_run(field: str) -> None:
    """Without a quantity the stages that need it are not run, wholly or in part, never failed; the others are."""
    rows = verdict([step._replace(**{field: None}) for step in RIGHT])
    fewer = {name for name, row in rows.items() if row.run < len(row.checks)}
    assert not failed(rows)
    assert fewer <= NEEDS[field]
    assert fewer
    assert sum(row.run for row in rows.values()) > 50


def test_steps_may_be_left_out() -> None:
    """After a gap what hangs on the step before is not run, and everything else is judged."""
    rows = verdict([step for step in RIGHT if step.number != 3])
    assert not failed(rows)
    assert {c.case for c in rows["adamw_step"].checks if c.verdict is Verdict.NOT_RUN} == {"float64/step 4"}


def test_nothing_recorded_is_no_pass(tmp_path: Path) -> None:
    """A trace with weights of one step alone passes nothing, and its status is 3."""
    write_trace(tmp_path / "t", [Step(0, weights=RIGHT[0].weights)], JUDGE)
    result = command(tmp_path / "t")
    assert result.exit_code == 3
    assert "PASS" not in result.output


# NEAR THE THRESHOLD


def test_an_admissible_flip_is_admitted() -> None:
    """Where intervals of scores straddle the threshold either choice stands, if as many are kept; else none does."""
    ours = {"q": np.array([True, False]), "v": np.array([True, False])}
    near = {"q": [(1.0, 0.1), (0.95, 0.1)], "v": [(3.0, 0.1), (0.1, 0.1)]}
    flipped = {"q": np.array([False, True]), "v": np.array([True, False])}
    assert admissible(flipped, ours, near)["q"].tolist() == [False, True]
    worse = {"q": np.array([True, True]), "v": np.array([False, False])}
    assert admissible(worse, ours, near)["v"].tolist() == [True, False]
    fewer = {"q": np.array([False, False]), "v": np.array([True, False])}
    assert admissible(fewer, ours, near)["q"].tolist() == [True, False]


def test_the_run_goes_on_from_its_own_mask() -> None:
    """Without scores a mask is judged by the averages; after it the run is judged by the mask that it has."""
    rows = verdict([step._replace(scores=None) for step in RIGHT])
    assert not failed(rows)
    assert rows["allocate"].run == len(rows["allocate"].checks) > 0


# GROWTH


def test_growth_is_that_of_the_run(tmp_path: Path) -> None:
    """Beside ours a right run drifts by rounding; one that is off at step 4 jumps there; both are shown and in JSON."""
    grown = growth.of_trace(Run(tuple(RIGHT), JUDGE, "trace", "float64"))
    assert [g.step for g in grown] == list(range(8))
    assert max(g.apart for g in grown) < 1e-14
    steps = [s if s.number < 4 else scaled("after", lambda f: ref.Factors(f.B, f.s + 1e-3, f.A))(s) for s in RIGHT]
    write_trace(tmp_path / "t", steps, JUDGE)
    result = command(tmp_path / "t", "--json", str(tmp_path / "v.json"))
    (first, *_) = json.loads((tmp_path / "v.json").read_text(encoding="utf-8"))["rows"]
    apart = [g["apart"] for g in first["growth"]]
    assert max(apart[:4]) < 1e-14
    assert min(apart[4:]) > 1e-3
    assert "the run beside the reference in float64" in result.output
    assert "step 7: " in first["note"]


def test_a_run_that_diverged_is_judged_until_then(tmp_path: Path) -> None:
    """A gradient that is not finite ends the growth at its step, and no step before it is lost."""
    steps = recorded()
    name = next(iter(steps[3].gradient))
    spoilt = {n: ref.Factors(f.B * (np.nan if n == name else 1.0), f.s, f.A) for n, f in steps[3].gradient.items()}
    write_trace(tmp_path / "run.safetensors", [*steps[:3], steps[3]._replace(gradient=spoilt), *steps[4:]], JUDGE)
    done = command(tmp_path / "run.safetensors", "--json", str(tmp_path / "v.json"))
    assert done.exit_code == 0, done.output
    assert "checks are inconclusive: the bound is not finite" in done.output
    grown = [
        g["step"]
        for row in json.loads((tmp_path / "v.json").read_text(encoding="utf-8"))["rows"]
        for g in row["growth"]
    ]
    assert grown == [0, 1, 2]


@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_schedule_of_a_million_million_steps_costs_nothing(name: str, tmp_path: Path) -> None:
    """Whether an allocation is due is arithmetic, however long the schedule of a trace says it is."""
    config = replace(JUDGE.config, schedule=replace(JUDGE.config.schedule, total=10**12))
    write_trace(
        tmp_path / "run.safetensors", recorded()[:2], JUDGE._replace(config=config, convention=CONVENTIONS[name])
    )
    assert command(tmp_path / "run.safetensors").exit_code in (0, 1)


def test_growth_needs_all_of_the_run() -> None:
    """Without gradients, or with a gap, there is no growth to show."""
    for steps in ([s._replace(gradient=None) for s in RIGHT], RIGHT[:3] + RIGHT[4:]):
        assert growth.of_trace(Run(tuple(steps), JUDGE, "trace", "float64")) == ()


# FILES FROM ANYWHERE


def command(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["verify", f"trace:{path}", "--no-repro", *arguments])


def written(tmp_path: Path, change: Callable[[dict[str, Any], dict[str, str]], None]) -> Path:
    """A right trace whose tensors and metadata *change* alters before they are written."""
    from safetensors.numpy import load_file, save_file

    path = tmp_path / "run.safetensors"
    write_trace(path, RIGHT, JUDGE)
    tensors, (_, metadata) = load_file(path), trace_file.read(path)
    change(tensors, metadata)
    save_file(tensors, path, metadata)
    return path


def config(**fields: Any) -> Callable[[Any, Any], None]:
    def change(tensors: Any, metadata: Any) -> None:
        held = json.loads(metadata["config"])
        metadata["config"] = json.dumps({**held, **fields})

    return change


CHANGED = {
    "format": (lambda t, m: m.update(format="other 7"), "must have the metadata format"),
    "no convention": (lambda t, m: m.pop("convention"), "must have the metadata convention"),
    "convention": (lambda t, m: m.update(convention="X" * 10_000), "the convention must be one of"),
    "dtype": (lambda t, m: m.update(dtype="int8"), "the dtype of a trace must be float64 or float32"),
    "matrices": (lambda t, m: m.update(matrices="[1]"), "the matrices must be a JSON list of their names"),
    "twice": (lambda t, m: m.update(matrices='["a", "a"]'), "the matrices must be a JSON list of their names"),
    "another matrix": (lambda t, m: m.update(matrices='["a", "c"]'), "must have the matrices of the metadata"),
    "no config": (lambda t, m: m.update(config="{"), "the configuration must be that of adalora_ref.Config"),
    "deep config": (lambda t, m: m.update(config="[" * 100_000), "the configuration must be that of"),
    "unknown field": (config(rank=3), "the configuration must be that of adalora_ref.Config"),
    "β of 2": (config(importance_beta1=2.0), "the configuration must be that of adalora_ref.Config"),
    "infinite rate": (config(learning_rate=float("inf")), "the configuration must be that of adalora_ref.Config"),
    "name": (lambda t, m: t.update({"../../etc": np.ones(1)}), "a tensor is named step/quantity/matrix"),
    "step": (lambda t, m: t.update({"-1/budget": np.ones(1)}), "a tensor is named step/quantity/matrix"),
    "step with a zero": (lambda t, m: t.update({"00/budget": np.ones(1)}), "a tensor is named step/quantity/matrix"),
    "other dtype": (
        lambda t, m: m.update(dtype="float32"),
        "must have the dtype and the initial rank of the metadata, float32 and 2; got float64 and 2",
    ),
    "other initial rank": (config(initial_rank=3), "the initial rank of the metadata, float64 and 3; got float64 and"),
    "no s": (lambda t, m: t.pop("0/weights/a/s"), "weights of 'a' must have B, s and A"),
    "s of (r, 1)": (lambda t, m: t.update({"0/weights/a/s": np.ones((2, 1))}), "B, s, A must be (d_out, r), (r,)"),
    "keep of numbers": (lambda t, m: t.update({"0/keep/a": np.ones(2)}), "keep of 'a' must be (r,) booleans"),
    "another rank": (lambda t, m: t.update({"0/keep/a": np.ones(3, bool)}), "must have the sizes that it has"),
    "budget": (lambda t, m: t.update({"0/budget": np.ones(2, np.int64)}), "budget must be one integer"),
    "one moment": (
        lambda t, m: [t.pop(n) for n in list(t) if n.startswith("0/second/a")], "must have the same matrices"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGED)
def test_a_trace_that_is_none(name: str, tmp_path: Path) -> None:
    """A file that breaks a rule of the format is refused in one sentence with status 2, before anything is checked."""
    change, message = CHANGED[name]
    result = command(written(tmp_path, change))
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert len(result.stderr) < 1000


def header(entries: Any, body: bytes = b"") -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(shape: Any, offsets: Any, dtype: Any = "F64") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HOSTILE = {
    "empty": b"",
    "endless header": struct.pack("<Q", 2**63) + b"{}",
    "no JSON": header(b"{"),
    "no object": header([1]),
    "deep": header(b"[" * 100_000),
    "twice": header(b'{"a": {}, "a": {}}'),
    "absurd shape": header({"0/budget": entry([2**40, 2**40], [0, 8])}, bytes(8)),
    "negative": header({"0/budget": entry([-1], [0, -8])}),
    "overlap": header({"0/budget": entry([1], [0, 8]), "0/due": entry([1], [0, 8])}, bytes(8)),
    "gap": header({"0/budget": entry([1], [8, 16])}, bytes(16)),
    "cut off": header({"0/budget": entry([2], [0, 16])}, bytes(8)),
    "too long": header({"0/budget": entry([1], [0, 8])}, bytes(80)),
    "unknown dtype": header({"0/budget": entry([1], [0, 1], "F8")}, bytes(1)),
    "metadata": header({"__metadata__": {"format": 3}}),
    "bool of 2": header({"0/due": entry([1], [0, 1], "BOOL")}, b"\x02"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes(name: str, tmp_path: Path) -> None:
    """Bytes that are no safetensors file, or lie about what they hold, are refused in one sentence with status 2."""
    (tmp_path / "t").write_bytes(HOSTILE[name])
    result = command(tmp_path / "t")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert len(result.stderr) < 1000


def test_a_trace_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More numbers than can be checked one by one are refused; so is a file that is not there."""
    path = written(tmp_path, lambda t, m: None)
    monkeypatch.setattr(trace_file, "LARGEST", 100)
    assert "a trace may hold at most 100 numbers" in command(path).stderr
    assert "there is no file" in command(tmp_path / "nowhere").stderr


def test_options_of_a_trace(tmp_path: Path) -> None:
    """--stage shows these stages alone, --convention judges by another, --dtype must be the trace's."""
    path = written(tmp_path, lambda t, m: None)
    result = command(path, "--stage", "prune")
    assert (result.exit_code, "adamw_step" in result.output) == (0, False)
    result = command(path, "--convention", "LORALIB")
    assert result.exit_code == 1
    assert "this is convention SPEC, not LORALIB" in result.output
    assert "is of float64" in command(path, "--dtype", "float32").stderr


def test_the_judge_is_the_trace_s(tmp_path: Path) -> None:
    """A right run of SPEC claimed to be LORALIB's fails in what they differ in, and SPEC explains it."""
    rows = verdict(RIGHT, Judge(replace(CONFIG), LORALIB, "float64"))
    wrong = {name: row for name, row in rows.items() if row.verdict is Verdict.FAIL}
    assert {"update_importance", "allocates_at"} <= wrong.keys()
    assert all("SPEC" in row.conventions for row in wrong.values())


# THE PAGE


def test_the_page_shows_what_is_printed(tmp_path: Path) -> None:
    """The program of docs/verify/trace.md writes a run that conforms as shown, and fails as shown if a line changes."""
    (file,), (right, wrong, again) = blocks("trace.md", "python"), blocks("trace.md", "text")
    spoilt = file.replace("if due or t > 6:", "if due:")
    assert spoilt != file
    for program, shown, status in ((file, right, 0), (spoilt, wrong, 1)):
        (tmp_path / "record.py").write_text(program, encoding="utf-8")
        subprocess.run([sys.executable, "record.py"], cwd=tmp_path, check=True)
        done = run(tmp_path, "verify", "trace:run.safetensors")
        assert (done.returncode, lacking(shown, done.stdout)) == (status, []), done.stderr
    (path,) = scripts("trace-prune")
    status, said = run_alone(tmp_path, path)[path]
    assert (status, lacking(again, (tmp_path / path).read_text(encoding="utf-8") + said)) == (1, [])
