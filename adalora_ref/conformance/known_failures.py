"""Failures that are known: a TOML file of patterns and reasons, strict, so that a repaired one is noticed."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from adalora_ref.conformance.verdict import Row, Verdict, judge

KEYS = ("pattern", "reason", "link")


class Known(NamedTuple):
    """Checks that are known to fail: those whose id matches the pattern, why, and where it is written down."""

    pattern: str
    reason: str
    link: str = ""


def read_known(path: Path) -> tuple[Known, ...]:
    """Read a TOML file with ``[[known]]`` tables of pattern, reason and, if wanted, link.

    Raises
    ------
    ValueError
        If there is no such file, or it breaks a rule; the message names the file and the entry.
    """
    if not path.is_file():
        raise ValueError(f"known failures must stand in a file that exists; got {str(path)!r}")
    try:
        held = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no TOML: {error}") from None
    entries = held.pop("known", [])
    if held or not isinstance(entries, list):
        raise ValueError(f"{path} must hold [[known]] tables and nothing else; got {', '.join(held) or 'known'}")
    return tuple(_known(entry, f"{path}: entry {number}") for number, entry in enumerate(entries, 1))


def _known(entry: Any, where: str) -> Known:
    if not isinstance(entry, dict) or not entry.keys() <= set(KEYS):
        given = ", ".join(entry) if isinstance(entry, dict) else repr(entry)
        raise ValueError(f"{where} of known must be a table of {', '.join(KEYS)}; got {given}")
    for key in KEYS[:2]:
        if key not in entry:
            raise ValueError(f"{where} of known needs a {key}; got {', '.join(entry) or 'nothing'}")
    for key, value in entry.items():
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{where} of known must have text as its {key}; got {value!r}")
    return Known(**entry)


def matching(case: str, known: Sequence[Known]) -> Known | None:
    """The first entry whose pattern the id of a check matches."""
    return next((entry for entry in known if fnmatchcase(case, entry.pattern)), None)


def mark(row: Row, known: Sequence[Known]) -> Row:
    """The row, with those of its failures that are known as KNOWN; marking it again changes nothing."""
    checks = []
    for check in row.checks:
        entry = matching(check.case, known) if check.verdict is Verdict.FAIL else None
        if entry is not None:
            check = check._replace(verdict=Verdict.KNOWN, known=entry.reason, link=entry.link)  # noqa: PLW2901
        checks.append(check)
    if tuple(checks) == row.checks:
        return row
    return row._replace(checks=tuple(checks), verdict=judge(check.verdict for check in checks))


def unexpected(rows: Sequence[Row], known: Sequence[Known]) -> tuple[str, ...]:
    """A sentence for each entry that matches no failure, which is as wrong as a failure that is not known."""
    sentences = []
    for entry in known:
        ran = [
            c for r in rows for c in r.checks if c.verdict is not Verdict.NOT_RUN and fnmatchcase(c.case, entry.pattern)
        ]
        if not any(check.verdict is Verdict.KNOWN for check in ran):
            passed = f"{len(ran)} checks ran that match it, and none failed" if ran else "no check that matches it ran"
            sentences.append(f"the known failure {entry.pattern!r} did not show: {passed}; {entry.reason}")
    return tuple(sentences)
