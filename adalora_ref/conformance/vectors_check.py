"""Results of a suite of golden vectors, judged by the bounds that the suite holds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar

from adalora_ref.array import Array
from adalora_ref.conformance.answers import Given, Results
from adalora_ref.conformance.checking import compare_all
from adalora_ref.conformance.diagnosis import matching_conventions, recognised, right_under, unmatched
from adalora_ref.conformance.limits import SECONDS, OutOfTime, time_limit
from adalora_ref.conformance.seen import NOT_DRAWN, Seen
from adalora_ref.conformance.serial import path_of
from adalora_ref.conformance.stages import STAGES, Stage
from adalora_ref.conformance.suite import Case, Manifest, read_case, read_manifest
from adalora_ref.conformance.suite_writing import Track, untracked
from adalora_ref.conformance.target import Target
from adalora_ref.conformance.untrusted import printable, shown
from adalora_ref.conformance.verdict import Check, Row, Verdict, row

LIBRARY = "results"
"""Stands where a check of a target has its array library."""

T = TypeVar("T")

Form: TypeAlias = frozenset[tuple[str, tuple[int, ...], str]]


class Judged(NamedTuple):
    """A case and what came of it; `seen` is kept where a diagnosis may need it."""

    case: Case
    check: Check
    seen: Seen | None = None


def check(folder: Path, results: Path, *, track: Track = untracked) -> tuple[Manifest, tuple[Row, ...]]:
    """Judge results by a suite; return what the suite says of itself, and a row for each of its stages.

    Raises
    ------
    ValueError
        If the suite or the results are not what they should be; no part of them has been judged then.
    """
    manifest = read_manifest(folder)
    held = Results(results, manifest)
    judged: dict[str, list[Judged]] = defaultdict(list)
    for name in track(list(manifest.cases), "checking"):
        case = read_case(folder, manifest, name)
        judged[case.stage.name].append(_judge(case, held.of(case)))
    others = _by_form(
        j for found in judged.values() for j in found if j.check.verdict in (Verdict.FAIL, Verdict.NOT_RUN)
    )
    return manifest, tuple(_row(stage, judged[stage.name], others) for stage in STAGES if stage.name in judged)


def _judge(case: Case, given: Given | None) -> Judged:
    """Hold one result against what the suite expects."""
    form = (case.stage.name, case.name, LIBRARY, case.lane.dtype)
    if given is None:
        return Judged(case, Check(*form, Verdict.NOT_RUN, reason="there is no result"))
    if given.says not in (None, case.name):
        reason = f"these are the results of case {shown(given.says, 120)}, as their metadata says"
        return Judged(case, Check(*form, Verdict.FAIL, math.inf, reason=reason))
    outputs = {path_of(name): a for name, a in given.outputs.items()}
    if len(outputs) != len(given.outputs):
        outputs = dict(given.outputs)
    verdict, ratio, divergence, reason = compare_all(outputs, case.expected)
    found = Check(*form, verdict, ratio, divergence, printable(reason, 400))
    nobody = Target(LIBRARY, None)
    failed = verdict is Verdict.FAIL
    seen = Seen(nobody, case.lane, 0, NOT_DRAWN, case.inputs, {}, outputs, case.expected, failed)
    return Judged(case, found, seen)


def _row(stage: Stage, judged: Sequence[Judged], others: Mapping[Form, Sequence[Case]]) -> Row:
    """Sum up a stage, and say why it failed: a known mistake, results in the wrong place, another convention."""
    rules = judged[0].case.lane.convention
    seen = [j.seen for j in judged if j.seen is not None]
    said = _guarded(partial(recognised, stage, seen), "")
    moved = {} if said else _misplaced(judged, others)
    checks = [_in_the_place_of(j.check, moved) for j in judged]
    alike: tuple[str, ...] = ()
    if any(case.failed for case in seen) and not moved:
        alike = _guarded(partial(matching_conventions, stage, seen, rules), alike)
        said = said or right_under(alike) or _guarded(partial(unmatched, stage, seen), "")
    found = row(stage.name, stage.equation_under(rules), _with_names(checks), partial(str, said))
    return found._replace(conventions=alike)


def _guarded(say: Callable[[], T], otherwise: T) -> T:
    """What a diagnosis says; *otherwise* where it cannot compute with the arguments: they may be anything."""
    try:
        with time_limit(SECONDS):
            return say()
    except (Exception, OutOfTime):  # noqa: BLE001  the verdict does not hang on it
        return otherwise


def _in_the_place_of(found: Check, moved: Mapping[str, str]) -> Check:
    if found.case not in moved:
        return found
    return found._replace(divergence=None, reason=f"these are the results of case {moved[found.case]!r}")


def _with_names(checks: Sequence[Check]) -> Iterator[Check]:
    """Name the cases that lack a result, where others of their stage have one."""
    partly = any(found.verdict is not Verdict.NOT_RUN for found in checks)
    for found in checks:
        lacking = partly and found.verdict is Verdict.NOT_RUN
        yield found._replace(reason=f"there is no result of {found.case}") if lacking else found


# WRONG PLACES


def _by_form(judged: Iterable[Judged]) -> dict[Form, list[Case]]:
    """Cases that have no right result, by the form that a right one would have."""
    held = defaultdict(list)
    for found in judged:
        expected = found.case.expected
        held[frozenset((name, want.high.shape, want.dtype) for name, want in expected.items())].append(found.case)
    return held


def _misplaced(judged: Sequence[Judged], others: Mapping[Form, Sequence[Case]]) -> dict[str, str]:
    """The cases whose results are right for another case, with that one; none unless this explains all that is wrong.

    A wrong result may be another case's by chance, if it is a mask of two triplets; all of a stage will not be.
    """
    found: dict[str, str] = {}
    for failed in (j for j in judged if j.seen is not None and j.seen.failed):
        outputs = failed.seen.outputs if failed.seen else {}
        right = next((case.name for case in others.get(_form(outputs), ()) if _is_right(outputs, case)), None)
        if right is None:
            return {}
        found[failed.case.name] = right
    return found


def _form(outputs: Mapping[str, Array]) -> Form:
    return frozenset((name, a.shape, a.dtype.name) for name, a in outputs.items())


def _is_right(outputs: dict[str, Array], case: Case) -> bool:
    return compare_all(outputs, case.expected)[0] is not Verdict.FAIL
