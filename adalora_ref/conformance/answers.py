"""Results of a suite of golden vectors: written by a target in Python, read from anywhere.

They are a folder with a safetensors file for each case, NAME.safetensors, whose tensors are named as in the JSON of the
case; or one safetensors file whose tensors are named NAME/result.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from adalora_ref.array import Array
from adalora_ref.conformance.checking import absent
from adalora_ref.conformance.limits import SECONDS, OutOfTime
from adalora_ref.conformance.suite import Case, Manifest, inside, read_case, read_manifest
from adalora_ref.conformance.suite_writing import Track, new_folder, untracked
from adalora_ref.conformance.target import Target, on_host, spoken
from adalora_ref.conformance.tensor_files import read, write
from adalora_ref.conformance.untrusted import printable, shown

ENDING = ".safetensors"

HEADROOM = 2**20
"""Bytes that a file of results may have beyond four times those of the expected arrays."""


class Given(NamedTuple):
    """What was handed in for one case: arrays by their spoken name, and the case that the file says it is of."""

    outputs: dict[str, Array]
    says: str | None = None


# WRITTEN


def answer(folder: Path, results: Path, target: Target, *, track: Track = untracked) -> Counter[str]:
    """Let a target answer a suite; write its results into a folder that does not exist yet, or is empty.

    Returns
    -------
    Counter of str
        Why cases have no result: how many for each reason.
    """
    manifest, silent = read_manifest(folder), Counter[str]()
    with new_folder(results) as beside:
        for name in track(list(manifest.cases), "answering"):
            outputs = _answer(target, read_case(folder, manifest, name))
            if isinstance(outputs, str):
                silent[outputs] += 1
                continue
            path = beside / (name + ENDING)
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, outputs, {"case": name})
    return silent


def _answer(target: Target, case: Case) -> dict[str, Array] | str:
    """The target's results of a case; or, in words, why there are none."""
    if why := absent(case.stage, target, case.lane, case.inputs):
        return why
    try:
        with target.limit(SECONDS):
            outputs = target.answer(case.stage, target.hand_over(case.inputs), case.lane)
            return {spoken(path): on_host(value) for path, value in outputs.items()}
    except OutOfTime:
        return f"{case.stage.name} took longer than {SECONDS:g} s"
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a target raises, it gives no result
        return f"{case.stage.name} raised {printable(f'{type(error).__name__}: {error}', 200)}"


# READ


class Results:
    """Results at a path, read case by case.

    Raises
    ------
    ValueError
        If there is neither folder nor file, or a result of no case of the suite; while reading, if a file is not what
        it should be.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._path = path
        self._held: dict[str, dict[str, Array]] | None = None
        if path.is_dir():
            names = [name.removesuffix(ENDING) for name in _files(path) if name.endswith(ENDING)]
        elif path.is_file():
            self._held = _by_case(path)
            names = list(self._held)
        else:
            raise ValueError(f"there is no folder and no file of results {str(path)!r}")
        if strange := sorted(name for name in names if name not in manifest.cases)[:1]:
            raise ValueError(f"{path} has results of {shown(strange[0], 120)}, which is no case of the suite")
        self._names = set(names)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def of(self, case: Case) -> Given | None:
        """What was handed in for a case, if anything was."""
        if case.name not in self:
            return None
        if self._held is not None:
            return Given(self._held[case.name])
        size = sum(8 * e.high.size for e in case.expected.values())
        held = read(inside(self._path, case.name + ENDING), 4 * size + HEADROOM)
        return Given(held.tensors, held.metadata.get("case"))


def _files(folder: Path) -> Iterator[str]:
    """Every file below a folder, by its path in it; ValueError for a link."""
    for here, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if (Path(here) / name).is_symlink():
                raise ValueError(f"results must be files of the folder itself; {Path(here) / name} is a link")
        yield from ((Path(here) / name).relative_to(folder).as_posix() for name in files)


def _by_case(path: Path) -> dict[str, dict[str, Array]]:
    """The tensors of one file by case; four parts of a name are the case, the rest is the result."""
    held: dict[str, dict[str, Array]] = {}
    for name, a in read(path).tensors.items():
        parts = name.split("/", 4)
        if len(parts) < 5:
            raise ValueError(f"{path}: a tensor is named stage/dtype/source/number/result; got {name!r}")
        held.setdefault("/".join(parts[:4]), {})[parts[4]] = a
    return held
