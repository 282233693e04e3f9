"""What an entry of the catalogue is: one known mistake or convention, as a drop-in for one public function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Deviation(NamedTuple):
    """One known mistake or convention: a name, the function it sits in, a sentence, and what it computes.

    `equivalent` says why what looks like a difference is none: such an entry must pass every check.
    """

    name: str
    stage: str
    says: str
    function: Callable[..., Any]
    equivalent: str = ""
