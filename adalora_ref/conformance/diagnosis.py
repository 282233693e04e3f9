"""Why a stage failed: a known mistake, another convention, or which inputs the wrong quantity hangs on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from adalora_ref.conformance.bounds import ARITHMETIC
from adalora_ref.conformance.calls import Outputs
from adalora_ref.conformance.cases import Inputs
from adalora_ref.conformance.dependence import Asked, bits, dependence
from adalora_ref.conformance.deviations import DEVIATIONS, planted, reference
from adalora_ref.conformance.expectations import Undecided
from adalora_ref.conformance.known import Deviation
from adalora_ref.conformance.limits import SECONDS, OutOfTime
from adalora_ref.conformance.seen import NOT_DRAWN, Seen, expectation
from adalora_ref.conformance.stages import Stage
from adalora_ref.conformance.target import Target, TargetError, on_host, spoken, tree_map
from adalora_ref.conformance.verdict import Expected, Verdict, compare, deviation
from adalora_ref.convention import CONVENTIONS, SPEC, Convention

UNMATCHED = "matches no known mistake"
FEW = 16.0
"""Up to so many times its bound, an error may come from a few roundings too many."""

RECORDED = f"{UNMATCHED}; numbers alone have no inputs to perturb: verify the code itself to see on which they hang"
"""What is said of a recorded run, and of results of vectors."""


def diagnose(stage: Stage, seen: Sequence[Seen], alike: Sequence[str] = ()) -> str:
    """Which known mistakes compute just what the target computed, in every case; else what its result hangs on.

    Nothing is said where only the form of a result is wrong and no known mistake has that form: the reason says it.

    Parameters
    ----------
    alike
        The other conventions under which all is right; where there is one, no input is perturbed.
    """
    if not any(case.failed for case in seen):
        return ""
    elsewhere = any(case.lane.convention is not SPEC for case in seen)  # where a known mistake may be what SPEC does
    known, convention = recognised(stage, seen), right_under(alike)
    if said := (convention or known) if elsewhere else (known or convention):
        return said
    wrong = [(case, quantity) for case in seen if case.failed for quantity in wrong_numbers(case)[:1]]
    return f"{UNMATCHED}{narrower(seen)}; {_hangs_on(stage, wrong)}" if wrong else ""


def _hangs_on(stage: Stage, wrong: Sequence[tuple[Seen, str]]) -> str:
    """On which inputs the first wrong quantity hangs, by up to eight of the cases in which it is the first."""
    first, quantity = wrong[0]

    def answer(target: Target, case: Seen, inputs: Inputs) -> bytes | None:
        try:
            with target.limit(SECONDS):
                outputs = target.answer(stage, target.hand_over(inputs), case.lane)
                return bits(on_host(outputs[quantity]))
        except TargetError:
            raise
        except (Exception, SystemExit, OutOfTime):  # noqa: BLE001  an input that is refused says nothing
            return None

    right = Target("adalora_ref", reference(first.lane.convention))
    asked = [
        Asked(case.inputs, partial(answer, case.target, case), partial(answer, right, case))
        for case in [case for case, name in wrong if name == quantity][:8]
    ]
    smooth = first.expected[quantity].dtype in ARITHMETIC
    return f"where it is wrong, {dependence(spoken(quantity), asked, smooth=smooth)}"


def narrower(seen: Sequence[Seen]) -> str:
    """Say so where all that failed is off by a few roundings, or by what computing in a narrower format makes."""
    off = [
        (case.lane.working, *_errors(case.outputs[name], case.expected[name]))
        for case in seen
        for name in wrong_numbers(case)
    ]
    if any(not np.isfinite(ratio) or working not in ARITHMETIC for working, ratio, _ in off):
        return ""
    if off and all(ratio <= FEW for _, ratio, _ in off):
        return ", but is off by a few roundings alone, as where a constant is another double (0.1 for 1 − 0.9)"
    for name in ("float32", "float16", "bfloat16"):
        unit = ARITHMETIC[name].unit
        limits = {w: 2.0 * unit / ARITHMETIC[w].unit for w, _, _ in off}
        if off and all(ratio <= limits[w] and limits[w] > 2.0 and part <= 16 * unit for w, ratio, part in off):
            also = " or TF32" if name == "float16" else ""
            return f", but is off by no more than computing in {name}{also} makes"
    return ""


def _errors(got: Any, expected: Expected) -> tuple[float, float]:
    """The largest error over its bound, and the largest error over the largest element."""
    error, ratio = deviation(got, expected)
    whole = float(np.max(np.abs(np.asarray(expected.high, dtype=np.float64))))
    return float(np.max(ratio)), float(np.max(error)) / whole if whole else np.inf


# WRONG QUANTITIES


def wrong_quantities(case: Seen) -> list[str]:
    """The paths of the results that depart, in the order of the expectation."""
    shared = [name for name in case.expected if name in case.outputs]
    return [name for name in shared if compare(name, case.outputs[name], case.expected[name])[0] is Verdict.FAIL]


def wrong_numbers(case: Seen) -> list[str]:
    """Those of them that depart by their numbers, and not by their form."""
    held = case.expected
    return [n for n in wrong_quantities(case) if compare(n, case.outputs[n], held[n])[2] is not None]


# KNOWN MISTAKES


def recognised(stage: Stage, seen: Sequence[Seen]) -> str:
    """Which known mistakes compute just what was seen, in words; nothing if none does or all is right."""
    matching = matching_mistakes(stage, seen) if any(case.failed for case in seen) else []
    if len(matching) == 1:
        where = f"all {len(seen)} cases" if len(seen) > 1 else "this case"
        return f"matches `{matching[0].name}` in {where}: {matching[0].says}"
    names = ", ".join(f"`{d.name}`" for d in matching)
    says = "; or ".join(d.says for d in matching)
    return f"matches {names}, which these cases cannot tell apart: {says}" if matching else ""


def matching_mistakes(stage: Stage, seen: Sequence[Seen]) -> list[Deviation]:
    """The entries of the catalogue that compute what the target computed, in every case."""
    entries = [d for d in DEVIATIONS if d.stage == stage.name and not d.equivalent]
    return [d for d in entries if _matches(d, stage, seen)]


def _matches(known: Deviation, stage: Stage, seen: Sequence[Seen]) -> bool:
    """Whether the planted reference, computing in float64, comes within twice the bound of everything seen."""
    target, cases = Target(known.name, planted(known)), _telling_first(seen)
    return all(_same(stage, target, case) for case in cases) and _departs(stage, target, cases)


def _telling_first(seen: Sequence[Seen]) -> list[Seen]:
    """The cases that failed, then the others: most of what does not match is refuted by the first."""
    return sorted(seen, key=lambda case: not case.failed)


def _departs(stage: Stage, target: Target, seen: Sequence[Seen]) -> bool:
    """Whether the planted reference fails in some case: one that is right in all that ran explains nothing."""
    return any(_fails(stage, target, case) for case in seen)


def _fails(stage: Stage, target: Target, case: Seen) -> bool:
    outputs = _answered(stage, target, case, tree_map(np.copy, case.inputs))
    if outputs is None:  # a mistake that cannot run on this case says nothing
        return False
    wants = case.expected.items()
    return outputs.keys() != case.expected.keys() or any(
        compare(name, outputs[name], want)[0] is Verdict.FAIL for name, want in wants
    )


def _same(stage: Stage, target: Target, case: Seen) -> bool:
    wide = tree_map(lambda a: a if a.dtype.kind in "biu" else a.astype(np.float64), case.inputs)
    computed = _answered(stage, target, case, wide)
    if computed is None or computed.keys() != case.outputs.keys():
        return False
    common = computed.keys() & case.expected.keys()
    return all(near(case.outputs[name], computed[name], case.expected[name]) for name in common)


def _answered(stage: Stage, target: Target, case: Seen, inputs: Inputs) -> Outputs | None:
    """What a target of ours makes of other inputs of a case; None where it cannot compute with them."""
    try:
        with np.errstate(all="ignore"):
            return {name: on_host(value) for name, value in target.answer(stage, inputs, case.lane).items()}
    except Exception:  # noqa: BLE001  of a mistake, and of arguments that came from outside, anything may come
        return None


def unmatched(stage: Stage, seen: Sequence[Seen]) -> str:
    """What is said of numbers that no known mistake makes, if they are wrong and the reference computes them at all."""
    wrong = [case for case in seen if wrong_numbers(case)]
    right = [Target("adalora_ref", reference(case.lane.convention)) for case in wrong]
    computed = [_answered(stage, target, case, case.inputs) for target, case in zip(right, wrong, strict=True)]
    return RECORDED if any(outputs is not None for outputs in computed) else ""


def near(got: Any, computed: Any, expected: Expected) -> bool:
    """Whether *got* may be *computed* but for rounding: twice the largest bound, and units of the largest element.

    A mistake has rounding errors of its own: they grow with it, and may lie where the right one has none.
    """
    if got.shape != computed.shape or got.dtype.kind in "OcSUmM":
        return False
    wide, theirs = got.astype(np.float64), computed.astype(np.float64)
    error, _ = deviation(got, Expected.exact(theirs, expected.dtype))
    error = np.where((wide == theirs) | (np.isnan(wide) & np.isnan(theirs)), 0.0, error)
    computed = np.where(np.isfinite(theirs), theirs, 0.0)
    unit = ARITHMETIC[expected.dtype].unit if expected.dtype in ARITHMETIC else 0.0
    theirs, ours = (float(np.max(np.abs(a), initial=0.0)) for a in (computed, expected.high))
    grown = max(1.0, theirs / ours) if ours else 1.0
    bound = float(np.max(expected.error, initial=0.0))
    return bool(np.all(error <= 2 * grown * bound + 64 * unit * max(theirs, ours)))


# CONVENTIONS


def right_under(alike: Sequence[str]) -> str:
    """The sentence that names the conventions; nothing if there is none."""
    return f"right under the convention {' and under '.join(alike)}" if alike else ""


def matching_conventions(stage: Stage, seen: Sequence[Seen], rules: Convention) -> tuple[str, ...]:
    """Names of the other conventions under which everything that the target returned is right.

    A convention that can decide none of the cases that failed explains nothing.
    """
    others = [held for held in CONVENTIONS.values() if held is not rules and stage.holds_under(held)]
    return tuple(held.name for held in others if seen and _right_under(held, stage, seen))


def _right_under(rules: Convention, stage: Stage, seen: Sequence[Seen]) -> bool:
    decided = False
    for case in _telling_first(seen):
        found = _verdicts(rules, stage, case)
        if Verdict.FAIL in found:
            return False
        decided = decided or (case.failed and bool(found))
    return decided


def _verdicts(rules: Convention, stage: Stage, case: Seen) -> set[Verdict]:
    """The verdicts under *rules* on what one case returned; none where the convention cannot express the case."""
    if case.inputs.get("cost") is not None and stage.name == "allocate":
        return set()
    lane = case.lane._replace(convention=rules)
    try:
        expected = (
            stage.expect(case.inputs, lane)
            if case.number == NOT_DRAWN
            else expectation(stage, lane, case.seed, case.number)
        )
    except Undecided:
        return set()
    if expected.keys() != case.outputs.keys():
        return {Verdict.FAIL}
    return {compare(name, case.outputs[name], want)[0] for name, want in expected.items()}
