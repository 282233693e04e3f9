"""Run the stages of the table against a target."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from adalora_ref.array import backend
from adalora_ref.conformance.bounds import ARITHMETIC
from adalora_ref.conformance.calls import Outputs
from adalora_ref.conformance.cases import NUMPY_DTYPES, Draw, Inputs
from adalora_ref.conformance.deviations import DEVIATIONS, planted
from adalora_ref.conformance.expectations import Expectation, Undecided
from adalora_ref.conformance.known import Deviation
from adalora_ref.conformance.stages import STAGES, Stage
from adalora_ref.conformance.target import CannotExpress, Lane, Target, leaves, on_host, spoken, tree_map
from adalora_ref.conformance.verdict import Check, Divergence, Expected, Row, Verdict, compare, deviation, row
from adalora_ref.convention import Convention

PRESETS = {"quick": 6, "default": 24, "thorough": 300}
"""How many cases of each stage are drawn in each dtype."""

DTYPES = tuple(NUMPY_DTYPES)


class Seen(NamedTuple):
    """A case that a target answered: what it was given, what it returned, what was expected, whether they differ.

    `returned` is what the target handed out, `outputs` a copy of it on the host, made at once.
    """

    target: Target
    lane: Lane
    inputs: Inputs
    returned: Outputs
    outputs: Outputs
    expected: Expectation
    differs: bool


def case_inputs(stage: Stage, dtype: str, seed: int, index: int) -> Inputs:
    """The arguments of one case, the same on every machine; its stable id is stage/dtype/seed/index."""
    digest = hashlib.sha256(f"{stage.name}/{dtype}/{seed}/{index}".encode()).digest()
    return stage.draw(Draw(np.random.default_rng(int.from_bytes(digest[:8], "big")), dtype, index))


@lru_cache(maxsize=512)
def expectation(stage: Stage, lane: Lane, seed: int, index: int) -> Expectation:
    """What the oracles say of one case; the same for every library, so it is computed once."""
    return stage.expect(case_inputs(stage, lane.dtype, seed, index), lane)


def check_stages(
    targets: Sequence[Target],
    stages: Sequence[Stage],
    convention: Convention,
    *,
    dtypes: Sequence[str] = (),
    cases: int,
    seed: int,
) -> Iterator[Row]:
    """Yield one row for each of *stages*, over all *targets*: one implementation on several libraries.

    *dtypes* are by default those that each target can have; what is asked for and cannot be had is listed as not run.
    """
    for stage in stages:
        checks: list[Check] = []
        seen: list[Seen] = []
        for dtype, index, target in product(dtypes or DTYPES, range(cases), targets):
            if dtypes or dtype in target.usable_dtypes:
                lane = Lane(dtype, target.accumulation, convention)
                checks.append(_check(stage, target, lane, seed, index, seen))
        yield row(stage.name, stage.equation_under(convention), checks, partial(diagnose, stage, seen))


def _check(stage: Stage, target: Target, lane: Lane, seed: int, index: int, seen: list[Seen]) -> Check:
    """One case: called, looked at for its form, and held against what the oracles say once it has answered."""
    case = f"{stage.name}/{lane.dtype}/{seed}/{index}"
    result = partial(Check, stage.name, case, target.array_library, lane.dtype)
    inputs = case_inputs(stage, lane.dtype, seed, index)
    if absent := _absent(stage, target, lane, inputs):
        return result(Verdict.NOT_RUN, reason=absent)
    try:
        handed = target.hand_over(inputs)
        outputs = dict(leaves(stage.call(target, handed, lane)))
        if wrong := _wrong_form(inputs, handed, outputs, target) or _changed_before(target, seen):
            return result(Verdict.FAIL, math.inf, reason=wrong)
        host = {name: on_host(value) for name, value in outputs.items()}
    except CannotExpress as error:
        return result(Verdict.NOT_RUN, reason=str(error))
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a target raises is a finding about it
        return result(Verdict.FAIL, math.inf, reason=f"{stage.name} raised {type(error).__name__}: {error}")
    try:
        expected = expectation(stage, lane, seed, index)
    except Undecided as error:
        return result(Verdict.INCONCLUSIVE, reason=str(error))
    verdict, ratio, divergence, reason = _compare_all(host, expected)
    differs = divergence is not None or host.keys() != expected.keys()
    seen.append(Seen(target, lane, inputs, outputs, host, expected, differs))
    return result(verdict, ratio, divergence, reason)


def _compare_all(outputs: Outputs, expected: Expectation) -> tuple[Verdict, float, Divergence | None, str]:
    """The worst of a case's quantities: the first that fails, else one that warns, else the largest ratio."""
    if outputs.keys() != expected.keys():
        lacking, beyond = (
            ", ".join(map(spoken, sorted(a.keys() - b.keys()))) for a, b in ((expected, outputs), (outputs, expected))
        )
        return (
            Verdict.FAIL,
            math.inf,
            None,
            f"the results lack {lacking or 'nothing'}; beyond them stands {beyond or 'nothing'}",
        )
    ranks = [Verdict.FAIL, Verdict.WARN, Verdict.PASS, Verdict.INCONCLUSIVE]
    found = [compare(spoken(name), outputs[name], want) for name, want in expected.items()]
    first = min(found, key=lambda result: ranks.index(result[0]))
    largest = max(ratio for verdict, ratio, _, _ in found if verdict is first[0])
    return first if first[0] is Verdict.FAIL else (first[0], largest, None, first[3])


def _absent(stage: Stage, target: Target, lane: Lane, inputs: Inputs) -> str:
    """Why the target cannot run this case, or nothing."""
    if lane.dtype not in target.usable_dtypes:
        return f"the target has no {lane.dtype} on {target.array_library}"
    if missing := [name for name in stage.needs if target.function(name) is None]:
        return f"the target has no {missing[0]}"
    name = stage.needs[-1]
    lacking = [o for o in stage.options if inputs[o] is not None and target.lacks_option(name, o)]
    return f"the target's {name} takes no {' and no '.join(lacking)}" if lacking else ""


def _wrong_form(inputs: Inputs, handed: Inputs, outputs: Outputs, target: Target) -> str:
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


# DIAGNOSIS


def diagnose(stage: Stage, seen: Sequence[Seen]) -> str:
    """Which known mistakes compute just what the target computed, in every case that was seen.

    Nothing is said where only the form of a result is wrong: the reason says it already.
    """
    if not any(case.differs for case in seen):
        return ""
    matching = [d for d in DEVIATIONS if d.stage == stage.name and _matches(d, stage, seen)]
    if not matching:
        return "matches no known mistake"
    if len(matching) == 1:
        return f"matches `{matching[0].name}` in all {len(seen)} cases: {matching[0].says}"
    names = ", ".join(f"`{d.name}`" for d in matching)
    return f"matches {names}, which these cases cannot tell apart: {'; or '.join(d.says for d in matching)}"


def _matches(known: Deviation, stage: Stage, seen: Sequence[Seen]) -> bool:
    """Whether the planted reference, computing in float64, comes within twice the bound of everything seen."""
    target = Target(known.name, planted(known))
    return bool(seen) and all(_same(stage, target, case) for case in seen)


def _same(stage: Stage, target: Target, case: Seen) -> bool:
    wide = tree_map(lambda a: a if a.dtype.kind in "biu" else a.astype(np.float64), case.inputs)
    try:
        computed = {name: on_host(value) for name, value in leaves(stage.call(target, wide, case.lane))}
    except Exception:  # noqa: BLE001  a mistake that cannot run on this case is not the one
        return False
    if computed.keys() != case.outputs.keys():
        return False
    common = computed.keys() & case.expected.keys()
    return all(_near(case.outputs[name], computed[name], case.expected[name]) for name in common)


def _near(got: Any, computed: Any, expected: Expected) -> bool:
    """Whether *got* may be *computed* but for rounding: twice the largest bound, and units of the largest element.

    A mistake has rounding errors of its own: they grow with it, and may lie where the right one has none.
    """
    if got.shape != computed.shape:
        return False
    error, _ = deviation(got, Expected.exact(computed.astype(np.float64), expected.dtype))
    unit = ARITHMETIC[expected.dtype].unit if expected.dtype in ARITHMETIC else 0.0
    theirs, ours = (float(np.max(np.abs(a), initial=0.0)) for a in (computed, expected.high))
    grown = max(1.0, theirs / ours) if ours else 1.0
    bound = float(np.max(expected.error, initial=0.0))
    return bool(np.all(error <= 2 * grown * bound + 64 * unit * max(theirs, ours)))


def stage_named(name: str) -> Stage:
    """The stage of that name; ValueError lists them."""
    found = next((stage for stage in STAGES if stage.name == name), None)
    if found is None:
        raise ValueError(f"the stage must be one of {', '.join(s.name for s in STAGES)}; got {name!r}")
    return found
