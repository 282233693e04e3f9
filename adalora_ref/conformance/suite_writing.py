"""Golden vectors, written: one case into a suite, or a whole suite that is there at once or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

import adalora_ref
from adalora_ref.array import Array
from adalora_ref.conformance import tiny
from adalora_ref.conformance.cases import NUMPY_DTYPES, Inputs
from adalora_ref.conformance.checking import PRESETS, absent, compare_all
from adalora_ref.conformance.deviations import DEVIATIONS, planted, reference
from adalora_ref.conformance.expectations import Expectation, Undecided
from adalora_ref.conformance.report import write_text
from adalora_ref.conformance.seen import case_inputs
from adalora_ref.conformance.serial import plain_of, tensors_of, with_normals
from adalora_ref.conformance.stages import STAGES, Stage
from adalora_ref.conformance.suite import (
    FORMAT,
    NAME,
    PARTS,
    VERSION,
    Manifest,
    files_of,
    parts_of,
    read_manifest,
    sha256,
)
from adalora_ref.conformance.target import CannotExpress, Lane, Target, on_host, spoken
from adalora_ref.conformance.tensor_files import write
from adalora_ref.conformance.verdict import Expected, Verdict
from adalora_ref.convention import Convention

ACCUMULATION = "float32"


class LeftOut(ValueError):
    """A case that no suite can hold; it says why."""


class Track(Protocol):
    """Passes what it is given on, and may show how far it has come."""

    def __call__(self, items: Sequence[Any], description: str, /) -> Iterable[Any]:
        """Yield the items."""


def untracked(items: Sequence[Any], _: str, /) -> Iterable[Any]:
    """Show nothing."""
    return items


class Planned(NamedTuple):
    """A case that is to be written; `number` is that of the draw, or of the case of the tiny preset."""

    stage: Stage
    dtype: str
    source: str
    number: int

    @property
    def name(self) -> str:
        """The stable name of the case."""
        return f"{self.stage.name}/{self.dtype}/{self.source}/{self.number}"

    @property
    def inputs(self) -> Inputs:
        """The arguments of the case."""
        if self.source == "tiny":
            return tiny.cases(self.stage.name, self.dtype)[self.number]
        return case_inputs(self.stage, self.dtype, int(self.source), self.number)


def export(
    folder: Path,
    rules: Convention,
    *,
    preset: str,
    dtypes: Sequence[str],
    stages: Sequence[Stage] = STAGES,
    seed: int = 0,
    track: Track = untracked,
) -> Manifest:
    """Write a suite into a folder that does not exist yet, or is empty; return what it says of itself.

    Cases in which correct computations may differ, or which the convention cannot express, are left out and listed.

    Parameters
    ----------
    preset
        How many cases of each stage in each dtype: quick, default or thorough; or tiny, which has cases of its own.
    seed
        Of the cases that are drawn.
    """
    drawn = None if preset == "tiny" else seed
    manifest = _empty(rules, preset, drawn)._replace(dtypes=list(dtypes))
    plan = [
        Planned(stage, dtype, "tiny" if drawn is None else str(drawn), number)
        for stage, dtype in product([s for s in stages if s.holds_under(rules)], dtypes)
        for number in range(len(tiny.cases(stage.name, dtype)) if drawn is None else PRESETS[preset])
    ]
    with new_folder(folder) as beside:
        for planned in track(plan, "exporting"):
            inputs, lane = planned.inputs, Lane(planned.dtype, ACCUMULATION, rules)
            try:
                expected = expectation_of(planned.stage, inputs, lane)
            except LeftOut as reason:
                manifest.left_out[planned.name] = str(reason)
                continue
            shown = drawn is None
            files = write_case(beside, planned.name, planned.stage, inputs, lane, expected, numbers=shown)
            manifest.cases[planned.name] = files
        write_manifest(beside, manifest)
    return manifest


def add_case(folder: Path, stage: Stage, inputs: Inputs, lane: Lane, source: str = "kept") -> str:
    """Add one case to a suite, which is made if the folder does not exist; return the case's name.

    Its number is the next one of its source: none is given twice.

    Raises
    ------
    ValueError
        If the suite is of another convention; LeftOut where correct computations of the case may differ.
    """
    manifest = read_manifest(folder) if folder.exists() else _empty(lane.convention, source, None)
    if (manifest.convention, manifest.accumulation) != (lane.convention.name, lane.accumulation):
        given = f"{lane.convention.name} and {lane.accumulation}"
        raise ValueError(f"the suite is of {manifest.convention} and {manifest.accumulation}; the case of {given}")
    expected = expectation_of(stage, inputs, lane)
    prefix = f"{stage.name}/{lane.dtype}/{source}/"
    taken = [int(name.removeprefix(prefix)) for name in manifest.cases if name.startswith(prefix)]
    name = f"{prefix}{max(taken, default=-1) + 1}"
    if not NAME.fullmatch(name):
        raise ValueError(f"the source of a case must be a short word of a-z, 0-9 and _; got {source!r}")
    files = write_case(folder, name, stage, inputs, lane, expected)
    dtypes = list(dict.fromkeys([*manifest.dtypes, lane.dtype]))
    write_manifest(folder, manifest._replace(dtypes=dtypes, cases={**manifest.cases, name: files}))
    return name


def _empty(rules: Convention, preset: str, seed: int | None) -> Manifest:
    versions = (adalora_ref.__version__, adalora_ref.SPECIFICATION)
    return Manifest(*versions, rules.name, ACCUMULATION, [], seed, preset, {}, {})


def expectation_of(stage: Stage, inputs: Inputs, lane: Lane) -> Expectation:
    """What must come back; LeftOut says why no suite can tell."""
    right = Target("adalora_ref", reference(lane.convention))
    if why := absent(stage, right, lane, inputs):
        raise LeftOut(why)
    try:
        with np.errstate(all="ignore"):
            right.answer(stage, right.hand_over(inputs), lane)
        expected = stage.expect(inputs, lane)
    except (CannotExpress, Undecided) as error:
        raise LeftOut(str(error)) from None
    with np.errstate(all="ignore"):
        finite = all(np.all(np.isfinite(a)) for e in expected.values() for a in (*_stored("", e).values(), e.error))
    if not finite:
        raise LeftOut("a result or its bound is not finite")
    return expected


# ONE CASE


def write_case(
    folder: Path,
    name: str,
    stage: Stage,
    inputs: Inputs,
    lane: Lane,
    expected: Expectation,
    *,
    numbers: bool = False,
) -> dict[str, str]:
    """Write the files of one case; return them with their sha256, for the manifest.

    Parameters
    ----------
    numbers
        Whether the JSON shows the numbers too, for someone with a pencil.
    """
    given = with_normals(inputs)
    tensors = tensors_of(given)
    results = {spoken(path): want for path, want in expected.items()}
    said = {
        "name": name,
        "equation": stage.equation_under(lane.convention),
        "case": {
            "stage": stage.name,
            "convention": lane.convention.name,
            "dtype": lane.dtype,
            "arguments": plain_of(given),
        },
        "accumulation": lane.accumulation,
        "inputs": [
            {**_form(key, a), "sha256": sha256(_bytes(a)), **({"numbers": _numbers(a)} if numbers else {})}
            for key, a in tensors.items()
        ],
        "results": [_result(key, want, numbers=numbers) for key, want in results.items()],
        "catches": caught(stage, inputs, lane, expected),
    }
    files = files_of(name)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    write_text(folder / files[0], pretty(said))
    write(folder / files[1], tensors)
    write(folder / files[2], {k: a for key, want in results.items() for k, a in _stored(key, want).items()})
    return {file: sha256((folder / file).read_bytes()) for file in files}


def _stored(name: str, want: Expected) -> dict[str, Array]:
    """The arrays of a result: in its dtype; if it is not exact, what is missing to the true value, and the bounds."""
    with np.errstate(over="ignore"):
        value = np.asarray(want.high).astype(NUMPY_DTYPES.get(want.dtype, want.dtype))
    if value.dtype.kind in "biu":
        return {name: value}
    rest = (np.asarray(want.high, np.float64) - value.astype(np.float64)) + want.low
    exact = not (np.any(rest) or np.any(want.error))
    arrays = (value, *(np.asarray(a, np.float64) for a in (rest, want.error, want.sharp)))
    return {name + part: a for part, a in zip(PARTS, arrays, strict=True) if part in parts_of(exact)}


def _result(name: str, want: Expected, *, numbers: bool) -> dict[str, Any]:
    arrays = _stored(name, want)
    shown = {"numbers": _numbers(arrays[name])} if numbers else {}
    digests = {key: sha256(_bytes(a)) for key, a in arrays.items()}
    return {**_form(name, arrays[name]), "exact": len(arrays) == 1, "sha256": digests, **shown}


def _form(name: str, a: Array) -> dict[str, Any]:
    return {"name": name, "dtype": a.dtype.name, "shape": list(a.shape)}


def _numbers(a: Array) -> Any:
    return (a if a.dtype.kind in "biu" else a.astype(np.float64)).tolist()


def _bytes(a: Array) -> bytes:
    return bytes(a.tobytes())


def caught(stage: Stage, inputs: Inputs, lane: Lane, expected: Expectation) -> list[str]:
    """Names of the known mistakes that give a wrong result here; one that cannot run gives none."""
    return [
        known.name
        for known in DEVIATIONS
        if known.stage == stage.name and _is_caught(known, stage, inputs, lane, expected)
    ]


def _is_caught(known: Any, stage: Stage, inputs: Inputs, lane: Lane, expected: Expectation) -> bool:
    target = Target(known.name, planted(known))
    try:
        with np.errstate(all="ignore"):
            outputs = target.answer(stage, target.hand_over(inputs), lane)
        return compare_all({path: on_host(a) for path, a in outputs.items()}, expected)[0] is Verdict.FAIL
    except Exception:  # noqa: BLE001  a mistake that cannot run on this case is not caught by it
        return False


# FILES


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a folder beside *folder*, which takes its place at the end; whatever is raised, nothing stays behind.

    Raises
    ------
    ValueError
        If *folder* exists and is not an empty folder, or there is no folder that it could be in.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"the folder to write must not exist, or be empty; got {str(folder)!r}")
    if not folder.absolute().parent.is_dir():
        raise ValueError(f"the folder to write must be in one that exists; got {str(folder)!r}")
    beside = folder.absolute().with_name(f".{folder.absolute().name}.{os.getpid()}")
    try:
        beside.mkdir()
        yield beside
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, whole or not at all."""
    said = {"format": FORMAT, "suite": VERSION, **manifest._asdict()}
    said["cases"] = [{"name": name, "files": files} for name, files in manifest.cases.items()]
    write_text(folder / "manifest.json", pretty(said))


def pretty(said: Mapping[str, Any]) -> str:
    """JSON with a line for each member, and for each item of a member: to be read, and to be compared line by line."""
    return "{\n" + ",\n".join(f" {_json(key)}: {_member(value)}" for key, value in said.items()) + "\n}\n"


def _member(value: Any) -> str:
    if isinstance(value, dict) and value:
        return "{\n" + ",\n".join(f"  {_json(key)}: {_json(item)}" for key, item in value.items()) + "\n }"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(f"  {_json(item)}" for item in value) + "\n ]"
    return _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
