"""The search for cases that break laws, for the command: within a number of cases, or within a total of time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import hypothesis
from hypothesis import Phase
from hypothesis.errors import Flaky, Unsatisfiable

from adalora_ref.conformance.expectations import Undecided
from adalora_ref.conformance.target import CannotExpress, Target
from adalora_ref.conformance.verdict import Verdict
from adalora_ref.laws.asking import Hung
from adalora_ref.laws.law import Law
from adalora_ref.laws.measured import Broken
from adalora_ref.laws.running import LAX, Failure, Watch, law_test

EXAMPLES = 100
"""Of each law, where neither a number nor a time is given."""

LEAST = 25
"""Examples that every law gets whatever the time, unless fewer were asked for."""

PHASES = [phase for phase in Phase if phase is not Phase.explain]


class Outcome(NamedTuple):
    """What became of one law, or machine: how many cases held, the smallest that broke it, or why it did not run."""

    law: Any
    verdict: Verdict
    examples: int
    failure: Failure | None = None
    reason: str = ""


def run_laws(
    laws: Sequence[Any],
    target: Target,
    *,
    examples: int | None = None,
    seed: int = 0,
    seconds: float | None = None,
    run: Callable[..., Outcome] | None = None,
) -> Iterator[Outcome]:
    """Yield what becomes of each law, in order.

    Parameters
    ----------
    examples
        How many cases of each law at most; by default `EXAMPLES`, or as many as there is time for.
    seconds
        In all. A law gets its share of what is left, and `LEAST` cases in any case.
    run
        What runs one of them; by default `run_law`.
    """
    end = math.inf if seconds is None else time.monotonic() + seconds
    for place, law in enumerate(laws):
        if lacking := law.lacking(target):
            yield Outcome(law, Verdict.NOT_RUN, 0, reason=lacking)
            continue
        share = None if seconds is None else max(0.0, end - time.monotonic()) / (len(laws) - place)
        yield (run or run_law)(law, target, examples=examples, seed=seed, seconds=share, end=end)


def run_law(
    law: Law,
    target: Target,
    *,
    examples: int | None = None,
    seed: int = 0,
    seconds: float | None = None,
    end: float = math.inf,
) -> Outcome:
    """Try a law until enough cases were tried, its *seconds* are over, or it broke; no call goes on beyond *end*."""
    watch = Watch(end=end)

    def once(size: int, seed: int) -> None:
        settings = hypothesis.settings(**LAX, max_examples=size, derandomize=False, phases=PHASES, print_blob=True)
        # In this order: a seed alone would switch the database off.
        settings(hypothesis.seed(seed)(law_test(law, target, watch)))()

    return in_slices(law, once, watch, examples=examples, seed=seed, seconds=seconds)


def in_slices(
    law: Any, once: Callable[[int, int], None], watch: Watch, *, examples: int | None, seed: int, seconds: float | None
) -> Outcome:
    """Call *once* with a number of cases and a seed of its own, until enough were tried, time is up, or it broke."""
    most: float = examples if examples is not None else EXAMPLES if seconds is None else math.inf
    start, tried, number = time.monotonic(), 0, 0
    while size := _slice(tried, most, None if seconds is None else seconds - time.monotonic() + start):
        try:
            once(size, seed * 2**32 + number)
        except Unsatisfiable:
            pass
        except Hung as error:
            return _broken(law, watch, error)
        except Flaky as error:
            return _broken(law, watch, error, "; and not again when the same case was tried once more")
        except Broken as error:
            return _broken(law, watch, error)
        except (Undecided, CannotExpress) as error:  # of a machine, which cannot go on
            return Outcome(law, Verdict.INCONCLUSIVE, watch.examples, reason=str(error))
        tried, number = tried + size, number + 1
    return Outcome(law, Verdict.PASS if watch.examples else Verdict.INCONCLUSIVE, watch.examples, reason=_why(watch))


def _slice(tried: int, most: float, left: float | None) -> int:
    """How many cases to try before the clock is looked at again; 0 at the end."""
    if left is None:
        return int(most - tried)
    if tried == 0:
        return int(min(LEAST, most))
    return int(min(4 * LEAST, most - tried)) if left > 0 else 0


def _why(watch: Watch) -> str:
    return "" if watch.examples else "no case could be decided: bounds that are not finite, or options that are lacking"


def _broken(law: Any, watch: Watch, error: BaseException, more: str = "") -> Outcome:
    """The outcome with the smallest case, and what Hypothesis says of it."""
    notes = "\n".join(getattr(error, "__notes__", ()))
    if watch.failure is None:  # of a machine whose draws alone could not be repeated
        return Outcome(law, Verdict.FAIL, watch.examples, reason=f"{error}{more}".splitlines()[0])
    blob = next((line for line in notes.splitlines() if "reproduce_failure(" in line), "")
    told = watch.failure.message + more
    failure = watch.failure._replace(message=told, blob=_decorator(blob), steps=notes)
    return Outcome(law, Verdict.FAIL, watch.examples, failure)


def _decorator(line: str) -> str:
    """``@reproduce_failure(…)`` out of the sentence that holds it."""
    start, end = line.find("@reproduce_failure"), line.rfind(")")
    return line[start : end + 1] if start >= 0 else ""
