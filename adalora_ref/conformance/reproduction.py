"""A folder for a failure: the case, made small, and a `repro.py` that shows it without the kit."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from adalora_ref.conformance.cases import Inputs
from adalora_ref.conformance.checking import stage_named
from adalora_ref.conformance.minimise import Minimised, expectation_of, minimise
from adalora_ref.conformance.minimise_feed import as_found, minimise_feed
from adalora_ref.conformance.script import of_a_step, script
from adalora_ref.conformance.script_allocator import allocator_script
from adalora_ref.conformance.script_parts import About, Data, command
from adalora_ref.conformance.script_program import program_script, write_case
from adalora_ref.conformance.script_trace import trace_script
from adalora_ref.conformance.scripted import SAID
from adalora_ref.conformance.stages import STAGES
from adalora_ref.conformance.target import Lane, Target
from adalora_ref.conformance.trace import EQUATIONS, Run
from adalora_ref.conformance.trace_case import first_departure
from adalora_ref.conformance.verdict import Check, Row
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
ALONE = "; run alone, it did not fail again"
"""What an unsteady script says of itself."""

SECONDS = 90.0
"""Time for one script to show its failure; it ends by itself after 60 s with a target that hangs."""

SMALL = "a case in which it failed, as small as it still did"


class Place(NamedTuple):
    """Where reproductions go, and by what name a script finds the target; without one it gets the case as data."""

    folder: Path
    spec: str | None


def refusal(folder: Path) -> str:
    """Why not every reproduction can be written into *folder*; nothing if each can."""
    return next(filter(None, (unwritable(folder), *(_foreign(folder / name) for name in NAMES))), "")


def unwritable(folder: Path) -> str:
    """Why nothing can be written into *folder*; nothing if it can."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists() or path.is_symlink())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        return f"reproductions must be written to a folder; {str(nearest)!r} is none, or cannot be written to"
    return ""


def _foreign(path: Path) -> str:
    """Why what stands there is not replaced; nothing where nothing stands, or what we put there."""
    ours = not path.is_symlink() and (not path.exists() or (path / MARKER).is_file())
    return "" if ours else f"{str(path)!r} is no reproduction, so it is not replaced by one"


# OF WHAT

Fill: TypeAlias = Callable[[Path, About], bool]
"""Puts a reproduction into a folder, and says whether the failure showed again when it was tried alone."""

Try: TypeAlias = tuple[Callable[[About], tuple[str, Data]], About]
"""A script as it may be, and of what it is."""


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
        about = about._replace(diagnosis=_of_fewer(row.diagnosis))
        about = about._replace(equation=of_a_step(failed, rules)) if stage.name == "train_step" else about
        if place.spec is None or place.spec.startswith(PROGRAM):
            write_case(folder, stage, lane, case)
        if place.spec is not None:
            asking = program_script if place.spec.startswith(PROGRAM) else script
            _write(folder, *asking(stage, lane, case, about))
        return case.again

    return _written(row, place, stage.name, fill)


def with_step(row: Row, target: Target, rules: Convention, place: Place, steps: Sequence[Inputs]) -> Row:
    """The row of a whole run that failed, with the command for the last of *steps*, the first one that is wrong.

    If it is wrong only after the steps before it, because the target remembers them, the script makes these first.
    """
    failed = row.first_failure
    if failed is None or not steps:
        return row
    stage, lane = stage_named("train_step"), Lane(failed.dtype, target.accumulation, rules)
    *earlier, last = steps

    def fill(folder: Path, about: About) -> bool:
        alone = Minimised(last, expectation_of(stage, last, lane), (), again=True)
        step = str(last["state"].step)
        says = f"step {step} of its own run, from the state that it had reached"
        about = about._replace(says=says, step=step, equation=of_a_step(failed, rules))
        tries: list[Try] = [(partial(script, stage, lane, alone), about)]
        if earlier:
            whole = alone._replace(before=tuple(earlier))
            after = about._replace(says=f"{says}, after the steps before it")
            tries.append((partial(script, stage, lane, whole), after))
        return _first_shown(folder, tries, failed)

    return _written(row, place, "train_step-run", fill)


def with_feed(row: Row, target: Target, rules: Convention, place: Place, seed: int) -> Row:
    """The row of a quantity of an allocator that failed, with the command that feeds it up to the failure."""
    failed = row.first_failure
    if failed is None:
        return row

    def fill(folder: Path, about: About) -> bool:
        case = minimise_feed(target, rules, failed, seed)
        last = len(case.feed.steps) - 1
        about = about._replace(step=f"{last}, the last that it is fed", diagnosis=_of_fewer(row.diagnosis))
        step = f"{failed.case.rpartition('/step ')[2]}, when it is fed for the second time"
        second = about._replace(says="a case in which it failed, after a whole one", step=step)
        tries: list[Try] = [(partial(allocator_script, row.stage, case), about), (fed_before, second)]
        return _first_shown(folder, tries, failed)

    def fed_before(about: About) -> tuple[str, Data]:
        case, whole = as_found(rules, failed, seed)
        return allocator_script(row.stage, case, about, whole)

    return _written(row, place, f"allocator-{row.stage}", fill)


def with_formula(row: Row, run: Run, place: Place) -> Row:
    """The row of a recorded run that failed, with the command that shows the record beside what its formula makes."""
    if row.first_failure is None or (case := first_departure(run, row.stage)) is None:
        return row

    def fill(folder: Path, about: About) -> bool:
        _write(folder, *trace_script(case, about._replace(step=str(case.step))))
        return True

    return _written(row, place, f"trace-{row.stage}", fill)


def _of_fewer(diagnosis: str) -> str:
    """What of a diagnosis holds for a smaller case too: a known mistake, but no size and no dependence."""
    return diagnosis if diagnosis.startswith("matches `") else ""


# IN A PROCESS OF ITS OWN


def _first_shown(folder: Path, tries: Sequence[Try], failed: Check) -> bool:
    """Write the first of the scripts that shows the failure; else the first of all, which says that it does not."""
    for text, about in tries:
        _write(folder, *text(about))
        if "took longer than" in failed.reason or _shows(folder / "repro.py"):  # to hang again takes a minute
            return True
    text, about = tries[0]
    _write(folder, *text(about._replace(says=about.says + ALONE)))
    return False


def _shows(file: Path) -> bool:
    """Whether a script that starts anew where the user stands ends with status 1."""
    run = [sys.executable, str(file)]
    try:
        done = subprocess.run(run, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False)  # noqa: S603  our own
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 1


# FOLDERS


def _written(row: Row, place: Place, name: str, fill: Fill) -> Row:
    """The row with the command for what *fill* has put into the folder of that name, or with why there is none."""
    folder, failed = place.folder / name, row.first_failure
    if why := unwritable(place.folder) or _foreign(folder):
        return row._replace(reproduction=f"not written: {why}")
    library = "numpy" if failed is None else failed.library
    about = About(folder / "repro.py", SMALL, place.spec or "", library, row.equation, row.diagnosis)
    try:
        again = _replace(folder, lambda fresh: fill(fresh, about))
    except OSError as error:
        return row._replace(reproduction=f"not written: {error}")
    said = shlex.quote(folder.as_posix()) if place.spec is None else command(about.file)
    return row._replace(reproduction=said + ("" if again else UNSTEADY))


def _write(folder: Path, text: str, data: Data) -> None:
    """Write a script, and beside it the data that it reads."""
    (folder / "repro.py").write_text(text, encoding="utf-8")
    (folder / "data.npz").unlink(missing_ok=True)
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
