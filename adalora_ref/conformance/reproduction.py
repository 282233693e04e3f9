"""A folder for a failure: the case, made small, and a `repro.py` that shows it without the kit."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from adalora_ref.conformance import tensor_files
from adalora_ref.conformance.minimise import Minimised, minimise
from adalora_ref.conformance.script import script
from adalora_ref.conformance.serial import plain_of, tensors_of, with_normals
from adalora_ref.conformance.stages import STAGES, Stage
from adalora_ref.conformance.target import Lane, Target, spoken
from adalora_ref.conformance.verdict import Row
from adalora_ref.convention import Convention

FOLDER = Path("adalora-ref-repro")
MARKER = ".adalora-ref-repro"
"""The file by which a folder of ours is known; no other is replaced."""

UNSTEADY = "  (run alone, the case did not fail again)"


class Place(NamedTuple):
    """Where reproductions go, and by what name a script finds the target; without one it gets the case as data."""

    folder: Path
    spec: str | None


def refusal(folder: Path) -> str:
    """Why reproductions cannot be written into *folder*; nothing if they can."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists() or path.is_symlink())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        return f"reproductions must be written to a folder; {str(nearest)!r} is none, or cannot be written to"
    foreign = [path for path in (folder / stage.name for stage in STAGES) if not _ours(path)]
    return f"{str(foreign[0])!r} is no reproduction, so it is not replaced by one" if foreign else ""


def _ours(path: Path) -> bool:
    """Whether nothing stands there, or what we put there."""
    return not path.is_symlink() and (not path.exists() or (path / MARKER).is_file())


def with_reproduction(row: Row, targets: Sequence[Target], rules: Convention, place: Place) -> Row:
    """The row of a stage that failed, with the command that shows its first failure again; other rows as they are."""
    failed = row.first_failure
    stage = next((held for held in STAGES if held.name == row.stage), None)
    if failed is None or stage is None:
        return row
    if why := refusal(place.folder):
        return row._replace(reproduction=f"not written: {why}")
    target = next(held for held in targets if held.array_library == failed.library)
    lane = Lane(failed.dtype, target.accumulation, rules)
    case = minimise(stage, target, lane, failed)
    folder = place.folder / stage.name

    def fill(fresh: Path) -> None:
        if place.spec is None:
            _write_data(fresh, stage, lane, case)
        else:
            text = script(stage, lane, case, folder / "repro.py", place.spec, target.array_library, row.diagnosis)
            (fresh / "repro.py").write_text(text, encoding="utf-8")

    try:
        _replace(folder, fill)
    except OSError as error:
        return row._replace(reproduction=f"not written: {error}")
    said = folder.as_posix() if place.spec is None else f"python {(folder / 'repro.py').as_posix()}"
    return row._replace(reproduction=said + ("" if case.again else UNSTEADY))


def _replace(folder: Path, fill: Callable[[Path], None]) -> None:
    """Put a folder that *fill* fills in the place of the one of ours that may stand there; whole, or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh, before = (folder.with_name(f".{folder.name}.{os.getpid()}.{what}") for what in ("new", "old"))
    try:
        fresh.mkdir()
        (fresh / MARKER).touch()
        fill(fresh)
        if folder.exists():
            folder.replace(before)
        fresh.replace(folder)
    finally:
        if before.exists() and not folder.exists():
            before.replace(folder)
        for left in (fresh, before):
            shutil.rmtree(left, ignore_errors=True)


def _write_data(folder: Path, stage: Stage, lane: Lane, case: Minimised) -> None:
    """Write the case as JSON with its tensors, for a target that is no Python object.

    `inputs.safetensors` has the arrays that the arguments name; `expected.safetensors` has of each result its value, as
    two doubles, and the bound of the error.
    """
    inputs = with_normals(case.inputs)
    results = {spoken(path): want for path, want in case.expected.items()}
    told = {
        "stage": stage.name,
        "equation": stage.equation_under(lane.convention),
        "convention": lane.convention.name,
        "arguments": plain_of(inputs),
        "results": {name: want.dtype for name, want in results.items()},
    }
    (folder / "case.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    tensor_files.write(folder / "inputs.safetensors", tensors_of(inputs))
    parts = {
        f"{name} {part}": getattr(want, attribute)
        for name, want in results.items()
        for part, attribute in (("value", "high"), ("rest", "low"), ("bound", "error"))
    }
    tensor_files.write(folder / "expected.safetensors", parts)
