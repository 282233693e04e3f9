"""State machines: runs of steps in any order, with invariants that hold after each.

Both are factories: they return a class for ``run_state_machine_as_test(machine)``, or whose `TestCase` pytest collects.
"""

from __future__ import annotations

import sys
import unittest
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from adalora_ref import strategies
from adalora_ref.budget import allocates_at, budget_at
from adalora_ref.conformance.calls import Call, Outputs, pair_of
from adalora_ref.conformance.cases import Inputs
from adalora_ref.conformance.checking import stage_named
from adalora_ref.conformance.expectations import Expectation, Undecided
from adalora_ref.conformance.target import Lane, Target, leaves, on_host
from adalora_ref.factors import Factors, map_factors
from adalora_ref.importance import Importance, init_importance
from adalora_ref.laws.asking import Answer, Asked, Hung
from adalora_ref.laws.measured import Broken, Numbers, demand, equal, exact, same
from adalora_ref.laws.running import Failure, Watch, as_target
from adalora_ref.laws.runs import state_of, through_a_file
from adalora_ref.records import Config, TrainState
from adalora_ref.training import init_state

ODD = {"ordinary": 1.0, "zero": 0.0, "huge": 2.0**100, "tiny": 2.0**-100, "one matrix silent": 1.0}
"""By what a gradient of eighths is multiplied; squares of all of them are far from over- and underflow."""

SHAPES = {"q": (2, 2), "v": (1, 2)}

kinds = st.sampled_from(list(ODD))


@st.composite
def beginnings(draw: Any) -> dict[str, Any]:
    """A schedule over all matrices and their first weights; what follows is drawn by the rules."""
    r = draw(strategies.sizes(1, 2))
    whole = r * len(SHAPES)
    low = draw(st.integers(0, whole))
    plan = strategies.schedules(
        target=low, falls_by=whole - low, warmup=strategies.sizes(0, 2), window=strategies.sizes(1, 4), final=1,
        whole=False,
    )  # fmt: skip
    weights = {name: draw(strategies.factors(d_out=d_out, d_in=d_in, r=r)) for name, (d_out, d_in) in SHAPES.items()}
    return {"schedule": draw(plan), "weights": weights}


@st.composite
def gradients(draw: Any, kind: str, like: dict[str, Factors]) -> dict[str, Factors]:
    """A gradient of each matrix, of one kind."""
    drawn = {name: draw(strategies.gradients(held)) for name, held in like.items()}
    silent = draw(st.sampled_from(list(like))) if kind == "one matrix silent" else None
    factor = {name: 0.0 if name == silent else ODD[kind] for name in like}
    return {name: Factors(*(factor[name] * g for g in held)) for name, held in drawn.items()}


def scores_by_hand(state: Importance) -> Numbers:
    """(Ī·Ū)(s_i) + mean_j (Ī·Ū)(B_ji) + mean_j (Ī·Ū)(A_ij), exactly."""
    (B, s, A), (C, t, D) = (tuple(map(exact, held)) for held in state)
    return s * t + np.sum(B * C, axis=0) / B.shape[0] + np.sum(A * D, axis=1) / A.shape[1]


def check_scores(it: Asked, importance: dict[str, Importance]) -> None:
    """Scores are what the averages say, and neither average is negative or not finite."""
    for name, held in importance.items():
        for path, a in leaves(held):
            demand(np.all(np.isfinite(a)) and np.all(a >= 0), f"{path} of {name} must be finite and not negative")
        if it.target.function("triplet_scores"):
            equal(f"S of {name}", it("triplet_scores", {"state": held}).S, "its sum", scores_by_hand(held))


def check_masked(masks: dict[str, Any], factors: dict[str, Factors]) -> None:
    """s is zero where the mask drops."""
    for name, mask in masks.items():
        s = factors[name].s
        demand(not np.any(s[~mask]), f"s of {name} must be 0 where dropped; got {s.tolist()} with mask {mask.tolist()}")


def check_compressed(it: Asked, masks: dict[str, Any], factors: dict[str, Factors]) -> None:
    """Where s is masked, the compressed factors have the same increment."""
    for name, held in factors.items():
        masked = it("prune", {"factors": held, "keep": masks[name]}).factors()
        fewer = it("compress", {"factors": held, "keep": masks[name]}).factors()
        W = np.zeros((held.B.shape[0], held.A.shape[1]))
        a, b = (it("increment", {"W": W, "factors": f, "scale": 1.0}).ΔW for f in (masked, fewer))
        equal(f"ΔW of {name}, masked", a, "compressed", b)


class _Machine(RuleBasedStateMachine):
    """What both machines ask: an implementation, whose latest calls are kept."""

    target: Target
    watch: Watch

    def ask(self) -> Asked:
        """Ask the implementation from here on."""
        asked = Asked(self.target, "float64", seconds=self.watch.seconds())
        self.watch.calls = asked.calls
        return asked

    def teardown(self) -> None:
        """See how the run ended: it held, or broke, or Hypothesis stopped it."""
        error = sys.exc_info()[1]
        if error is None:
            self.watch.hold()
        elif isinstance(error, Hung) or (isinstance(error, Exception) and not isinstance(error, HypothesisException)):
            self.watch.failure = Failure("float64", None, tuple(self.watch.calls), what_broke(error))


def what_broke(error: BaseException) -> str:
    """What broke, in words; anything else that is raised is what the machine could not go on with."""
    named = isinstance(error, Broken | Hung)
    return str(error) if named else f"the answers are none to go on with: {type(error).__name__}: {error}"


class _AllocatorMachine(_Machine):
    """The state of a run of the allocator: schedule, step, weights, averages, masks."""

    @initialize(script=beginnings())
    def start(self, script: dict[str, Any]) -> None:
        """Begin a schedule; every triplet is kept."""
        self.watch.require_time()
        self.schedule, self.weights, self.step, self.pruned = script["schedule"], script["weights"], 0, False
        self.importance = {n: init_importance(f) for n, f in self.weights.items()}
        self.masks = {n: np.ones(f.s.shape, dtype=bool) for n, f in self.weights.items()}
        self.shapes = {n: f.B.shape for n, f in self.weights.items()}
        self.budget = self.schedule.initial

    @rule(kind=kinds, data=st.data())
    def update(self, kind: str, data: Any) -> None:
        """One step: averages until T − t_f, an allocation where one is due, the mask, and a move of the weights."""
        it, grads = self.ask(), data.draw(gradients(kind, self.weights), label="gradients")
        if self.step < self.schedule.end_of_pruning:
            for name, held in self.importance.items():
                given = {"state": held, "weights": self.weights[name], "grads": grads[name]}
                self.importance[name] = _averages(it, given | {"beta1": 0.5, "beta2": 0.75})
        moved = data.draw(gradients("ordinary", self.weights), label="moved to")
        self._allocate(it, moved)
        self.step += 1

    def _allocate(self, it: Asked, moved: dict[str, Factors]) -> None:
        asked = {"schedule": self.schedule, "steps": [self.step]}
        has = _has(self.target, "allocates_at")
        due = bool(it("allocates_at", asked).due[0]) if has else allocates_at(self.schedule, self.step)
        if due:
            has = _has(self.target, "budget_at")
            self.budget = int(it("budget_at", asked).b[0]) if has else budget_at(self.schedule, self.step)
            scores = {n: it("triplet_scores", {"state": held}).host["[S]"] for n, held in self.importance.items()}
            self.masks = dict(it("allocate", {"scores": scores, "budget": self.budget, "cost": None}).keep)
        self.pruned = due or self.step > self.schedule.end_of_pruning
        self.weights = moved
        if self.pruned:
            given = {n: {"factors": f, "keep": self.masks[n]} for n, f in moved.items()}
            self.weights = {n: it("prune", case).factors() for n, case in given.items()}

    @rule()
    def skip(self) -> None:
        """A step that is skipped counts, and changes nothing else."""
        self.step += 1
        self.pruned = False

    @rule()
    def save_and_load(self) -> None:
        """What is written to a file and read back is what it was."""
        held = TrainState(self.step, self.weights, self.importance, {}, self.masks)
        loaded = through_a_file(held)
        self.weights, self.importance, self.masks = loaded.factors, loaded.importance, loaded.masks

    @precondition(lambda self: _has(self.target, "compress") and _has(self.target, "increment"))
    @rule()
    def compress(self) -> None:
        """At a given scale, compressed factors are the masked layer."""
        check_compressed(self.ask(), self.masks, self.weights)

    @invariant()
    def the_budget_is_kept(self) -> None:
        """As many are kept as the latest allocation was to keep."""
        count = sum(int(np.sum(mask)) for mask in self.masks.values())
        demand(count == self.budget, f"the number kept must be the budget, {self.budget}; got {count}")

    @invariant()
    def mask_and_s_agree(self) -> None:
        """After an allocation, and in the last phase, s is zero where dropped."""
        if self.pruned:
            check_masked(self.masks, self.weights)

    @invariant()
    def shapes_stay(self) -> None:
        """Pruning changes no shape."""
        same("the shapes of B", {n: f.B.shape for n, f in self.weights.items()}, "as at the start", self.shapes)
        same("the lengths of the masks", {n: m.shape for n, m in self.masks.items()}, "the ranks",
             {n: f.s.shape for n, f in self.weights.items()})  # fmt: skip

    @invariant()
    def scores_are_of_the_averages(self) -> None:
        """Scores are what the averages say."""
        check_scores(self.ask(), self.importance)


def allocator_machine(implementation: Any) -> type[RuleBasedStateMachine]:
    """A machine over the functions of an allocator: updates, odd gradients, skipped steps, save and load, compress.

    It needs update_importance, triplet_scores, allocate and prune, and asks budget_at, allocates_at, compress and
    increment where the implementation has them. Its `TestCase` is skipped where one that it needs is lacking.
    """
    return _made(_AllocatorMachine, "AllocatorMachine", implementation, ALLOCATOR)


def _made(
    machine: type[_Machine], name: str, implementation: Any, stages: tuple[str, ...]
) -> type[RuleBasedStateMachine]:
    """The machine for an implementation; where it lacks one of the stages, its tests are skipped with the reason."""
    target = as_target(implementation)
    held: dict[str, Any] = {"target": target, "watch": Watch()}
    if lacking := lacking_stages(target, stages):
        skip = unittest.skip(lacking)
        held["TestCase"] = skip(type(f"{name}Test", (unittest.TestCase,), {"runTest": lambda _: None}))
    return type(name, (machine,), held)


def lacking_stages(target: Target, stages: tuple[str, ...]) -> str:
    """Which of the stages the target lacks, in words, or nothing."""
    missing = [name for name in stages if not _has(target, name)]
    return f"the target has no {' and no '.join(missing)}" if missing else ""


ALLOCATOR = ("update_importance", "triplet_scores", "allocate", "prune")


def _has(target: Target, name: str) -> bool:
    return target.function(name) is not None


def _averages(it: Asked, given: dict[str, Any]) -> Importance:
    host = it("update_importance", given).host
    return Importance(*(
        Factors(*(host[f"[state].{name}.{part}"] for part in "BsA")) for name in ("sensitivity", "uncertainty")
    ))  # fmt: skip


class Scripted:
    """A network whose gradient is what its batch says: training is seen apart from any layer."""

    def __init__(self, weights: dict[str, Any], like: dict[str, Factors]) -> None:
        self.weights, self._like = weights, like

    def forward(self, x: Any, _factors: Any, _scales: Any, /) -> tuple[Any, None]:
        """Hand x through."""
        return x, None

    def loss(self, output: Any, target: Any, /) -> tuple[Any, Any]:
        """The first entry of x, with the scripted gradient."""
        return output[0], target

    def backward(self, doutput: Any, _cache: Any, /) -> dict[str, Factors]:
        """Cut the scripted gradient, one long row, into the arrays of every matrix."""
        grads, start = {}, 0
        for name, held in self._like.items():
            parts = []
            for a in held:
                parts.append(doutput[start : start + a.size].reshape(a.shape))
                start += a.size
            grads[name] = Factors(*parts)
        return grads


def _no_oracle(_inputs: Inputs, _lane: Lane) -> Expectation:
    """The oracles know networks of layers alone."""
    raise Undecided("no oracle knows the scripted network")


class _TrainingMachine(_Machine):
    """The state of a training run on a scripted network, and its last report."""

    @initialize(script=beginnings())
    def start(self, script: dict[str, Any]) -> None:
        """Begin a schedule with the factors of the script."""
        self.watch.require_time()
        rank = next(iter(script["weights"].values())).s.shape[0]
        self.frozen = {name: np.full(shape, 0.5) for name, shape in SHAPES.items()}
        self.network = Scripted(self.target.hand_over(self.frozen), script["weights"])
        self.config = Config(schedule=script["schedule"], initial_rank=rank, alpha=2.0, learning_rate=0.125)
        first = init_state(Scripted(self.frozen, script["weights"]), self.config, np.random.default_rng(0))
        self.state = first._replace(factors=script["weights"])
        self.budget, self.pruned = self.config.schedule.initial, False

    @rule(kind=kinds, data=st.data())
    def train(self, kind: str, data: Any) -> None:
        """One step."""
        grads = data.draw(gradients(kind, self.state.factors), label="gradients")
        state, report = self._step(grads)
        step = self.state.step
        self.pruned = allocates_at(self.config.schedule, step) or step > self.config.schedule.end_of_pruning
        if allocates_at(self.config.schedule, step):
            self.budget = int(report.budget)
            want = budget_at(self.config.schedule, step)
            demand(self.budget == want, f"the budget of step {step} must be {want}; got {self.budget}")
        self.state = state
        demand(state.step == step + 1, f"the step after {step} must be {step + 1}; got {state.step}")

    def _step(self, grads: dict[str, Factors]) -> tuple[TrainState, Any]:
        answer = self._asked(grads, self._call)
        return state_of(answer.host, self.state), answer.returned["report"]

    def _asked(self, grads: dict[str, Factors], call: Call) -> Answer:
        flat = np.concatenate([a.reshape(-1) for held in grads.values() for a in held])
        it, given = self.ask(), {"state": self.state, "batch": [(np.ones(1), flat)]}
        return it.ask(stage_named("train_step")._replace(call=call, expect=_no_oracle), given, it.lane)

    def _stepped(self, target: Target, inputs: Inputs) -> Any:
        return target.require("train_step")(inputs["state"], inputs["batch"], self.network, self.config)

    def _call(self, target: Target, inputs: Inputs, _: Lane) -> Outputs:
        state, report = pair_of("train_step", "(state, report)", self._stepped(target, inputs))
        return {"state": state, "report": report}

    def _call_to_be_refused(self, target: Target, inputs: Inputs, _: Lane) -> Outputs:
        try:
            after = self._stepped(target, inputs)
        except (ArithmeticError, ValueError, RuntimeError):
            return {}
        pair_of("train_step", "(state, report)", after)
        return {}

    @rule()
    def skip(self) -> None:
        """A gradient that is not finite is refused, or its result thrown away; the state is what it was."""
        nan = {n: map_factors(lambda a: np.full_like(a, np.nan), f) for n, f in self.state.factors.items()}
        self._asked(nan, self._call_to_be_refused)

    @rule()
    def save_and_load(self) -> None:
        """What is written to a file and read back is what it was."""
        self.state = through_a_file(self.state)

    @precondition(lambda self: all(_has(self.target, name) for name in ("prune", "compress", "increment")))
    @rule()
    def compress(self) -> None:
        """At a given scale, compressed factors are the masked layer."""
        check_compressed(self.ask(), self.state.masks, self.state.factors)

    @invariant()
    def the_budget_is_kept(self) -> None:
        """As many are kept as the latest allocation was to keep."""
        count = sum(int(np.sum(mask)) for mask in self.state.masks.values())
        demand(count == self.budget, f"the number kept must be the budget, {self.budget}; got {count}")

    @invariant()
    def frozen_weights_stay(self) -> None:
        """W is frozen."""
        for name, W in self.network.weights.items():
            same(f"W of {name}", on_host(W).tolist(), "as at the start", self.frozen[name].tolist())

    @invariant()
    def mask_and_s_agree(self) -> None:
        """After an allocation, and in the last phase, s is zero where dropped."""
        if self.pruned:
            check_masked(self.state.masks, self.state.factors)

    @invariant()
    def all_is_finite_in_its_shape(self) -> None:
        """Every array of the state is finite and has the shape that it had."""
        for path, a in leaves(self.state):
            demand(np.all(np.isfinite(a)), f"{path} must be finite; got {np.asarray(a).tolist()}")
        for name, held in self.state.factors.items():
            want = (*SHAPES[name], self.config.initial_rank)
            same(f"d_out, d_in and r of {name}", (len(held.B), held.A.shape[1], len(held.s)), "as it was", want)

    @invariant()
    def scores_are_of_the_averages(self) -> None:
        """Scores are what the averages say."""
        check_scores(self.ask(), self.state.importance)


def training_machine(implementation: Any) -> type[RuleBasedStateMachine]:
    """A machine over train_step: steps with ordinary and odd gradients, skipped steps, save and load, compress.

    Its `TestCase` is skipped where the implementation has no train_step.
    """
    return _made(_TrainingMachine, "TrainingMachine", implementation, ("train_step",))
