"""Canonical inputs: for each stage a function that draws the arguments of one call, as NumPy arrays.

A case is drawn from a generator, an index and a dtype. The index walks through what must not be missed (bias, mask,
leading shapes, rank 0, no samples, ties); the generator fills in sizes and numbers. Magnitudes alternate between
eighths, where much of the arithmetic is exact, ordinary ones, and those of real training: factors of 0.02, gradients
of 1e-7.

Most cases are small, which is enough for an equation, and every thirteenth is large, for what is computed in blocks:
it ends beyond blocks of 8, 16 and 32. The oracle at 50 digits visits each entry of W once for each triplet, so that
weight and rank are large by turns: 33 or 34 rows and 65 or 66 columns of rank 1 or 2, then rank 17 with 9 or 10 rows
and columns and 9 samples or more. A training step costs ten times as much; it has 9 to 11 hidden units with 17 to 19
inputs, then rank 9.
An allocation has twelve matrices. To save time, no case in half precision is large.

The order of matrices is that of the forward pass. In most cases it is no order of their names, of whatever kind.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np

from adalora_ref.adamw import AdamState
from adalora_ref.budget import BudgetSchedule
from adalora_ref.factors import Factors
from adalora_ref.importance import Importance
from adalora_ref.records import Config, TrainState

Inputs = dict[str, Any]

NUMPY_DTYPES: dict[str, Any] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

NAMES = ("embed", "gate", "block", "head")
"""Of matrices in forward order; neither by name nor by length, forwards or backwards, does a sort leave it so."""


@dataclass(frozen=True)
class Draw:
    """A source of arrays of one dtype and one order of magnitude; where it is *small*, no case is large."""

    rng: np.random.Generator
    dtype: str
    index: int
    small: bool = False

    @property
    def realistic(self) -> bool:
        """Whether magnitudes are those of training; float16 cannot hold them."""
        return self.index % 3 == 2 and self.dtype != "float16"

    @property
    def large(self) -> str:
        """What ends beyond a block: "weight" or "rank", by turns in every thirteenth case; else nothing."""
        chosen = self.index % 13 == 9 and self.dtype in ("float64", "float32") and not self.small
        return ("weight", "rank")[self.index // 13 % 2] if chosen else ""

    def size(self, least: int, most: int) -> int:
        """An integer from *least* to *most*."""
        return int(self.rng.integers(least, most, endpoint=True))

    def array(self, *shape: int, typical: float = 1.0) -> Any:
        """Eighths or normal numbers; in realistic cases of the order of *typical*."""
        if self.index % 3 == 0:
            values = self.rng.integers(-16, 16, size=shape, endpoint=True) / 8
        else:
            values = self.rng.standard_normal(shape) * (typical if self.realistic else 1.0)
        return np.asarray(values).astype(NUMPY_DTYPES[self.dtype])

    def positive(self, *shape: int, typical: float = 1.0) -> Any:
        """Like `array`, without sign."""
        return np.abs(self.array(*shape, typical=typical))

    def factors(self, d_out: int, d_in: int, r: int, *, typical: float = 0.02) -> Factors:
        """B, s, A of the given sizes."""
        arrays = (self.array(*shape, typical=typical) for shape in ((d_out, r), (r,), (r, d_in)))
        return Factors(*arrays)

    def averages(self, like: Factors, *, typical: float) -> Factors:
        """Numbers without sign, in *like*'s shapes, in the dtype that state has."""
        state_dtype = NUMPY_DTYPES["float64" if self.dtype == "float64" else "float32"]
        return Factors(*(self.positive(*a.shape, typical=typical).astype(state_dtype) for a in like))

    def shape(self) -> tuple[int, int, int]:
        """d_out, d_in and r; every seventh case has rank 0."""
        r = 0 if self.index % 7 == 5 else 17 if self.large == "rank" else self.size(1, 2 if self.large else 3)
        rows, columns = {"weight": ((33, 34), (65, 66)), "rank": ((9, 10), (9, 10))}.get(self.large, ((1, 5), (1, 5)))
        return self.size(*rows), self.size(*columns), r

    def two_names(self) -> tuple[str, str]:
        """Of the layers of a network: in half of the cases the alphabet has them the other way round."""
        return ("first", "last") if self.index % 6 < 3 else (NAMES[0], NAMES[2])


def linear(draw: Draw) -> Inputs:
    """Arguments of a forward and a backward pass."""
    d_out, d_in, r = draw.shape()
    n = 0 if draw.index % 11 == 6 else 9 if draw.large == "rank" else draw.size(1, 4)
    leading = [(n,), (), (2, n)][draw.index // 4 % 3]
    mask = (draw.rng.random((*leading, d_in)) < 0.5) * 2.0
    return {
        "x": draw.array(*leading, d_in),
        "W": draw.array(d_out, d_in, typical=0.05),
        "factors": draw.factors(d_out, d_in, r),
        "scale": [1.0, 0.375, -2.0, 4.0, 1 / 3][draw.index % 5],
        "bias": draw.array(d_out) if draw.index & 1 else None,
        "dropout_mask": mask.astype(NUMPY_DTYPES[draw.dtype]) if draw.index & 2 else None,
        "dy": draw.array(*leading, d_out, typical=1e-7),
    }


def weight(draw: Draw) -> Inputs:
    """A weight, factors of its shape, and a scale."""
    inputs = linear(draw)
    return {name: inputs[name] for name in ("W", "factors", "scale")}


def product(draw: Draw) -> Inputs:
    """The same; in every twelfth case s is 2⁻⁴⁰ of what it is elsewhere, and ΔW is far from 0 all the same."""
    inputs = weight(draw)
    if draw.index % 12 == 11 and draw.realistic:
        B, s, A = inputs["factors"]
        inputs["factors"] = Factors(B, s * s.dtype.type(2.0**-40), A)
    return inputs


def factors(draw: Draw) -> Inputs:
    """Factors alone; in every fourth case orthonormal up to sign, where the penalty vanishes."""
    d_out, d_in, r = draw.shape()
    held = draw.factors(d_out, d_in, r, typical=0.3)
    if draw.index % 4 == 3 and r <= min(d_out, d_in):
        dtype = NUMPY_DTYPES[draw.dtype]
        held = Factors(np.eye(d_out, r, dtype=dtype), held.s, -np.eye(r, d_in, dtype=dtype))
    return {"factors": held}


def initial(draw: Draw) -> Inputs:
    """Sizes, a standard deviation, and the seed of the generator that is passed in."""
    d_out, d_in, r = draw.shape()
    like = np.zeros(1, dtype=NUMPY_DTYPES[draw.dtype])
    return {
        "seed": draw.size(0, 999),
        "d_out": d_out,
        "d_in": d_in,
        "r": r,
        "std": [None, 1.0][draw.index % 2],
        "like": like,
    }


def network(draw: Draw, names: tuple[str, str], large: str) -> Inputs:
    """Weights and bias of two layers of few units, and whether the loss is cross entropy or mean square."""
    inputs, units = ((17, 19), (9, 11)) if large == "weight" else ((1, 3), (1, 3))
    d_in, hidden, d_out = draw.size(*inputs), draw.size(*units), draw.size(2, 3)
    first, last = names
    weights = {first: draw.array(hidden, d_in), last: draw.array(d_out, hidden)}
    return {"weights": weights, "biases": {first: draw.array(hidden)}, "labels": draw.index % 2 == 1}


def start(draw: Draw) -> Inputs:
    """A network, a configuration, and the seed of the generator that is passed in."""
    net = network(draw, draw.two_names(), draw.large)
    r = 9 if draw.large == "rank" else draw.size(0 if draw.index % 7 == 5 else 1, 2)
    return net | {"config": _config(draw, r, len(net["weights"])), "seed": draw.size(0, 999)}


def training(draw: Draw) -> Inputs:
    """A network, a batch of one or two micro-batches, and a state somewhere in a run.

    Numbers are of ordinary magnitude: ties of scores are the allocation's.
    """
    names, large = draw.two_names(), draw.large
    draw = replace(draw, index=3 * draw.index + 1)
    net = network(draw, names, large)
    r = 9 if large == "rank" else draw.size(1, 2)
    wide = draw if draw.dtype == "float64" else replace(draw, dtype="float32")
    held = {name: wide.factors(W.shape[0], W.shape[1], r) for name, W in net["weights"].items()}
    state = TrainState(
        draw.size(0, 7),
        held,
        {n: Importance(wide.averages(f, typical=1.0), wide.averages(f, typical=1.0)) for n, f in held.items()},
        {n: AdamState(f, wide.averages(f, typical=1.0), draw.size(0, 9)) for n, f in held.items()},
        {n: draw.rng.random(r) < 0.7 for n in held},
    )
    d_out, d_in = net["weights"][names[1]].shape[0], net["weights"][names[0]].shape[1]

    def target() -> Any:
        return draw.rng.integers(0, d_out, 2) if net["labels"] else draw.array(2, d_out)

    batch = [(draw.array(2, d_in), target()) for _ in range(draw.size(1, 2))]
    return net | {"state": state, "batch": batch, "config": _config(draw, r, len(held))}


def _config(draw: Draw, r: int, matrices: int) -> Config:
    whole = matrices * r
    plan = BudgetSchedule(
        initial=whole, target=draw.size(0, whole), warmup=1, final=2, total=7, interval=draw.size(1, 2)
    )
    return Config(
        schedule=plan,
        initial_rank=r,
        alpha=[1.5, 1.5, 1.5, -0.75][draw.index % 4],
        learning_rate=0.01,
        weight_decay=0.1,
        clip_norm=[None, 0.5][draw.size(0, 1)],
    )


def importance(draw: Draw) -> Inputs:
    """A state, in every fourth case from the start, and a pair of weights and gradients."""
    weights = draw.factors(*draw.shape())
    typical = 0.0 if draw.index % 4 == 0 else 2e-9
    state = Importance(draw.averages(weights, typical=typical), draw.averages(weights, typical=typical))
    if draw.index % 4 == 0:
        state = Importance(*(Factors(*(np.zeros_like(a) for a in held)) for held in state))
    grads = Factors(*(draw.array(*a.shape, typical=1e-7) for a in weights))
    beta1, beta2 = [(0.85, 0.85), (0.5, 0.75), (0.0, 0.9), (0.9, 0.0)][draw.index % 4]
    return {"state": state, "weights": weights, "grads": grads, "beta1": beta1, "beta2": beta2}


def schedule(draw: Draw) -> Inputs:
    """A schedule, and every step of it and a few beyond.

    In every third case the budget is a whole number at each step, which doubles often miss from below.
    """
    target, warmup, window, final = draw.size(0, 40), draw.size(0, 20), draw.size(1, 60), draw.size(0, 20)
    falls_by = [draw.size(0, 60), draw.size(0, 2000)][draw.index % 2]
    if draw.index % 3 == 0:
        window = draw.size(3, 12)
        falls_by = window**3 * draw.size(1, 3)
    held = BudgetSchedule(
        initial=target + falls_by,
        target=target,
        warmup=warmup,
        final=final,
        total=warmup + window + final,
        interval=draw.size(1, 7),
    )
    return {"schedule": held, "steps": list(range(held.total + 3))}


def scores(draw: Draw) -> Inputs:
    """Scores of up to four matrices with ties and both zeros, a budget, and in every third case a cost.

    In every sixth case all scores lie next to one another, and in every other sixth a tie decides between matrices.
    """
    if draw.index % 6 in (2, 5):
        return _close(draw) if draw.index % 6 == 2 else _tied(draw)
    ranks = _ranks(draw, 0, draw.size(1, 4))
    held = {name: draw.positive(r, typical=1e-14) for name, r in ranks.items()}
    if draw.index % 2:
        pool = np.concatenate(list(held.values()))[:3]
        signed = np.append(pool, [0.0, -0.0]).astype(pool.dtype)
        held = {name: draw.rng.choice(signed, size=value.shape) for name, value in held.items()}
    cost = {name: draw.size(1, 9) for name in held} if draw.index % 3 == 1 else None
    whole = sum(r * (1 if cost is None else cost[name]) for name, r in ranks.items())
    return {"scores": held, "budget": draw.size(0, whole), "cost": cost}


def _ranks(draw: Draw, least: int, matrices: int) -> dict[str, int]:
    """Ranks of at least *least*, the first of at least 1; the alphabet puts layer10 before layer2."""
    matrices = 12 if draw.large else matrices
    names = NAMES if draw.index > 2 and not draw.large else [f"layer{i}" for i in range(matrices)]
    most = 17 if draw.large else 5
    return {name: draw.size(least if i else 1, most) for i, name in enumerate(names[:matrices])}


def _close(draw: Draw) -> Inputs:
    """Scores that rise by one unit in the last place from triplet to triplet, so that the last ones are the best."""
    ranks, dtype = _ranks(draw, 1, draw.size(3, 4)), NUMPY_DTYPES[draw.dtype]
    unit, size = float(ml_dtypes.finfo(dtype).eps), 2.0**-46 if draw.realistic else 1.0
    whole = sum(ranks.values())
    rising = (size * (1 + unit * np.arange(whole))).astype(dtype)
    parts = np.split(rising, np.cumsum(list(ranks.values()))[:-1])
    return {"scores": dict(zip(ranks, parts, strict=True)), "budget": draw.size(1, whole - 1), "cost": None}


def _tied(draw: Draw) -> Inputs:
    """Two values of scores, the lower one in every matrix; the budget reaches some of these, in the first matrix."""
    ranks, low = _ranks(draw, 1, draw.size(3, 4)), draw.positive(1, typical=1e-14)
    held = {name: draw.rng.choice(np.concatenate([low, 2 * low]), size=r) for name, r in ranks.items()}
    for value in held.values():
        value[0] = low[0]
    ties = [int(np.sum(value == low)) for value in held.values()]
    return {"scores": held, "budget": sum(ranks.values()) - sum(ties) + draw.size(1, ties[0]), "cost": None}


def masked(draw: Draw) -> Inputs:
    """Factors, and which triplets to keep."""
    held = draw.factors(*draw.shape())
    return {"factors": held, "keep": draw.rng.random(held.s.shape) < 0.5}


def optimiser(draw: Draw) -> Inputs:
    """Weights, gradients, moments after some steps (at first none, in every fifth case thousands), and the rest."""
    weights = draw.factors(*draw.shape())
    grads = Factors(*(draw.array(*a.shape, typical=1e-7) for a in weights))
    first = draw.averages(weights, typical=1e-7)
    second = Factors(*(a * a for a in draw.averages(weights, typical=1e-7)))
    steps = draw.size(1001, 5000) if draw.index % 5 == 3 else draw.size(1, 50)
    if draw.index % 4 == 0:
        first, second = (Factors(*(np.zeros_like(a) for a in held)) for held in (first, second))
        steps = 0
    return {
        "weights": weights,
        "grads": grads,
        "state": AdamState(first, second, steps),
        "learning_rate": [0.0625, 1e-3][draw.index % 2],
        "weight_decay": [None, 0.125, 0.01][draw.index % 3],
    }
