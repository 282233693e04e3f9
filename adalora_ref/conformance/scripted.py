"""Runs that the kit directs: a stateful allocator over scripted gradients, and a target's own training run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from adalora_ref.array import Array
from adalora_ref.budget import BudgetSchedule
from adalora_ref.conformance import calls
from adalora_ref.conformance.cases import NUMPY_DTYPES, Inputs
from adalora_ref.conformance.checking import compare_all
from adalora_ref.conformance.deviations import reference
from adalora_ref.conformance.expectations import Undecided
from adalora_ref.conformance.expectations import train_step as expected_step
from adalora_ref.conformance.limits import SECONDS, OutOfTime, time_limit
from adalora_ref.conformance.stages import STAGES
from adalora_ref.conformance.target import Lane, Target, TargetError, leaves, on_host
from adalora_ref.conformance.trace import Each, Judge, Step
from adalora_ref.conformance.trace_diagnosis import explained
from adalora_ref.conformance.verdict import Check, Row, Verdict, row
from adalora_ref.convention import Convention
from adalora_ref.factors import Factors, init_factors
from adalora_ref.importance import Importance
from adalora_ref.records import Config, TrainState
from adalora_ref.training import init_state

SHAPES = {"layer0": (6, 5), "layer1": (4, 6), "layer2": (3, 3)}

CONFIG = Config(
    schedule=BudgetSchedule(initial=12, target=4, warmup=2, final=4, total=15, interval=2),
    initial_rank=4,
    alpha=4.0,
    learning_rate=0.02,
    weight_decay=0.05,
)
"""T − t_f is no multiple of ΔT and no step of the pattern from t_i, so that every rule of the schedule shows."""

# A STATEFUL ALLOCATOR


def is_allocator(target: Target) -> bool:
    """Whether the target is a stateful allocator: it has `start` and `update`."""
    return target.function("start") is not None and target.function("update") is not None


def check_allocator(target: Target, rules: Convention, *, seed: int, seconds: float = SECONDS) -> list[Row]:
    """Feed an allocator scripted weights and gradients, and check each stage from what it says of itself.

    The target has ``start(weights, schedule, *, beta1, beta2)`` and ``update(step, weights, grads) -> dict``, both with
    dictionaries of `Factors` by matrix. What `update` returns has ``masks``, who is kept now, and as much as the
    allocator can show of ``importance``, ``scores`` (None where no allocation was made), ``budget``, ``due`` and
    ``after``, the weights with the mask applied.
    """
    rows: list[Row] = []
    for dtype in [d for d in target.usable_dtypes if d in ("float64", "float32")]:
        try:
            with time_limit(seconds):
                steps = list(_fed(target, rules, dtype, seed))
        except OutOfTime:
            raise TargetError(f"{target.name} took longer than {seconds:g} s for one run") from None
        rows += explained(steps, Judge(CONFIG, rules, dtype), target.array_library)
    return [_joined([r for r in rows if r.stage == name]) for name in ALLOCATOR_STAGES]


ALLOCATOR_STAGES = ("update_importance", "budget_at", "allocates_at", "triplet_scores", "allocate", "prune")


def _joined(rows: list[Row]) -> Row:
    """One row of those of several dtypes; a diagnosis, or a convention, holds if it holds for all that failed."""
    failed = [r for r in rows if r.verdict is Verdict.FAIL]
    said = {r.diagnosis for r in failed}
    alike = [name for name in failed[0].conventions if all(name in r.conventions for r in failed)] if failed else []
    held = row(rows[0].stage, rows[0].equation, [check for r in rows for check in r.checks])
    return held._replace(diagnosis=said.pop() if len(said) == 1 else "", conventions=tuple(alike))


def _fed(target: Target, rules: Convention, dtype: str, seed: int) -> Iterator[Step]:
    weights, rng = _start(dtype, seed), np.random.default_rng(seed + 1)
    betas = {"beta1": CONFIG.importance_beta1, "beta2": CONFIG.importance_beta2}
    target.require("start")(target.hand_over(weights), CONFIG.schedule, **betas)
    for number in range(CONFIG.schedule.total):
        grads = {n: Factors(*(_typical(rng, a, 1e-3) for a in f)) for n, f in weights.items()}
        said = target.require("update")(number, target.hand_over(weights), target.hand_over(grads))
        yield _step(target.name, number, weights, grads, said)
        weights = {n: Factors(*(a + _typical(rng, a, 1e-2) for a in f)) for n, f in weights.items()}


def _start(dtype: str, seed: int) -> Each:
    rng, like = np.random.default_rng(seed), np.zeros(1, NUMPY_DTYPES[dtype])
    held = {n: init_factors(rng, *shape, CONFIG.initial_rank, like=like) for n, shape in SHAPES.items()}
    return {n: Factors(B, _typical(rng, s, 1e-2), A) for n, (B, s, A) in held.items()}


def _typical(rng: np.random.Generator, like: Array, size: float) -> Array:
    return (size * rng.standard_normal(like.shape)).astype(like.dtype)


def _step(name: str, number: int, weights: Each, grads: Each, said: Any) -> Step:
    """What an allocator said, as a step; the optimiser is not its affair, so it moves nothing."""
    allowed = {"masks", "importance", "scores", "budget", "due", "after"}
    if not isinstance(said, Mapping) or "masks" not in said or not said.keys() <= allowed:
        raise TargetError(f"{name}.update must return a dictionary with masks, and of {', '.join(sorted(allowed))}")
    held = {key: _on_host(value) for key, value in said.items() if value is not None}
    given: dict[str, Any] = {"weights": weights, "gradient": grads, "clipped": grads, "moved": weights}
    try:
        if "importance" in held:
            held["importance"] = {
                n: Importance(*(Factors(*part) for part in pair)) for n, pair in held["importance"].items()
            }
        if "after" in held:
            held["after"] = {n: Factors(*f) for n, f in held["after"].items()}
    except (TypeError, ValueError) as error:
        raise TargetError(f"{name}.update returned importance or after in a form that is none: {error}") from None
    return Step(number, **given, **held)


def _on_host(value: Any) -> Any:
    if isinstance(value, bool | int):
        return value
    if isinstance(value, Mapping):
        return {key: _on_host(item) for key, item in value.items()}
    return type(value)(*map(_on_host, value)) if isinstance(value, Factors | Importance) else _host(value)


def _host(value: Any) -> Any:
    return [_on_host(item) for item in value] if isinstance(value, list | tuple) else on_host(value)


# A TARGET'S OWN TRAINING RUN


def check_run(target: Target, rules: Convention, *, seed: int, seconds: float = SECONDS) -> Row:
    """Train with the target for a whole schedule; check each step from the state that the target itself had reached.

    The row's note says how far the run ends from the reference's in float64, from the same start on the same batches.
    """
    equation = next(stage.equation for stage in STAGES if stage.name == "train_step")
    checks: list[Check] = []
    notes: list[str] = []
    for dtype in [d for d in target.usable_dtypes if d in ("float64", "float32")]:
        lane, held = Lane(dtype, target.accumulation, rules), _inputs(dtype, seed)
        theirs, ours = held["state"], _wide(held["state"])
        for number in range(CONFIG.schedule.total):
            case = {**held, "batch": _batch(dtype, seed, number), "state": theirs}
            check, after = _checked(target, case, lane, number, seconds)
            checks.append(check)
            if after is None:
                break
            ours = _reference_step({**case, "state": ours}, lane)
            theirs = after
        else:
            notes.append(f"{dtype} {_apart(theirs, ours):.1e}")
    note = f"after {CONFIG.schedule.total} steps apart from the reference in float64 by, of the largest factor: "
    found = row("train_step, whole run", equation, checks)
    return found._replace(note=note + ", ".join(notes) if notes else "")


def _checked(target: Target, case: Inputs, lane: Lane, number: int, seconds: float) -> tuple[Check, TrainState | None]:
    """Check one step from the target's own state; return the state after it, None where there is none to go on from."""
    label = f"run/{lane.dtype}/step {number}"
    fixed = ("train_step, whole run", label, target.array_library, lane.dtype)
    try:
        with time_limit(seconds):
            outputs = calls.train_step(target, target.hand_over(case), lane)
            host = {name: on_host(value) for name, value in leaves(outputs)}
        after = _as_numpy(outputs["state"])
    except OutOfTime:
        return Check(*fixed, Verdict.FAIL, np.inf, None, f"train_step took longer than {seconds:g} s"), None
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a target raises is a finding about it
        verdict = Verdict.NOT_RUN if isinstance(error, TargetError) else Verdict.FAIL
        return Check(*fixed, verdict, np.inf, None, f"train_step raised {type(error).__name__}: {error}"), None
    try:
        expected = expected_step(case, lane)
    except Undecided as error:  # either mask is right: the run goes on from the target's
        return Check(*fixed, Verdict.INCONCLUSIVE, reason=str(error)), after
    return Check(*fixed, *compare_all(host, expected)), after


def _as_numpy(state: Any) -> TrainState:
    """The target's state with NumPy arrays, in our records."""

    def factors(held: Any) -> Factors:
        return Factors(*map(on_host, held))

    step, weights, importance, optimizer, masks = state
    return TrainState(
        int(step),
        {n: factors(f) for n, f in weights.items()},
        {n: type(i)(*map(factors, i)) for n, i in importance.items()},
        {n: type(o)(factors(o[0]), factors(o[1]), int(o[2])) for n, o in optimizer.items()},
        {n: on_host(mask) for n, mask in masks.items()},
    )


def _inputs(dtype: str, seed: int) -> Inputs:
    rng, kind = np.random.default_rng(seed), NUMPY_DTYPES[dtype]
    weights = {name: rng.standard_normal(shape).astype(kind) for name, shape in CHAIN.items()}
    biases = {name: rng.standard_normal(shape[0]).astype(kind) for name, shape in CHAIN.items()}
    network = calls.network({"weights": weights, "biases": biases, "labels": False})
    state = init_state(network, CONFIG, rng)
    return {"weights": weights, "biases": biases, "labels": False, "config": CONFIG, "state": state}


CHAIN = {"layer0": (6, 5), "layer1": (5, 6), "layer2": (4, 5)}


def _batch(dtype: str, seed: int, number: int) -> list[tuple[Array, Array]]:
    rng, kind = np.random.default_rng([seed, number]), NUMPY_DTYPES[dtype]
    return [(rng.standard_normal((4, 5)).astype(kind), rng.standard_normal((4, 4)).astype(kind))]


def _reference_step(case: Inputs, lane: Lane) -> TrainState:
    wide: Inputs = _wide(case)
    outputs = calls.train_step(Target("adalora_ref", reference(lane.convention)), wide, lane)
    state: TrainState = outputs["state"]
    return state


def _wide(value: Any) -> Any:
    from adalora_ref.conformance.target import tree_map

    return tree_map(lambda a: a.astype(np.float64) if a.dtype.kind == "f" else a, value)


def _apart(theirs: TrainState, ours: TrainState) -> float:
    pairs = [pair for n, f in ours.factors.items() for pair in zip(f, theirs.factors[n], strict=True)]
    largest = max(float(np.max(np.abs(a))) for a, _ in pairs)
    return max(float(np.max(np.abs(a - b))) for a, b in pairs) / largest
