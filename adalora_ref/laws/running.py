"""Running laws by Hypothesis: one case, or as tests of one's own suite."""

from __future__ import annotations

import math
import time
import unittest
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import hypothesis
from hypothesis import HealthCheck
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException

from adalora_ref.conformance.bounds import ARITHMETIC
from adalora_ref.conformance.expectations import Undecided
from adalora_ref.conformance.limits import SECONDS
from adalora_ref.conformance.target import CannotExpress, Target
from adalora_ref.conformance.verdict import Divergence
from adalora_ref.laws.asking import Answer, Asked, Failed, Hung
from adalora_ref.laws.law import Law
from adalora_ref.laws.measured import Broken
from adalora_ref.laws.telling import calls_in_words

LAX: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck), "report_multiple_bugs": False}

PROFILES: dict[str, hypothesis.settings] = {
    "quick": hypothesis.settings(max_examples=8, stateful_step_count=15, derandomize=True, **LAX),
    "long": hypothesis.settings(max_examples=5000, stateful_step_count=30, derandomize=False, **LAX),
}
"""Two ways to run laws: the same few cases every time, and many new ones."""


class Failure(NamedTuple):
    """The smallest case that was found to break a law: its dtype, the case, what was asked, and the message.

    A machine has no case but *steps*, the rules that it ran; *blob* is what `reproduce_failure` takes.
    """

    dtype: str
    case: Any
    calls: tuple[Answer | Failed, ...]
    message: str
    blob: str = ""
    steps: str = ""

    def departing(self) -> Answer | Failed | None:
        """The first call whose answer lies beyond its bound, else the first call; a law holds where all are within."""
        beyond = [call for call in self.calls if call.departure() is not None]
        return next(iter([*beyond, *self.calls]), None)


@dataclass
class Watch:
    """What happens while a law runs.

    Attributes
    ----------
    examples
        How many cases held before the first that did not.
    failure
        The smallest case so far that did not.
    calls
        What a machine asked last.
    end
        When the total of time is up, by `time.monotonic`.
    """

    examples: int = 0
    failure: Failure | None = None
    calls: list[Answer | Failed] = field(default_factory=list)
    end: float = math.inf

    def seconds(self) -> float:
        """How long a call may take: a minute, or what is left of the total, but a second in any case."""
        return min(SECONDS, max(1.0, self.end - time.monotonic()))

    def hold(self) -> None:
        """Count a case that held; those that are tried while a failure is made smaller are no search."""
        self.examples += self.failure is None

    def require_time(self) -> None:
        """End what makes a failure smaller once the total of time is up."""
        if self.failure is not None and time.monotonic() > self.end:
            raise Hung("the time is up; the case may not be the smallest")


def check(law: Law, target: Target, dtype: str, case: Any) -> None:
    """Hold one case against a law; raise `Broken`, with both sides, if it does not hold."""
    try:
        _held(law, target, dtype, case, Watch())
    except Hung as error:
        raise Broken(str(error)) from None


def _held(law: Law, target: Target, dtype: str, case: Any, watch: Watch) -> None:
    """Ask first without bounds, since what is equal needs none; then judge the same answers with them."""
    asked = Asked(target, dtype, bounded=False, seconds=watch.seconds())
    try:
        try:
            _judge(law, asked, case)
        except Broken:
            asked = Asked(target, dtype, before=asked, seconds=watch.seconds())
            _judge(law, asked, case)
    except (Broken, Hung) as error:
        if isinstance(error, Broken) and _is_rounding(error, asked):
            raise Undecided(
                "the sides agree as far as the dtype can tell; a call departs, whose bound is no measure"
            ) from None
        watch.failure = Failure(dtype, case, tuple(asked.calls), str(error))
        raise
    watch.hold()


def _judge(law: Law, asked: Asked, case: Any) -> None:
    """What a law cannot work with breaks it, where an answer departs; else it is a mistake of the law."""
    try:
        law.holds(asked, case)
    except (Broken, Undecided, CannotExpress, HypothesisException):
        raise
    except Exception as error:
        if any(call.departure() is not None for call in asked.calls):
            raise Broken(f"the answers are none to work with: {type(error).__name__}: {error}") from error
        raise


ROUNDINGS = 8
"""Sides that lie this many unit roundoffs apart agree, as far as the dtype can tell."""


def _is_rounding(error: Broken, asked: Asked) -> bool:
    """Whether the sides agree to working precision while a call lies far beyond that from what its oracle says.

    Its bound is derived for the right answer, which may be smaller by far than what it returned.
    """
    limit = ROUNDINGS * ARITHMETIC[asked.lane.dtype].unit
    return error.apart <= limit and any(_is_far(call.departure(), limit) for call in asked.calls)


def _is_far(departure: Divergence | str | None, limit: float) -> bool:
    if not isinstance(departure, Divergence):
        return False
    got, expected = departure.got, departure.expected
    return abs(got - expected) > limit * max(abs(got), abs(expected))


class _Told:
    """What is said of a failure in a test, put into words for the last, smallest case alone."""

    def __init__(self, failure: Failure) -> None:
        self._failure = failure

    def __repr__(self) -> str:
        return "\n".join(calls_in_words(self._failure))


def law_test(law: Law, target: Target, watch: Watch | None = None) -> Callable[[], None]:
    """The law as a Hypothesis test of no arguments, under the settings that are current when it is called."""
    held = Watch() if watch is None else watch

    def test(drawn: tuple[str, Any]) -> None:
        held.require_time()
        try:
            _held(law, target, *drawn, held)
        except (Undecided, CannotExpress):
            hypothesis.reject()
        except Broken:
            if held.failure is not None:
                hypothesis.note(_Told(held.failure))
            raise

    _name(test, law)
    for example in law.examples:
        test = hypothesis.example(example)(test)
    dtypes = st.sampled_from(target.usable_dtypes)
    drawn = dtypes.flatmap(lambda dtype: st.tuples(st.just(dtype), law.cases(dtype)))
    given: Callable[[], None] = hypothesis.given(drawn)(test)
    return given


def _name(test: Callable[..., None], law: Law) -> None:
    """The database of examples tells tests apart by name."""
    test.__name__ = test.__qualname__ = f"test_{law.name}"
    test.__doc__ = law.says


def law_tests(implementation: Any, laws: Sequence[Law] | None = None) -> dict[str, Callable[[], None]]:
    """Every law as a test for pytest or unittest, by name: ``globals().update(law_tests(mine))``.

    Parameters
    ----------
    implementation
        Anything that has some of the public functions of `adalora_ref`, under their names.
    laws
        By default all.

    Returns
    -------
    dict
        ``test_<law>`` to a Hypothesis test, which runs under the profile that is loaded. A law whose stages the
        implementation lacks is skipped, with the reason.
    """
    from adalora_ref.laws import LAWS

    target = as_target(implementation)
    return {f"test_{law.name}": _or_skip(law, target) for law in (LAWS if laws is None else laws)}


def _or_skip(law: Law, target: Target) -> Callable[[], None]:
    """A law whose stages are lacking is a Hypothesis test too, so that settings and seeds can be put on it."""
    lacking = law.lacking(target)
    if not lacking:
        return law_test(law, target)

    def test(_: None) -> None:
        raise unittest.SkipTest(lacking)

    _name(test, law)
    given: Callable[[], None] = hypothesis.given(st.none())(test)
    return given


def as_target(implementation: Any) -> Target:
    """The implementation under its own name; a class is instantiated without arguments."""
    if isinstance(implementation, Target):
        return implementation
    name = str(getattr(implementation, "__name__", type(implementation).__name__))
    return Target(name, implementation() if isinstance(implementation, type) else implementation)
