"""Run folders: written whole or not at all, read back with checks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adalora_ref import SPEC, Importance, TrainState, orthogonality_norm, triplet_scores
from adalora_ref.experiments import digits
from adalora_ref.experiments.digits import Options, Settings
from adalora_ref.experiments.run_folder import new_folder, read_run, write_arrays, write_json
from adalora_ref.experiments.timeline import arrays_of, moment, timeline_of
from tests.conftest import Library

SMALL = Settings(hidden_layers=1, pretraining_steps=4, steps=8, warmup=2, final=3, interval=2, batch_size=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run over two seeds."""
    folder = tmp_path_factory.mktemp("runs") / "short"
    digits.run(Options(seeds=2, out=folder), SMALL, lambda *_: None)
    return folder


# WRITING


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    """While it is written there is nothing under its name; at the end there is the folder, and nothing else."""
    path = tmp_path / "a" / "b"
    with new_folder(path) as folder:
        (folder / "file").write_text("x", encoding="utf-8")
        assert not path.exists()
    assert [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*"))] == ["a", "a/b", "a/b/file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_half_written_stays(tmp_path: Path, error: type[BaseException]) -> None:
    """Whatever ends the writing takes the folder with it, and the folders made for it."""

    def write() -> None:
        with new_folder(tmp_path / "a" / "b") as folder:
            (folder / "file").write_text("x", encoding="utf-8")
            raise error

    with pytest.raises(error):
        write()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["folder", "file", "broken link"])
def test_what_exists_is_not_overwritten(tmp_path: Path, kind: str) -> None:
    """A folder, a file, and a link to nowhere are refused before anything is written."""
    path = tmp_path / "taken"
    {"folder": path.mkdir, "file": path.touch, "broken link": lambda: path.symlink_to("nowhere")}[kind]()
    with pytest.raises(FileExistsError, match="exists already, and is not overwritten"), new_folder(path):
        pytest.fail("nothing may be written")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_a_folder_below_a_file_cannot_be_created(tmp_path: Path) -> None:
    """The reason is the system's, the sentence ours."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot be created: Not a directory"), new_folder(tmp_path / "file" / "run"):
        pytest.fail("nothing may be written")


def test_arrays_are_stored_as_they_are_and_not_as_they_lie(tmp_path: Path, library: Library) -> None:
    """A transposed array is stored by its values, which safetensors alone would mix up."""
    a = library.floats(np.arange(6).reshape(2, 3))
    write_arrays(tmp_path / "a.safetensors", {"a": a.T, "keep": library.array([True, False])})
    stored = load_file(tmp_path / "a.safetensors")
    assert np.array_equal(stored["a"], np.arange(6.0).reshape(2, 3).T)
    assert stored["keep"].tolist() == [True, False]


def test_a_write_that_went_wrong_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read back is compared bit for bit."""
    monkeypatch.setattr("adalora_ref.experiments.run_folder.load_file", lambda _: {"a": np.asarray([1.0, 2.5])})
    with pytest.raises(OSError, match=r"what a\.safetensors holds is not what was written"):
        write_arrays(tmp_path / "a.safetensors", {"a": np.asarray([1.0, 2.0])})


def test_json_holds_no_nan(tmp_path: Path) -> None:
    """What is not finite is refused, not written as something that no other reader takes."""
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})


# READING


def test_a_run_reads_back(run: Path) -> None:
    """Configuration, a line for every step, factors, averages and masks are there for both arms of both seeds."""
    read = read_run(run)
    assert (read.config["convention"], read.config["settings"]["steps"]) == ("SPEC", 8)
    assert list(read.seeds) == [0, 1]
    for seed in read.seeds.values():
        assert list(seed.arms) == ["lora", "adalora"]
        for arm in seed.arms.values():
            assert [step["step"] for step in arm.steps] == list(range(8))
            assert [step["phase"] for step in arm.steps] == ["warmup"] * 2 + ["pruning"] * 3 + ["final"] * 3
            for name, mask in arm.masks.items():
                assert int(mask.sum()) == arm.steps[-1]["kept"][name]
                assert not np.any(arm.factors[name].s[~mask])
    assert [held["seed"] for held in read.results["seeds"]] == [0, 1]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def replace(old: str, new: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    return change


def drop_array(path: Path) -> None:
    arrays = load_file(path)
    arrays.pop("head.B")
    save_file(arrays, path)


def change_array(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def changed(path: Path) -> None:
        arrays = load_file(path)
        save_file(arrays | {name: np.ascontiguousarray(change(arrays[name]))}, path)

    return changed


def with_loss(text: str) -> Callable[[Path], None]:
    """Give the third step another loss."""

    def change(path: Path) -> None:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        lines[2] = re.sub(r'"loss": [^,]+', f'"loss": {text}', lines[2])
        path.write_text("".join(lines), encoding="utf-8")

    return change


STEPS = "seed0/adalora/steps.jsonl"
DAMAGE = {
    "loss is no number": (STEPS, with_loss("NaN"), r"steps.jsonl, line 3 is damaged: NaN is no number in JSON"),
    "loss too large": (STEPS, with_loss("1e999"), r"steps.jsonl, line 3: 'loss' must be a finite number; got inf"),
    "loss is text": (STEPS, with_loss('"<x>"'), r"steps.jsonl, line 3: 'loss' must be a finite number; got '<x>'"),
    "loss is missing": (STEPS, with_loss("null"), r"steps.jsonl, line 3: 'loss' must be a finite number; got None"),
    "budget is a share": (
        STEPS,
        replace('"budget": ', '"budget": 0.'),
        r"line 1: 'budget' must be an integer from 0 on; got 0\.\d+",
    ),
    "another phase": (STEPS, replace('"warmup"', '"warm"'), "line 1: 'phase' must be warmup, pruning or final; got"),
    "allocates is a number": (
        STEPS,
        replace('"allocates": false', '"allocates": 0'),
        "line 1: 'allocates' must be true or false; got 0",
    ),
    "dropped is a number": (
        STEPS,
        replace('"dropped": {"layer1": []', '"dropped": {"layer1": 1'),
        "'dropped' must be a list of indices",
    ),
    "no seed": ("config.json", replace('"seed": ', '"sead": '), "the run folder is damaged: it lacks 'seed'"),
    "text for a folder of arms": ("config.json", replace('"settings": {', '"settings": 3, "x": {'), "is damaged: "),
    "no config": ("config.json", Path.unlink, "config.json is missing from the run folder"),
    "config cut": ("config.json", cut, "config.json is damaged"),
    "another format": ("config.json", replace("adalora-ref run 2", "adalora-ref run 9"), "must have the format"),
    "no step": ("seed0/lora/steps.jsonl", Path.unlink, "steps.jsonl is missing from the run folder"),
    "steps cut": ("seed0/lora/steps.jsonl", cut, r"steps.jsonl, line 8 is damaged"),
    "step missing": ("seed0/lora/steps.jsonl", replace('{"step": 3', '{"step": 4'), "must hold the steps 0 to 7"),
    "field missing": ("seed1/adalora/steps.jsonl", replace('"budget"', '"bugdet"'), "must have the fields"),
    "arrays cut": ("seed1/adalora/arrays.safetensors", cut, "arrays.safetensors is damaged"),
    "array missing": ("seed1/adalora/arrays.safetensors", drop_array, "has no array 'head.B'"),
    "timeline cut": ("seed0/lora/timeline.safetensors", cut, "timeline.safetensors is damaged"),
    "no timeline": ("seed1/lora/timeline.safetensors", Path.unlink, "timeline.safetensors is missing"),
    "timeline too short": (
        "seed0/adalora/timeline.safetensors",
        change_array("head.scores", lambda a: a[:-1]),
        r"timeline.safetensors: 'head.scores' must be \(8, 8\), finite floats; got \(7, 8\) of float64",
    ),
    "timeline not finite": (
        "seed0/adalora/timeline.safetensors",
        change_array("head.defect_B", lambda a: a * np.nan),
        "'head.defect_B' must be",
    ),
    "measured is no row": (
        "seed0/adalora/timeline.safetensors",
        change_array("measured", lambda a: a.sum()),
        r"'accuracy' must be \(1,\), finite floats; got \(2,\)",
    ),
    "not measured at the end": (
        "seed0/adalora/timeline.safetensors",
        change_array("measured", lambda a: a - 1),
        r"'measured' must be steps in order, the last step among them; got \[-1, 6\]",
    ),
    "masks of another run": (
        "seed0/adalora/timeline.safetensors",
        change_array("layer1.masks", lambda a: ~a),
        "the masks of 'layer1' must keep what steps.jsonl and arrays.safetensors say",
    ),
    "last mask": (
        "seed0/adalora/timeline.safetensors",
        change_array("layer1.masks", lambda a: np.concatenate([a[:-1], np.roll(a[-1:], 1, axis=1)])),
        "the masks of 'layer1' must keep what steps.jsonl and arrays.safetensors say",
    ),
    "run of the first form": ("config.json", replace("adalora-ref run 2", "adalora-ref run 1"), "or be made anew; got"),
    "seed of another run": ("results.json", replace('"seed": 1', '"seed": 2'), "must hold the seeds"),
    "weights cut": ("seed0/frozen.safetensors", cut, "frozen.safetensors is damaged"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(name: str, run: Path, tmp_path: Path) -> None:
    """A file that is missing, cut off or does not fit the others is named, with what is wrong with it."""
    copy = tmp_path / "run"
    for path in run.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(run)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    assert read_run(copy)
    file, change, message = DAMAGE[name]
    change(copy / file)
    with pytest.raises(ValueError, match=message):
        read_run(copy)


# THE TIMELINE


def test_allocations_went_by_the_scores_of_the_timeline(run: Path) -> None:
    """Each threshold is the lowest score that is kept after that step, to the bit; masks follow drops and revivals."""
    for seed in read_run(run).seeds.values():
        arm = seed.arms["adalora"]
        kept = {name: np.ones(masks.shape[1], dtype=bool) for name, masks in arm.timeline.masks.items()}
        assert sum(step["allocates"] for step in arm.steps) == 3  # at 2, 4, and at the end of pruning, 5
        for t, step in enumerate(arm.steps):
            for name, masks in arm.timeline.masks.items():
                kept[name][step["dropped"][name]] = False
                kept[name][step["revived"][name]] = True
                assert np.array_equal(masks[t], kept[name])
            if step["allocates"]:
                lowest = min(a[t][kept[name]].min() for name, a in arm.timeline.scores.items())
                assert lowest == step["threshold"]


def test_the_timeline_ends_where_the_run_ended(run: Path) -> None:
    """Its last row has the scores of the last averages, the defects of the last factors, the accuracy told."""
    read = read_run(run)
    for held in read.results["seeds"]:
        for name, arm in read.seeds[held["seed"]].arms.items():
            line = arm.timeline
            assert line.accuracy[-1] == held["accuracy"][name]
            for matrix, factors in arm.factors.items():
                assert np.array_equal(line.scores[matrix][-1], triplet_scores(arm.importance[matrix]))
                both = line.defect_B[matrix][-1] + line.defect_A[matrix][-1]
                assert np.isclose(both, orthogonality_norm(factors)[0], rtol=1e-14)


def test_a_moment_is_recorded_on_any_library(library: Library) -> None:
    """Two moments by hand: scores by the convention, defects √(3² + 3²) and 0, stacked on the host and read back."""
    held = library.factors([[2.0, 0.0], [0.0, 2.0]], [1.0, 1.0], [[1.0, 0.0], [0.0, 1.0]])
    masks = {"q": library.array([True, False])}
    state = TrainState(1, {"q": held}, {"q": Importance(held, held)}, {}, masks)
    arrays = arrays_of([moment(state, 0.25, SPEC), moment(state, 0.5, SPEC)])
    assert arrays_of([moment(state, None, SPEC), moment(state, 0.5, SPEC)])["measured"].tolist() == [1]
    line = timeline_of(arrays, {"q": 2}, 2)
    assert line.scores["q"].tolist() == [[1 + 2 + 0.5] * 2] * 2  # 1·1 + mean(2·2, 0) + mean(1·1, 0)
    assert line.masks["q"].tolist() == [[True, False]] * 2
    assert line.defect_B["q"].tolist() == [18**0.5] * 2
    assert line.defect_A["q"].tolist() == [0.0, 0.0]
    assert (line.measured.tolist(), line.accuracy.tolist()) == ([0, 1], [0.25, 0.5])


def test_every_line_is_json(run: Path) -> None:
    """Each line of steps.jsonl stands by itself, and no file holds a time."""
    lines = (run / "seed0" / "adalora" / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    assert len([json.loads(line) for line in lines]) == 8
    text = (run / "results.json").read_text(encoding="utf-8") + "".join(lines)
    assert "second" not in text
    assert "time" not in text
