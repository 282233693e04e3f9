"""What an allocator is fed: scripted weights and gradients for a whole schedule, whatever it answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from adalora_ref.array import Array
from adalora_ref.budget import BudgetSchedule
from adalora_ref.conformance.cases import NAMES, NUMPY_DTYPES
from adalora_ref.conformance.trace import Each
from adalora_ref.factors import Factors, init_factors
from adalora_ref.records import Config

CONFIG = Config(
    schedule=BudgetSchedule(initial=12, target=5, warmup=2, final=3, total=16, interval=3),
    initial_rank=3,
    alpha=4.0,
    learning_rate=0.02,
    weight_decay=0.05,
    importance_beta1=0.75,
    importance_beta2=0.6,
)
"""T − t_f is no multiple of ΔT and no step of the pattern from t_i, so that every rule of the schedule shows."""


class Script(NamedTuple):
    """The shapes of the matrices, which of them repeat another's numbers, which never get a gradient, the schedule."""

    shapes: Mapping[str, tuple[int, int]]
    twins: Mapping[str, str] = {}
    idle: tuple[str, ...] = ()
    schedule: BudgetSchedule = CONFIG.schedule

    @property
    def rank(self) -> int:
        """Of every matrix at the start."""
        return self.schedule.initial // len(self.shapes)


SCRIPTS = {
    "": Script(dict(zip(NAMES, ((3, 2), (2, 3), (2, 2), (3, 1)), strict=True))),
    "/ties": Script(
        dict(zip(NAMES, ((3, 2), (2, 3), (3, 2), (2, 3)), strict=True)),
        {NAMES[2]: NAMES[0], NAMES[3]: NAMES[1]},
        (NAMES[1], NAMES[3]),
    ),
    "/many": Script(
        dict.fromkeys(NAMES[:2], (1, 1)),
        schedule=BudgetSchedule(initial=34, target=10, warmup=1, final=3, total=16, interval=1),
    ),
}
"""Of the twins the alphabet has one pair in forward order, and the other the other way round.

Among many triplets, chosen at almost every step, a wrong average moves one over the threshold: masks alone show it.
"""


def betas_of(config: Config) -> dict[str, float]:
    """The weights of the averages, as they are handed to `start`."""
    return {"beta1": config.importance_beta1, "beta2": config.importance_beta2}


class Feed(NamedTuple):
    """A schedule, weights and gradients for each of its first steps, the weights β of the averages."""

    schedule: BudgetSchedule
    steps: tuple[tuple[Each, Each], ...]
    betas: Mapping[str, float] = betas_of(CONFIG)

    @property
    def config(self) -> Config:
        """Under what the allocator is judged."""
        beta1, beta2 = self.betas["beta1"], self.betas["beta2"]
        return replace(CONFIG, schedule=self.schedule, importance_beta1=beta1, importance_beta2=beta2)


def feed(script: Script, dtype: str, seed: int) -> Feed:
    """The numbers of a script, the same on every machine."""
    return Feed(script.schedule, tuple(_steps(script, dtype, seed)))


def _steps(script: Script, dtype: str, seed: int) -> Iterator[tuple[Each, Each]]:
    weights, rng = _start(script, dtype, seed), np.random.default_rng(seed + 1)
    for _ in range(script.schedule.total):
        yield weights, _gradients(script, rng, weights)
        weights = _moved(script, rng, weights)


def _start(script: Script, dtype: str, seed: int) -> Each:
    rng, like = np.random.default_rng(seed), np.zeros(1, NUMPY_DTYPES[dtype])
    held = {n: init_factors(rng, *shape, script.rank, like=like) for n, shape in script.shapes.items()}
    held = {n: Factors(B, _typical(rng, s, 1e-2), A) for n, (B, s, A) in held.items()}
    return {n: held[script.twins.get(n, n)] for n in held}


def _gradients(script: Script, rng: np.random.Generator, weights: Each) -> Each:
    held = {n: Factors(*(_typical(rng, a, 0.0 if n in script.idle else 1e-3) for a in f)) for n, f in weights.items()}
    return {n: held[script.twins.get(n, n)] for n in held}


def _moved(script: Script, rng: np.random.Generator, weights: Each) -> Each:
    held = {n: Factors(*(a + _typical(rng, a, 1e-2) for a in f)) for n, f in weights.items()}
    return {n: held[script.twins.get(n, n)] for n in held}


def _typical(rng: np.random.Generator, like: Array, size: float) -> Array:
    return (size * rng.standard_normal(like.shape)).astype(like.dtype)
