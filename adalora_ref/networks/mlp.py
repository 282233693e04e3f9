"""A multi-layer perceptron of adapted layers with tanh between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from jaxtyping import Float

from adalora_ref.array import Array, namespace, require_arrays, require_floating
from adalora_ref.checks import every, instance
from adalora_ref.factors import Factors
from adalora_ref.linear import LinearCache, linear_backward, linear_forward
from adalora_ref.loss import cross_entropy

Loss = Callable[[Array, Array], tuple[Float[Array, ""], Array]]


@dataclass(frozen=True, eq=False)
class MLP:
    """h_k = tanh(layer_k(h_{k−1})), without tanh after the last layer; every layer is adapted, W and b are frozen.

    Attributes
    ----------
    weights
        (d_out, d_in) by name, in forward order; d_in of each is d_out of the one before.
    biases
        (d_out,) for those layers that have one.
    loss
        (output, target) -> (loss, doutput).

    Raises
    ------
    TypeError, ValueError
        If there is no layer, two layers do not fit, a bias has no layer or another length, or an array is not real
        floating.
    """

    weights: dict[str, Float[Array, "_ _"]]
    biases: Mapping[str, Float[Array, "_"]] = field(default_factory=dict)
    loss: Loss = cross_entropy

    def __post_init__(self) -> None:
        instance("weights", self.weights, Mapping)
        instance("biases", self.biases, Mapping)
        if not callable(self.loss):
            raise TypeError(f"loss must be a function of output and target; got {type(self.loss).__name__}")
        if not self.weights:
            raise ValueError("an MLP needs at least one layer; got none")
        require_arrays(**{f"weights[{name!r}]": W for name, W in self.weights.items()})
        require_arrays(**{f"biases[{name!r}]": b for name, b in self.biases.items()})
        require_floating(*self.weights.values(), *self.biases.values())
        shapes = {name: tuple(W.shape) for name, W in self.weights.items()}
        rows = list(shapes.values())
        if any(len(shape) != 2 for shape in rows) or any(before[0] != after[1] for before, after in pairwise(rows)):
            raise ValueError(f"weights must be (d_out, d_in), each d_in the d_out before; got {shapes}")
        biases = {name: tuple(b.shape) for name, b in self.biases.items()}
        if any(shapes.get(name, (None,))[:1] != shape for name, shape in biases.items()):
            raise ValueError(f"biases must be (d_out,) of layers {shapes}; got {biases}")

    def forward(
        self, x: Float[Array, "*n d_in"], factors: Mapping[str, Factors], scales: Mapping[str, float], /
    ) -> tuple[Float[Array, "*n d_out"], list[tuple[LinearCache, Array]]]:
        """Return the output of the last layer, and each layer's cache with its output after tanh."""
        every("factors", factors, self.weights)
        every("scales", scales, self.weights)
        cache: list[tuple[LinearCache, Array]] = []
        last = next(reversed(self.weights))
        for name, W in self.weights.items():
            x, held = linear_forward(x, W, factors[name], scale=scales[name], bias=self.biases.get(name))
            x = x if name == last else namespace(x).tanh(x)
            cache.append((held, x))
        return x, cache

    def backward(
        self, doutput: Float[Array, "*n d_out"], cache: list[tuple[LinearCache, Any]], /
    ) -> dict[str, Factors]:
        """Return ``Factors(dB, ds, dA)`` of every layer, in forward order."""
        instance("cache", cache, list)
        if len(cache) != len(self.weights):
            raise ValueError(f"cache must hold one entry for each of {len(self.weights)} layers; got {len(cache)}")
        last = next(reversed(self.weights))
        grads: dict[str, Factors] = {}
        for name, (held, h) in zip(reversed(self.weights), reversed(cache), strict=True):
            # h = tanh(y), whose derivative is 1 − h²
            dy = doutput if name == last else doutput * (1.0 - h * h)
            # y = layer(x)
            doutput, grads[name] = linear_backward(dy, held)
        return dict(reversed(grads.items()))
