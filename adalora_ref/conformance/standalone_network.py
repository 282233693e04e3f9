"""What a reproduction of a training step carries besides: a network by hand, and what a step is told and carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from adalora_ref.conformance.standalone import BudgetSchedule, Factors


@dataclass(frozen=True, kw_only=True)
class Config:
    """What a run needs that is no array."""

    schedule: BudgetSchedule
    initial_rank: int
    alpha: float
    learning_rate: float
    orthogonality_weight: float = 0.1
    importance_beta1: float = 0.85
    importance_beta2: float = 0.85
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None
    cost: Mapping[str, int] | None = None


class TrainState(NamedTuple):
    """Everything that a step changes; dictionaries are by matrix, in forward order."""

    step: int
    factors: dict[str, Any]
    importance: dict[str, Any]
    optimizer: dict[str, Any]
    masks: dict[str, Any]


class MLP:
    """h_k = tanh(h_{k−1} Wᵀ + b + scale · ((h_{k−1} Aᵀ) ⊙ s) Bᵀ), without tanh after the last layer."""

    def __init__(self, weights: dict[str, Any], biases: dict[str, Any], *, labels: bool) -> None:
        self.weights = weights
        self.biases = biases
        self.labels = labels

    def forward(self, x: Any, factors: dict[str, Any], scales: dict[str, float], /) -> tuple[Any, Any]:
        """Return the output of the last layer, and each layer's input, output and weights."""
        cache = []
        for name, W in self.weights.items():
            bias = [self.biases[name]] if name in self.biases else []
            dtype = np.result_type(x, W, *factors[name], *bias)
            x, W, B, s, A, *bias = (np.asarray(a).astype(dtype) for a in (x, W, *factors[name], *bias))  # noqa: PLW2901
            y = x @ W.T + scales[name] * (((x @ A.T) * s) @ B.T)  # (n, d_out)
            y = y + bias[0] if bias else y
            h = y if name == next(reversed(self.weights)) else np.tanh(y)
            cache.append((name, x, h, W, (B, s, A), scales[name]))
            x = h
        return x, cache

    def loss(self, output: Any, target: Any, /) -> tuple[Any, Any]:
        """Cross entropy of labels, else the mean square; with the gradient for *output*."""
        if not self.labels:
            difference = output - target
            return np.mean(difference * difference), 2.0 * difference / difference.size
        z = output - np.max(output, axis=-1, keepdims=True)  # (n, classes)
        total = np.sum(np.exp(z), axis=-1, keepdims=True)  # (n, 1)
        hot = np.arange(z.shape[-1]) == np.asarray(target)[:, None]  # (n, classes)
        loss = np.mean(np.log(total[:, 0]) - z[hot])
        return loss, (np.exp(z) / total - hot) / len(z)

    def backward(self, doutput: Any, cache: Any, /) -> dict[str, Factors]:
        """Return the gradients of every layer's B, s and A, in forward order."""
        grads: dict[str, Factors] = {}
        for name, x, h, W, (B, s, A), scale in reversed(cache):
            # h = tanh(y), whose derivative is 1 − h²
            dy = doutput if not grads else doutput * (1.0 - h * h)
            dy = np.asarray(dy).astype(x.dtype)
            # y = x Wᵀ + scale · z Bᵀ, z = u ⊙ s, u = x Aᵀ
            u, dz = x @ A.T, scale * (dy @ B)
            du = dz * s
            grads[name] = Factors(scale * (dy.T @ (u * s)), np.sum(dz * u, axis=0), du.T @ x)
            doutput = dy @ W + du @ A
        return dict(reversed(grads.items()))
