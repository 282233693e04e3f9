"""Bad input: every public function of the core refuses it itself, in one sentence with the rule and the value."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import array_api_strict
import jaxtyping
import ml_dtypes
import numpy as np
import pytest

import adalora_ref as ref
from adalora_ref.array import LIBRARIES, backend
from adalora_ref.convention import convention
from adalora_ref.networks.mlp import MLP

PACKAGE = Path(ref.__file__).parent
NAN, INF = float("nan"), float("inf")


class Kit:
    """Well-formed arguments made of one array library, for calls that spoil one of them."""

    def __init__(self, library: str) -> None:
        self.library, self.xp = library, backend(library)

    def __call__(self, *shape: int, dtype: str = "float64") -> Any:
        """Ones."""
        return self.xp.ones(shape, dtype=getattr(self.xp, dtype))

    def of(self, *values: Any) -> Any:
        """Those values, in a row."""
        return self.xp.asarray(values)

    def other(self, *shape: int) -> Any:
        """Ones of the other library."""
        return np.ones(shape) if self.library == "array_api_strict" else array_api_strict.ones(shape)

    def factors(self, d_out: int = 3, d_in: int = 4, r: int = 2) -> ref.Factors:
        return ref.Factors(self(d_out, r), self(r), self(r, d_in))

    def cache(self) -> ref.LinearCache:
        return ref.linear_forward(self(2, 4), self(3, 4), self.factors(), scale=1.0)[1]

    def mlp(self, **given: Any) -> MLP:
        return MLP(**{"weights": {"q": self(3, 4), "v": self(2, 3)}, "loss": ref.mean_square} | given)

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(0)

    def state(self) -> ref.TrainState:
        return ref.init_state(self.mlp(), config(), self.rng())

    def step(self, **spoilt: Any) -> Any:
        """Train one step of a small network, with the arguments in *spoilt* in place of good ones."""
        given = {"state": self.state(), "batch": [(self(2, 4), self(2, 2))], "network": self.mlp(), "config": config()}
        given |= spoilt
        keywords = {"convention": given.pop("convention")} if "convention" in given else {}
        return ref.train_step(*given.values(), **keywords)


def schedule(**given: Any) -> ref.BudgetSchedule:
    return ref.BudgetSchedule(**{"initial": 4, "target": 2, "warmup": 1, "final": 1, "total": 5} | given)


def config(**given: Any) -> ref.Config:
    return ref.Config(**{"schedule": schedule(), "initial_rank": 2, "alpha": 2.0, "learning_rate": 0.1} | given)


def forgetful(k: Kit) -> Any:
    """A network whose backward pass omits a matrix."""
    mlp = k.mlp()

    def backward(doutput: Any, cache: Any) -> Any:
        return {"q": mlp.backward(doutput, cache)["q"]}

    return SimpleNamespace(weights=mlp.weights, forward=mlp.forward, loss=mlp.loss, backward=backward)


def on_device(k: Kit) -> Any:
    return k.xp.ones((2, 4), device=k.xp.Device("device1"))


def forward(k: Kit, x: Any = None, W: Any = None, factors: Any = None, **options: Any) -> Any:
    """`linear_forward` of (2, 4) through (3, 4) with two triplets, but for what is given."""
    x, W = k(2, 4) if x is None else x, k(3, 4) if W is None else W
    return ref.linear_forward(x, W, k.factors() if factors is None else factors, **{"scale": 1.0} | options)


def adamw(k: Kit, **given: Any) -> Any:
    f = k.factors()
    return ref.adamw_step(f, f, ref.init_adamw(f), **{"learning_rate": 0.1} | given)


def update(k: Kit, grads: Any = None, **given: Any) -> Any:
    f = k.factors()
    options = {"beta1": 0.5, "beta2": 0.5} | given
    return ref.update_importance(ref.init_importance(f), f, f if grads is None else grads, **options)


def allocate(k: Kit, scores: Any = None, budget: Any = 2, **cost: Any) -> Any:
    scores = {"q": k.of(3.0, 1.0), "v": k.of(1.0, 2.0)} if scores is None else scores
    return ref.allocate(scores, budget, **cost)


Entry = tuple[Callable[[Kit], Any], type[Exception], tuple[str, ...]]
SHAPES = "B, s, A must be (d_out, r), (r,), (r, d_in)"
FORWARD = "x, W, bias, dropout_mask must be (*n, d_in), (d_out, d_in), (d_out,) or None, x's shape or None"
BETA = "must be a finite real number in [0, 1)"
FLOATING = "real floating arrays are needed"

# fmt: off
TABLE: dict[str, Entry] = {
    # factors
    "factors-s-is-a-column": (lambda k: ref.Factors(k(3, 2), k(2, 1), k(2, 4)), ValueError, (SHAPES, "(2, 1)")),
    "factors-ranks-differ": (lambda k: ref.Factors(k(3, 2), k(2), k(3, 4)), ValueError, (SHAPES, "(3, 4)")),
    "factors-A-transposed": (lambda k: ref.Factors(k(3, 2), k(2), k(4, 2)), ValueError, (SHAPES, "(4, 2)")),
    "factors-no-output": (lambda k: ref.Factors(k(0, 2), k(2), k(2, 4)), ValueError, ("at least 1", "(0, 2)")),
    "factors-no-input": (lambda k: ref.Factors(k(3, 2), k(2), k(2, 0)), ValueError, ("at least 1", "(2, 0)")),
    "factors-list": (lambda k: ref.Factors(k(3, 2), [1.0, 1.0], k(2, 4)), TypeError, ("s must be an array", "list")),
    "factors-none": (lambda k: ref.Factors(None, k(2), k(2, 4)), TypeError, ("B must be an array", "NoneType")),
    "factors-integer": (
        lambda k: ref.Factors(k(3, 2), k(2, dtype="int64"), k(2, 4)), TypeError, (FLOATING, "int64")
    ),
    "factors-complex": (
        lambda k: ref.Factors(k(3, 2), k(2), k(2, 4, dtype="complex128")), TypeError, (FLOATING, "complex128")
    ),
    "factors-bool": (lambda k: ref.Factors(k(3, 2), k(2, dtype="bool"), k(2, 4)), TypeError, (FLOATING, "bool")),
    "factors-two-libraries": (
        lambda k: ref.Factors(k.other(3, 2), k(2), k(2, 4)), TypeError, ("one library", "array_api_strict", "numpy")
    ),
    "factors-two-devices": (
        lambda k: ref.Factors(k(3, 2), k(2), on_device(k)), ValueError, ("one device", "CPU_DEVICE", "device1")
    ),
    "factors-object-array": (
        lambda k: ref.Factors(k(3, 2), np.array([1.0, None]), k(2, 4)), TypeError, (FLOATING, "object")
    ),
    "factors-string-array": (lambda k: ref.Factors(k(3, 2), np.array(["a"]), k(2, 4)), TypeError, (FLOATING, "<U1")),
    "factors-two-16-bit-dtypes": (
        lambda k: ref.Factors(k(3, 2, dtype="float16"), k(2).astype(ml_dtypes.bfloat16), k(2, 4)),
        TypeError, ("float16 and bfloat16 have no common dtype", "cast"),
    ),
    "map-nothing": (lambda k: ref.map_factors(lambda a: a), TypeError, ("at least one Factors", "none")),
    "map-tuple": (lambda k: ref.map_factors(abs, tuple(k.factors())), TypeError, ("Factors are needed", "tuple")),
    "map-no-function": (lambda k: ref.map_factors(3, k.factors()), TypeError, ("f must be a function", "int")),
    "map-shapes-differ": (
        lambda k: ref.map_factors(lambda a, b: a, k.factors(), k.factors(r=1)),
        ValueError, ("same shapes", "((3, 1), (1,), (1, 4))", "((3, 2), (2,), (2, 4))"),
    ),
    "map-makes-no-array": (lambda k: ref.map_factors(lambda a: 1.0, k.factors()), TypeError, ("B must be", "float")),
    "init-seed": (lambda k: ref.init_factors(7, 3, 4, 2, like=k(1)), TypeError, ("numpy.random.Generator", "7")),
    "init-legacy-rng": (
        lambda k: ref.init_factors(np.random.RandomState(0), 3, 4, 2, like=k(1)), TypeError, ("Generator", "RandomS")
    ),
    "init-rank-negative": (
        lambda k: ref.init_factors(k.rng(), 3, 4, -1, like=k(1)), ValueError, ("r must be an integer", "-1")
    ),
    "init-rank-float": (
        lambda k: ref.init_factors(k.rng(), 3, 4, 2.0, like=k(1)), TypeError, ("r must be an integer", "2.0")
    ),
    "init-d_out-zero": (
        lambda k: ref.init_factors(k.rng(), 0, 4, 2, like=k(1)), ValueError, ("d_out must be", "at least 1", "got 0")
    ),
    "init-d_in-bool": (
        lambda k: ref.init_factors(k.rng(), 3, True, 2, like=k(1)), TypeError, ("d_in must be an integer", "True")
    ),
    "init-std-negative": (
        lambda k: ref.init_factors(k.rng(), 3, 4, 2, std=-0.5, like=k(1)), ValueError, ("std must be", "-0.5")
    ),
    "init-std-infinite": (
        lambda k: ref.init_factors(k.rng(), 3, 4, 2, std=INF, like=k(1)), ValueError, ("std must be a finite", "inf")
    ),
    "init-like-dtype": (lambda k: ref.init_factors(k.rng(), 3, 4, 2, like=k.xp.float64), TypeError, ("like must be",)),
    "init-like-integer": (
        lambda k: ref.init_factors(k.rng(), 3, 4, 2, like=k(1, dtype="int32")), TypeError, (FLOATING, "int32")
    ),
    # layer
    "forward-x-too-wide": (lambda k: forward(k, k(2, 5)), ValueError, (FORWARD, "(2, 5), (3, 4)")),
    "forward-x-of-width-1": (lambda k: forward(k, k(2, 1)), ValueError, (FORWARD, "(2, 1), (3, 4)")),
    "forward-x-scalar": (lambda k: forward(k, k()), ValueError, (FORWARD, "(), (3, 4)")),
    "forward-W-transposed": (
        lambda k: forward(k, W=k(4, 3)), ValueError, ("W, B, A must be (d_out, d_in)", "((4, 3), (3, 2), (2, 4))")
    ),
    "forward-bias-of-length-1": (lambda k: forward(k, bias=k(1)), ValueError, (FORWARD, "(3, 4), (1,)")),
    "forward-bias-row": (lambda k: forward(k, bias=k(1, 3)), ValueError, (FORWARD, "(1, 3)")),
    "forward-bias-number": (lambda k: forward(k, bias=0.5), TypeError, ("arrays of an array-API library", "float")),
    "forward-mask-broadcasts": (lambda k: forward(k, dropout_mask=k(4)), ValueError, (FORWARD, "None, (4,)")),
    "forward-mask-boolean": (
        lambda k: forward(k, dropout_mask=k(2, 4, dtype="bool")), TypeError, (FLOATING, "bool")
    ),
    "forward-x-masked": (
        lambda k: forward(k, np.ma.masked_array(np.ones((2, 4)))),
        TypeError,
        ("x must be an array", "MaskedArray"),
    ),
    "forward-x-list": (lambda k: forward(k, [[1.0] * 4]), TypeError, ("x must be an array", "list")),
    "forward-W-list": (lambda k: forward(k, W=[[1.0] * 4]), TypeError, ("W must be an array", "list")),
    "forward-x-integer": (lambda k: forward(k, k(2, 4, dtype="int64")), TypeError, (FLOATING, "int64")),
    "forward-factors-tuple": (
        lambda k: forward(k, factors=tuple(k.factors())), TypeError, ("Factors are needed", "tuple")
    ),
    "forward-factors-dict": (lambda k: forward(k, factors={"B": k(3, 2)}), TypeError, ("Factors are needed", "dict")),
    "forward-two-libraries": (lambda k: forward(k, k.other(2, 4)), TypeError, ("one library", "numpy")),
    "forward-two-devices": (lambda k: forward(k, on_device(k)), ValueError, ("one device", "device1")),
    "forward-scale-nan": (lambda k: forward(k, scale=NAN), ValueError, ("scale must be a finite real number", "nan")),
    "forward-scale-complex": (lambda k: forward(k, scale=1j), TypeError, ("scale must be a finite real", "1j")),
    "forward-scale-bool": (lambda k: forward(k, scale=True), TypeError, ("scale must be a finite real", "True")),
    "forward-scale-array": (lambda k: forward(k, scale=k(2)), TypeError, ("scale must be", "array of shape (2,)")),
    "forward-scale-huge": (lambda k: forward(k, scale=10**400), ValueError, ("scale must be a finite real", "10000")),
    "backward-dy-broadcasts": (
        lambda k: ref.linear_backward(k(1, 3), k.cache()), ValueError, ("dy must have y's shape (2, 3)", "(1, 3)")
    ),
    "backward-dy-scalar": (lambda k: ref.linear_backward(k(), k.cache()), ValueError, ("dy must have y's shape", "()")),
    "backward-dy-list": (lambda k: ref.linear_backward([[1.0]], k.cache()), TypeError, ("dy must be an array", "list")),
    "backward-dy-other-library": (
        lambda k: ref.linear_backward(k.other(2, 3), k.cache()), TypeError, ("one library", "array_api_strict")
    ),
    "backward-cache-tuple": (
        lambda k: ref.linear_backward(k(2, 3), tuple(k.cache())), TypeError, ("cache must be", "LinearCache", "tuple")
    ),
    "increment-scale-infinite": (
        lambda k: ref.increment(k.factors(), scale=-INF), ValueError, ("scale must be a finite real number", "-inf")
    ),
    "increment-tuple": (
        lambda k: ref.increment(tuple(k.factors()), scale=1.0), TypeError, ("Factors are needed", "tuple")
    ),
    "merge-W-broadcasts": (
        lambda k: ref.merge(k(1, 4), k.factors(), scale=1.0), ValueError, ("W, B, A must be", "(1, 4)", "(3, 2)")
    ),
    "unmerge-W-too-short": (
        lambda k: ref.unmerge(k(2, 4), k.factors(), scale=1.0), ValueError, ("W, B, A must be", "(2, 4)", "(3, 2)")
    ),
    "unmerge-scale-string": (
        lambda k: ref.unmerge(k(3, 4), k.factors(), scale="2"), TypeError, ("scale must be a finite real", "'2'")
    ),
    # losses and penalty
    "entropy-label-too-large": (
        lambda k: ref.cross_entropy(k(2, 3), k.of(0, 3)), ValueError, ("labels must lie in [0, 3)", "0 to 3")
    ),
    "entropy-label-negative": (
        lambda k: ref.cross_entropy(k(2, 3), k.of(-1, 2)), ValueError, ("labels must lie in [0, 3)", "-1 to 2")
    ),
    "entropy-label-float": (
        lambda k: ref.cross_entropy(k(2, 3), k(2)), TypeError, ("labels must be integers", "float64")
    ),
    "entropy-label-bfloat16": (
        lambda k: ref.cross_entropy(k(2, 3), k(2).astype(ml_dtypes.bfloat16)), TypeError, ("labels must be", "bfloat16")
    ),
    "entropy-label-column": (
        lambda k: ref.cross_entropy(k(2, 3), k(2, 1, dtype="int64")), ValueError, ("(*n,)", "(2, 3) and (2, 1)")
    ),
    "entropy-no-sample": (
        lambda k: ref.cross_entropy(k(0, 3), k(0, dtype="int64")), ValueError, ("at least one sample", "(0, 3)")
    ),
    "entropy-no-class": (
        lambda k: ref.cross_entropy(k(2, 0), k(2, dtype="int64")), ValueError, ("one class", "(2, 0) and (2,)")
    ),
    "entropy-logits-integer": (
        lambda k: ref.cross_entropy(k(2, 3, dtype="int64"), k.of(0, 1)), TypeError, (FLOATING, "int64")
    ),
    "square-broadcasts": (
        lambda k: ref.mean_square(k(2, 3), k(1, 3)), ValueError, ("must have one shape", "(2, 3) and (1, 3)")
    ),
    "square-empty": (lambda k: ref.mean_square(k(0, 3), k(0, 3)), ValueError, ("at least one element", "(0, 3)")),
    "square-target-list": (lambda k: ref.mean_square(k(1), [1.0]), TypeError, ("target must be an array", "list")),
    "penalty-tuple": (
        lambda k: ref.orthogonality_penalty(tuple(k.factors())), TypeError, ("Factors are needed", "tuple")
    ),
    "norm-array": (lambda k: ref.orthogonality_norm(k(3, 2)), TypeError, ("Factors are needed", "rray")),
    # importance and optimiser
    "importance-beta1-one": (lambda k: update(k, beta1=1.0), ValueError, ("beta1 " + BETA, "1.0")),
    "importance-beta1-negative": (lambda k: update(k, beta1=-0.1), ValueError, ("beta1 " + BETA, "-0.1")),
    "importance-beta2-nan": (lambda k: update(k, beta2=NAN), ValueError, ("beta2 " + BETA, "nan")),
    "importance-beta2-none": (lambda k: update(k, beta2=None), TypeError, ("beta2 " + BETA, "None")),
    "importance-shapes-differ": (
        lambda k: update(k, k.factors(r=1)), ValueError, ("same shapes", "(3, 1)", "(3, 2)")
    ),
    "importance-state-tuple": (
        lambda k: ref.update_importance((k.factors(),) * 2, k.factors(), k.factors(), beta1=0.5, beta2=0.5),
        TypeError, ("state must be of type Importance", "tuple"),
    ),
    "importance-like-array": (lambda k: ref.init_importance(k(2)), TypeError, ("Factors are needed", "rray")),
    "scores-of-factors": (lambda k: ref.triplet_scores(k.factors()), TypeError, ("Importance", "Factors")),
    "scores-shapes-differ": (
        lambda k: ref.triplet_scores(ref.Importance(k.factors(), k.factors(r=1))), ValueError, ("same shapes", "(3, 1)")
    ),
    "adamw-rate-negative": (lambda k: adamw(k, learning_rate=-1.0), ValueError, ("learning_rate must be", "-1.0")),
    "adamw-rate-nan": (lambda k: adamw(k, learning_rate=NAN), ValueError, ("learning_rate must be a finite", "nan")),
    "adamw-beta1-one": (lambda k: adamw(k, beta1=1), ValueError, ("beta1 " + BETA, "got 1")),
    "adamw-beta2-above": (lambda k: adamw(k, beta2=1.5), ValueError, ("beta2 " + BETA, "1.5")),
    "adamw-epsilon-negative": (lambda k: adamw(k, epsilon=-1e-8), ValueError, ("epsilon must be", "-1e-08")),
    "adamw-decay-infinite": (lambda k: adamw(k, weight_decay=INF), ValueError, ("weight_decay must be", "inf")),
    "adamw-state-of-importance": (
        lambda k: ref.adamw_step(k.factors(), k.factors(), ref.init_importance(k.factors()), learning_rate=0.1),
        TypeError, ("state must be of type AdamState", "Importance"),
    ),
    "adamw-steps-negative": (
        lambda k: ref.adamw_step(
            k.factors(), k.factors(), ref.AdamState(k.factors(), k.factors(), -1), learning_rate=0.1
        ),
        ValueError, ("steps must be an integer of at least 0", "-1"),
    ),
    # budget
    "schedule-budget-float": (lambda k: schedule(target=2.5), TypeError, ("target must be an integer", "2.5")),
    "schedule-budget-bool": (lambda k: schedule(target=True), TypeError, ("target must be an integer", "True")),
    "schedule-budget-negative": (lambda k: schedule(target=-1), ValueError, ("target must be", "at least 0", "-1")),
    "schedule-target-above-initial": (
        lambda k: schedule(target=5), ValueError, ("target must be at most initial", "target 5, initial 4")
    ),
    "schedule-no-pruning-phase": (
        lambda k: schedule(warmup=4), ValueError, ("warmup + final must be below total", "4 + 1 and 5")
    ),
    "schedule-warmup-too-long": (lambda k: schedule(warmup=9), ValueError, ("must be below total", "9 + 1 and 5")),
    "schedule-interval-zero": (lambda k: schedule(interval=0), ValueError, ("interval must be", "at least 1", "got 0")),
    "schedule-interval-fractional": (lambda k: schedule(interval=0.5), TypeError, ("interval must be", "0.5")),
    "schedule-warmup-negative": (lambda k: schedule(warmup=-2), ValueError, ("warmup must be an integer", "-2")),
    "schedule-total-nan": (lambda k: schedule(total=NAN), TypeError, ("total must be an integer", "nan")),
    "schedule-final-string": (lambda k: schedule(final="1"), TypeError, ("final must be an integer", "'1'")),
    "ranks-of-nothing": (
        lambda k: ref.BudgetSchedule.from_ranks({}, initial_rank=2, target_rank=1, warmup=0, final=1, total=5),
        ValueError, ("shape of at least one matrix", "none"),
    ),
    "ranks-of-a-vector": (
        lambda k: ref.BudgetSchedule.from_ranks([(3,)], initial_rank=2, target_rank=1, warmup=0, final=1, total=5),
        ValueError, ("each shape must be (d_out, d_in)", "(3,)"),
    ),
    "ranks-negative": (
        lambda k: ref.BudgetSchedule.from_ranks([(3, 4)], initial_rank=-2, target_rank=1, warmup=0, final=1, total=5),
        ValueError, ("initial_rank must be", "-2"),
    ),
    "ranks-fractional": (
        lambda k: ref.BudgetSchedule.from_ranks([(3, 4)], initial_rank=2, target_rank=1.5, warmup=0, final=1, total=5),
        TypeError, ("target_rank must be an integer", "1.5"),
    ),
    "parameters-d_in-zero": (
        lambda k: ref.BudgetSchedule.from_parameters([(3, 0)], initial=9, target=1, warmup=0, final=1, total=5),
        ValueError, ("d_in must be an integer of at least 1", "got 0"),
    ),
    "from-parameters-below-one-rank": (
        lambda k: ref.BudgetSchedule.from_parameters([(4, 3)], initial=7, target=0, warmup=0, final=1, total=5),
        ValueError,
        ("initial must be at least one rank in every matrix, 8 parameters", "7"),
    ),
    "parameters-of-a-number": (
        lambda k: ref.BudgetSchedule.from_parameters(3, initial=9, target=1, warmup=0, final=1, total=5),
        TypeError, ("shapes must be iterable", "int"),
    ),
    "budget_at-negative": (lambda k: ref.budget_at(schedule(), -1), ValueError, ("step must be", "at least 0", "-1")),
    "budget_at-fractional": (lambda k: ref.budget_at(schedule(), 1.5), TypeError, ("step must be an integer", "1.5")),
    "allocates_at-bool": (lambda k: ref.allocates_at(schedule(), True), TypeError, ("step must be an integer", "True")),
    "phase_at-no-schedule": (lambda k: ref.phase_at(12, 1), TypeError, ("type BudgetSchedule", "int")),
    # allocation
    "allocate-no-matrix": (lambda k: allocate(k, {}, 0), ValueError, ("at least one matrix", "none")),
    "allocate-budget-above": (lambda k: allocate(k, budget=5), ValueError, ("at most all 4 triplets", "got 5")),
    "allocate-budget-negative": (lambda k: allocate(k, budget=-1), ValueError, ("budget must be", "at least 0", "-1")),
    "allocate-budget-float": (lambda k: allocate(k, budget=2.0), TypeError, ("budget must be an integer", "2.0")),
    "allocate-budget-bool": (lambda k: allocate(k, budget=True), TypeError, ("budget must be an integer", "True")),
    "allocate-list": (lambda k: allocate(k, [k.of(1.0)]), TypeError, ("scores must be a mapping", "list")),
    "allocate-scores-list": (lambda k: allocate(k, {"q": [1.0]}, 1), TypeError, ("scores['q'] must be", "list")),
    "allocate-scores-none": (
        lambda k: allocate(k, {"q": k.of(1.0), "v": None}, 1), TypeError, ("scores['v'] must be an array", "NoneType")
    ),
    "allocate-scores-2d": (lambda k: allocate(k, {"q": k(2, 1)}, 1), ValueError, ("must be (r,)", "(2, 1) for 'q'")),
    "allocate-scores-integer": (lambda k: allocate(k, {"q": k.of(1, 2)}, 1), TypeError, (FLOATING, "int64")),
    "allocate-scores-nan": (
        lambda k: allocate(k, {"q": k.of(1.0), "v": k.of(NAN, 2.0)}, 1), ValueError, ("finite", "got nan for 'v'")
    ),
    "allocate-scores-infinite": (
        lambda k: allocate(k, {"q": k.of(-INF), "v": k.of(2.0)}, 1), ValueError, ("must be finite", "got -inf for 'q'")
    ),
    "allocate-two-libraries": (lambda k: allocate(k, {"q": k(2), "v": k.other(2)}), TypeError, ("one library",)),
    "allocate-cost-missing": (
        lambda k: allocate(k, cost={"q": 3}), ValueError, ("cost must name the matrices of scores, ['q', 'v']", "['q']")
    ),
    "allocate-cost-zero": (
        lambda k: allocate(k, cost={"q": 3, "v": 0}), ValueError, ("cost of 'v' must be", "at least 1", "got 0")
    ),
    "allocate-cost-negative": (lambda k: allocate(k, cost={"q": -3, "v": 3}), ValueError, ("cost of 'q'", "-3")),
    "allocate-cost-bool": (lambda k: allocate(k, cost={"q": True, "v": 3}), TypeError, ("cost of 'q' must be", "True")),
    "allocate-cost-number": (lambda k: allocate(k, cost=3), TypeError, ("cost must be of type Mapping", "int")),
    "allocate-cost-huge": (lambda k: allocate(k, cost={"q": 2**62, "v": 2}), ValueError, ("below 2**63", "922337")),
    "allocate-cost-huge-of-no-triplet": (
        lambda k: allocate(k, {"q": k.of(1.0), "v": k(0)}, 1, cost={"q": 1, "v": 2**70}),
        ValueError, ("below 2**63", "11805916"),
    ),
    "allocate-parameters-above": (
        lambda k: allocate(k, budget=15, cost={"q": 3, "v": 4}), ValueError, ("at most all 14 parameters", "got 15")
    ),
    "prune-keep-of-scores": (lambda k: ref.prune(k.factors(), k(2)), TypeError, ("keep must be boolean", "float64")),
    "prune-keep-integer": (
        lambda k: ref.prune(k.factors(), k(2, dtype="int8")), TypeError, ("keep must be boolean", "int8")
    ),
    "prune-keep-too-long": (
        lambda k: ref.prune(k.factors(), k(3, dtype="bool")), ValueError, ("keep must be (r,), here (2,)", "(3,)")
    ),
    "prune-keep-of-length-1": (
        lambda k: ref.prune(k.factors(), k(1, dtype="bool")), ValueError, ("keep must be (r,), here (2,)", "(1,)")
    ),
    "prune-keep-list": (lambda k: ref.prune(k.factors(), [True, False]), TypeError, ("keep must be an array", "list")),
    "compress-keep-column": (
        lambda k: ref.compress(k.factors(), k(2, 1, dtype="bool")), ValueError, ("keep must be (r,)", "(2, 1)")
    ),
    "compress-keep-none": (lambda k: ref.compress(k.factors(), None), TypeError, ("keep must be an array", "NoneType")),
    # training
    "config-schedule": (lambda k: config(schedule=4), TypeError, ("schedule must be of type BudgetSchedule", "int")),
    "config-initial_rank": (lambda k: config(initial_rank=-1), ValueError, ("initial_rank must be", "-1")),
    "config-alpha": (lambda k: config(alpha=NAN), ValueError, ("alpha must be a finite real number", "nan")),
    "config-learning_rate": (lambda k: config(learning_rate=-1), ValueError, ("learning_rate must be", "-1")),
    "config-orthogonality_weight": (
        lambda k: config(orthogonality_weight=INF), ValueError, ("orthogonality_weight must be", "inf")
    ),
    "config-importance_beta1": (lambda k: config(importance_beta1=1), ValueError, ("_beta1 " + BETA, "got 1")),
    "config-importance_beta2": (lambda k: config(importance_beta2="0"), TypeError, ("importance_beta2 " + BETA, "'0'")),
    "config-adam_beta1": (lambda k: config(adam_beta1=1.0), ValueError, ("adam_beta1 " + BETA, "1.0")),
    "config-adam_beta2": (lambda k: config(adam_beta2=-0.5), ValueError, ("adam_beta2 " + BETA, "-0.5")),
    "config-adam_epsilon": (lambda k: config(adam_epsilon=-1e-8), ValueError, ("adam_epsilon must be", "-1e-08")),
    "config-weight_decay": (lambda k: config(weight_decay=False), TypeError, ("weight_decay must be", "False")),
    "config-clip_norm": (lambda k: config(clip_norm=0), ValueError, ("clip_norm must be above 0, or None", "got 0")),
    "config-cost": (lambda k: config(cost=3), TypeError, ("cost must be of type Mapping", "int")),
    "config-cost-of-a-matrix": (lambda k: config(cost={"q": 0}), ValueError, ("cost of 'q' must be", "got 0")),
    "init_state-no-matrix": (
        lambda k: ref.init_state(SimpleNamespace(weights={}, forward=0, loss=0, backward=0), config(), k.rng()),
        ValueError, ("at least one adapted matrix", "none"),
    ),
    "init_state-no-network": (
        lambda k: ref.init_state(SimpleNamespace(weights={}, forward=0), config(), k.rng()),
        TypeError, ("weights, forward, loss and backward", "['loss', 'backward']"),
    ),
    "init_state-vector": (
        lambda k: ref.init_state(SimpleNamespace(weights={"q": k(3)}, forward=0, loss=0, backward=0), config(), 0),
        ValueError, ("weights must be (d_out, d_in)", "{'q': (3,)}"),
    ),
    "init_state-seed": (lambda k: ref.init_state(k.mlp(), config(), 0), TypeError, ("numpy.random.Generator", "0")),
    "init_state-initial-budget": (
        lambda k: ref.init_state(k.mlp(), config(initial_rank=3), k.rng()),
        ValueError, ("what the initial ranks make up, 6", "got 4"),
    ),
    "init_state-budget-of-parameters": (
        lambda k: ref.init_state(k.mlp(), config(cost={"q": 8, "v": 6}), k.rng()), ValueError, ("make up, 28", "got 4")
    ),
    "init_state-no-final-step": (
        lambda k: ref.init_state(k.mlp(), config(schedule=schedule(final=0)), k.rng()),
        ValueError, ("under SPEC the last phase needs at least 1 step", "final 0"),
    ),
    "init_state-cost-names": (
        lambda k: ref.init_state(k.mlp(), config(cost={"q": 1, "w": 1}), k.rng()),
        ValueError, ("cost must name the adapted matrices ['q', 'v']", "['q', 'w']"),
    ),
    "init_state-cost-under-peft": (
        lambda k: ref.init_state(
            k.mlp(), config(schedule=schedule(initial=28), cost={"q": 8, "v": 6}), k.rng(), convention=ref.PEFT
        ),
        ValueError, ("counts triplets, so cost must be None", "got a cost"),
    ),
    "init_state-convention-name": (
        lambda k: ref.init_state(k.mlp(), config(), k.rng(), convention="PEFT"), TypeError, ("type Convention", "str")
    ),
    "step-batch-empty": (lambda k: k.step(batch=[]), ValueError, ("at least one micro-batch", "none")),
    "step-batch-bare-pair": (
        lambda k: k.step(batch=(k(2, 4), k(2, 2))), TypeError, ("each micro-batch must be a pair (x, target)", "rray")
    ),
    "step-batch-iterator": (lambda k: k.step(batch=iter([])), TypeError, ("type Sequence", "iterator")),
    "step-gradient-omitted": (
        lambda k: k.step(network=forgetful(k)), ValueError, ("gradients of the network must", "without ['v']")
    ),
    "step-other-network": (
        lambda k: k.step(network=k.mlp(weights={"k": k(2, 4)})), ValueError, ("factors must name", "without ['k']")
    ),
    "step-loss-vector": (
        lambda k: k.step(network=k.mlp(loss=lambda y, _: (k(2), y))),
        TypeError, ("loss must return one real number and its gradient", "rray of shape (2,)"),
    ),
    "step-loss-complex": (
        lambda k: k.step(network=k.mlp(loss=lambda y, _: (1j, y))), TypeError, ("one real number", "complex of")
    ),
    "step-loss-no-pair": (
        lambda k: k.step(network=k.mlp(loss=lambda y, _: 1.0)), TypeError, ("and its gradient", "NoneType")
    ),
    "step-mask-of-integers": (
        lambda k: k.step(state=k.state()._replace(masks={"q": k(2, dtype="int64"), "v": k(2, dtype="bool")})),
        TypeError, ("keep must be boolean", "int64"),
    ),
    "step-mask-too-short": (
        lambda k: k.step(state=k.state()._replace(masks={"q": k(1, dtype="bool"), "v": k(2, dtype="bool")})),
        ValueError, ("keep must be (r,), here (2,)", "(1,)"),
    ),
    "step-state-without-moments": (
        lambda k: k.step(state=k.state()._replace(optimizer={})),
        ValueError, ("optimizer must name", "without ['q', 'v']"),
    ),
    "step-state-without-averages": (
        lambda k: k.step(state=k.state()._replace(importance={})),
        ValueError, ("importance must name", "without ['q', 'v']"),
    ),
    "step-state-of-no-factors": (
        lambda k: k.step(state=k.state()._replace(factors={"q": 1, "v": 2})), TypeError, ("type Factors", "int")
    ),
    "step-config-dict": (lambda k: k.step(config={"alpha": 2}), TypeError, ("config must be of type Config", "dict")),
    "step-convention-name": (lambda k: k.step(convention="SPEC"), TypeError, ("type Convention", "str")),
    "step-input-nan": (
        lambda k: k.step(batch=[(k(2, 4) * NAN, k(2, 2))]), FloatingPointError, ("step 0, the network", "loss")
    ),
    "step-target-overflows": (
        lambda k: k.step(batch=[(k(2, 4), k(2, 2) * 1e200)]), FloatingPointError, ("step 0", "loss", "not finite")
    ),
    "mlp-no-layer": (lambda k: k.mlp(weights={}), ValueError, ("at least one layer", "none")),
    "mlp-layers-do-not-fit": (
        lambda k: k.mlp(weights={"q": k(3, 4), "v": k(2, 4)}), ValueError, ("each d_in the d_out before", "'v': (2, 4)")
    ),
    "mlp-weights-list": (lambda k: k.mlp(weights=[k(3, 4)]), TypeError, ("weights must be of type Mapping", "list")),
    "mlp-weights-integer": (lambda k: k.mlp(weights={"q": k(3, 4, dtype="int64")}), TypeError, (FLOATING, "int64")),
    "mlp-bias-of-length-1": (lambda k: k.mlp(biases={"q": k(1)}), ValueError, ("biases must be", "{'q': (1,)}")),
    "mlp-bias-of-no-layer": (lambda k: k.mlp(biases={"z": k(3)}), ValueError, ("biases must be", "{'z': (3,)}")),
    "mlp-factors-missing": (
        lambda k: k.mlp().forward(k(2, 4), {"q": k.factors()}, {"q": 1.0, "v": 1.0}),
        ValueError, ("factors must name every matrix", "without ['v']"),
    ),
    "mlp-loss-name": (lambda k: k.mlp(loss="mse"), TypeError, ("loss must be a function", "str")),
    "convention-unknown": (lambda k: convention("nope"), ValueError, ("SPEC, PAPER, LORALIB, PEFT, LORA", "'nope'")),
    "threshold-budget-above": (
        lambda k: ref.PEFT.allocate({"q": k.of(1.0, 2.0)}, 3), ValueError, ("at most all 2 triplets", "got 3")
    ),
    "threshold-cost": (
        lambda k: ref.PEFT.allocate({"q": k.of(1.0, 2.0)}, 1, cost={"q": 3}), ValueError, ("cost must be None", "got")
    ),
    "backend-unknown": (lambda k: backend("nope"), ValueError, ("numpy, array_api_strict, cupy", "'nope'")),
    "backend-number": (lambda k: backend(3), ValueError, ("the array library must be one of", "3")),
}
# fmt: on

ONE_LIBRARY = {  # strict knows no such dtypes and NumPy no second device
    "numpy": {i for i in TABLE if any(w in i for w in ("object", "string-array", "16-bit", "bfloat16"))},
    "array_api_strict": {i for i in TABLE if "two-devices" in i},
}
CASES = [
    pytest.param(library, *TABLE[i], id=f"{i}-{library}")
    for i in TABLE
    for library, others in (("numpy", "array_api_strict"), ("array_api_strict", "numpy"))
    if i not in ONE_LIBRARY[others]
]


@pytest.fixture(autouse=True)
def _our_messages() -> Iterator[None]:
    """Switch jaxtyping off, and NumPy's warnings, so that what is raised is the package's own."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    with np.errstate(all="ignore"):
        yield
    jaxtyping.config.update("jaxtyping_disable", before)


def raised_by_us(error: Exception) -> bool:
    """Whether the innermost frame is a `raise` statement of the package, so that the message is written there."""
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    file = trace.tb_frame.f_code.co_filename
    return Path(file).is_relative_to(PACKAGE) and linecache.getline(file, trace.tb_lineno).strip().startswith("raise ")


@pytest.mark.parametrize(("library", "call", "kind", "fragments"), CASES)
def test_bad_call_is_refused_in_one_sentence(
    library: str, call: Callable[[Kit], Any], kind: type[Exception], fragments: tuple[str, ...]
) -> None:
    """A bad call raises the documented type from the package itself; the message has the rule and the value given."""
    with pytest.raises(kind) as caught:
        call(Kit(library))
    message = str(caught.value)
    assert type(caught.value) is kind
    assert raised_by_us(caught.value), message
    assert [f for f in fragments if f not in message] == [], message
    assert "\n" not in message
    assert not message.endswith(".")


def test_table_is_as_long_as_promised() -> None:
    """The table lists at least 60 bad calls, and every library runs at least 60 of them."""
    assert len(TABLE) >= 60
    assert min(sum(case.values[0] == library for case in CASES) for library in ONE_LIBRARY) >= 60


@pytest.mark.parametrize("library", ["numpy", "cupy"])
def test_backend_that_is_not_installed_is_named(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`backend` says which library is not installed."""
    monkeypatch.setitem(sys.modules, LIBRARIES[library], None)
    with pytest.raises(RuntimeError, match=f"^the array library {library} is not installed") as caught:
        backend(library)
    assert raised_by_us(caught.value)


def test_16_bit_is_refused_outside_numpy_and_cupy() -> None:
    """A 16-bit array of a library other than NumPy and CuPy is a TypeError that names dtype and library."""
    torch = pytest.importorskip("torch", reason="torch alone of the other libraries here has 16-bit arrays")
    with pytest.raises(TypeError, match=r"16-bit dtypes are supported on NumPy and CuPy alone.*bfloat16") as caught:
        ref.mean_square(torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16))
    assert raised_by_us(caught.value)


JUNK: dict[str, Callable[[Kit], Any]] = {
    "none": lambda k: None,
    "three": lambda k: 3,
    "half": lambda k: 0.5,
    "true": lambda k: True,
    "string": lambda k: "x",
    "empty": lambda k: [],
    "nested": lambda k: [[1.0]],
    "mapping": lambda k: {"q": None},
    "object": lambda k: object(),
    "type": lambda k: np.float64,
    "nan": lambda k: NAN,
    "complex": lambda k: 1j,
    "array": lambda k: k(7, 6, 5),
}

Good = tuple[Callable[..., Any], list[Any], dict[str, Any]]


def good_calls(k: Kit) -> dict[str, Good]:
    """Return one good call of each public function, as function, positional and keyword arguments."""
    f, state, mask, batch = k.factors(), k.state(), k(2, dtype="bool"), [(k(2, 4), k(2, 2))]
    scores, steps = {"q": k.of(3.0, 1.0), "v": k.of(1.0, 2.0)}, {"warmup": 1, "final": 1, "total": 5, "interval": 1}
    output, cache = k.mlp().forward(k(2, 4), state.factors, {"q": 1.0, "v": 1.0})
    fields = {"schedule": schedule(), "initial_rank": 2, "alpha": 2.0, "learning_rate": 0.1, "clip_norm": 1.0}
    fields |= dict.fromkeys(("orthogonality_weight", "importance_beta1", "importance_beta2", "weight_decay"), 0.5)
    fields |= {"adam_beta1": 0.5, "adam_beta2": 0.5, "adam_epsilon": 0.5, "cost": {"q": 8, "v": 6}}
    options = {"learning_rate": 0.1, "beta1": 0.5, "beta2": 0.5, "epsilon": 0.5, "weight_decay": 0.5}
    return {
        "Factors": (ref.Factors, [*f], {}),
        "map_factors": (lambda *fs: ref.map_factors(lambda a, b: a + b, *fs), [f, f], {}),
        "init_factors": (ref.init_factors, [k.rng(), 3, 4, 2], {"std": 0.5, "like": k(1)}),
        "linear_forward": (
            ref.linear_forward,
            [k(2, 4), k(3, 4), f],
            {"scale": 1.0, "bias": k(3), "dropout_mask": k(2, 4)},
        ),
        "linear_backward": (ref.linear_backward, [k(2, 3), k.cache()], {}),
        "increment": (ref.increment, [f], {"scale": 1.0}),
        "merge": (ref.merge, [k(3, 4), f], {"scale": 1.0}),
        "unmerge": (ref.unmerge, [k(3, 4), f], {"scale": 1.0}),
        "cross_entropy": (ref.cross_entropy, [k(2, 3), k.of(0, 1)], {}),
        "mean_square": (ref.mean_square, [k(2, 3), k(2, 3)], {}),
        "orthogonality_penalty": (ref.orthogonality_penalty, [f], {}),
        "orthogonality_norm": (ref.orthogonality_norm, [f], {}),
        "init_importance": (ref.init_importance, [f], {}),
        "update_importance": (
            ref.update_importance,
            [ref.init_importance(f), f, f],
            {"beta1": 0.5, "beta2": 0.5},
        ),
        "triplet_scores": (ref.triplet_scores, [ref.init_importance(f)], {}),
        "BudgetSchedule": (ref.BudgetSchedule, [], {"initial": 4, "target": 2} | steps),
        "from_ranks": (ref.BudgetSchedule.from_ranks, [{"q": (3, 4)}], {"initial_rank": 4, "target_rank": 2} | steps),
        "from_parameters": (ref.BudgetSchedule.from_parameters, [[(3, 4)]], {"initial": 40, "target": 9} | steps),
        "budget_at": (ref.budget_at, [schedule(), 1], {}),
        "allocates_at": (ref.allocates_at, [schedule(), 1], {}),
        "phase_at": (ref.phase_at, [schedule(), 1], {}),
        "allocate": (ref.allocate, [scores, 4], {"cost": {"q": 3, "v": 4}}),
        "prune": (ref.prune, [f, mask], {}),
        "compress": (ref.compress, [f, mask], {}),
        "init_adamw": (ref.init_adamw, [f], {}),
        "adamw_step": (ref.adamw_step, [f, f, ref.init_adamw(f)], options),
        "Config": (ref.Config, [], fields),
        "init_state": (ref.init_state, [k.mlp(), config(), k.rng()], {"convention": ref.SPEC}),
        "scales_of": (ref.scales_of, [state, config()], {"convention": ref.SPEC}),
        "train_step": (ref.train_step, [state, batch, k.mlp(), config()], {"convention": ref.SPEC}),
        "train": (
            lambda *a, **options: list(ref.train(*a, **options)),
            [state, [batch], k.mlp(), config()],
            {"convention": ref.SPEC},
        ),
        "MLP": (MLP, [], {"weights": {"q": k(3, 4)}, "biases": {"q": k(3)}, "loss": ref.mean_square}),
        "MLP.forward": (k.mlp().forward, [k(2, 4), state.factors, {"q": 1.0, "v": 1.0}], {}),
        "MLP.backward": (k.mlp().backward, [output, cache], {}),
        "backend": (backend, ["numpy"], {}),
        "convention": (convention, ["SPEC"], {}),
    }


INTEGER, NUMBER = {"three"}, {"three", "half"}
ACCEPTED: dict[str, dict[int | str, set[str]]] = {
    "init_factors": {1: INTEGER, 2: INTEGER, 3: INTEGER, "std": NUMBER, "like": {"array"}},
    "linear_forward": {"scale": NUMBER, "bias": {"none"}, "dropout_mask": {"none"}},
    "increment": {"scale": NUMBER},
    "merge": {"scale": NUMBER},
    "unmerge": {"scale": NUMBER},
    "update_importance": {"beta1": {"half"}, "beta2": {"half"}},
    "BudgetSchedule": {
        "initial": INTEGER,
        "total": INTEGER,
        "target": INTEGER,
        "warmup": INTEGER,
        "final": INTEGER,
        "interval": INTEGER,
    },
    "from_ranks": {
        "initial_rank": INTEGER,
        "total": INTEGER,
        "target_rank": INTEGER,
        "warmup": INTEGER,
        "final": INTEGER,
        "interval": INTEGER,
    },
    "from_parameters": {"total": INTEGER, "target": INTEGER, "warmup": INTEGER, "final": INTEGER, "interval": INTEGER},
    "budget_at": {1: INTEGER},
    "allocates_at": {1: INTEGER},
    "phase_at": {1: INTEGER},
    "allocate": {1: INTEGER, "cost": {"none"}},
    "adamw_step": {
        "learning_rate": NUMBER,
        "beta1": {"half"},
        "beta2": {"half"},
        "epsilon": NUMBER,
        "weight_decay": NUMBER,
    },
    "Config": {
        "initial_rank": INTEGER,
        "alpha": NUMBER,
        "learning_rate": NUMBER,
        "clip_norm": NUMBER | {"none"},
        "orthogonality_weight": NUMBER,
        "importance_beta1": {"half"},
        "importance_beta2": {"half"},
        "adam_beta1": {"half"},
        "adam_beta2": {"half"},
        "adam_epsilon": NUMBER,
        "weight_decay": NUMBER,
        "cost": {"none"},
    },
    "train": {1: {"empty"}},
    "MLP": {"loss": {"type"}},
}


def spoilt(good: Good, place: int | str, junk: Any) -> Callable[[], Any]:
    """Return the good call with *junk* in one place."""
    function, positional, keywords = good
    if isinstance(place, str):
        return lambda: function(*positional, **(keywords | {place: junk}))
    return lambda: function(*positional[:place], junk, *positional[place + 1 :], **keywords)


@pytest.mark.parametrize("library", ["numpy", "array_api_strict"])
@pytest.mark.parametrize("name", list(good_calls(Kit("numpy"))))
def test_junk_in_any_place_is_refused(name: str, library: str) -> None:
    """Whatever stands in an argument's place is refused by the package itself, but for the listed good values."""
    k = Kit(library)
    good = function, positional, keywords = good_calls(k)[name]
    function(*positional, **keywords)
    wrong = []
    for place in [*range(len(positional)), *keywords]:
        for junk, make in JUNK.items():
            accepted = junk in ACCEPTED.get(name, {}).get(place, set())
            try:
                spoilt(good, place, make(k))()
            except (TypeError, ValueError) as error:
                if accepted or not raised_by_us(error):
                    wrong.append(f"{place}: {junk}: {error!r}")
            except Exception as error:  # noqa: BLE001 -- any other type is what the test looks for
                wrong.append(f"{place}: {junk}: {error!r}")
            else:
                if not accepted:
                    wrong.append(f"{place}: {junk} is accepted")
    assert wrong == []
