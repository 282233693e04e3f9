"""A verdict as `adalora-ref verify --json` wrote it, read back without believing it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from adalora_ref.conformance.bad_input import Handed
from adalora_ref.conformance.findings import Finding, Kind, Observed
from adalora_ref.conformance.report import FORMAT, Report
from adalora_ref.conformance.untrusted import parse_json, shown
from adalora_ref.conformance.verdict import Check, Divergence, Growth, Row, Verdict

T = TypeVar("T")
Reader = Callable[[Any, str], Any]
"""Turns plain data, which stands at the place that the second argument names, into what it means; or ValueError."""


class Stored(NamedTuple):
    """A verdict, by which version of the package and of the specification it was given, and what else was installed."""

    report: Report
    package: str
    specification: str
    versions: dict[str, str]


def read_verdict(path: Path) -> Stored:
    """Read the verdict in a file.

    Raises
    ------
    ValueError
        If it is no JSON, is cut off, has another format, or a value is not what it must be; the message says where.
    """
    try:
        said = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON or is cut off: {error}") from None
    found = said.get("format") if isinstance(said, dict) else None
    if found != FORMAT:
        raise ValueError(
            f"{path} must be a verdict that `adalora-ref verify --json` wrote, of the format {FORMAT!r}; "
            f"{f'its format is {shown(found)}' if found else 'it has none'}"
        )
    try:
        return Stored(
            _report(said, ""),
            _text(_at(said, "adalora_ref", ""), "adalora_ref"),
            _text(_at(said, "specification", ""), "specification"),
            _texts(_at(said, "versions", ""), "versions"),
        )
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


# WHAT A VALUE MUST BE


def _wrong(where: str, rule: str, value: Any) -> ValueError:
    return ValueError(f"{where or 'the whole'} must be {rule}; got {shown(value)}")


def _at(value: Any, key: str, where: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    if key not in value:
        raise ValueError(f"{where or 'the whole'} lacks {key!r}")
    return value[key]


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(where, "text", value)
    return value


def _texts(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    return {name: _text(held, f"{where}.{name}") for name, held in value.items()}


def _count(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _wrong(where, "an integer from 0 on", value)
    return value


def _number(value: Any, where: str) -> float:
    """A number, or the word for one that is not finite."""
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not real and value not in ("inf", "-inf", "nan"):
        raise _wrong(where, "a number", value)
    try:
        return float(value)
    except OverflowError:
        raise _wrong(where, "a number that a double can hold", value) from None


def _value(value: Any, where: str) -> float:
    """What an element is: true or false, an integer, or a number; each stays what it was."""
    if isinstance(value, bool):
        return value
    number = _number(value, where)
    return value if isinstance(value, int) else number


def _status(value: Any, where: str) -> int:
    if value not in (0, 1, 3) or isinstance(value, bool):
        raise _wrong(where, "0, 1 or 3", value)
    return int(value)


def _maybe(read: Reader) -> Reader:
    return lambda value, where: None if value is None else read(value, where)


def _many(read: Reader) -> Reader:
    def several(value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _wrong(where, "a list", value)
        return tuple(read(held, f"{where}[{i}]") for i, held in enumerate(value))

    return several


def _one_of(words: Callable[[Any], T]) -> Reader:
    def word(value: Any, where: str) -> T:
        try:
            return words(_text(value, where))
        except ValueError:
            raise _wrong(where, "a word that this version knows", value) from None

    return word


def _record(kind: Callable[..., T], fields: Mapping[str, Reader]) -> Reader:
    """Read an object by its fields; what it has beside them is passed over."""

    def record(value: Any, where: str) -> T:
        inside = f"{where}." if where else ""
        return kind(**{name: read(_at(value, name, where), f"{inside}{name}") for name, read in fields.items()})

    return record


_DIVERGENCE = _record(
    Divergence,
    {
        "quantity": _text,
        "element": _many(_count),
        **dict.fromkeys(("got", "expected"), _value),
        **dict.fromkeys(("bound", "ratio", "ulps"), _number),
    },
)
_CHECK = _record(
    Check,
    {
        **dict.fromkeys(("stage", "case", "library", "dtype"), _text),
        "verdict": _one_of(Verdict),
        "ratio": _number,
        "divergence": _maybe(_DIVERGENCE),
        **dict.fromkeys(("reason", "known", "link"), _text),
    },
)
_GROWTH = _record(Growth, {"lane": _text, "step": _count, "apart": _number})
_ROW = _record(
    Row,
    {
        **dict.fromkeys(("stage", "equation"), _text),
        "verdict": _one_of(Verdict),
        "checks": _many(_CHECK),
        **dict.fromkeys(("diagnosis", "note", "reproduction"), _text),
        "conventions": _many(_text),
        "growth": _many(_GROWTH),
    },
)
_FINDING = _record(
    Finding,
    {
        **dict.fromkeys(Finding._fields, _text),
        "kind": _one_of(Kind),
        "observed": _one_of(Observed),
    },
)
_report = _record(
    Report,
    {
        **dict.fromkeys(("target", "convention", "preset"), _text),
        "seed": _count,
        "rows": _many(_ROW),
        "status": _status,
        "findings": _many(_FINDING),
        **dict.fromkeys(("unexpected", "missing"), _many(_text)),
        "bad_input": _many(_record(Handed, dict.fromkeys(Handed._fields, _text))),
    },
)
