"""The smallest case that still fails: first fewer elements, then plainer numbers."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from adalora_ref.conformance.cases import Draw, Inputs
from adalora_ref.conformance.checking import HUNG, asked, compare_all
from adalora_ref.conformance.dependence import parts
from adalora_ref.conformance.deviations import reference
from adalora_ref.conformance.expectations import Expectation, Undecided
from adalora_ref.conformance.seen import Seen, case_inputs
from adalora_ref.conformance.stages import Stage
from adalora_ref.conformance.target import Lane, Target, spoken, tree_map
from adalora_ref.conformance.verdict import Check, Verdict

SECONDS, TRIALS, DRAWN = 5.0, 600, 240
"""For one stage: time, calls of the target, and how many small cases are drawn."""

EARLIER = "that an earlier call returned"


class Minimised(NamedTuple):
    """A failing case, made as small as it still fails.

    Attributes
    ----------
    expected
        What the oracles say of it.
    before
        The arguments of the calls before it, without which it is right: the one whose result this one changes, or all
        that a target remembers.
    again
        Whether the failure showed again when the case was run alone; if not, the case is as it was found.
    """

    inputs: Inputs
    expected: Expectation
    before: tuple[Inputs, ...]
    again: bool

    @property
    def named(self) -> Expectation:
        """What is expected, under the names that one speaks of."""
        return {spoken(path): want for path, want in self.expected.items()}


def minimise(stage: Stage, target: Target, lane: Lane, found: Check, *, seconds: float = SECONDS) -> Minimised:
    """Search for a smaller case in which the same quantity is wrong, or the same is wrong with the call."""
    seed, index = map(int, found.case.split("/")[-2:])
    inputs = case_inputs(stage, lane.dtype, seed, index)
    if found.reason.endswith(HUNG):  # to see it again costs the whole time limit
        return Minimised(inputs, expectation_of(stage, inputs, lane), (), again=True)
    before = case_inputs(stage, lane.dtype, seed, abs(index - 1)) if found.reason.endswith(EARLIER) else None
    trials = _Trials(stage, target, lane, kind(found), before, TRIALS, time.monotonic() + seconds)
    with np.errstate(all="ignore"):
        again = trials.fails(inputs)
        if again and before is None:
            drawn = [held for held in _drawn(stage, lane.dtype, seed) if size(held) < size(inputs)]
            search = replace(trials, until=time.monotonic() + seconds / 2)
            inputs = next(filter(search.fails, drawn), inputs)
            inputs = _one_step(_fewer_scores(inputs, replace(trials)), trials)
            inputs = _plainer(inputs, trials)
    earlier = () if before is None else (before,)
    return Minimised(inputs, expectation_of(stage, inputs, lane), earlier, again)


def expectation_of(stage: Stage, inputs: Inputs, lane: Lane) -> Expectation:
    """What the oracles say; nothing where two correct computations may differ, and a call failed all the same."""
    try:
        return stage.expect(inputs, lane)
    except Undecided:
        return {}


def kind(found: Check) -> str:
    """What is wrong, without the numbers: the quantity, or the beginning of the reason."""
    if found.divergence is not None:
        return found.divergence.quantity
    return re.split(r"[:;(]", found.reason)[0]


@dataclass
class _Trials:
    """Tells whether a case fails as the first one did; says no when time or calls have run out."""

    stage: Stage
    target: Target
    lane: Lane
    kind: str
    before: Inputs | None
    left: int
    until: float

    def fails(self, inputs: Inputs) -> bool:
        if self.left <= 0 or time.monotonic() > self.until or not self._allowed(inputs):
            return False
        self.left -= 1
        verdict, ratio, divergence, reason = self._outcome(inputs)
        return verdict is Verdict.FAIL and self.kind == kind(
            Check(self.stage.name, "", "", "", verdict, ratio, divergence, reason)
        )

    def _allowed(self, inputs: Inputs) -> bool:
        """Whether the stage's own rules take the case: the reference does."""
        try:
            held = Target("adalora_ref", reference(self.lane.convention))
            held.answer(self.stage, tree_map(np.copy, inputs), self.lane)
        except Exception:  # noqa: BLE001  whatever the reference refuses is no case
            return False
        return True

    def _outcome(self, inputs: Inputs) -> tuple[Any, ...]:
        ask = partial(asked, self.stage, self.target, self.lane, seconds=1.0, twice=False)
        seen: list[Seen] = []
        if self.before is not None:
            returned, host, _, _ = ask(self.before, seen=[])
            seen = [Seen(self.target, self.lane, 0, 0, self.before, returned, host, {}, failed=False)]
        _, host, stopped, _ = ask(inputs, seen=seen)
        try:
            return stopped or compare_all(host, self.stage.expect(inputs, self.lane))
        except Exception:  # noqa: BLE001  what the oracle cannot compute, or decide, is no case
            return (Verdict.INCONCLUSIVE, 0.0, None, "")


# FEWER ELEMENTS


@dataclass(frozen=True)
class _Small(Draw):
    """A source of arrays of few elements."""

    largest: int = 2

    def size(self, least: int, most: int) -> int:
        return super().size(least, min(most, max(least, self.largest)))


def _drawn(stage: Stage, dtype: str, seed: int) -> list[Inputs]:
    """Small cases of a stage, the smallest first; the same on every machine."""
    cases = []
    for number in range(DRAWN):
        digest = hashlib.sha256(f"{stage.name}/{dtype}/{seed}/small/{number}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        cases.append(stage.draw(_Small(rng, dtype, number, small=True, largest=1 + number % 2)))
    return sorted(cases, key=size)


def size(value: Any) -> tuple[int, int]:
    """How large a case is: elements of its arrays, then the sum of its integers."""
    if isinstance(value, np.ndarray):
        return value.size, 0
    if isinstance(value, int):
        return 0, abs(value)
    sizes = [size(item) for _, item, _ in parts(value)]
    return sum(elements for elements, _ in sizes), sum(total for _, total in sizes)


def _one_step(inputs: Inputs, trials: _Trials) -> Inputs:
    """Where a schedule is asked about many steps, the first of them that fails alone."""
    single = ({**inputs, "steps": [step]} for step in inputs.get("steps", ()))
    return next(filter(trials.fails, single), inputs)


def _fewer_scores(inputs: Inputs, trials: _Trials) -> Inputs:
    """Where scores compete for a budget, as few of them, at as low a budget, as still fail."""
    if not {"scores", "budget"} <= inputs.keys():
        return inputs
    while smaller := next(filter(trials.fails, _lower(inputs)), None):
        inputs = smaller
    return inputs


def _lower(inputs: Inputs) -> Iterator[Inputs]:
    """Without costs, without a matrix, or without a score, at every budget up to this one."""
    scores, cost = inputs["scores"], inputs["cost"]
    held = [(scores, None)] if cost else []
    held += [({n: a for n, a in scores.items() if n != gone}, cost) for gone in scores if len(scores) > 1]
    held += [({**scores, n: np.delete(a, k)}, cost) for n, a in scores.items() for k in range(len(a))]
    for fewer, costs in held:
        paid = None if costs is None else {n: costs[n] for n in fewer}
        for budget in range(inputs["budget"] + 1):
            yield {**inputs, "scores": fewer, "budget": budget, "cost": paid}


# PLAINER NUMBERS


def _plainer(inputs: Inputs, trials: _Trials) -> Inputs:
    """Replace all numbers, then whole arrays, then single elements, by the plainest with which the case still fails."""
    together = ({n: rounded_all(held, r) for n, held in inputs.items()} for r in ROUNDINGS)
    inputs = next(filter(trials.fails, together), inputs)
    places = range(len(list(_numbers(inputs))))
    for place in places:
        value, remade = list(_numbers(inputs))[place]
        inputs = next(filter(trials.fails, map(remade, _plain(value))), inputs)
    for place in places:
        value, _ = list(_numbers(inputs))[place]
        for element in np.ndindex(np.shape(value)) if np.size(value) > 1 else ():
            value, remade = list(_numbers(inputs))[place]
            with_element = (remade(_replaced(value, element, plain)) for plain in _plain(value[element]))
            inputs = next(filter(trials.fails, with_element), inputs)
    return inputs


def rounded_all(value: Any, rounding: Callable[[Any], Any]) -> Any:
    """The value with all of its floating arrays rounded."""
    return tree_map(lambda a: a if a.dtype.kind in "biu" else _like(rounding(a.astype(np.float64)), a), value)


def _numbers(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every floating array and float inside a value, and how to make the whole again with another in its place."""
    for _, item, remade in parts(value):
        if isinstance(item, float) or (isinstance(item, np.ndarray) and item.dtype.kind not in "biu"):
            yield item, remade
        else:
            for inner, again in _numbers(item):
                yield inner, lambda changed, remade=remade, again=again: remade(again(changed))


def _plain(value: Any) -> Iterator[Any]:
    """Plainer values than this one, the plainest first; of its own kind, and no longer once they are no plainer."""
    wide = np.asarray(value, dtype=np.float64)
    for rounding in ROUNDINGS if np.all(np.isfinite(wide)) else ():
        plain = _like(rounding(wide), value)
        if np.array_equal(plain, value):
            return
        yield plain


def _like(rounded: Any, value: Any) -> Any:
    return float(rounded) if isinstance(value, float) else np.asarray(rounded).astype(value.dtype)


def _digits(wide: Any, digits: int) -> Any:
    return np.vectorize(lambda x: float(f"{x:.{digits}g}"), otypes=[np.float64])(wide)


DIGITS: tuple[Callable[[Any], Any], ...] = tuple(partial(_digits, digits=digits) for digits in (1, 2, 3))

ROUNDINGS: tuple[Callable[[Any], Any], ...] = (
    np.zeros_like,
    np.ones_like,
    lambda wide: np.where(wide < 0, -1.0, 1.0),
    np.rint,
    lambda wide: np.rint(wide * 8) / 8,
    *DIGITS,
)
"""Ways to make numbers plainer, the plainest first."""


def _replaced(a: Any, element: tuple[int, ...], value: Any) -> Any:
    changed = a.copy()
    changed[element] = value
    return changed
