"""A suite of golden vectors on disk, and how it is read: nothing in it is believed before it has been checked.

A suite is a folder with `manifest.json` and three files for each case: NAME.json says what it is,
NAME.inputs.safetensors and NAME.expected.safetensors hold the arrays. docs/verify/vectors.md has the form, `schema/`
the JSON Schemas.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import adalora_ref
from adalora_ref.array import Array
from adalora_ref.conformance.cases import NUMPY_DTYPES, Inputs
from adalora_ref.conformance.expectations import Expectation
from adalora_ref.conformance.serial import inputs_of, path_of
from adalora_ref.conformance.stages import STAGES, Stage
from adalora_ref.conformance.target import Lane, spoken
from adalora_ref.conformance.tensor_files import TensorFile, parse
from adalora_ref.conformance.untrusted import parse_json, printable, shown
from adalora_ref.conformance.verdict import Expected
from adalora_ref.convention import convention

FORMAT = "adalora-ref vectors"
VERSION = 1

TINY = Path(__file__).parent / "vectors"
"""The suite that travels with the package."""

LARGEST_MANIFEST = 2**24
LARGEST_FILE = 2**22
"""Bytes of a file of a case; a case of the largest preset has 100 kB."""

ENDINGS = (".json", ".inputs.safetensors", ".expected.safetensors")
PARTS = ("", "/rest", "/bound", "/sharp")
"""What stands beside a result that is not exact."""

NAME = re.compile(rf"([a-z_]{{1,40}})/({'|'.join(NUMPY_DTYPES)})/([a-z0-9_]{{1,40}})/(0|[1-9][0-9]{{0,8}})")
"""stage/dtype/source/number; the source is a seed, or a word for cases that were not drawn."""

MISTAKE = re.compile(r"[\w.-]{1,80}")


class Manifest(NamedTuple):
    """What a suite says of itself.

    Attributes
    ----------
    package, specification
        Versions of what exported it.
    accumulation
        The dtype in which 16-bit results are computed.
    seed
        Of the cases that were drawn; None where none was.
    cases
        By name, the files of each with their sha256.
    left_out
        By name, cases that are not there, and why.
    """

    package: str
    specification: str
    convention: str
    accumulation: str
    dtypes: list[str]
    seed: int | None
    preset: str
    cases: dict[str, dict[str, str]]
    left_out: dict[str, str]


class Case(NamedTuple):
    """One case of a suite: what is given, what must come back, and the mistakes that it catches."""

    name: str
    stage: Stage
    lane: Lane
    inputs: Inputs
    expected: Expectation
    catches: tuple[str, ...]


def suite_folder(name: str | Path) -> Path:
    """The folder of that name; ``tiny`` is the suite that travels with the package, unless there is such a folder."""
    return TINY if str(name) == "tiny" and not Path(name).exists() else Path(name)


def inside(folder: Path, name: str) -> Path:
    """The path of a file in a folder; ValueError where a link leads elsewhere."""
    path = folder / name
    if path.resolve() != folder.resolve() / name:
        raise ValueError(f"{path} must be a file of that folder itself; it is, or lies behind, a link")
    return path


def files_of(name: str) -> list[str]:
    """The files of a case, in the folder of its suite."""
    return [name + ending for ending in ENDINGS]


def sha256(data: bytes) -> str:
    """The hash in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


# THE MANIFEST


def read_manifest(folder: Path) -> Manifest:
    """Read what a suite says of itself.

    Raises
    ------
    ValueError
        If there is no suite, one of another version, or one that breaks a rule of the form.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {str(folder)!r} with a suite of vectors")
    path = inside(folder, "manifest.json")
    held = _json_object(_bytes(path, LARGEST_MANIFEST), str(path))
    if held.get("format") != FORMAT or held.get("suite") != VERSION:
        got = f"{shown(held.get('format'), 80)}, {shown(held.get('suite'), 80)}"
        raise ValueError(f"{path} must be of the format {FORMAT!r}, suite version {VERSION}; got {got}")
    if held.get("specification") != adalora_ref.SPECIFICATION:
        raise ValueError(
            f"{path} must be of specification {adalora_ref.SPECIFICATION}, which this package checks; "
            f"got {shown(held.get('specification'), 80)}"
        )
    return _manifest(held, str(path))


def _manifest(held: dict[str, Any], what: str) -> Manifest:
    kinds: dict[str, Any] = dict.fromkeys(Manifest._fields, str)
    kinds |= {"dtypes": list, "seed": int | None, "cases": list, "left_out": dict}
    _require_fields(held, {"format": str, "suite": int, **kinds}, what)
    convention(held["convention"])
    if not set(map(str, [*held["dtypes"], held["accumulation"]])) <= NUMPY_DTYPES.keys():
        raise ValueError(f"{what} must name dtypes among {', '.join(NUMPY_DTYPES)}; got {shown(held['dtypes'], 80)}")
    if not all(NAME.fullmatch(name) and type(reason) is str for name, reason in held["left_out"].items()):
        raise ValueError(f"{what} must give a reason for each case that is left out, by its name")
    cases: dict[str, dict[str, str]] = {}
    for entry in held["cases"]:
        name, files = _entry(entry, what)
        if name in cases:
            raise ValueError(f"{what} must name each case once; {name} stands there twice")
        cases[name] = files
    return Manifest(**{name: held[name] for name in Manifest._fields if name != "cases"}, cases=cases)


def _entry(entry: Any, what: str) -> tuple[str, dict[str, str]]:
    """A case's name and files; the files can only be those that follow from the name, so that no path leads away."""
    if not isinstance(entry, dict) or entry.keys() != {"name", "files"}:
        raise ValueError(f"{what}: each case must have a name and files; got {shown(entry, 80)}")
    name, files = entry["name"], entry["files"]
    match = NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None or match[1] not in {stage.name for stage in STAGES}:
        raise ValueError(f"{what}: a case is named stage/dtype/source/number; got {shown(name, 80)}")
    if not isinstance(files, dict) or files.keys() != set(files_of(name)):
        raise ValueError(f"{what}: the files of {name} must be {', '.join(files_of(name))}; got {shown(files)}")
    return name, files


def _require_fields(held: dict[str, Any], kinds: Mapping[str, Any], what: str) -> None:
    """Refuse an object that lacks one of these, has another, or has one of another type; a boolean is no integer."""
    if held.keys() != kinds.keys():
        beside = printable(", ".join(sorted(held.keys() ^ kinds.keys())), 160)
        raise ValueError(f"{what} must have {', '.join(kinds)}; on one side alone stands {beside}")
    for name, kind in kinds.items():
        if not isinstance(held[name], kind) or isinstance(held[name], bool) != (kind is bool):
            raise ValueError(f"{what}: {name} is of the wrong type; got {shown(held[name], 80)}")


def _json_object(data: bytes, what: str) -> dict[str, Any]:
    try:
        held = parse_json(data)
    except ValueError as error:
        raise ValueError(f"{what} is no JSON: {error}") from None
    if type(held) is not dict:
        raise ValueError(f"{what} must be an object of JSON; got {shown(held, 80)}")
    return held


def _bytes(path: Path, largest: int) -> bytes:
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}")
    if (size := path.stat().st_size) > largest:
        raise ValueError(f"{path} is larger than {largest} bytes: {size}")
    return path.read_bytes()


# A CASE


def read_case(folder: Path, manifest: Manifest, name: str) -> Case:
    """Read one case of a suite.

    Raises
    ------
    ValueError
        If a file is not the one of the manifest, or breaks a rule of the form.
    """
    said, given, expected = (_file(folder, file, manifest.cases[name][file]) for file in files_of(name))
    what = str(folder / name)
    record = _json_object(said, f"{what}.json")
    kinds = {"name": str, "equation": str, "case": dict, "accumulation": str, "inputs": list, "results": list}
    _require_fields(record, {**kinds, "catches": list}, f"{what}.json")
    case = record["case"]
    _require_fields(case, {"stage": str, "convention": str, "dtype": str, "arguments": dict}, f"{what}.json")
    stage, dtype = str(name).split("/")[:2]
    same = (name, stage, dtype, manifest.convention, manifest.accumulation)
    if (record["name"], case["stage"], case["dtype"], case["convention"], record["accumulation"]) != same:
        raise ValueError(f"{what}.json must be what its name and the manifest say; got {shown(case, 80)}")
    if not all(type(mistake) is str and MISTAKE.fullmatch(mistake) for mistake in record["catches"]):
        raise ValueError(f"{what}.json: catches must be names of mistakes")
    tensors = _inputs(record["inputs"], parse(given, f"{what}{ENDINGS[1]}"), what)
    lane = Lane(dtype, manifest.accumulation, convention(manifest.convention))
    try:
        inputs = inputs_of(case["arguments"], tensors)
    except ValueError as error:
        raise ValueError(f"{what}.json: {error}") from None
    results = _results(record["results"], parse(expected, f"{what}{ENDINGS[2]}"), what)
    row = next(row for row in STAGES if row.name == stage)
    return Case(name, row, lane, inputs, results, tuple(record["catches"]))


def _file(folder: Path, name: str, digest: Any) -> bytes:
    data = _bytes(inside(folder, name), LARGEST_FILE)
    if sha256(data) != digest:
        raise ValueError(f"{folder / name} is not the file of the manifest: its sha256 is {sha256(data)}")
    return data


def _inputs(said: list[Any], held: TensorFile, what: str) -> dict[str, Array]:
    """The arrays that are given: all of them, and as the JSON says they are."""
    names = [_described(entry, {"name", "dtype", "shape", "sha256"}, what) for entry in said]
    _require_names(names, list(held.tensors), what)
    for entry in said:
        _require_alike(entry, entry["sha256"], held.tensors[entry["name"]], f"{what}: {entry['name']}")
    return held.tensors


def _results(said: list[Any], held: TensorFile, what: str) -> Expectation:
    """What must come back, under the path that `leaves` gives it."""
    names = [_described(entry, {"name", "dtype", "shape", "exact", "sha256"}, what) for entry in said]
    if not all(type(entry["exact"]) is bool and spoken(path_of(entry["name"])) == entry["name"] for entry in said):
        raise ValueError(f"{what}.json: a result must be exact or not, and named as it is spoken of")
    parts = [name + part for name, entry in zip(names, said, strict=True) for part in parts_of(entry["exact"])]
    _require_names(parts, list(held.tensors), what)
    return {path_of(entry["name"]): _expected(entry, held.tensors, what) for entry in said}


def parts_of(exact: Any) -> tuple[str, ...]:
    """What is stored of a result."""
    return PARTS[:1] if exact else PARTS


def _described(entry: Any, keys: set[str], what: str) -> str:
    for_pencils = {"numbers"} if isinstance(entry, dict) and "numbers" in entry else set()
    if not isinstance(entry, dict) or entry.keys() != keys | for_pencils or not isinstance(entry["name"], str):
        raise ValueError(f"{what}.json: an array must have {', '.join(sorted(keys))}; got {shown(entry, 80)}")
    return entry["name"]


def _require_names(said: list[str], held: list[str], what: str) -> None:
    if len(set(said)) != len(said) or set(said) != set(held):
        beside = printable(", ".join(sorted(set(said) ^ set(held))), 160) or "nothing, but one stands there twice"
        raise ValueError(f"{what}: the JSON and the tensors must have the same names; on one side alone is {beside}")


def _require_alike(entry: Mapping[str, Any], digest: Any, a: Array, what: str) -> None:
    got = {"dtype": a.dtype.name, "shape": list(a.shape), "sha256": sha256(a.tobytes())}
    if got != {"dtype": entry["dtype"], "shape": entry["shape"], "sha256": digest}:
        raise ValueError(f"{what} must be the array that the JSON says; got {got}"[:400])


def _expected(entry: dict[str, Any], tensors: Mapping[str, Array], what: str) -> Expected:
    """A result with its bound; a value or a bound that is not finite would let anything pass."""
    name, digests = entry["name"], entry["sha256"]
    if not isinstance(digests, dict) or digests.keys() != {name + p for p in parts_of(entry["exact"])}:
        raise ValueError(f"{what}.json: {name} must have the sha256 of each of its arrays")
    value = tensors[name]
    _require_alike(entry, digests[name], value, f"{what}: {name}")
    if entry["exact"]:
        expected = Expected.exact(value, value.dtype.name)
    else:
        for part in PARTS[1:]:
            form = {"dtype": "float64", "shape": entry["shape"]}
            _require_alike(form, digests[name + part], tensors[name + part], f"{what}: {name}{part}")
        rest, bound, sharp = (tensors[name + part] for part in PARTS[1:])
        expected = Expected(value.astype(np.float64), rest, bound, sharp, value.dtype.name)
    numbers = [np.asarray(a, dtype=np.float64) for a in (expected.high, expected.low, expected.error, expected.sharp)]
    if not all(np.all(np.isfinite(a)) for a in numbers) or any(np.any(a < 0) for a in numbers[2:]):
        raise ValueError(f"{what}: {name} and its bounds must be finite, and the bounds not below 0")
    return expected
