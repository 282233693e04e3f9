"""A folder for a failure: the case, made small, and a `repro.py` that shows it without the kit."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from adalora_ref.conformance.cases import Inputs
from adalora_ref.conformance.checking import stage_named
from adalora_ref.conformance.minimise import Minimised, expectation_of, minimise
from adalora_ref.conformance.minimise_feed import SAID, minimise_feed
from adalora_ref.conformance.script import script
from adalora_ref.conformance.script_allocator import allocator_script
from adalora_ref.conformance.script_parts import About, Data
from adalora_ref.conformance.script_program import program_script, write_case
from adalora_ref.conformance.script_trace import trace_script
from adalora_ref.conformance.stages import STAGES
from adalora_ref.conformance.target import Lane, Target
from adalora_ref.conformance.trace import EQUATIONS, Run
from adalora_ref.conformance.trace_case import first_departure
from adalora_ref.conformance.verdict import Row
from adalora_ref.convention import Convention

FOLDER = Path("adalora-ref-repro")
MARKER = ".adalora-ref-repro"
"""The file by which a folder of ours is known; no other is replaced."""

NAMES = (
    *(stage.name for stage in STAGES),
    "train_step-run",
    *(f"allocator-{quantity}" for quantity in SAID),
    *(f"trace-{quantity}" for quantity in EQUATIONS),
)
"""The folders that there may be."""

PROGRAM = "exec:"
UNSTEADY = "  (run alone, the case did not fail again)"
SMALL = "a case in which it failed, as small as it still did"


class Place(NamedTuple):
    """Where reproductions go, and by what name a script finds the target; without one it gets the case as data."""

    folder: Path
    spec: str | None


def refusal(folder: Path) -> str:
    """Why reproductions cannot be written into *folder*; nothing if they can."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists() or path.is_symlink())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        return f"reproductions must be written to a folder; {str(nearest)!r} is none, or cannot be written to"
    foreign = [path for path in (folder / name for name in NAMES) if not _ours(path)]
    return f"{str(foreign[0])!r} is no reproduction, so it is not replaced by one" if foreign else ""


def _ours(path: Path) -> bool:
    """Whether nothing stands there, or what we put there."""
    return not path.is_symlink() and (not path.exists() or (path / MARKER).is_file())


# OF WHAT

Fill: TypeAlias = Callable[[Path, About], bool]
"""Puts a reproduction into a folder, and says whether the failure showed again when it was tried alone."""


def with_reproduction(row: Row, targets: Sequence[Target], rules: Convention, place: Place) -> Row:
    """The row of a stage that failed, with the command that shows its first failure again; other rows as they are."""
    stage = next((held for held in STAGES if held.name == row.stage), None)
    failed = row.first_failure
    if stage is None or failed is None:
        return row
    target = next(held for held in targets if held.array_library == failed.library)
    lane = Lane(failed.dtype, target.accumulation, rules)

    def fill(folder: Path, about: About) -> bool:
        case = minimise(stage, target, lane, failed)
        if place.spec is None or place.spec.startswith(PROGRAM):
            write_case(folder, stage, lane, case)
        if place.spec is not None:
            asking = program_script if place.spec.startswith(PROGRAM) else script
            _write(folder, *asking(stage, lane, case, about))
        return case.again

    return _written(row, place, stage.name, fill)


def with_step(row: Row, target: Target, rules: Convention, place: Place, before: Inputs | None) -> Row:
    """The row of a whole run that failed, with the command for its first wrong step, from the state *before* it."""
    failed = row.first_failure
    if failed is None or before is None:
        return row
    stage, lane = stage_named("train_step"), Lane(failed.dtype, target.accumulation, rules)

    def fill(folder: Path, about: About) -> bool:
        case = Minimised(before, expectation_of(stage, before, lane), None, again=True)
        says = f"step {before['state'].step} of its own run, from the state that it had reached"
        _write(folder, *script(stage, lane, case, about._replace(says=says)))
        return True

    return _written(row, place, "train_step-run", fill)


def with_feed(row: Row, target: Target, rules: Convention, place: Place, seed: int) -> Row:
    """The row of a quantity of an allocator that failed, with the command that feeds it up to the failure."""
    failed = row.first_failure
    if failed is None:
        return row

    def fill(folder: Path, about: About) -> bool:
        case = minimise_feed(target, rules, failed, seed)
        _write(folder, *allocator_script(row.stage, case, about))
        return case.again

    return _written(row, place, f"allocator-{row.stage}", fill)


def with_formula(row: Row, run: Run, place: Place) -> Row:
    """The row of a recorded run that failed, with the command that shows the record beside what its formula makes."""
    if row.first_failure is None or (case := first_departure(run, row.stage)) is None:
        return row

    def fill(folder: Path, about: About) -> bool:
        _write(folder, *trace_script(case, about))
        return True

    return _written(row, place, f"trace-{row.stage}", fill)


# FOLDERS


def _written(row: Row, place: Place, name: str, fill: Fill) -> Row:
    """The row with the command for what *fill* has put into the folder of that name, or with why there is none."""
    folder, failed = place.folder / name, row.first_failure
    if why := refusal(place.folder):
        return row._replace(reproduction=f"not written: {why}")
    library = "numpy" if failed is None else failed.library
    about = About(folder / "repro.py", SMALL, place.spec or "", library, row.equation, row.diagnosis)
    try:
        again = _replace(folder, lambda fresh: fill(fresh, about))
    except OSError as error:
        return row._replace(reproduction=f"not written: {error}")
    said = folder.as_posix() if place.spec is None else f"python {about.file.as_posix()}"
    return row._replace(reproduction=said + ("" if again else UNSTEADY))


def _write(folder: Path, text: str, data: Data) -> None:
    """Write a script, and beside it the data that it reads."""
    (folder / "repro.py").write_text(text, encoding="utf-8")
    if data:
        np.savez_compressed(folder / "data.npz", **data)


def _replace(folder: Path, fill: Callable[[Path], bool]) -> bool:
    """Put a folder that *fill* fills in the place of the one of ours that may stand there; whole, or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh, before = (folder.with_name(f".{folder.name}.{os.getpid()}.{what}") for what in ("new", "old"))
    try:
        fresh.mkdir()
        (fresh / MARKER).touch()
        again = fill(fresh)
        if folder.exists():
            folder.replace(before)
        fresh.replace(folder)
    finally:
        if before.exists() and not folder.exists():
            before.replace(folder)
        for left in (fresh, before):
            shutil.rmtree(left, ignore_errors=True)
    return again
