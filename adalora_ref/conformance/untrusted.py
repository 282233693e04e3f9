"""What comes from outside: JSON that has one reading alone, and text that is safe to show."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def parse_json(data: bytes) -> Any:
    """Return what *data* says in JSON.

    Raises
    ------
    ValueError
        If it is no JSON, or JSON that two readers may understand in two ways: a key twice, NaN and infinity, bytes that
        are no UTF-8, nesting without end.
    """
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except ValueError as error:
        raise ValueError(printable(str(error), 160)) from None


def shown(value: Any, most: int = 160) -> str:
    """Return the beginning of a value that was parsed, as it may stand in a message."""
    try:
        return printable(repr(value), most)
    except RecursionError:
        return f"a {type(value).__name__} that is nested too deep"


def printable(text: str, most: int) -> str:
    """Return at most so many characters of *text*, on one line, none of which steers a terminal or breaks XML."""
    held = "".join(c if c.isprintable() else " " for c in text[: most + 1])
    return held if len(held) <= most else held[:most] + "…"


def visible(text: str) -> str:
    """Replace what cannot be seen: control characters and signs that turn the direction of text around."""
    return "".join(c if c.isprintable() or c in "\n\t" else " " if c.isspace() else "\ufffd" for c in text)


def what_was_raised(error: BaseException) -> str:
    """Return what was raised by code of someone else, as it may stand in a verdict."""
    return visible(f"{type(error).__name__}: {error}")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    held = dict(pairs)
    if len(held) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:80]!r} stands there twice")
    return held


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number in JSON")
