"""The check of a stateful allocator: what it shows of itself while it is fed is checked as any recorded run is.

Three scripts are played: an ordinary one; one with ties, in which two matrices are twins of two others and a pair of
twins never gets a gradient; one with many triplets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from adalora_ref.array import Array
from adalora_ref.conformance.cases import Inputs
from adalora_ref.conformance.checking import HUNG, LEFT
from adalora_ref.conformance.dependence import Asked, bits, dependence
from adalora_ref.conformance.deviations import reference
from adalora_ref.conformance.diagnosis import UNMATCHED
from adalora_ref.conformance.feed import SCRIPTS, Feed, feed
from adalora_ref.conformance.limits import SECONDS
from adalora_ref.conformance.replays import replayed
from adalora_ref.conformance.scripted import SAID, answers, play, shown
from adalora_ref.conformance.target import Target, TargetError, leaves, on_host, spoken
from adalora_ref.conformance.trace import Each, Judge, Run
from adalora_ref.conformance.trace_diagnosis import by_numbers, explained, named
from adalora_ref.conformance.verdict import Check, Row, Verdict, row
from adalora_ref.convention import Convention
from adalora_ref.factors import Factors

EQUATION = "start(weights, schedule, *, beta1, beta2), then update(step, weights, grads) at every step"

STAGES_SEEN = tuple(stage for stage, said in SAID.items() if said is not None)


def is_allocator(target: Target) -> bool:
    """Whether the target is a stateful allocator: it has `start` and `update`."""
    return target.function("start") is not None and target.function("update") is not None


def check_allocator(
    target: Target, rules: Convention, *, dtypes: Sequence[str] = (), seed: int, seconds: float = SECONDS
) -> list[Row]:
    """Feed an allocator scripted weights and gradients, and check each stage from what it says of itself.

    The target has ``start(weights, schedule, *, beta1, beta2)`` and ``update(step, weights, grads) -> dict``, both with
    dictionaries of `Factors` by matrix. What `update` returns has ``masks``, who is kept now, and as much as the
    allocator can show of ``importance``, ``scores`` (None where no allocation was made), ``budget``, ``due`` and
    ``after``, the weights with the mask applied. Where it shows no ``importance``, its scores and masks are held
    against the averages that the script makes.
    """
    lacking = [d for d in dtypes if d not in target.usable_dtypes]
    if lacking:
        raise TargetError(f"{target.name} has no {lacking[0]}")
    feeds = {
        f"{dtype}{name}": feed(script, dtype, seed)
        for dtype in [d for d in dtypes or target.usable_dtypes if d in ("float64", "float32")]
        for name, script in SCRIPTS.items()
    }
    if not feeds:
        raise TargetError("an allocator is fed float64 or float32; it has neither")
    played = list(_played(target, feeds, rules, seconds))
    runs = [run for run, _ in played]
    rows = [_by_replay(held, runs) for held in explained(runs, STAGES_SEEN, UNMATCHED)]
    return [
        row("update", EQUATION, [check for _, check in played]),
        *(_with_inputs(held, target, feeds, rules) if held.diagnosis.startswith(UNMATCHED) else held for held in rows),
    ]


def _played(
    target: Target, feeds: Mapping[str, Feed], rules: Convention, seconds: float
) -> Iterator[tuple[Run, Check]]:
    """Play one script after the other; after a call that took too long, none."""
    hung = False
    for label, given in feeds.items():
        judge = Judge(given.config, rules, label.partition("/")[0])
        if hung:
            about = ("update", label, target.array_library, judge.working, Verdict.NOT_RUN)
            yield Run((), judge, target.array_library, label), Check(*about, reason=f"not tried, {LEFT}")
            continue
        run, check = play(target, given, judge, label, seconds)
        hung = check.reason.endswith(HUNG)
        yield run, check


def _by_replay(held: Row, runs: Sequence[Run]) -> Row:
    """Name, where no mistake in a stage alone explains it, those of a whole allocator that make just what is shown."""
    shown = SAID[held.stage] in ("importance", "scores", "masks")
    if not shown or not by_numbers(held) or held.diagnosis.startswith("matches `"):
        return held
    return held._replace(diagnosis=named(replayed(held.stage, runs)) or held.diagnosis)


# WHERE NOTHING KNOWN WAS RECOGNISED


class Stacked(NamedTuple):
    """Factors of one matrix at all steps, or their gradients: (steps, d_out, r), (steps, r), (steps, r, d_in)."""

    B: Array
    s: Array
    A: Array


def _with_inputs(held: Row, target: Target, feeds: Mapping[str, Feed], rules: Convention) -> Row:
    """Say on which of the numbers that it was fed, from the first step on, the first wrong quantity hangs."""
    failed = held.first_failure
    if failed is None or failed.divergence is None:
        return held
    label, _, step = failed.case.rpartition("/step ")
    quantity, said = failed.divergence.quantity, str(SAID[held.stage])

    def theirs(inputs: Inputs) -> bytes | None:
        try:
            steps, _ = shown(target, _fed(inputs))
        except TargetError:
            return None
        return _bytes(held.stage, quantity, getattr(steps[int(step)], said)) if len(steps) > int(step) else None

    def ours(inputs: Inputs) -> bytes | None:
        given = _fed(inputs)
        try:
            last = answers(reference(rules), given.schedule, given.steps, rules, given.betas)[-1]
        except ValueError:
            return None
        return _bytes(held.stage, quantity, last[said])

    asked = Asked(_inputs(feeds[label], int(step)), theirs, ours)
    hangs = dependence(f"{quantity} at step {step}", [asked], smooth=said in ("importance", "scores"))
    return held._replace(diagnosis=f"{held.diagnosis}; {hangs}")


def _inputs(given: Feed, step: int) -> Inputs:
    """A feed up to a step, with an array for each factor."""
    weights, grads = zip(*given.steps[: step + 1], strict=True)

    def stacked(held: Sequence[Each]) -> dict[str, Stacked]:
        return {n: Stacked(*map(np.stack, zip(*(factors[n] for factors in held), strict=True))) for n in held[0]}

    return {"weights": stacked(weights), "grads": stacked(grads), "schedule": given.schedule, **given.betas}


def _fed(inputs: Inputs) -> Feed:
    """The feed of such inputs."""

    def at(step: int, held: Mapping[str, Stacked]) -> Each:
        return {n: Factors(*(a[step] for a in stacked)) for n, stacked in held.items()}

    steps = len(next(iter(inputs["weights"].values())).s)
    pairs = tuple((at(step, inputs["weights"]), at(step, inputs["grads"])) for step in range(steps))
    return Feed(inputs["schedule"], pairs, {name: inputs[name] for name in ("beta1", "beta2")})


def _bytes(stage: str, quantity: str, said: Any) -> bytes | None:
    """The array of that name in what an allocator has shown of a stage."""
    found = {spoken(f"{stage}{path}"): value for path, value in leaves(said)}
    return bits(on_host(found[quantity])) if quantity in found else None
