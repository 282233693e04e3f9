"""Run the stages of the table against a target."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from adalora_ref.array import backend
from adalora_ref.conformance.calls import Outputs, WrongForm
from adalora_ref.conformance.cases import NUMPY_DTYPES, Inputs
from adalora_ref.conformance.diagnosis import diagnose, matching_conventions
from adalora_ref.conformance.expectations import Expectation, Undecided
from adalora_ref.conformance.limits import SECONDS, OutOfTime
from adalora_ref.conformance.seen import Seen, case_inputs, expectation
from adalora_ref.conformance.stages import STAGES, Stage
from adalora_ref.conformance.target import CannotExpress, Lane, Target, TargetError, leaves, on_host, spoken
from adalora_ref.conformance.untrusted import what_was_raised
from adalora_ref.conformance.verdict import Check, Divergence, Row, Verdict, compare, row
from adalora_ref.convention import Convention, allocate_above_threshold

PRESETS = {"quick": 6, "default": 24, "thorough": 300}
"""How many cases of each stage are drawn in each dtype."""

DTYPES = tuple(NUMPY_DTYPES)


def check_stages(
    targets: Sequence[Target],
    stages: Sequence[Stage],
    convention: Convention,
    *,
    dtypes: Sequence[str] = (),
    cases: int,
    seed: int,
    seconds: float = SECONDS,
) -> Iterator[Row]:
    """Yield one row for each of *stages*, over all *targets*: one implementation on several libraries.

    *dtypes* are by default those that each target can have; what is asked for and cannot be had is listed as not run.
    A call that takes longer than *seconds* fails, and is the last of its stage that is made; the others are not run.
    """
    for stage in stages:
        checks: list[Check] = []
        seen: list[Seen] = []
        for dtype, index, target in product(dtypes or DTYPES, range(cases), targets):
            if dtypes or dtype in target.usable_dtypes:
                lane = Lane(dtype, target.accumulation, convention)
                if checks and checks[-1].reason.endswith((HUNG, LEFT)):
                    checks.append(_left(stage, target, lane, case_id(stage, dtype, seed, index)))
                else:
                    checks.append(check_case(stage, target, lane, seed, index, seen, seconds))
        alike = judged_alike(stage, seen, checks, convention)
        found = row(stage.name, stage.equation_under(convention), checks, partial(diagnose, stage, seen, alike))
        yield found._replace(conventions=alike)


def judged_alike(stage: Stage, seen: Sequence[Seen], checks: Sequence[Check], rules: Convention) -> tuple[str, ...]:
    """The other conventions under which all is right that failed; what raised is right under none."""
    failed = sum(check.verdict is Verdict.FAIL for check in checks)
    told = failed and failed == sum(case.failed for case in seen)
    return matching_conventions(stage, seen, rules) if told else ()


HUNG = "and was interrupted"
"""So ends the reason of a check after which no other of its stage is run."""

LEFT = "after a call that took too long"


def case_id(stage: Stage, dtype: str, seed: int, index: int) -> str:
    """The stable id of a case."""
    return f"{stage.name}/{dtype}/{seed}/{index}"


def _left(stage: Stage, target: Target, lane: Lane, case: str) -> Check:
    return Check(stage.name, case, target.array_library, lane.dtype, Verdict.NOT_RUN, reason=f"not tried, {LEFT}")


def check_case(
    stage: Stage, target: Target, lane: Lane, seed: int, index: int, seen: list[Seen], seconds: float = SECONDS
) -> Check:
    """One case: called, looked at for its form, and held against what the oracles say once it has answered."""
    case = case_id(stage, lane.dtype, seed, index)
    result = partial(Check, stage.name, case, target.array_library, lane.dtype)
    inputs = case_inputs(stage, lane.dtype, seed, index)
    if why := absent(stage, target, lane, inputs):
        return result(Verdict.NOT_RUN, reason=why)
    returned, host, stopped, steady = asked(stage, target, lane, inputs, seen, seconds, twice=index % 8 == 0)
    if stopped:
        return result(*stopped)
    try:
        expected = expectation(stage, lane, seed, index)
    except Undecided as error:
        return result(Verdict.INCONCLUSIVE, reason=str(error))
    verdict, ratio, divergence, reason = compare_all(host, expected)
    failed = verdict is Verdict.FAIL
    seen.append(Seen(target, lane, seed, index, inputs, returned, host, expected, failed))
    if verdict is Verdict.PASS and not steady:
        return result(Verdict.WARN, ratio, reason="two calls with the same arguments returned different results")
    return result(verdict, ratio, divergence, reason)


def asked(
    stage: Stage, target: Target, lane: Lane, inputs: Inputs, seen: list[Seen], seconds: float, *, twice: bool
) -> tuple[Outputs, Outputs, tuple[Any, ...], bool]:
    """The answer, a copy of it, the verdict if that is all there is to say, and whether it answers so again."""
    stopped: tuple[Any, ...]
    try:
        with target.limit(seconds):
            returned, host, wrong = _answer(stage, target, lane, inputs, seen)
            steady = not twice or bool(wrong) or _same(host, _answer(stage, target, lane, inputs, [])[1])
    except (TargetError, KeyboardInterrupt, GeneratorExit):
        raise
    except CannotExpress as error:
        stopped = (Verdict.NOT_RUN, 0.0, None, str(error))
    except WrongForm as error:
        stopped = (Verdict.FAIL, math.inf, None, str(error))
    except OutOfTime:
        stopped = (Verdict.FAIL, math.inf, None, f"{stage.name} took longer than {seconds:g} s {HUNG}")
    except BaseException as error:  # noqa: BLE001  whatever a target raises is a finding about it
        stopped = (Verdict.FAIL, math.inf, None, f"{stage.name} raised {what_was_raised(error)}")
    else:
        return returned, host, (Verdict.FAIL, math.inf, None, wrong) if wrong else (), steady
    return {}, {}, stopped, True


def _answer(stage: Stage, target: Target, lane: Lane, inputs: Inputs, seen: list[Seen]) -> tuple[Outputs, Outputs, str]:
    """What the target returned, a copy of it on the host, and what is wrong with its form or with what it changed."""
    handed = target.hand_over(inputs)
    returned = target.answer(stage, handed, lane)
    if wrong := wrong_form(inputs, handed, returned, target) or _changed_before(target, seen):
        return returned, {}, wrong
    return returned, {name: on_host(value) for name, value in returned.items()}, ""


def _same(first: Outputs, second: Outputs) -> bool:
    """Whether two answers to one question are alike, bit for bit."""
    return first.keys() == second.keys() and all(a.tobytes() == second[name].tobytes() for name, a in first.items())


def compare_all(outputs: Outputs, expected: Expectation) -> tuple[Verdict, float, Divergence | None, str]:
    """The worst of a case's quantities: the first that fails, else one that warns, else the largest ratio."""
    if outputs.keys() != expected.keys():
        return Verdict.FAIL, math.inf, None, _other_names(outputs, expected)
    ranks = [Verdict.FAIL, Verdict.WARN, Verdict.PASS, Verdict.INCONCLUSIVE]
    found = [compare(spoken(name), outputs[name], want) for name, want in expected.items()]
    first = min(found, key=lambda result: ranks.index(result[0]))
    largest = max(ratio for verdict, ratio, _, _ in found if verdict is first[0])
    return first if first[0] is Verdict.FAIL else (first[0], largest, None, first[3])


def _other_names(outputs: Outputs, expected: Expectation) -> str:
    """What the results lack, and what stands beyond them, in words."""
    lacking, beyond = (
        [spoken(name) for name in sorted(a.keys() - b.keys())] for a, b in ((expected, outputs), (outputs, expected))
    )
    lists = [", ".join(names[:4]) + (f" and {len(names) - 4} more" if names[4:] else "") for names in (lacking, beyond)]
    if not lacking:
        return f"the results hold {lists[1]} beyond what they should"
    return f"the results lack {lists[0]}; beyond them stands {lists[1] or 'nothing'}"


def absent(stage: Stage, target: Target, lane: Lane, inputs: Inputs) -> str:
    """Why this case is not run, or nothing."""
    if lane.dtype not in target.usable_dtypes:
        return f"the target has no {lane.dtype} on {target.array_library}"
    if inputs.get("cost") is not None and lane.convention.allocate is allocate_above_threshold:
        return f"the selection of {lane.convention.name} counts triplets; it knows no cost"
    return target.lacks(stage, [option for option in stage.options if inputs[option] is not None])


def wrong_form(inputs: Inputs, handed: Inputs, outputs: Outputs, target: Target) -> str:
    """A change of the inputs, or results of another library than the inputs', in words."""
    after = dict(leaves(handed))
    for name, value in leaves(inputs):
        if isinstance(value, np.ndarray) and value.tobytes() != on_host(after[name]).tobytes():
            return f"the call changed its input {spoken(name)}"
    made_of_arrays = any(isinstance(value, np.ndarray) for _, value in leaves(inputs))
    kind = type(backend(target.array_library).zeros((1,)))
    for name, value in outputs.items() if made_of_arrays else ():
        if hasattr(value, "shape") and not isinstance(value, (kind, np.generic) if kind is np.ndarray else kind):
            given = f"{type(value).__module__}.{type(value).__qualname__}"
            return f"{spoken(name)} must be an array of {target.array_library}; got {given}"
    return ""


def _changed_before(target: Target, seen: list[Seen]) -> str:
    """A change of what the target's call before has returned, in words."""
    for before in [case for case in seen if case.target is target][-1:]:
        for name, value in before.returned.items():
            if on_host(value).tobytes() != before.outputs[name].tobytes():
                return f"the call changed {spoken(name)} that an earlier call returned"
    return ""


def require_library(target: Target) -> None:
    """Refuse, with TargetError, a target whose array library is missing here."""
    try:
        backend(target.array_library)
    except (ValueError, RuntimeError) as error:
        raise TargetError(f"{target.name}.array_library cannot be used here: {error}") from None


def require_functions(target: Target) -> None:
    """Refuse, with TargetError, a target that has none of the functions of the table."""
    names = list(dict.fromkeys(stage.needs[0] for stage in STAGES))
    if not any(target.function(name) for name in names):
        raise TargetError(f"{target.name!r} has none of the functions that can be checked: {', '.join(names)}")


def stage_named(name: str) -> Stage:
    """The stage of that name; ValueError lists them."""
    found = next((stage for stage in STAGES if stage.name == name), None)
    if found is None:
        raise ValueError(f"the stage must be one of {', '.join(s.name for s in STAGES)}; got {name!r}")
    return found
