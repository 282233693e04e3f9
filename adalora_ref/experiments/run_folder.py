"""Run folders: what a run leaves behind, written whole or not at all, and read back with checks.

    config.json                         everything needed to repeat the run
    results.json                        accuracy, parameters and ranks; no times
    seed0/frozen.safetensors            the frozen weights, by matrix
    seed0/adalora/steps.jsonl           a `StepReport` a line, with the phase, and whether an allocation was due
    seed0/adalora/timeline.safetensors  a `Timeline`: scores, masks and defects after every step, accuracy
    seed0/adalora/arrays.safetensors    factors, masks and importance after the last step
    seed0/lora/…                        the same of the other arm

No file holds a time or a date, so that two runs with one seed are the same bytes.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from adalora_ref.allocation import Masks
from adalora_ref.array import Array, to_numpy
from adalora_ref.experiments.timeline import Moment, Timeline, arrays_of, timeline_of
from adalora_ref.factors import Factors
from adalora_ref.importance import Importance
from adalora_ref.records import StepReport, TrainState

FORMAT = "adalora-ref run 2"
"""Stands in config.json; a reader refuses any other."""

PARTS = ("B", "s", "A")


class Arm(NamedTuple):
    """One training run: its steps, what stood after each, and what it ended with."""

    steps: list[dict[str, Any]]
    timeline: Timeline
    factors: dict[str, Factors]
    importance: dict[str, Importance]
    masks: Masks


class Seed(NamedTuple):
    """Both arms of one seed, and the weights that they adapted."""

    frozen: dict[str, Array]
    arms: dict[str, Arm]


class Run(NamedTuple):
    """A run folder, read and checked."""

    config: dict[str, Any]
    results: dict[str, Any]
    seeds: dict[int, Seed]


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a hidden folder beside *path* to write in; it becomes *path* at the end, or vanishes on any exception.

    Raises
    ------
    FileExistsError
        If there is something at *path* already; nothing is overwritten.
    OSError
        If the folder cannot be created. Both come before anything is yielded.
    """
    _refuse_existing(path)
    path = path.resolve()
    made = [folder for folder in path.parents if not folder.exists()]
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        try:
            partial.mkdir(parents=True)
        except OSError as error:
            raise OSError(f"the run folder {path} cannot be created: {error.strerror}") from error
        yield partial
        _refuse_existing(path)
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in made:
            with suppress(OSError):  # not made after all, or someone else has written there meanwhile
                folder.rmdir()
        raise


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise FileExistsError(f"the run folder {path} exists already, and is not overwritten; name another with --out")


def write_json(path: Path, value: Any) -> None:
    """Write *value* as JSON; ValueError for what is not finite."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write a line of JSON for each of *records*."""
    lines = [json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records]
    path.write_text("".join(lines), encoding="utf-8")


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write *arrays* of any library as safetensors, and compare what can be read back.

    safetensors stores the memory of an array that is not C-contiguous as if it were, without a word.

    Raises
    ------
    OSError
        If what is read back differs.
    """
    host = {name: np.asarray(to_numpy(a), order="C") for name, a in arrays.items()}
    path.write_bytes(save(host))
    stored = load_file(path)
    same = stored.keys() == host.keys() and all(
        (a.shape, a.dtype, a.tobytes()) == (stored[name].shape, stored[name].dtype, stored[name].tobytes())
        for name, a in host.items()
    )
    if not same:
        raise OSError(f"what {path.name} holds is not what was written to it")


def write_arm(folder: Path, steps: Iterable[Mapping[str, Any]], moments: Sequence[Moment], state: TrainState) -> None:
    """Write the steps of a training run, what stood after each, and factors, masks and importance after the last."""
    folder.mkdir(parents=True)
    write_lines(folder / "steps.jsonl", steps)
    write_arrays(folder / "timeline.safetensors", arrays_of(moments))
    arrays: dict[str, Array] = {f"{name}.mask": mask for name, mask in state.masks.items()}
    for name, held in state.factors.items():
        arrays |= _parts(name, held)
        for quantity, average in state.importance[name]._asdict().items():
            arrays |= _parts(f"{name}.{quantity}", average)
    write_arrays(folder / "arrays.safetensors", arrays)


def step_record(report: StepReport, phase: str, *, allocates: bool) -> dict[str, Any]:
    """The report as plain data: masks as lists of indices, shares as lists of numbers."""
    plain = report._asdict()
    for name in ("revived", "dropped"):
        plain[name] = {matrix: np.flatnonzero(to_numpy(mask)).tolist() for matrix, mask in plain[name].items()}
    plain["penalty_share"] = {matrix: to_numpy(share).tolist() for matrix, share in report.penalty_share.items()}
    return {"step": plain.pop("step"), "phase": phase, "allocates": allocates, **plain}


def read_run(path: Path | str) -> Run:
    """Read a run folder, every file of it.

    Raises
    ------
    ValueError
        If it is no run folder, or a file is missing, cut off or does not fit the others; the message names the file.
    """
    try:
        return _read_run(Path(path))
    except KeyError as error:
        raise ValueError(f"{path}: the run folder is damaged: it lacks {error}") from error
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{path}: the run folder is damaged: {error}") from error


def _read_run(path: Path) -> Run:
    config = _read_json(path / "config.json")
    if config.get("format") != FORMAT:
        got = config.get("format")
        raise ValueError(f"{path / 'config.json'} must have the format {FORMAT!r}, or be made anew; got {got!r}")
    results = _read_json(path / "results.json")
    numbers = range(config["seed"], config["seed"] + config["seeds"])
    if [held.get("seed") for held in results.get("seeds", [])] != list(numbers):
        raise ValueError(f"{path / 'results.json'} must hold the seeds {list(numbers)} of config.json")
    return Run(config, results, {number: _read_seed(path / f"seed{number}", config) for number in numbers})


def _read_seed(path: Path, config: dict[str, Any]) -> Seed:
    file, shapes = path / "frozen.safetensors", {name: tuple(shape) for name, shape in config["shapes"].items()}
    frozen = _read_arrays(file)
    if {name: W.shape for name, W in frozen.items()} != shapes:
        raise ValueError(
            f"{file} must hold the weights {shapes}; got { {name: W.shape for name, W in frozen.items()} }"
        )
    arms = {arm: _read_arm(path / arm, shapes, config["settings"]["steps"]) for arm in config["arms"]}
    return Seed({name: frozen[name] for name in shapes}, arms)


def _read_arm(path: Path, shapes: Mapping[str, tuple[int, int]], total: int) -> Arm:
    steps = _read_lines(path / "steps.jsonl", total)
    file = path / "arrays.safetensors"
    arrays = _read_arrays(file)
    try:
        factors = {name: _factors(name, arrays) for name in shapes}
        importance = {
            name: Importance(*(_factors(f"{name}.{quantity}", arrays) for quantity in Importance._fields))
            for name in shapes
        }
        masks = {name: arrays[f"{name}.mask"] for name in shapes}
    except KeyError as error:
        raise ValueError(f"{file} has no array {error}") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} holds no factors: {error}") from None
    for name, (d_out, d_in) in shapes.items():
        r = factors[name].s.shape
        whole = [tuple(a.shape for a in held) for held in (factors[name], *importance[name])]
        if whole != [((d_out, *r), r, (*r, d_in))] * 3 or masks[name].shape != r or masks[name].dtype != np.bool_:
            raise ValueError(f"{file}: the arrays of {name!r} must fit a ({d_out}, {d_in}) matrix; got {whole}")
        if steps and steps[-1]["kept"].get(name) != np.count_nonzero(masks[name]):
            raise ValueError(f"{file}: the mask of {name!r} must keep what the last line of steps.jsonl says")
    return Arm(steps, _read_timeline(path / "timeline.safetensors", steps, masks), factors, importance, masks)


def _read_timeline(file: Path, steps: list[dict[str, Any]], masks: Masks) -> Timeline:
    arrays = _read_arrays(file)
    try:
        found = timeline_of(arrays, {name: mask.shape[0] for name, mask in masks.items()}, len(steps))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    for name, mask in masks.items():
        kept = [step["kept"].get(name) for step in steps]
        if np.count_nonzero(found.masks[name], axis=1).tolist() != kept or not np.array_equal(
            found.masks[name][-1], mask
        ):
            raise ValueError(f"{file}: the masks of {name!r} must keep what steps.jsonl and arrays.safetensors say")
    return found


def _read_json(path: Path) -> dict[str, Any]:
    return _object(_read_text(path), str(path))


def _read_lines(path: Path, total: int) -> list[dict[str, Any]]:
    """The steps 0 … total − 1, a line each, every one whole."""
    lines = _read_text(path).splitlines()
    steps = [_object(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]
    if [step.get("step") for step in steps] != list(range(total)):
        raise ValueError(f"{path} must hold the steps 0 to {total - 1} in order; got {len(steps)} lines")
    wanted = {"phase", "allocates", *StepReport._fields}
    for number, step in enumerate(steps, start=1):
        if step.keys() != wanted:
            raise ValueError(f"{path}, line {number} must have the fields {sorted(wanted)}; got {sorted(step)}")
        for name, (right, rule) in RULES.items():
            if not right(step[name]):
                raise ValueError(f"{path}, line {number}: {name!r} must be {rule}; got {step[name]!r:.80}")
    return steps


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number in JSON")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _by_matrix(right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(right, value.values()))


def _many(right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(right, value))


RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "phase": (("warmup", "pruning", "final").__contains__, "warmup, pruning or final"),
    "allocates": (lambda value: isinstance(value, bool), "true or false"),
    **dict.fromkeys(("loss", "penalty"), (_number, "a finite number")),
    "budget": (_count, "an integer from 0 on"),
    **dict.fromkeys(("kept", "parameters"), (_by_matrix(_count), "an integer from 0 on for each matrix")),
    "threshold": (lambda value: value is None or _number(value), "a finite number or null"),
    **dict.fromkeys(("revived", "dropped"), (_by_matrix(_many(_count)), "a list of indices for each matrix")),
    "penalty_share": (_by_matrix(_many(_number)), "a list of finite numbers for each matrix"),
}
"""What the fields of a step must be."""


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from None


def _read_arrays(path: Path) -> dict[str, Array]:
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is missing from the run folder" if not path.exists() else f"{path} is damaged: {error}")


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=_no_number)
    except ValueError as error:
        raise ValueError(f"{where} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where} must hold a JSON object; got {type(value).__name__}")  # noqa: TRY004 -- content
    return value


def _parts(name: str, held: Factors) -> dict[str, Array]:
    return {f"{name}.{part}": a for part, a in zip(PARTS, held, strict=True)}


def _factors(name: str, arrays: Mapping[str, Array]) -> Factors:
    return Factors(*(arrays[f"{name}.{part}"] for part in PARTS))
