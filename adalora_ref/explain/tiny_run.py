"""The run of docs/worked_run.md: two matrices side by side, four steps, every number a multiple of 1/32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from adalora_ref.budget import BudgetSchedule
from adalora_ref.factors import Factors, map_factors
from adalora_ref.importance import triplet_scores
from adalora_ref.linear import LinearCache, linear_backward, linear_forward
from adalora_ref.loss import mean_square
from adalora_ref.records import Config, StepReport, TrainState
from adalora_ref.training import init_state, scales_of, train_step

BATCH = [(np.array([[1.0, 2.0]]), np.array([[-5.0]]))]
STEPS = 4
START = {
    "q": Factors(np.array([[3.0, -3.0]]), np.array([-2.0, 0.0]), np.array([[1.0], [-1.0]])),
    "v": Factors(np.array([[1.0, -3.0]]), np.array([-1.0, 0.0]), np.array([[1.0, 3.0], [1.0, 1.0]])),
}
CONFIG = Config(
    schedule=BudgetSchedule(initial=4, target=2, warmup=0, final=1, total=STEPS),
    initial_rank=2,
    alpha=2.0,
    learning_rate=2.0,
    orthogonality_weight=0.5,
    importance_beta1=0.5,
    importance_beta2=0.5,
    adam_beta1=0.0,
    adam_beta2=0.0,
    adam_epsilon=0.0,
)


class SideBySide:
    """y = q(x₁) + v(x)."""

    def __init__(self) -> None:
        self.weights = {"q": np.array([[-2.0]]), "v": np.array([[0.0, 0.0]])}

    def forward(
        self, x: Any, factors: Mapping[str, Factors], scales: Mapping[str, float]
    ) -> tuple[Any, dict[str, LinearCache]]:
        """y, and what the backward pass needs."""
        q, cache_q = linear_forward(x[:, :1], self.weights["q"], factors["q"], scale=scales["q"])
        v, cache_v = linear_forward(x, self.weights["v"], factors["v"], scale=scales["v"])
        return q + v, {"q": cache_q, "v": cache_v}

    def loss(self, output: Any, target: Any) -> tuple[Any, Any]:
        """(y − target)², and its gradient."""
        return mean_square(output, target)

    def backward(self, doutput: Any, cache: Mapping[str, LinearCache]) -> dict[str, Factors]:
        """The gradients of both matrices."""
        return {name: linear_backward(doutput, held)[1] for name, held in cache.items()}


class Frame(NamedTuple):
    """A step, and what it is worth looking at; dictionaries are by matrix."""

    report: StepReport
    scales: dict[str, float]
    before: TrainState
    after: TrainState
    gradient: dict[str, Factors]
    sensitivity: dict[str, Factors]
    scores: dict[str, Any]


def frames() -> Iterator[Frame]:
    """The steps of the run, one by one."""
    network = SideBySide()
    state = init_state(network, CONFIG, np.random.default_rng(0))._replace(factors=START)
    for _ in range(STEPS):
        after, report = train_step(state, BATCH, network, CONFIG)
        gradient = {name: moments.first for name, moments in after.optimizer.items()}  # β1 = 0: the moment is g itself
        sensitivity = {
            name: map_factors(lambda w, g: np.abs(w * g), w, gradient[name]) for name, w in state.factors.items()
        }
        scores = {name: triplet_scores(held) for name, held in after.importance.items()}
        yield Frame(report, scales_of(state, CONFIG), state, after, gradient, sensitivity, scores)
        state = after
