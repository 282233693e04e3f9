"""Why a stage failed: a known mistake, another convention, or which inputs the wrong quantity hangs on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from adalora_ref.budget import BudgetSchedule
from adalora_ref.conformance.bounds import ARITHMETIC
from adalora_ref.conformance.cases import Inputs
from adalora_ref.conformance.deviations import DEVIATIONS, planted, reference
from adalora_ref.conformance.expectations import Undecided
from adalora_ref.conformance.known import Deviation
from adalora_ref.conformance.limits import SECONDS, OutOfTime
from adalora_ref.conformance.seen import NOT_DRAWN, Seen, expectation
from adalora_ref.conformance.stages import Stage
from adalora_ref.conformance.target import Target, TargetError, on_host, spoken, tree_map
from adalora_ref.conformance.verdict import Expected, Verdict, compare, deviation
from adalora_ref.convention import CONVENTIONS, Convention


def diagnose(stage: Stage, seen: Sequence[Seen]) -> str:
    """Which known mistakes compute just what the target computed, in every case; else what its result hangs on.

    Nothing is said where only the form of a result is wrong and no known mistake has that form: the reason says it.
    """
    if not any(case.failed for case in seen):
        return ""
    if known := recognised(stage, seen):
        return known
    wrong = [(case, quantity) for case in seen if case.failed for quantity in wrong_numbers(case)[:1]]
    narrow = narrower(seen)
    return f"matches no known mistake{narrow}; {dependence(stage, wrong)}" if wrong else ""


def narrower(seen: Sequence[Seen]) -> str:
    """Say so where everything that failed is off by what computing in a narrower format makes, and no more."""
    off = [
        (case.lane.working, *_errors(case.outputs[name], case.expected[name]))
        for case in seen
        for name in wrong_numbers(case)
    ]
    if any(not np.isfinite(ratio) or working not in ARITHMETIC for working, ratio, _ in off):
        return ""
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
    target = Target(known.name, planted(known))
    return _departs(stage, target, seen) and all(_same(stage, target, case) for case in _telling_first(seen))


def _telling_first(seen: Sequence[Seen]) -> list[Seen]:
    """The cases that failed, then the others: most of what does not match is refuted by the first."""
    return sorted(seen, key=lambda case: not case.failed)


def _departs(stage: Stage, target: Target, seen: Sequence[Seen]) -> bool:
    """Whether the planted reference fails in some case: one that is right in all that ran explains nothing."""
    return any(_fails(stage, target, case) for case in seen)


def _fails(stage: Stage, target: Target, case: Seen) -> bool:
    try:
        with np.errstate(all="ignore"):
            outputs = target.answer(stage, target.hand_over(tree_map(np.copy, case.inputs)), case.lane)
    except Exception:  # noqa: BLE001  a mistake that cannot run on this case says nothing
        return False
    wants = case.expected.items()
    return outputs.keys() != case.expected.keys() or any(
        compare(name, on_host(outputs[name]), want)[0] is Verdict.FAIL for name, want in wants
    )


def _same(stage: Stage, target: Target, case: Seen) -> bool:
    wide = tree_map(lambda a: a if a.dtype.kind in "biu" else a.astype(np.float64), case.inputs)
    try:
        computed = {name: on_host(value) for name, value in target.answer(stage, wide, case.lane).items()}
    except Exception:  # noqa: BLE001  a mistake that cannot run on this case is not the one
        return False
    if computed.keys() != case.outputs.keys():
        return False
    common = computed.keys() & case.expected.keys()
    return all(near(case.outputs[name], computed[name], case.expected[name]) for name in common)


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


# DEPENDENCE


def wrong_quantities(case: Seen) -> list[str]:
    """The paths of the results that depart, in the order of the expectation."""
    shared = [name for name in case.expected if name in case.outputs]
    return [name for name in shared if compare(name, case.outputs[name], case.expected[name])[0] is Verdict.FAIL]


def wrong_numbers(case: Seen) -> list[str]:
    """Those of them that depart by their numbers, and not by their form."""
    held = case.expected
    return [n for n in wrong_quantities(case) if compare(n, case.outputs[n], held[n])[2] is not None]


def dependence(stage: Stage, wrong: Sequence[tuple[Seen, str]]) -> str:
    """Say on which inputs a wrong quantity does and does not depend, found by perturbing each of them.

    Parameters
    ----------
    wrong
        Failing cases, each with the quantity that is wrong in it; those of the first quantity are used.
    """
    first, quantity = wrong[0]
    if len({_called(stage, first.target, first, first.inputs, quantity) for _ in range(3)}) > 1:
        return f"{spoken(quantity)} differs from call to call with the same arguments"
    theirs: dict[str, bool] = {}
    ours: dict[str, bool] = {}
    for case, _ in [pair for pair in wrong if pair[1] == quantity][:8]:
        right = Target("adalora_ref", reference(case.lane.convention))
        for found, target in ((theirs, case.target), (ours, right)):
            for name, moved in _moves(stage, target, case, quantity):
                found[name] = found.get(name, False) or moved
    found_on = [name for name in theirs if theirs[name]]
    lacking = [name for name in ours if ours[name] and not theirs.get(name, False)]
    beyond = [name for name in found_on if not ours.get(name, False)]
    if not _is_smooth(first, quantity):
        return _moved_with(spoken(quantity), found_on, lacking)
    if not found_on:
        should = f", though it should depend on {', '.join(lacking)}" if lacking else ", just as it should"
        return f"{spoken(quantity)} depends on none of its inputs{should}"
    said = [f"{spoken(quantity)} depends on {', '.join(found_on)}"]
    said += [f"but not on {', '.join(lacking)}, on which it should"] if lacking else []
    said += [f"though it should not depend on {', '.join(beyond)}"] if beyond else []
    return ", ".join(said) + ("" if lacking or beyond else ", just as it should")


def _moved_with(quantity: str, found_on: Sequence[str], lacking: Sequence[str]) -> str:
    """What was seen of a mask or a count, which may stay as it is though it depends on what was perturbed."""
    said = f"{quantity} moved with {', '.join(found_on) or 'none of its inputs'}"
    return f"{said}, and stayed where {', '.join(lacking)} moved the right one" if lacking else said


def _is_smooth(case: Seen, quantity: str) -> bool:
    """Whether every input that it depends on moves it at once: a mask or a count may stay as it is."""
    return case.expected[quantity].dtype in ARITHMETIC


def _moves(stage: Stage, target: Target, case: Seen, quantity: str) -> Iterator[tuple[str, bool]]:
    """For every input: its name, and whether perturbing it changes the quantity."""
    before = _called(stage, target, case, case.inputs, quantity)
    for name, perturbed in perturbations(case.inputs):
        yield name, _called(stage, target, case, perturbed, quantity) != before


def _called(stage: Stage, target: Target, case: Seen, inputs: Inputs, quantity: str) -> bytes | None:
    try:
        with target.limit(SECONDS):
            outputs = target.answer(stage, target.hand_over(inputs), case.lane)
            return bytes(on_host(outputs[quantity]).tobytes())
    except TargetError:
        raise
    except (Exception, SystemExit, OutOfTime):  # noqa: BLE001  an input that is refused says nothing
        return None


def perturbations(inputs: Any) -> Iterator[tuple[str, Any]]:
    """Every input by name, with copies of all of them in which that one is another."""
    for name, value in inputs.items():
        for path, changed in _changes(value):
            yield f"{name}{path}", {**inputs, name: changed}


def _changes(value: Any) -> Iterator[tuple[str, Any]]:
    """The ways to change a value: itself, or one of its parts, with the path of the part."""
    if isinstance(value, np.ndarray):
        yield "", _moved(value)
        yield "", _turned(value)
    elif isinstance(value, float):
        yield "", 0.75 * value + 0.125
    elif isinstance(value, BudgetSchedule):
        yield from _each_field(value, lambda held: held + 1)
    else:
        for path, item, remade in parts(value):
            yield from ((path + further, remade(changed)) for further, changed in _changes(item))


def parts(value: Any) -> Iterator[tuple[str, Any, Callable[[Any], Any]]]:
    """Every part of a value, with its path, and how to make the whole again with another in its place."""
    if is_dataclass(value) and not isinstance(value, type):
        for name in (field.name for field in fields(value)):
            yield f".{name}", getattr(value, name), partial(_with, value, name)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield f"[{key}]", item, partial(_with_item, value, key)
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            name = f".{value._fields[place]}" if hasattr(value, "_fields") else f"[{place}]"
            yield name, item, partial(_with_place, value, place)


def _with(value: Any, name: str, changed: Any) -> Any:
    try:
        return replace(value, **{name: changed})
    except (ValueError, TypeError):  # a configuration that the rules refuse: left as it was
        return value


def _with_item(value: dict[Any, Any], key: Any, changed: Any) -> dict[Any, Any]:
    return {**value, key: changed}


def _with_place(value: Any, place: int, changed: Any) -> Any:
    parts = [*value[:place], changed, *value[place + 1 :]]
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)


def _moved(a: Any) -> Any:
    if a.dtype.kind == "b":
        return ~a
    if a.dtype.kind in "iu":
        return a
    size = max(float(np.max(np.abs(a.astype(np.float64)), initial=0.0)), 2.0**-40)
    ramp = np.arange(1, a.size + 1).reshape(a.shape) / (a.size or 1)
    return (a.astype(np.float64) + 0.25 * size * ramp).astype(a.dtype)


def _turned(a: Any) -> Any:
    """The same numbers in the opposite order, four times as large: what is selected among them changes too."""
    return np.flip(a).copy() if a.dtype.kind in "biu" else (4.0 * np.flip(a).astype(np.float64)).astype(a.dtype)


def _each_field(value: Any, change: Callable[[Any], Any]) -> Iterator[tuple[str, Any]]:
    for field in fields(value):
        try:
            yield f".{field.name}", replace(value, **{field.name: change(getattr(value, field.name))})
        except ValueError:  # a schedule that the rules refuse
            continue
