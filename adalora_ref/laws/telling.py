"""What is said of a failure: the case as a table, every call with its result, and the call that departs."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adalora_ref.conformance.target import spoken
from adalora_ref.conformance.verdict import Divergence
from adalora_ref.laws.asking import Answer, Failed
from adalora_ref.laws.literal import source

if TYPE_CHECKING:
    from adalora_ref.laws.running import Failure

MOST_CALLS = 12


def case_rows(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """One row for each array or number of an argument, spelled so that it can be typed in again."""
    if hasattr(value, "s") and hasattr(value, "B"):
        for part in "BsA":
            yield f"{name}.{part}", _short(getattr(value, part))
    elif isinstance(value, dict) and value:
        for key, item in value.items():
            yield from case_rows(f"{name}[{key}]", item)
    elif hasattr(value, "_fields"):
        for key in value._fields:
            yield from case_rows(f"{name}.{key}", getattr(value, key))
    elif isinstance(value, list | tuple) and any(not isinstance(item, bool | int | float | str) for item in value):
        for index, item in enumerate(value):
            yield from case_rows(f"{name}[{index}]", item)
    else:
        yield name, _short(value)


def calls_in_words(failure: Failure) -> Iterator[str]:
    """The calls with their results, then the one that departs, and where it raised."""
    yield "calls"
    for call in failure.calls[-MOST_CALLS:]:
        yield f"  {call.stage.name} → {_result(call)}"
    if len(failure.calls) > MOST_CALLS:
        yield f"  and {len(failure.calls) - MOST_CALLS} before them"
    departs = failure.departing()
    if departs is not None and (where := departs.departure()) is not None:
        named = "" if isinstance(departs, Failed) else f"{departs.stage.name}, "
        yield f"departs  {named}{indented(_where(where))}"
    if isinstance(departs, Failed) and departs.error is not None:
        for frame in _their_frames(departs.error):
            yield f"raised   {frame}"


def indented(text: str) -> str:
    """A text of several lines, set in below its first."""
    return text.replace("\n", "\n    ")


def _result(call: Answer | Failed) -> str:
    if isinstance(call, Failed):
        return "no answer to work with"
    return ", ".join(f"{spoken(path)} = {a.tolist()}" for path, a in call.host.items())


def _where(where: Divergence | str) -> str:
    if isinstance(where, str):
        return where
    bound = f"{where.bound:.3g}" if where.bound else "0, since nothing rounds here"
    return f"{where.where}: got {where.got!r}, expected {where.expected!r}, bound {bound}"


def _their_frames(error: BaseException) -> list[str]:
    """The lines of the target's own code through which the error came, the innermost last; a few of them."""
    kit = str(Path(__file__).parent.parent)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(kit)]
    return [f"in {frame.name}, {frame.filename}:{frame.lineno}" for frame in frames[-3:]]


def _short(value: Any) -> str:
    return str(value.tolist()) if hasattr(value, "tolist") else source(value)
