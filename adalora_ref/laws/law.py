"""What a law is: a function with one sentence, the stages it needs, the cases it is about, and a mistake it catches."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from hypothesis.strategies import SearchStrategy

from adalora_ref.conformance.cases import Inputs
from adalora_ref.conformance.target import Target
from adalora_ref.laws.asking import Asked

CaseOf: TypeAlias = Callable[[str], SearchStrategy[Inputs]]
"""From the name of a dtype to the cases in it."""


class Law(NamedTuple):
    """One law.

    Attributes
    ----------
    holds
        (asked, case) -> None; raises `Broken` with a message that names both sides.
    stages
        The public functions that it calls.
    cases
        What is drawn, by dtype.
    broken_by
        The entry of the catalogue of mistakes that breaks it; None for the two that no single function can break.
    options
        Optional arguments without which it says nothing.
    examples
        Cases that are always tried, each with its dtype.
    one_of
        Public functions of which it needs one at least.
    """

    holds: Callable[[Asked, Any], None]
    stages: tuple[str, ...]
    cases: CaseOf
    broken_by: str | None
    options: tuple[str, ...] = ()
    examples: tuple[tuple[str, Inputs], ...] = ()
    one_of: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.holds.__name__

    @property
    def says(self) -> str:
        """Its sentence, in words and formula."""
        return (inspect.getdoc(self.holds) or "").partition("\n\n")[0].replace("\n", " ")

    def lacking(self, target: Target) -> str:
        """What the target lacks for this law, or nothing."""
        missing = [name for name in self.stages if target.function(name) is None]
        if missing:
            return f"the target has no {' and no '.join(missing)}"
        if self.one_of and not any(target.function(name) for name in self.one_of):
            return f"the target has none of {', '.join(self.one_of)}"
        absent = [o for o in self.options if all(target.lacks_option(stage, o) for stage in self.stages)]
        return f"the target's {self.stages[0]} takes no {' and no '.join(absent)}" if absent else ""
