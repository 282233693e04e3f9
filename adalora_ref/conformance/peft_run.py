"""A small training run of the installed PEFT, recorded, and every stage of it checked from PEFT's own inputs to it.

The network is the core's MLP of two matrices. PEFT's model, torch's autograd, clipping and AdamW, and PEFT's allocator
train it in the order that PEFT's documentation gives: backward, clip, step, `update_and_allocate`, zero the gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from adalora_ref.adamw import AdamState
from adalora_ref.array import Array
from adalora_ref.budget import BudgetSchedule
from adalora_ref.conformance import oracle_run, trace
from adalora_ref.conformance.bounds import Number, total
from adalora_ref.conformance.lifting import evaluate
from adalora_ref.conformance.oracle_run import CONSTANTS
from adalora_ref.conformance.oracles import Triple
from adalora_ref.conformance.peft_target import ADAPTER, Adapted, array, peers, recorded, tensor
from adalora_ref.conformance.trace import Each, Quantity, exact
from adalora_ref.conformance.verdict import Check, Row, Verdict, row
from adalora_ref.convention import PEFT
from adalora_ref.factors import init_factors
from adalora_ref.loss import mean_square
from adalora_ref.networks.mlp import MLP
from adalora_ref.records import Config
from adalora_ref.training import init_state, train_step

EQUATIONS = {
    "ranknum": "ν = r_init, not trained",
    "scale": "α / (r_init + 1e-5)",
    "objective": "loss + γ / 2n · Σ (‖BᵀB − I‖_F + ‖AAᵀ − I‖_F)",
    "gradient": "∇ objective by B, s and A",
    **trace.EQUATIONS,
}
"""What is checked at each step, in the order in which the step computes it."""

SHAPES = {"layer0": (6, 5), "layer1": (4, 6)}

CONFIG = Config(
    schedule=BudgetSchedule(initial=8, target=2, warmup=2, final=4, total=15, interval=2),
    initial_rank=4,
    alpha=4.0,
    learning_rate=0.02,
    orthogonality_weight=0.5,
    weight_decay=0.05,
    clip_norm=0.25,
)
"""T − t_f is no multiple of ΔT, so that the allocation there is the forced one; the gradient is clipped."""

LANES = (("float32", False), ("float64", False), ("float64", True), ("bfloat16", False), ("bfloat16", True))
"""Dtype of the frozen weights, and whether `ranknum` is frozen by hand; on float32 PEFT leaves it frozen."""


class Step(NamedTuple):
    """What one step of PEFT's run showed, as NumPy arrays; dictionaries are by matrix, in forward order.

    Attributes
    ----------
    run
        What any recorded run has.
    rank, trained, scale
        PEFT's `ranknum`, whether it requires a gradient, and `scaling` / (`ranknum` + 1e-5).
    objective
        The loss with the regulariser in it.
    """

    run: trace.Step
    x: Array
    target: Array
    rank: dict[str, Array]
    trained: dict[str, Array]
    scale: dict[str, Array]
    objective: Array


class Run(NamedTuple):
    """A recorded run: our network with PEFT's weights, the dtypes of base and adapters, and the steps."""

    network: MLP
    base: str
    adapters: str
    frozen: bool
    steps: tuple[Step, ...]


class Growth(NamedTuple):
    """The largest difference between PEFT's factors and ours after a step, and relative to the largest factor."""

    step: int
    absolute: float
    relative: float


# RECORDING


@lru_cache(maxsize=8)
def record(base_dtype: str, *, freeze_ranknum: bool, seed: int = 0) -> Run:
    """Train with PEFT and keep what every step showed.

    Parameters
    ----------
    base_dtype
        Of the frozen weights: float32, float64 or bfloat16; PEFT holds adapters of a bfloat16 base in float32.
    freeze_ranknum
        False: `ranknum` as PEFT ships it. True: frozen, as it is meant to be.
    """
    torch, _ = peers()
    dtype, rng = getattr(torch, base_dtype), np.random.default_rng(seed)
    weights = {name: tensor(rng.standard_normal(shape)).to(dtype) for name, shape in SHAPES.items()}
    biases = {name: tensor(rng.standard_normal(shape[0])).to(dtype) for name, shape in SHAPES.items()}
    held = _adapted(weights, biases)
    for name, shape in SHAPES.items():
        held.load(name, init_factors(rng, *shape, CONFIG.initial_rank, like=np.zeros(1)))
        if freeze_ranknum:
            held.layer(name).ranknum[ADAPTER].requires_grad_(False)
    parameters = [p for p in held.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=CONFIG.learning_rate, weight_decay=CONFIG.weight_decay)
    seen = {method: recorded(held.allocator, method) for method in ("mask_to_budget", "_combine_ipt")}
    steps: list[Step] = []
    for t in range(CONFIG.schedule.total):
        x, target = (tensor(rng.standard_normal((4, d))).to(dtype) for d in (5, 4))
        shown, trained = _trained(t, x, target, held, optimizer)
        allocated = _allocated(t, held, seen, steps[-1].run if steps else None)
        optimizer.zero_grad()
        steps.append(Step(trace.Step(t, **trained, **allocated), _wide(x), _wide(target), **shown))
    network = MLP({n: _wide(W) for n, W in weights.items()}, {n: _wide(b) for n, b in biases.items()}, mean_square)
    return Run(network, base_dtype, _factors(steps[0].run.after)["layer0"].s.dtype.name, freeze_ranknum, tuple(steps))


def _adapted(weights: dict[str, Any], biases: dict[str, Any]) -> Adapted:
    torch, _ = peers()
    schedule = CONFIG.schedule
    return Adapted(
        weights,
        dict.fromkeys(weights, CONFIG.initial_rank),
        biases=biases,
        loss=torch.nn.functional.mse_loss,
        lora_alpha=CONFIG.alpha,
        orth_reg_weight=CONFIG.orthogonality_weight,
        target_r=schedule.target // len(weights),
        tinit=schedule.warmup,
        tfinal=schedule.final,
        total_step=schedule.total,
        deltaT=schedule.interval,
    )


def _trained(t: int, x: Any, target: Any, held: Adapted, optimizer: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Forward, backward, clipping and the optimiser's step; what PEFT shows of itself, and what any run records."""
    torch, _ = peers()
    names = list(held.network.layers)
    ranks = {name: held.layer(name).ranknum[ADAPTER] for name in names}
    shown: dict[str, Any] = {
        "rank": {name: array(rank)[0] for name, rank in ranks.items()},
        "trained": {name: np.asarray(rank.requires_grad) for name, rank in ranks.items()},
        "scale": {name: array(held.layer(name).scaling[ADAPTER] / (rank + 1e-5))[0] for name, rank in ranks.items()},
    }
    seen: dict[str, Any] = {"weights": {name: held.factors(name) for name in names}}
    loss = held.model(input_ids=x, labels=target).loss
    loss.backward()
    shown["objective"] = _wide(loss)
    seen["gradient"] = {name: held.factors(name, lambda p: p.grad) for name in names}
    torch.nn.utils.clip_grad_norm_(held.model.parameters(), CONFIG.clip_norm)
    seen["clipped"] = {name: held.factors(name, lambda p: p.grad) for name in names}
    optimizer.step()
    seen["moved"] = {name: held.factors(name) for name in names}
    seen["optimizer"] = {name: _moments(held, name, optimizer, t + 1) for name in names}
    return shown, seen


def _moments(held: Adapted, name: str, optimizer: Any, steps: int) -> AdamState:
    first, second = (
        held.factors(name, lambda p, moment=moment: optimizer.state[p][moment])  # type: ignore[misc]
        for moment in ("exp_avg", "exp_avg_sq")
    )
    return AdamState(first, second, steps)


def _allocated(t: int, held: Adapted, seen: dict[str, list[Any]], previous: trace.Step | None) -> dict[str, Any]:
    """`update_and_allocate`, and what its allocator did."""
    for calls in seen.values():
        calls.clear()
    held.model.base_model.update_and_allocate(t)
    names, (patterns, scores) = list(held.network.layers), seen.values()
    masks = previous.masks if previous else {name: np.ones(CONFIG.initial_rank, dtype=bool) for name in names}
    if patterns:
        masks = dict(zip(names, (np.asarray(mask) for mask in patterns[0].values()), strict=True))
    # At T − t_f PEFT forgets its averages, which had their last update the step before.
    if previous and t >= CONFIG.schedule.end_of_pruning:
        importance = previous.importance
    else:
        importance = {name: held.averages(name) for name in names}
    return {
        "importance": importance,
        "budget": held.allocator.budget_schedule(t)[0],
        "due": bool(patterns),
        "scores": dict(zip(names, (array(s) for s in scores), strict=True)) if patterns else None,
        "masks": masks,
        "after": {name: held.factors(name) for name in names},
    }


def _wide(value: Any) -> Array:
    """Return a tensor as an array; NumPy itself has no bfloat16, so that goes into float32, which holds it."""
    return array(value.float() if value.dtype is peers()[0].bfloat16 else value)


# CHECKING


def check_run(base_dtype: str, *, freeze_ranknum: bool) -> list[Row]:
    """Check every stage of a recorded run from PEFT's own inputs to it; one row for each quantity."""
    checks = run_checks(record(base_dtype, freeze_ranknum=freeze_ranknum))
    return [row(name, equation, [c for c in checks if c.stage == name]) for name, equation in EQUATIONS.items()]


def run_checks(run: Run) -> list[Check]:
    """All checks of a run in the order in which it computed what they check, so that the first failure comes first."""
    lane = f"{run.base}/{'frozen' if run.frozen else 'shipped'}"
    return [
        check
        for before, held in zip((None, *run.steps), run.steps, strict=False)
        for stage, got, wanted in _stages(run, held, before)
        for check in trace.checks(stage, f"{lane}/step {held.run.number}", "torch", run.base, got, wanted())
    ]


def run_rows() -> Iterator[Row]:
    """One row for each base and each state of `ranknum`; its diagnosis names the quantity that departs first."""
    for base, frozen in LANES:
        run = record(base, freeze_ranknum=frozen)
        name = f"train_step on {base}, ranknum {'frozen' if frozen else 'as shipped'}"
        checks = run_checks(run)
        held = row(
            name, "Algorithm 1 under PEFT, every stage from its own inputs", checks, partial(_first, run, checks)
        )
        yield held._replace(note=_beside_ours(run))


def _first(run: Run, checks: list[Check]) -> str:
    """Say where a run first departs, and how far `ranknum` has gone if that is it."""
    first = next(check for check in checks if check.verdict is Verdict.FAIL)
    if first.stage != "ranknum":
        return f"{first.stage} departs first: {EQUATIONS[first.stage]}"
    start, end = run.steps[0].rank, run.steps[-1].rank
    drift = ", ".join(f"{name} {start[name]:.6g} → {end[name]:.6g}" for name in start)
    return f"ranknum departs first: it requires a gradient, so the optimiser moves it and the scale drifts; {drift}"


def _beside_ours(run: Run) -> str:
    grown = growth(run)
    last = grown[-1].step + 1
    return f"beside train_step under PEFT, after {last} steps: apart by {grown[-1].relative:.1e} of the largest factor"


def _stages(run: Run, held: Step, before: Step | None) -> Iterator[Quantity]:
    """Yield each quantity of a step: its name, what PEFT's run has, and what its own inputs make it."""
    yield from _scaling(run, held)
    yield from _gradients(run, held)
    judge = trace.Judge(CONFIG, PEFT, run.adapters)
    yield from trace.quantities(held.run, None if before is None else before.run, judge)


def _scaling(run: Run, held: Step) -> Iterator[Quantity]:
    rank = np.asarray(float(CONFIG.initial_rank), dtype=run.adapters)
    shipped = {n: {"value": held.rank[n], "requires_grad": held.trained[n]} for n in held.rank}
    frozen = {n: {"value": rank, "requires_grad": np.asarray(False)} for n in held.rank}
    yield "ranknum", shipped, partial(exact, frozen)
    scales = evaluate(_scales, dict.fromkeys(held.rank, rank), CONFIG, CONSTANTS, working=run.adapters, like=held.scale)
    yield "scale", held.scale, lambda: scales


def _gradients(run: Run, held: Step) -> Iterator[Quantity]:
    own = (held.run.weights, held.rank, [(held.x, held.target)], run.network, CONFIG, CONSTANTS)
    expected = evaluate(_objective, *own, working=run.base, like=(held.objective, held.run.gradient))
    objective = expected.pop("[0]")
    yield "objective", held.objective, lambda: {"": objective}
    yield "gradient", held.run.gradient, lambda: {path.removeprefix("[1]"): want for path, want in expected.items()}


# ORACLES OF THE RUN


def _scales(ranks: dict[str, Number], config: Any, constants: Any) -> dict[str, Number]:
    return {n: config.alpha / (rank + constants["rank_epsilon"]) for n, rank in ranks.items()}


def _objective(
    factors: Any, ranks: Any, batch: Any, network: Any, config: Any, constants: Any
) -> tuple[Number, dict[str, Triple]]:
    """Loss and penalty in one number, and its gradient, at the scales that PEFT's own ranks make."""
    loss, task = oracle_run.task_gradient(factors, _scales(ranks, config, constants), batch, network)
    penalty, regular = oracle_run.weighted_penalty(factors, config, PEFT)
    return total([loss, penalty]), {n: oracle_run.plus(task[n], regular[n]) for n in task}


# BESIDE OURS


def growth(run: Run) -> list[Growth]:
    """Train with `train_step` under the convention PEFT, from the same start on the same batches; compare factors."""
    state = init_state(run.network, CONFIG, np.random.default_rng(0), convention=PEFT)
    state, grown = state._replace(factors=_factors(run.steps[0].run.weights)), []
    for held in run.steps:
        state, _ = train_step(state, [(held.x, held.target)], run.network, CONFIG, convention=PEFT)
        pairs = [
            pair for n, ours in state.factors.items() for pair in zip(ours, _factors(held.run.after)[n], strict=True)
        ]
        largest = max(float(np.max(np.abs(their))) for _, their in pairs)
        apart = max(float(np.max(np.abs(our - their))) for our, their in pairs)
        grown.append(Growth(held.run.number, apart, apart / largest))
    return grown


def _factors(held: Each | None) -> Each:
    assert held is not None, "this run records everything"  # noqa: S101
    return held
