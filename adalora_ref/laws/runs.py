"""Laws of whole steps and runs of Algorithm 1."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from adalora_ref import strategies
from adalora_ref.adamw import AdamState
from adalora_ref.array import HALF, backend
from adalora_ref.budget import BudgetSchedule
from adalora_ref.conformance import tensor_files
from adalora_ref.conformance.cases import Inputs
from adalora_ref.conformance.checking import stage_named
from adalora_ref.conformance.deviations import reference
from adalora_ref.conformance.expectations import Undecided
from adalora_ref.conformance.serial import tensors_of
from adalora_ref.conformance.target import Target, leaves, spoken, tree_map
from adalora_ref.convention import PAPER
from adalora_ref.factors import Factors
from adalora_ref.importance import Importance
from adalora_ref.laws.allocation import budgets
from adalora_ref.laws.asking import Answer, Asked
from adalora_ref.laws.importance import moments, optimised, updates
from adalora_ref.laws.law import Law
from adalora_ref.laws.layer_cases import with_keep
from adalora_ref.laws.measured import Broken, demand, same, separated
from adalora_ref.records import Config, TrainState

STEP = ("train_step",)

# CASES


@st.composite
def steps(
    draw: DrawFn,
    /,
    dtype: str,
    *,
    phase: str | None = None,
    rank: Any = strategies.sizes(1, 2),  # noqa: B008  a strategy is a value
    clipped: Any = st.booleans(),  # noqa: B008  likewise
    samples: Any = 1,
    averages: Any = strategies.EIGHTHS,
) -> Inputs:
    """A network of one or two layers, a batch, and a state before a step of some phase, as the kit's stage has it."""
    kind = "float32" if dtype in HALF else dtype
    names, r = ["first", "last"][: draw(strategies.sizes(1, 2))], draw(rank)
    widths = [draw(strategies.sizes(1, 2)) for _ in range(len(names) + 1)]
    shapes = dict(zip(names, zip(widths[1:], widths, strict=False), strict=True))
    plan = draw(_plans(len(names) * r))
    step = draw(_moments(plan, phase))
    state = draw(_states(kind, shapes, r, step, plan, averages))
    few: dict[str, Any] = {"entries": strategies.EIGHTHS, "dtype": dtype}
    count = draw(st.just(samples) if isinstance(samples, int) else samples)
    return {
        "weights": {name: draw(strategies.arrays(shape, **few)) for name, shape in shapes.items()},
        "biases": {},
        "labels": False,
        "state": state,
        "batch": [
            (draw(strategies.arrays((count, widths[0]), **few)), draw(strategies.arrays((count, widths[-1]), **few)))
        ],
        "config": Config(
            schedule=plan, initial_rank=r, alpha=draw(st.sampled_from([1.0, 2.0])), learning_rate=0.125,
            weight_decay=draw(st.sampled_from([0.0, 0.25])), clip_norm=0.25 if draw(clipped) else None,
        ),
    }  # fmt: skip


@st.composite
def _plans(draw: DrawFn, whole: int) -> BudgetSchedule:
    target = draw(st.integers(0, whole))
    return draw(strategies.schedules(target=target, falls_by=whole - target, warmup=strategies.sizes(1, 2),
                                     window=strategies.sizes(1, 4), final=strategies.sizes(1, 2),
                                     interval=strategies.sizes(1, 2), whole=False))  # fmt: skip


def _moments(plan: BudgetSchedule, phase: str | None) -> st.SearchStrategy[int]:
    """Steps of a phase: warmup, pruning, or last, which is later than T − t_f."""
    ends = {"warmup": (0, plan.warmup - 1), "pruning": (plan.warmup, plan.end_of_pruning - 1)}
    ends |= {"last": (plan.end_of_pruning + 1, plan.total + 1), "final": (plan.end_of_pruning, plan.total + 1)}
    return st.integers(*ends[phase]) if phase else st.integers(0, plan.total)


@st.composite
def _states(
    draw: DrawFn, kind: str, shapes: dict[str, Any], r: int, step: int, plan: BudgetSchedule, averages: Any
) -> TrainState:
    held = {n: draw(strategies.factors(d_out=o, d_in=i, r=r, dtype=kind)) for n, (o, i) in shapes.items()}
    importance = {n: draw(strategies.importance_states(f, entries=averages, dtype=kind)) for n, f in held.items()}
    optimizer = {n: AdamState(*draw(moments(f, dtype=kind)), step) for n, f in held.items()}
    alive = {n: np.asarray([step <= plan.warmup or draw(st.booleans()) for _ in range(r)], dtype=bool) for n in shapes}
    return TrainState(step, held, importance, optimizer, alive)


def at_start(dtype: str) -> st.SearchStrategy[Inputs]:
    """Steps of pruning; what is due is a matter of the schedule."""
    return steps(dtype, phase="pruning")


@st.composite
def in_two(draw: DrawFn, /, dtype: str) -> Inputs:
    """Steps on a batch of two or four samples."""
    return draw(steps(dtype, samples=st.sampled_from([2, 4])))


@st.composite
def reordered(draw: DrawFn, /, dtype: str) -> Inputs:
    """Steps that allocate, with an order of the two triplets of each matrix."""
    case = draw(steps(dtype, phase="pruning", rank=st.just(2), averages=strategies.ordinary()))
    plan = replace(case["config"].schedule, target=draw(st.sampled_from([1, 0, 2])), interval=1)
    at = plan.end_of_pruning if draw(st.booleans()) else case["state"].step
    orders = {name: draw(st.sampled_from([[1, 0], [0, 1]])) for name in case["weights"]}
    config = replace(case["config"], schedule=plan)
    return case | {"state": case["state"]._replace(step=at), "config": config, "order": orders}


@st.composite
def short_runs(draw: DrawFn, /, dtype: str) -> Inputs:
    """The first state of a run, one batch for every step, and whether the convention is PAPER."""
    case = draw(steps(dtype, phase="warmup"))
    start = case["state"]._replace(step=0, masks={n: np.ones_like(m) for n, m in case["state"].masks.items()})
    return case | {"state": start, "paper": draw(st.booleans())}


def _step(it: Asked, case: Inputs, **changed: Any) -> Answer:
    given = {name: changed.get(name, case[name]) for name in STEP_ARGUMENTS}
    return it("train_step", given, convention=PAPER if case.get("paper") else None)


STEP_ARGUMENTS = ("weights", "biases", "labels", "state", "batch", "config")


# COMPARING


def alike(
    left_name: str, left: Answer, right_name: str, right: Answer, parts: tuple[str, ...], order: Any = None
) -> None:
    """Demand that parts of two answers are the same number by number: bit for bit, or within what the bounds add up to.

    *order* permutes the triplets of the right one.
    """
    for path, a in left.host.items():
        if not path.startswith(parts):
            continue
        b = _ordered(path, right.host.get(path), order)
        if b is None or a.shape != b.shape:
            raise Broken(f"{left_name} and {right_name} must both have {spoken(path)} in one shape")
        if a.tobytes() == b.tobytes() or bool(np.all(a == b)):
            continue
        slack = left.expected[path].error + _ordered(path, right.expected[path].error, order)
        if not np.all(np.isfinite(slack)):
            raise Undecided(f"the bound of {spoken(path)} is not finite")
        apart = np.abs(a.astype(np.float64) - b.astype(np.float64))
        if not bool(np.all(apart <= slack)):
            raise Broken(_apart(path, left_name, a, right_name, b, slack, apart))


def _ordered(path: str, a: Any, order: Any) -> Any:
    """An array of the answer with the triplets of its matrix permuted."""
    name = next((n for n in order or () if f"[{n}]" in path), None)
    if name is None or a is None or not a.shape:
        return a
    p = order[name]
    return a[:, p] if path.endswith(".B") else a[p]


def _apart(path: str, left_name: str, a: Any, right_name: str, b: Any, slack: Any, apart: Any) -> str:
    worst = np.unravel_index(int(np.argmax(np.where(apart <= slack, 0.0, apart))), apart.shape)
    where = f"{spoken(path)}[{', '.join(str(int(i)) for i in worst)}]" if worst else spoken(path)
    bound = f"up to {float(slack[worst]):.1e}" if slack[worst] else "exactly, since nothing rounds here"
    return (
        f"{where} must be the same {left_name} and {right_name}, {bound}; "
        f"got {float(a[worst])!r} and {float(b[worst])!r}, which lie {float(apart[worst]):.1e} apart"
    )


FACTORS, OPTIMIZER, AVERAGES = ("[state].factors",), ("[state].optimizer",), ("[state].importance",)
STATE = ("[state]",)


def kept_counts(answer: Answer, case: Inputs) -> dict[str, int]:
    """How many of each matrix the new masks keep."""
    return {name: int(np.sum(answer.host[f"[state].masks[{name}]"])) for name in case["weights"]}


# LAWS


def full_budget_is_no_allocation(it: Asked, case: Inputs) -> None:
    """Under SPEC and PAPER, training with the full budget is training without allocation, state by state."""
    plan = case["config"].schedule
    full = replace(case["config"], schedule=replace(plan, target=plan.initial))
    longer = replace(plan, target=plan.initial, warmup=plan.total, total=plan.total + plan.final + 1)
    never = replace(case["config"], schedule=longer)
    state = case["state"]
    for _ in range(plan.end_of_pruning - 1):
        allocated, free = (_step(it, case, state=state, config=config) for config in (full, never))
        alike("with the full budget", allocated, "without allocation", free, STATE)
        state = state_of(allocated.host, state)


def permuting_triplets_commutes_with_a_step(it: Asked, case: Inputs) -> None:
    """The order of the triplets is a matter of names: a step from the permuted state gives the permuted result."""
    order, state = case["order"], case["state"]
    here = _step(it, case)
    if "[report].threshold" in here.host and not separated(_scores(here, case)):
        raise Undecided("two scores lie within their bounds of each other")
    there = _step(it, case, state=permuted(state, order))
    alike("of the permuted", there, "permuted", here, STATE, order)


def _scores(answer: Answer, case: Inputs) -> dict[str, Any]:
    """The scores from the averages that a step left; a tie, even of exact numbers, goes by the order."""
    found = {}
    for name in case["weights"]:
        entries = [getattr(answer.state.importance[name].sensitivity, part) for part in "BsA"]
        others = [getattr(answer.state.importance[name].uncertainty, part) for part in "BsA"]
        B, s, A = (a * b for a, b in zip(entries, others, strict=True))
        found[name] = s + np.sum(B, axis=0) * Fraction(1, B.shape[0]) + np.sum(A, axis=1) * Fraction(1, A.shape[1])
    flat = [s.value for row in found.values() for s in row]
    if len(set(flat)) < len(flat):
        raise Undecided("two scores are equal")
    return found


def dropped_triplets_stay_out(it: Asked, case: Inputs) -> None:
    """In the last phase the mask is frozen and applied after every step: s_i = 0 where not kept."""
    after = _step(it, case)
    for name, before in case["state"].masks.items():
        mask, s = after.host[f"[state].masks[{name}]"], after.host[f"[state].factors[{name}].s"]
        same(f"the mask of {name} after T − t_f", mask.tolist(), "as it was", before.tolist())
        demand(not np.any(s[~mask]), f"s of {name} must be 0 where dropped; got {s.tolist()} with mask {mask.tolist()}")


def averages_freeze_in_the_last_phase(it: Asked, case: Inputs) -> None:
    """From T − t_f on Ī and Ū stay as they are."""
    after = _step(it, case)
    for path, a in leaves({"state": case["state"]}):
        if path.startswith(AVERAGES):
            same(f"{spoken(path)} after T − t_f", after.host[path].tolist(), "as it was", a.tolist())


def micro_batches_are_averaged(it: Asked, case: Inputs) -> None:
    """A batch and its two halves as micro-batches make the same step: loss and gradients of the task are means."""
    ((x, target),) = case["batch"]
    half = x.shape[0] // 2
    halves = [(x[:half], target[:half]), (x[half:], target[half:])]
    whole, split = _step(it, case), _step(it, case, batch=halves)
    alike("of the whole", whole, "of its halves", split, (*OPTIMIZER, "[report].loss", "[report].penalty"))


def loss_is_of_the_task_alone(it: Asked, case: Inputs) -> None:
    """The loss that is reported has no penalty in it: γ does not change it."""
    other = replace(case["config"], orthogonality_weight=2.0)
    here, there = _step(it, case), _step(it, case, config=other)
    alike("at γ = 0.1", here, "at γ = 2", there, ("[report].loss",))


def importance_is_taken_before_the_step(it: Asked, case: Inputs) -> None:
    """Sensitivity is taken at the weights before they move: the learning rate does not change Ī and Ū."""
    here, there = (_step(it, case, config=replace(case["config"], learning_rate=lr)) for lr in (0.125, 1.0))
    alike("at lr = 1/8", here, "at lr = 1", there, AVERAGES)


def importance_is_taken_before_clipping(it: Asked, case: Inputs) -> None:
    """Sensitivity is made of the gradient before clipping: the clip norm does not change Ī and Ū."""
    here, there = (_step(it, case, config=replace(case["config"], clip_norm=c)) for c in (None, 2.0**-6))
    alike("without clipping", here, "clipped", there, AVERAGES)


def pruning_leaves_the_moments(it: Asked, case: Inputs) -> None:
    """Pruning takes nothing but s: the budget does not change Adam's moments, B or A."""
    plan = case["config"].schedule
    all_kept, none_kept = (
        _step(it, case, config=replace(case["config"], schedule=replace(plan, target=n, interval=1)))
        for n in (plan.initial, 0)
    )
    parts = tuple(f"[state].factors[{name}].{part}" for name in case["weights"] for part in "BA")
    alike("at the full budget", all_kept, "at a smaller one", none_kept, (*OPTIMIZER, *parts))


def a_step_keeps_its_budget(it: Asked, case: Inputs) -> None:
    """An allocation keeps exactly the budget of its step, over all matrices: Σ kept = b(t)."""
    plan = case["config"].schedule
    after = _step(it, case, config=replace(case["config"], schedule=replace(plan, interval=1)))
    count, budget = sum(kept_counts(after, case).values()), int(after.host["[report].budget"])
    demand(count == budget, f"the number kept must be the step's budget, {budget}; got {count}")


def mask_and_s_agree(it: Asked, case: Inputs) -> None:
    """After an allocation s_i = 0 where dropped."""
    plan = case["config"].schedule
    after = _step(it, case, config=replace(case["config"], schedule=replace(plan, interval=1, target=0)))
    for name in case["weights"]:
        mask, s = after.host[f"[state].masks[{name}]"], after.host[f"[state].factors[{name}].s"]
        demand(not np.any(s[~mask]), f"s of {name} must be 0 where dropped; got {s.tolist()} with mask {mask.tolist()}")


def libraries_agree(it: Asked, case: Inputs) -> None:
    """NumPy, array-api-strict and CuPy agree within the bound: the target with the reference on each that is here."""
    for name, inputs in case["stages"].items():
        if any(it.target.function(needed) is None for needed in stage_named(name).needs):
            continue
        ours = it(name, inputs)
        for library in ("numpy", "array_api_strict", "cupy"):
            try:
                backend(library)
            except RuntimeError:
                continue
            there = Asked(Target(f"the reference on {library}", reference(), library), it.lane.dtype)
            alike("of the target", ours, f"of the reference on {library}", there(name, inputs), ("[",))


@st.composite
def one_of_each(draw: DrawFn, /, dtype: str) -> Inputs:
    """Arguments of one call of a function of each kind: layer, penalty, importance, optimiser, pruning, allocation."""
    kind = "float32" if dtype in HALF else dtype
    entries = draw(st.sampled_from([strategies.EIGHTHS, strategies.ordinary()]))
    layer = draw(strategies.linear_cases(dtype=kind, entries=entries))
    held = layer["factors"]
    return {
        "stages": {
            "linear_forward": layer,
            "linear_backward": layer,
            "increment": layer,
            "merge": layer,
            "orthogonality_penalty": {"factors": held},
            "triplet_scores": {"state": draw(strategies.importance_states(held, entries=entries, dtype=kind))},
            "update_importance": draw(updates(kind)),
            "adamw_step": draw(optimised(kind)),
            "prune": draw(with_keep(kind)),
            "allocate": draw(budgets(kind)),
        }
    }


def save_and_load_are_the_identity(it: Asked, case: Inputs) -> None:
    """A run goes on from a state that was written to a file and read back as if it had never stopped, bit for bit."""
    after = _step(it, case)
    state = state_of(after.host, case["state"])
    there = _step(it, case, state=through_a_file(state))
    here = _step(it, case, state=state)
    for path, a in here.host.items():
        same(f"{spoken(path)}, saved and loaded", there.host[path].tolist(), "as without", a.tolist())


def through_a_file(state: TrainState) -> TrainState:
    """The state, its arrays written to a safetensors file and read back."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        tensor_files.write(path, tensors_of({"state": state}))
        held = iter(tensor_files.read(path).tensors.items())
        by_name = dict(held)
    names = iter([spoken(p) for p, a in leaves({"state": state}) if isinstance(a, np.ndarray)])
    loaded: TrainState = tree_map(lambda _: by_name[next(names)], state)
    return loaded


def permuted(state: TrainState, order: dict[str, list[int]]) -> TrainState:
    """The state with the triplets of each matrix in another order."""

    def moved(name: str, held: Factors) -> Factors:
        p, (B, s, A) = order[name], held
        return Factors(B[:, p], s[p], A[p])

    return TrainState(
        state.step,
        {n: moved(n, f) for n, f in state.factors.items()},
        {n: Importance(*(moved(n, f) for f in pair)) for n, pair in state.importance.items()},
        {n: AdamState(moved(n, o.first), moved(n, o.second), o.steps) for n, o in state.optimizer.items()},
        {n: mask[order[n]] for n, mask in state.masks.items()},
    )


def state_of(host: dict[str, Any], before: TrainState) -> TrainState:
    """The state that a step returned, from its arrays on the host, in our records."""

    def factors(path: str) -> Factors:
        return Factors(*(host[f"{path}.{part}"] for part in "BsA"))

    importance, optimizer = {}, {}
    for n in before.factors:
        mean, deviation = (f"[state].importance[{n}].{a}" for a in ("sensitivity", "uncertainty"))
        first, second, steps = (f"[state].optimizer[{n}].{a}" for a in ("first", "second", "steps"))
        importance[n] = Importance(factors(mean), factors(deviation))
        optimizer[n] = AdamState(factors(first), factors(second), int(host[steps]))
    return TrainState(
        int(host["[state].step"]),
        {n: factors(f"[state].factors[{n}]") for n in before.factors},
        importance,
        optimizer,
        {n: host[f"[state].masks[{n}]"] for n in before.factors},
    )


SHARED = (
    "linear_forward", "linear_backward", "increment", "merge", "orthogonality_penalty", "triplet_scores",
    "update_importance", "adamw_step", "prune", "allocate",
)  # fmt: skip

RUN_LAWS: tuple[Law, ...] = (
    Law(full_budget_is_no_allocation, STEP, short_runs, "averages_only_at_allocations"),
    Law(permuting_triplets_commutes_with_a_step, STEP, reordered, "masks_keep_the_first"),
    Law(dropped_triplets_stay_out, STEP, lambda dtype: steps(dtype, phase="last"), "pruned_triplets_come_back"),
    Law(averages_freeze_in_the_last_phase, STEP, lambda dtype: steps(dtype, phase="final"), "averages_never_freeze"),
    Law(micro_batches_are_averaged, STEP, in_two, "micro_batches_are_summed"),
    Law(loss_is_of_the_task_alone, STEP, steps, "loss_includes_the_penalty"),
    Law(importance_is_taken_before_the_step, STEP, at_start, "sensitivity_at_moved_weights"),
    Law(importance_is_taken_before_clipping, STEP, at_start, "sensitivity_of_clipped_gradient"),
    Law(pruning_leaves_the_moments, STEP, at_start, "pruning_clears_the_moments"),
    Law(a_step_keeps_its_budget, STEP, at_start, "budget_per_matrix_in_training"),
    Law(mask_and_s_agree, STEP, at_start, "mask_is_discarded"),
    Law(libraries_agree, (), one_of_each, None, one_of=SHARED),
    Law(save_and_load_are_the_identity, STEP, steps, None),
)
