"""Running laws by Hypothesis: as tests of one's own suite, and for the command, within a total of time."""

from __future__ import annotations

import time
import unittest
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.errors import Flaky, Unsatisfiable

from adalora_ref.conformance.expectations import Undecided
from adalora_ref.conformance.target import CannotExpress, Target
from adalora_ref.conformance.verdict import Verdict
from adalora_ref.laws.asking import Answer, Asked
from adalora_ref.laws.law import Law
from adalora_ref.laws.measured import Broken

LEAST = 25
"""Examples that every law gets, whatever the time."""

LAX: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck), "report_multiple_bugs": False}

PROFILES: dict[str, hypothesis.settings] = {
    "quick": hypothesis.settings(max_examples=8, derandomize=True, **LAX),
    "long": hypothesis.settings(max_examples=5000, derandomize=False, **LAX),
}
"""Two ways to run laws: the same few cases every time, and many new ones."""


class Failure(NamedTuple):
    """The smallest case that was found to break a law: its dtype, the case, what was asked, and the message."""

    dtype: str
    case: Any
    answers: tuple[Answer, ...]
    message: str
    blob: str = ""


class Outcome(NamedTuple):
    """What became of one law, or machine: how many cases held, the smallest that broke it, or why it did not run."""

    law: Any
    verdict: Verdict
    examples: int
    failure: Failure | None = None
    reason: str = ""


@dataclass
class Watch:
    """What happens while a law runs."""

    examples: int = 0
    failure: Failure | None = None


def check(law: Law, target: Target, dtype: str, case: Any) -> None:
    """Hold one case against a law; raise `Broken`, with both sides, if it does not hold."""
    _held(law, target, dtype, case, Watch())


def _held(law: Law, target: Target, dtype: str, case: Any, watch: Watch) -> None:
    """Ask first without bounds, since what is equal needs none; then with them."""
    for bounded in (False, True):
        asked = Asked(target, dtype, bounded=bounded)
        try:
            law.holds(asked, case)
        except Broken as error:
            if bounded:
                watch.failure = Failure(dtype, case, tuple(asked.answers), str(error))
                raise
        else:
            break
    watch.examples += 1


def law_test(law: Law, target: Target, watch: Watch | None = None) -> Callable[[], None]:
    """The law as a Hypothesis test of no arguments, under the settings that are current when it is called."""
    held = Watch() if watch is None else watch

    def test(drawn: tuple[str, Any]) -> None:
        try:
            _held(law, target, *drawn, held)
        except (Undecided, CannotExpress):
            hypothesis.reject()

    # The database of examples tells tests apart by name.
    test.__name__ = test.__qualname__ = f"test_{law.name}"
    test.__doc__ = law.says
    for example in law.examples:
        test = hypothesis.example(example)(test)
    dtypes = st.sampled_from(target.usable_dtypes)
    drawn = dtypes.flatmap(lambda dtype: st.tuples(st.just(dtype), law.cases(dtype)))
    given: Callable[[], None] = hypothesis.given(drawn)(test)
    return given


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
    lacking = law.lacking(target)
    if not lacking:
        return law_test(law, target)

    def test() -> None:
        raise unittest.SkipTest(lacking)

    test.__doc__ = law.says
    return test


def as_target(implementation: Any) -> Target:
    """The implementation under its own name; a class is instantiated without arguments."""
    if isinstance(implementation, Target):
        return implementation
    name = str(getattr(implementation, "__name__", type(implementation).__name__))
    return Target(name, implementation() if isinstance(implementation, type) else implementation)


# WITHIN A TOTAL OF TIME


def run_laws(
    laws: Sequence[Law], target: Target, *, examples: int, seed: int, seconds: float | None = None
) -> Iterator[Outcome]:
    """Yield what becomes of each law, in order.

    Parameters
    ----------
    examples
        How many cases of each law at most, but at least `LEAST`.
    seconds
        In all. A law gets its share of what is left, and `LEAST` cases in any case.
    """
    end = None if seconds is None else time.monotonic() + seconds
    for place, law in enumerate(laws):
        if lacking := law.lacking(target):
            yield Outcome(law, Verdict.NOT_RUN, 0, reason=lacking)
            continue
        share = None if end is None else max(0.0, end - time.monotonic()) / (len(laws) - place)
        yield run_law(law, target, examples=examples, seed=seed, seconds=share)


def run_law(law: Law, target: Target, *, examples: int, seed: int, seconds: float | None = None) -> Outcome:
    """Try a law in slices of cases, each with a seed of its own, until enough were tried or time is up."""
    watch, start, tried, number = Watch(), time.monotonic(), 0, 0
    while tried < max(examples, LEAST):
        size = max(examples, LEAST) if seconds is None else _slice(tried, examples, seconds - time.monotonic() + start)
        if size <= 0:
            break
        outcome = _one_slice(law, target, watch, size, seed + number)
        if outcome is not None:
            return outcome
        tried, number = tried + size, number + 1
    return Outcome(law, Verdict.PASS if watch.examples else Verdict.INCONCLUSIVE, watch.examples, reason=_why(watch))


def _slice(tried: int, examples: int, left: float) -> int:
    """How many cases to try before the clock is looked at again."""
    if tried == 0:
        return LEAST
    return min(examples - tried, 4 * LEAST) if left > 0 else 0


def _why(watch: Watch) -> str:
    return "" if watch.examples else "no case could be decided: bounds that are not finite, or options that are lacking"


def _one_slice(law: Law, target: Target, watch: Watch, size: int, seed: int) -> Outcome | None:
    """Try some cases; the outcome if the law broke."""
    phases = [p for p in Phase if p is not Phase.explain]
    options: dict[str, Any] = {**LAX, "max_examples": size, "derandomize": False, "phases": phases}
    test = hypothesis.settings(**options, print_blob=True)(law_test(law, target, watch))
    try:
        hypothesis.seed(seed)(test)()
    except Unsatisfiable:
        return None
    except Flaky as error:
        told = f"the same case broke the law once and not again: {error}".splitlines()[0]
        failure = watch.failure._replace(message=f"{watch.failure.message}; {told}") if watch.failure else None
        return Outcome(law, Verdict.FAIL, watch.examples, failure, told)
    except Broken as error:
        notes = "\n".join(getattr(error, "__notes__", ()))
        blob = next((line for line in notes.splitlines() if "reproduce_failure(" in line), "")
        failure = watch.failure._replace(blob=_decorator(blob)) if watch.failure else None
        return Outcome(law, Verdict.FAIL, watch.examples, failure)
    return None


def _decorator(line: str) -> str:
    """``@reproduce_failure(…)`` out of the sentence that holds it."""
    start, end = line.find("@reproduce_failure"), line.rfind(")")
    return line[start : end + 1] if start >= 0 else ""
