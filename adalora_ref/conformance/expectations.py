"""What each stage should return: the oracles' values with their bounds, in the form that the specification demands."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from adalora_ref.adamw import AdamState
from adalora_ref.conformance import oracle_run, oracles
from adalora_ref.conformance.calls import PHASES
from adalora_ref.conformance.cases import NUMPY_DTYPES, Inputs
from adalora_ref.conformance.lifting import bounded, evaluate, expected, moments_first
from adalora_ref.conformance.oracle_run import TWINS
from adalora_ref.conformance.target import Lane, leaves, on_host
from adalora_ref.conformance.verdict import Expected
from adalora_ref.factors import Factors
from adalora_ref.importance import Importance
from adalora_ref.loss import cross_entropy, mean_square
from adalora_ref.networks.mlp import MLP
from adalora_ref.records import StepReport, TrainState

Expectation: TypeAlias = dict[str, Expected]
Expect: TypeAlias = Callable[[Inputs, Lane], Expectation]

ADAM = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
STD = 0.02


class Undecided(Exception):
    """A case in which two correct computations may differ by more than rounding; the kit lists it as inconclusive."""


# LAYER


def init_factors(i: Inputs, lane: Lane) -> Expectation:
    """The stream of the generator, B before A, rounded once to the dtype asked for."""
    normals = _normals(np.random.default_rng(i["seed"]), i["d_out"], i["d_in"], i["r"])
    like = {"factors": _zeros(lane.dtype, i["d_out"], i["d_in"], i["r"])}
    std = STD if i["std"] is None else i["std"]
    return evaluate(oracles.init_factors, normals, i["r"], std=std, working="float64", like=like)


def linear_forward(i: Inputs, lane: Lane) -> Expectation:
    """x Wᵀ + b + scale · ((x ⊙ M) Aᵀ ⊙ s) Bᵀ."""
    like = {"y": i["dy"]}
    options = {"scale": i["scale"], "bias": i["bias"], "dropout_mask": _rows(i["dropout_mask"])}
    inputs = (_rows(i["x"]), i["W"], i["factors"])
    return evaluate(oracles.linear_forward, *inputs, **options, working=lane.working, like=like)


def linear_backward(i: Inputs, lane: Lane) -> Expectation:
    """Gradients for x and for the factors."""
    like = {"dx": i["x"], "d": i["factors"]}
    options = {"scale": i["scale"], "dropout_mask": _rows(i["dropout_mask"])}
    inputs = (_rows(i["dy"]), _rows(i["x"]), i["W"], i["factors"])
    return evaluate(oracles.linear_backward, *inputs, **options, working=lane.working, like=like)


def increment(i: Inputs, lane: Lane) -> Expectation:
    """scale · B diag(s) A."""
    options = {"scale": i["scale"], "d_in": i["W"].shape[1]}
    return evaluate(oracles.increment, i["factors"], **options, working=lane.working, like={"ΔW": i["W"]})


def weight(oracle: Callable[..., Any]) -> Expect:
    """W plus or minus ΔW."""
    return lambda i, lane: evaluate(
        oracle, i["W"], i["factors"], scale=i["scale"], working=lane.working, like={"W": i["W"]}
    )


def penalty(oracle: Callable[..., Any]) -> Expect:
    """A penalty and its gradient."""

    def expect(i: Inputs, lane: Lane) -> Expectation:
        like = {"R": np.zeros((), NUMPY_DTYPES[lane.dtype]), "d": i["factors"]}
        return evaluate(oracle, i["factors"], working=lane.working, like=like)

    return expect


# IMPORTANCE


def zero_importance(i: Inputs, lane: Lane) -> Expectation:
    """Two zeros in the dtype of state."""
    zeros = _zeros(lane.wide, *_sizes(i["factors"]))
    return _exactly({"state": Importance(zeros, zeros)})


def update_importance(i: Inputs, lane: Lane) -> Expectation:
    """The two averages, in the dtype that they replace."""
    inputs, betas = (i["state"], i["weights"], i["grads"]), {"beta1": i["beta1"], "beta2": i["beta2"]}
    return evaluate(oracles.update_importance, *inputs, **betas, working=lane.working, like={"state": i["state"]})


def triplet_scores(i: Inputs, lane: Lane) -> Expectation:
    """One score for each triplet."""
    return evaluate(oracles.triplet_scores, i["state"], working=lane.wide, like={"S": i["state"].sensitivity.s})


# BUDGET AND ALLOCATION


def phase_at(i: Inputs, _: Lane) -> Expectation:
    """The place of each step's phase in `PHASES`."""
    return _exactly({"phase": np.asarray([PHASES.index(oracles.phase_at(i["schedule"], t)) for t in i["steps"]])})


def budget_at(i: Inputs, lane: Lane) -> Expectation:
    """The convention's budget at every step."""
    twin = TWINS[lane.convention.budget]
    return _exactly({"b": np.asarray([twin(i["schedule"], t) for t in i["steps"]])})


def allocates_at(i: Inputs, lane: Lane) -> Expectation:
    """Whether the convention allocates at every step."""
    twin = TWINS[lane.convention.allocates]
    return _exactly({"due": np.asarray([twin(i["schedule"], t) for t in i["steps"]])})


def allocate(i: Inputs, lane: Lane) -> Expectation:
    """Who is kept; scores are given, so that nothing rounds."""
    scores = {name: value.astype(np.float64).tolist() for name, value in i["scores"].items()}
    keep = TWINS[lane.convention.allocate](scores, i["budget"], cost=i["cost"])
    return _exactly({"keep": {name: np.asarray(mask, dtype=bool) for name, mask in keep.items()}})


def prune(i: Inputs, lane: Lane) -> Expectation:
    """The factors with zeros in s."""
    return evaluate(oracles.prune, i["factors"], i["keep"], working=lane.working, like={"factors": i["factors"]})


def compress(i: Inputs, lane: Lane) -> Expectation:
    """The factors without the triplets that are not kept."""
    d_out, d_in, _ = _sizes(i["factors"])
    like = {"factors": _zeros(lane.dtype, d_out, d_in, int(i["keep"].sum()))}
    return evaluate(oracles.compress, i["factors"], i["keep"], working=lane.working, like=like)


# OPTIMISER


def zero_moments(i: Inputs, lane: Lane) -> Expectation:
    """Two zeros in the dtype of state, and no step yet."""
    zeros = _zeros(lane.wide, *_sizes(i["factors"]))
    return _exactly({"state": AdamState(zeros, zeros, 0)})


def adamw_step(i: Inputs, lane: Lane) -> Expectation:
    """Moments and weights, in the order in which they are made, and in the dtypes that they replace."""
    rates = {"learning_rate": i["learning_rate"], "weight_decay": i["weight_decay"] or 0.0, **ADAM}
    like = {"weights": i["weights"], "state": i["state"]}
    inputs = (i["weights"], i["grads"], i["state"])
    return moments_first(evaluate(oracles.adamw_step, *inputs, **rates, working=lane.working, like=like))


# TRAINING


def init_state(i: Inputs, lane: Lane) -> Expectation:
    """Factors of every matrix in forward order, zeros, and all triplets kept."""
    rng, r, twin = np.random.default_rng(i["seed"]), i["config"].initial_rank, TWINS[lane.convention.initial]
    normals = {name: _normals(rng, W.shape[0], W.shape[1], r) for name, W in i["weights"].items()}
    factors = bounded(
        lambda drawn, r, std: {name: twin(pair, r, std=std) for name, pair in drawn.items()},
        normals, r, STD, working="float64",
    )  # fmt: skip
    zeros = {name: _zeros(lane.wide, W.shape[0], W.shape[1], r) for name, W in i["weights"].items()}
    like = TrainState(
        0,
        zeros,
        {name: Importance(f, f) for name, f in zeros.items()},
        {name: AdamState(f, f, 0) for name, f in zeros.items()},
        {name: np.ones(r, dtype=bool) for name in zeros},
    )
    drawn = {f"[state].factors{path}": want for path, want in expected(factors, zeros).items()}
    return _exactly({"state": like}) | drawn


def train_step(i: Inputs, lane: Lane) -> Expectation:
    """State and report after one step; refuses to decide where scores lie too close to tell who is kept."""
    network = MLP(i["weights"], i["biases"], cross_entropy if i["labels"] else mean_square)
    inputs = (i["state"], i["batch"], network, i["config"], oracle_run.CONSTANTS)
    state, report = bounded(oracle_run.train_step, *inputs, convention=lane.convention, working=lane.working)
    if report["threshold"] is not None and not _decided(state):
        raise Undecided("scores lie too close to the threshold to tell who is kept")
    masks = i["state"].masks
    counts, threshold = dict.fromkeys(masks, 0), None if report["threshold"] is None else 0.0
    shares = {name: np.zeros(mask.shape, NUMPY_DTYPES[lane.wide]) for name, mask in masks.items()}
    like = StepReport(0, 0.0, 0.0, 0, counts, counts, threshold, masks, masks, shares)
    found = expected((state, report), {"state": i["state"], "report": like})
    return dict(sorted(found.items(), key=lambda item: _place(item[0])))


STEP_ORDER = (
    r"\[report\]\.(step|loss|penalty)\b",
    r"\[state\]\.optimizer",
    r"\[state\]\.factors.*\.[BA]",
    r"\[state\]\.importance",
    r"\[report\]\.(penalty_share|budget|threshold)",
    r"\[state\]\.masks",
    "",
)
"""The results of a step in the order in which Algorithm 1 computes them: s comes last, since the mask makes it."""


def _place(path: str) -> int:
    return next(place for place, pattern in enumerate(STEP_ORDER) if re.match(pattern, path))


def _decided(state: Any) -> bool:
    """Whether every kept score lies above every dropped one, whatever the rounding; exact scores always decide."""
    scores = [
        (score.real, getattr(score, "bound", 0.0), keep)
        for name, importance in state[2].items()
        for score, keep in zip(oracles.triplet_scores(importance), state[4][name], strict=True)
    ]
    lowest = min((value - bound for value, bound, keep in scores if keep), default=math.inf)
    highest = max((value + bound for value, bound, keep in scores if not keep), default=-math.inf)
    return lowest > highest or not any(bound for _, bound, _ in scores)


# FORM


def _exactly(value: dict[str, Any]) -> Expectation:
    """What is exact, and has the dtype that it has here."""
    return {path: Expected.exact(on_host(a), on_host(a).dtype.name) for path, a in leaves(value)}


def _rows(a: Any) -> Any:
    """Flatten the leading axes."""
    return None if a is None else a.reshape(-1, a.shape[-1])


def _sizes(factors: Factors) -> tuple[int, int, int]:
    return factors.B.shape[0], factors.A.shape[1], factors.s.shape[0]


def _zeros(dtype: str, d_out: int, d_in: int, r: int) -> Factors:
    return Factors(*(np.zeros(shape, NUMPY_DTYPES[dtype]) for shape in ((d_out, r), (r,), (r, d_in))))


def _normals(rng: np.random.Generator, d_out: int, d_in: int, r: int) -> tuple[Any, Any]:
    return rng.standard_normal((d_out, r)), rng.standard_normal((r, d_in))
