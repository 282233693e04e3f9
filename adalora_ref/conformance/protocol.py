"""What the kit and a program say to each other: protocol 1, a JSON object a line. docs/verify/program.md has it all.

Here are words alone, as bytes: what the kit writes, and what is made of a line that comes back. Nothing of such a line
is believed before it has been checked.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from adalora_ref.conformance.cases import NUMPY_DTYPES
from adalora_ref.conformance.stages import STAGES
from adalora_ref.conformance.target import CannotExpress, TargetError
from adalora_ref.conformance.untrusted import parse_json, printable, shown

PROTOCOL = 1

OPTIONS = {stage.name: stage.options for stage in STAGES}
"""The optional arguments of each stage."""


class ProtocolError(TargetError):
    """A program that does not keep to the protocol, so that nothing can be said of what it computes."""


class ProgramError(Exception):
    """A case that the program was unable to compute, in its own words: a failed check."""


class Hello(NamedTuple):
    """What a program says of itself: its name, and what it can be asked."""

    name: str
    stages: tuple[str, ...]
    dtypes: tuple[str, ...]
    accumulation: str
    options: dict[str, tuple[str, ...]]


# WHAT THE KIT SAYS


def hello() -> bytes:
    """The first line."""
    return _line({"protocol": PROTOCOL, "hello": "adalora-ref"})


def request(number: int, case: Mapping[str, Any], tensors: Path, results: Path) -> bytes:
    """A line that asks for one case: its arrays lie in the file *tensors*, what comes of it belongs in *results*."""
    return _line({"id": number, "case": case, "tensors": str(tensors), "results": str(results)})


def _line(value: Mapping[str, Any]) -> bytes:
    """JSON in UTF-8; of escapes there are only those that JSON demands, so that a simple reader is enough."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"


# WHAT A PROGRAM ANSWERS


def read_hello(line: bytes) -> Hello:
    """Take the answer to the first line apart; ProtocolError says what is wrong with it."""
    held = _object(line)
    version = held.get("protocol")
    if type(version) is not int or version != PROTOCOL:
        raise ProtocolError(f"the program must speak protocol {PROTOCOL}; it speaks {shown(version)}")
    name = held.get("name")
    if not (isinstance(name, str) and name.strip()):
        raise ProtocolError(f"the program must tell its name, a string; got {shown(name)}")
    stages = _names(held, "stages", OPTIONS)
    accumulation = held.get("accumulation", "float32")
    if not (isinstance(accumulation, str) and accumulation in NUMPY_DTYPES):
        known = ", ".join(NUMPY_DTYPES)
        raise ProtocolError(f"the program's accumulation must be one of {known}; got {shown(accumulation)}")
    dtypes = _names(held, "dtypes", NUMPY_DTYPES)
    return Hello(printable(name, 120), stages, dtypes, accumulation, _options(held.get("options", {}), stages))


def read_answer(line: bytes, number: int) -> None:
    """Return if the program has computed the case of that number.

    Raises
    ------
    CannotExpress
        If it refuses the case.
    ProgramError
        If it was unable to compute it.
    ProtocolError
        If the line is no answer, or one to another request.
    """
    held = _object(line)
    answered = held.get("id")
    if type(answered) is not int or answered != number:
        raise ProtocolError(f"the program must answer the request with id {number}; it answered id {shown(answered)}")
    said = [key for key in ("ok", "refused", "error") if key in held]
    if len(said) != 1:
        raise ProtocolError(f"the program must answer with one of ok, refused and error; got {shown(said)}")
    reason = held[said[0]]
    if said == ["ok"]:
        if reason is not True:
            raise ProtocolError(f"the program must answer ok: true, or refuse with a reason; got ok: {shown(reason)}")
        return
    if not (isinstance(reason, str) and reason.strip()):
        raise ProtocolError(f"the program must say why, in a string, after {said[0]}; got {shown(reason)}")
    raise (CannotExpress if said == ["refused"] else ProgramError)(printable(reason, 300))


def _object(line: bytes) -> dict[str, Any]:
    try:
        held = parse_json(line)
    except ValueError as error:
        text = printable(line[:200].decode("utf-8", "replace"), 80)
        raise ProtocolError(f"the program must answer in JSON, one object a line; got {text!r} ({error})") from None
    if not isinstance(held, dict):
        raise ProtocolError(f"the program must answer with a JSON object; got {shown(held)}")
    return held


def _names(held: Mapping[str, Any], key: str, known: Collection[str]) -> tuple[str, ...]:
    """A list of different names, all of them known."""
    names = held.get(key)
    if not (isinstance(names, list) and names and all(isinstance(name, str) and name in known for name in names)):
        raise ProtocolError(f"the program's {key} must be a list of names among {', '.join(known)}; got {shown(names)}")
    if len(set(names)) != len(names):
        raise ProtocolError(f"the program's {key} must be named once each; got {shown(names)}")
    return tuple(names)


def _options(given: Any, stages: Collection[str]) -> dict[str, tuple[str, ...]]:
    """By stage the optional arguments that the program takes: all, where it says nothing of a stage."""
    if not (isinstance(given, dict) and all(stage in stages for stage in given)):
        raise ProtocolError(f"the program's options must be lists of names by stage, of its stages; got {shown(given)}")
    for stage, names in given.items():
        if not (isinstance(names, list) and all(isinstance(n, str) and n in OPTIONS[stage] for n in names)):
            known = ", ".join(OPTIONS[stage]) or "none"
            raise ProtocolError(f"the program's options of {stage} must be among {known}; got {shown(names)}")
    return {stage: tuple(given.get(stage, OPTIONS[stage])) for stage in stages}
