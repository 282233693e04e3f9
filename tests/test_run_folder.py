"""Run folders: written whole or not at all, read back with checks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adalora_ref.experiments import digits
from adalora_ref.experiments.digits import Options, Settings
from adalora_ref.experiments.run_folder import new_folder, read_run, write_arrays, write_json
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


DAMAGE = {
    "no config": ("config.json", Path.unlink, "config.json is missing from the run folder"),
    "config cut": ("config.json", cut, "config.json is damaged"),
    "another format": ("config.json", replace("adalora-ref run 2", "adalora-ref run 9"), "must have the format"),
    "no step": ("seed0/lora/steps.jsonl", Path.unlink, "steps.jsonl is missing from the run folder"),
    "steps cut": ("seed0/lora/steps.jsonl", cut, r"steps.jsonl, line 8 is damaged"),
    "step missing": ("seed0/lora/steps.jsonl", replace('{"step": 3', '{"step": 4'), "must hold the steps 0 to 7"),
    "field missing": ("seed1/adalora/steps.jsonl", replace('"budget"', '"bugdet"'), "must have the fields"),
    "arrays cut": ("seed1/adalora/arrays.safetensors", cut, "arrays.safetensors is damaged"),
    "array missing": ("seed1/adalora/arrays.safetensors", drop_array, "has no array 'head.B'"),
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


def test_every_line_is_json(run: Path) -> None:
    """Each line of steps.jsonl stands by itself, and no file holds a time."""
    lines = (run / "seed0" / "adalora" / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    assert len([json.loads(line) for line in lines]) == 8
    text = (run / "results.json").read_text(encoding="utf-8") + "".join(lines)
    assert "second" not in text
    assert "time" not in text
