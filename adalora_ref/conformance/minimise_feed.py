"""The smallest feed with which an allocator still fails, cut at its first failing step, and what is right there.

A stage is judged from the allocator's own inputs to it; a script that has to hold once everything is mended cannot be.
So what is expected here comes from the first step on, through the oracles, with bounds that grow as rounding does.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from adalora_ref.conformance import oracles
from adalora_ref.conformance.deviations import reference
from adalora_ref.conformance.expectations import Expectation
from adalora_ref.conformance.feed import SCRIPTS, Feed, feed
from adalora_ref.conformance.lifting import bounded, expected
from adalora_ref.conformance.minimise import DIGITS, kind, rounded_all
from adalora_ref.conformance.oracle_run import TWINS
from adalora_ref.conformance.scripted import SAID, answers, play
from adalora_ref.conformance.target import Target, leaves, on_host, spoken
from adalora_ref.conformance.trace import Each, Judge, Run, checks, quantities
from adalora_ref.conformance.verdict import Check, Expected, Verdict, compare
from adalora_ref.convention import Convention
from adalora_ref.factors import Factors

SECONDS = 5.0
"""Time for one quantity."""


class MinimisedFeed(NamedTuple):
    """A feed whose last step fails, what is right there, and whether it failed again when it was fed alone."""

    feed: Feed
    expected: Expectation
    again: bool


def minimise_feed(
    target: Target, rules: Convention, found: Check, seed: int, *, seconds: float = SECONDS
) -> MinimisedFeed:
    """Search for a smaller feed in which the same quantity is wrong, or the same is wrong with the call."""
    label, _, step = found.case.rpartition("/step ")
    whole = feed(SCRIPTS[label.removeprefix(found.dtype)], found.dtype, seed)
    given, again = cut(whole, int(step)), True
    if "took longer than" in found.reason:  # to see it again costs the whole time limit
        return MinimisedFeed(given, {}, again)
    trials = _Trials(target, rules, found, time.monotonic() + seconds)
    with np.errstate(all="ignore"):
        # What departs at first may have been right there, had nothing before it been wrong.
        failing = trials.first(iter((given, whole)))
        given, again = failing or given, failing is not None
        for smaller in (fewer, later, plainer) if again else ():
            given = trials.first(smaller(given)) or given
        shown = right(given, rules, found.dtype)
    return MinimisedFeed(given, wanted(given, rules, found.stage, shown), again)


def as_found(rules: Convention, found: Check, seed: int) -> tuple[MinimisedFeed, Feed]:
    """The feed as it failed, up to there and whole, for an allocator that fails only once it was fed before."""
    label, _, step = found.case.rpartition("/step ")
    whole = feed(SCRIPTS[label.removeprefix(found.dtype)], found.dtype, seed)
    given = cut(whole, int(step))
    with np.errstate(all="ignore"):
        shown = right(given, rules, found.dtype)
    return MinimisedFeed(given, wanted(given, rules, found.stage, shown), again=False), whole


@dataclass
class _Trials:
    """Tells whether a feed fails as the first one did, and where; says no when time has run out."""

    target: Target
    rules: Convention
    found: Check
    until: float

    def first(self, feeds: Iterator[Feed]) -> Feed | None:
        """The first of them that fails, cut where it does."""
        failing = ((given, self.fails(given)) for given in feeds)
        return next((cut(given, step) for given, step in failing if step is not None), None)

    def fails(self, given: Feed) -> int | None:
        """The step at which it fails as it was found to, and is not what is right."""
        if time.monotonic() > self.until:
            return None
        stage, dtype = self.found.stage, self.found.dtype
        run, check = play(self.target, given, Judge(given.config, self.rules, dtype), "", 1.0)
        if stage == "update":
            return len(run.steps) if self._alike(check) else None
        steps = dict.fromkeys(step for step, check in _checks(run, stage) if self._alike(check))
        shown = right(given, self.rules, dtype)
        return next((step for step in steps if self._departs(cut(given, step), run, shown[: step + 1])), None)

    def _departs(self, given: Feed, run: Run, shown: Sequence[dict[str, Any]]) -> bool:
        """Whether what the allocator showed after the last step of a feed is not what is right."""
        stage, said = self.found.stage, getattr(run.steps[len(given.steps) - 1], str(SAID[self.found.stage]))
        if shown[-1][str(SAID[stage])] is None or not decided(given, shown):
            return False
        got = {spoken(f"{stage}{path}"): on_host(a) for path, a in leaves(said)}
        wants = wanted(given, self.rules, stage, shown)
        return any(p not in got or compare(p, got[p], want)[0] is Verdict.FAIL for p, want in wants.items())

    def _alike(self, check: Check) -> bool:
        return check.verdict is Verdict.FAIL and _kind(check) == _kind(self.found)


def _checks(run: Run, stage: str) -> Iterator[tuple[int, Check]]:
    """Every check of a stage with its step."""
    for before, step in run.pairs():
        for name, got, wanted in quantities(step, before, run.judge):
            if name == stage:
                for check in checks(stage, "", run.library, run.judge.working, got, wanted()):
                    yield step.number, check


def _kind(found: Check) -> str:
    """What is wrong, without the numbers and whatever the matrix."""
    return re.sub(r"\[[^\[\]]*\]", "", kind(found))


# WHAT IS RIGHT


def right(given: Feed, rules: Convention, dtype: str) -> list[dict[str, Any]]:
    """What an allocator must say at every step, as numbers with bounds."""

    def say(steps: Any, **betas: Any) -> list[dict[str, Any]]:
        held = SimpleNamespace(
            init_importance=lambda f: (oracles.each(lambda _: 0, f), oracles.each(lambda _: 0, f)),
            update_importance=oracles.update_importance,
            triplet_scores=oracles.triplet_scores,
            budget_at=TWINS[rules.budget],
            allocates_at=TWINS[rules.allocates],
            allocate=TWINS[rules.allocate],
            prune=oracles.prune,
        )
        return answers(held, given.schedule, steps, rules, betas)

    return list(bounded(say, given.steps, working=dtype, **given.betas))


def wanted(given: Feed, rules: Convention, stage: str, shown: Sequence[dict[str, Any]]) -> Expectation:
    """What must be shown of a stage after the last step; nothing where it is the call that fails."""
    said = SAID[stage]
    if said is None:
        return {}
    like = answers(reference(rules), given.schedule, given.steps, rules, given.betas)[-1][said]
    found = {spoken(f"{stage}{path}"): want for path, want in expected(shown[-1][said], like).items()}
    if stage == "prune":  # nothing rounds
        return {path: Expected.exact(want.high.astype(want.dtype), want.dtype) for path, want in found.items()}
    return found


def decided(given: Feed, shown: Sequence[dict[str, Any]]) -> bool:
    """Whether no rounding decides who is kept: triplets whose scores may be equal have had the same numbers."""
    for said in shown:
        scores = {(n, k): s for n, row in (said["scores"] or {}).items() for k, s in enumerate(row)}
        spans = {key: (float(s.real), getattr(s, "bound", 0.0)) for key, s in scores.items()}
        low = min((v - b for (n, k), (v, b) in spans.items() if said["masks"][n][k]), default=np.inf)
        high = max((v + b for (n, k), (v, b) in spans.items() if not said["masks"][n][k]), default=-np.inf)
        free = [key for key, (v, b) in spans.items() if b > 0 and low <= v + b and v - b <= high]
        if len({_history(given, *key) for key in free}) > 1:
            return False
    return True


def _history(given: Feed, name: str, k: int) -> bytes:
    """All that a triplet was fed."""
    held = [f[name] for pair in given.steps for f in pair]
    return b"".join(a.tobytes() + bytes(a.shape) for B, s, A in held for a in (B[:, k], s[k : k + 1], A[k]))


# SMALLER FEEDS


def cut(given: Feed, step: int) -> Feed:
    """The feed up to a step."""
    return given._replace(steps=given.steps[: step + 1])


def fewer(given: Feed) -> Iterator[Feed]:
    """With fewer matrices, triplets, rows and columns, the smallest first."""
    weights = given.steps[0][0]
    chosen = [names for number in sorted({1, 2, len(weights)}) for names in combinations(weights, number)]
    rank = max(len(f.s) for f in weights.values())
    side = max(n for f in weights.values() for n in (f.B.shape[0], f.A.shape[1]))

    def numbers(part: tuple[Sequence[str], int, int]) -> int:
        names, rank, side = part
        shapes = [(*weights[n].B.shape, weights[n].A.shape[1]) for n in names]
        return sum(min(r, rank) * (min(d_out, side) + 1 + min(d_in, side)) for d_out, r, d_in in shapes)

    parts = product(chosen, range(1, rank + 1), range(1, side + 1))
    return (_part(given, *part) for part in sorted(parts, key=numbers))


def _part(given: Feed, names: Sequence[str], rank: int, side: int) -> Feed:
    """Some of the matrices, of their triplets, rows and columns; the target is lowered as the budget is."""

    def less(held: Each) -> Each:
        return {n: Factors(f.B[:side, :rank], f.s[:rank], f.A[:rank, :side]) for n, f in held.items() if n in names}

    steps = tuple((less(weights), less(grads)) for weights, grads in given.steps)
    initial, held = sum(len(f.s) for f in steps[0][0].values()), given.schedule
    target = round(held.target * initial / held.initial)
    return Feed(replace(held, initial=initial, target=target), steps)


def later(given: Feed) -> Iterator[Feed]:
    """Without the first steps, the fewest left first."""
    held = given.schedule
    for gone in range(len(given.steps) - 1, 0, -1):
        warmup, total = max(held.warmup - gone, 0), held.total - gone
        if warmup + held.final < total:
            yield Feed(replace(held, warmup=warmup, total=total), given.steps[gone:])


def plainer(given: Feed) -> Iterator[Feed]:
    """With numbers of few digits, the fewest first."""
    return (rounded_all(given, rounding) for rounding in DIGITS)
