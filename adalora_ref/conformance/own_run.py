"""A target's own training run: its `train_step` for a whole schedule, each step checked from the target's own state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from adalora_ref.adamw import AdamState
from adalora_ref.array import Array
from adalora_ref.budget import BudgetSchedule
from adalora_ref.conformance import calls, feed
from adalora_ref.conformance.cases import NAMES, NUMPY_DTYPES, Inputs
from adalora_ref.conformance.checking import compare_all, judged_alike
from adalora_ref.conformance.deviations import reference
from adalora_ref.conformance.diagnosis import diagnose
from adalora_ref.conformance.expectations import Undecided
from adalora_ref.conformance.expectations import train_step as expected_step
from adalora_ref.conformance.growth import apart, shown, theirs_if_near
from adalora_ref.conformance.limits import SECONDS, OutOfTime, time_limit
from adalora_ref.conformance.seen import NOT_DRAWN, Seen
from adalora_ref.conformance.stages import STAGES
from adalora_ref.conformance.target import CannotExpress, Lane, Target, in_order, leaves, on_host
from adalora_ref.conformance.trace_diagnosis import wide
from adalora_ref.conformance.untrusted import what_was_raised
from adalora_ref.conformance.verdict import Check, Growth, Row, Verdict, row
from adalora_ref.convention import Convention
from adalora_ref.factors import Factors
from adalora_ref.importance import Importance
from adalora_ref.records import TrainState
from adalora_ref.training import init_state

RUN_DTYPES = ("float64", "float32")

CONFIG = replace(
    feed.CONFIG,
    schedule=BudgetSchedule(initial=8, target=3, warmup=2, final=3, total=13, interval=3),
    initial_rank=2,
)
"""As small as shows every rule of the schedule: T − t_f is no multiple of ΔT and no step of the pattern from t_i."""

NAME = "whole run of train_step"


def check_run(
    target: Target, rules: Convention, *, dtypes: Sequence[str] = (), seed: int, seconds: float = SECONDS
) -> Row:
    """Train with the target for a whole schedule; check each step from the state that the target itself had reached.

    The row's growth says how far the run drifts from the reference's in float64, from the same start on the same
    batches.
    """
    return train(target, rules, dtypes=dtypes, seed=seed, seconds=seconds)[0]


def train(
    target: Target, rules: Convention, *, dtypes: Sequence[str] = (), seed: int, seconds: float = SECONDS
) -> tuple[Row, list[Inputs]]:
    """What `check_run` returns, and the inputs of every step of that run up to the first one that failed."""
    stage = next(stage for stage in STAGES if stage.name == "train_step")
    seen: list[Seen] = []
    checks: list[Check] = []
    grown: list[Growth] = []
    failing: list[Inputs] = []
    for dtype in [d for d in dtypes or target.usable_dtypes if d in RUN_DTYPES and d in target.usable_dtypes]:
        lane, held = Lane(dtype, target.accumulation, rules), _inputs(dtype, seed)
        theirs, ours = held["state"], wide(held["state"])
        made: list[Inputs] = []
        for number in range(CONFIG.schedule.total):
            case = {**held, "batch": _batch(dtype, seed, number), "state": theirs}
            check, after = _checked(target, case, lane, number, seconds, seen)
            checks.append(check)
            made.append(case)
            failing = failing or (list(made) if check.verdict is Verdict.FAIL else [])
            if after is None:
                break
            ours = _reference_step({**case, "state": ours}, after, lane)
            grown.append(Growth(dtype, number, apart(after.factors, ours.factors)))
            theirs = after
    alike = judged_alike(stage, seen, checks, rules)
    found = row(NAME, stage.equation, checks, partial(diagnose, stage, seen, alike))
    return found._replace(note=shown(grown), growth=tuple(grown), conventions=alike), failing


def _checked(
    target: Target, case: Inputs, lane: Lane, number: int, seconds: float, seen: list[Seen]
) -> tuple[Check, TrainState | None]:
    """Check one step from the target's own state; return the state after it, None where there is none to go on from."""
    label = f"run/{lane.dtype}/step {number}"
    fixed = (NAME, label, target.array_library, lane.dtype)
    try:
        with time_limit(seconds):
            outputs = calls.train_step(target, target.hand_over(case), lane)
            host = {name: on_host(value) for name, value in leaves(outputs)}
        after = _as_numpy(outputs["state"], case["weights"])
        _require_shapes(case["state"], after)
    except CannotExpress as error:
        return Check(*fixed, Verdict.NOT_RUN, reason=str(error)), None
    except calls.WrongForm as error:
        return Check(*fixed, Verdict.FAIL, np.inf, None, str(error)), None
    except OutOfTime:
        return Check(*fixed, Verdict.FAIL, np.inf, None, f"train_step took longer than {seconds:g} s"), None
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001  whatever a target raises is a finding about it
        return Check(*fixed, Verdict.FAIL, np.inf, None, f"train_step raised {what_was_raised(error)}"), None
    try:
        expected = expected_step(case, lane)
    except Undecided as error:  # either mask is right: the run goes on from the target's
        return Check(*fixed, Verdict.INCONCLUSIVE, reason=str(error)), after
    check = Check(*fixed, *compare_all(host, expected))
    failed = check.verdict is Verdict.FAIL
    seen.append(Seen(target, lane, 0, NOT_DRAWN, case, outputs, host, expected, failed))
    return check, after


def _require_shapes(before: TrainState, after: TrainState) -> None:
    """Refuse a state that no step can go on from."""
    shapes = [{n: [a.shape for a in f] for n, f in state.factors.items()} for state in (before, after)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the factors of the new state must have the shapes {shapes[0]}; got {shapes[1]}")


def _as_numpy(state: Any, matrices: Iterable[str]) -> TrainState:
    """The target's state with NumPy arrays, in our records, in forward order whatever the order of its dictionaries."""

    def factors(held: Any) -> Factors:
        return Factors(on_host(held.B), on_host(held.s), on_host(held.A))

    weights, importance, optimizer, masks = (
        in_order(each, matrices) for each in (state.factors, state.importance, state.optimizer, state.masks)
    )
    return TrainState(
        int(state.step),
        {n: factors(f) for n, f in weights.items()},
        {n: Importance(factors(i.sensitivity), factors(i.uncertainty)) for n, i in importance.items()},
        {n: AdamState(factors(o.first), factors(o.second), int(o.steps)) for n, o in optimizer.items()},
        {n: on_host(mask) for n, mask in masks.items()},
    )


def _inputs(dtype: str, seed: int) -> Inputs:
    rng, kind = np.random.default_rng(seed), NUMPY_DTYPES[dtype]
    weights = {name: rng.standard_normal(shape).astype(kind) for name, shape in CHAIN.items()}
    biases = {name: rng.standard_normal(shape[0]).astype(kind) for name, shape in CHAIN.items()}
    network = calls.network({"weights": weights, "biases": biases, "labels": False})
    state = init_state(network, CONFIG, rng)
    return {"weights": weights, "biases": biases, "labels": False, "config": CONFIG, "state": state}


CHAIN = dict(zip(NAMES, ((3, 2), (2, 3), (3, 2), (3, 3)), strict=True))


def _batch(dtype: str, seed: int, number: int) -> list[tuple[Array, Array]]:
    rng, kind = np.random.default_rng([seed, number]), NUMPY_DTYPES[dtype]
    return [(rng.standard_normal((2, 2)).astype(kind), rng.standard_normal((2, 3)).astype(kind))]


def _reference_step(case: Inputs, theirs: TrainState, lane: Lane) -> TrainState:
    """The reference's step in float64; where rounding may have decided who is kept, with the target's masks."""
    held = Target("adalora_ref", reference(lane.convention))
    case, lane = wide(case), lane._replace(dtype="float64")
    after: TrainState = calls.train_step(held, case, lane)["state"]
    scores = {n: lane.convention.score(after.importance[n], f) for n, f in after.factors.items()}
    masks = theirs_if_near(theirs.masks, after.masks, scores, lane.dtype)
    if all(np.array_equal(mask, after.masks[n]) for n, mask in masks.items()):
        return after
    chosen = replace(lane.convention, allocate=lambda *_, **__: masks)
    after = calls.train_step(held, case, lane._replace(convention=chosen))["state"]
    return after
