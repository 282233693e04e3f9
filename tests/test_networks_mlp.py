"""The multi-layer perceptron: worked by hand, the gradient, and its laws."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from adalora_ref import Factors, linear_backward, linear_forward, mean_square, merge
from adalora_ref.array import to_numpy
from adalora_ref.conformance import oracle_run
from adalora_ref.networks.mlp import MLP
from adalora_ref.records import Network
from tests.conftest import Library, close, same

SEEDS = st.integers(0, 2**32 - 1)
TINY = 2.0**-200
"""Length of the imaginary step: what it neglects is of relative size 2^-400."""


def three_layers(library: Library, rng: np.random.Generator) -> tuple[MLP, dict[str, Factors], dict[str, float]]:
    shapes = {"a": (3, 2), "b": (4, 3), "c": (2, 4)}
    weights = {name: library.draw(rng, *shape) for name, shape in shapes.items()}
    network = MLP(weights, {"b": library.draw(rng, 4)}, mean_square)
    factors = {name: library.draw_factors(rng, *shape, 2) for name, shape in shapes.items()}
    return network, factors, {"a": 0.5, "b": -1.0, "c": 1 / 3}


# BY HAND


def test_two_layers_by_hand(library: Library) -> None:
    """x − x makes h = tanh(0) = 0, whose slope is 1: the output is the last bias, and the first layer sees 2 · (3 + 1).

    In the first layer u = 2 and z = −2.
    """
    weights = {"a": library.floats([[1]]), "b": library.floats([[3]])}
    network = MLP(weights, {"b": library.floats([7])}, mean_square)
    factors = {"a": library.factors([[0.5]], [-1], [[2]]), "b": library.factors([[2]], [1], [[1]])}
    output, cache = network.forward(library.floats([[1]]), factors, {"a": 1.0, "b": 0.5})
    assert same(output, np.asarray([[7.0]]))
    grads = network.backward(library.floats([[2]]), cache)
    assert list(grads) == ["a", "b"]
    assert same(grads["a"], (np.asarray([[-16.0]]), np.asarray([8.0]), np.asarray([[-4.0]])))  # dz = 4, du = −4
    assert same(grads["b"], (np.zeros((1, 1)), np.zeros(1), np.zeros((1, 1))))  # which saw 0


def test_tanh_by_hand(library: Library) -> None:
    """h = tanh(½), and ds of the first layer carries 1 − h²."""
    weights = {"a": library.floats([[1]]), "b": library.floats([[3]])}
    network = MLP(weights, loss=mean_square)
    factors = {"a": library.factors([[1]], [0], [[2]]), "b": library.factors([[1]], [0], [[1]])}
    output, cache = network.forward(library.floats([[0.5]]), factors, {"a": 1.0, "b": 1.0})
    h = math.tanh(0.5)
    assert close(output, np.asarray([[3 * h]]), within=1e-15)
    grads = network.backward(library.floats([[1]]), cache)
    assert close(grads["a"].s, np.asarray([3 * (1 - h * h)]), within=1e-15)  # u = 1
    assert close(grads["b"].s, np.asarray([h]), within=1e-15)


# IS THE GRADIENT


@given(seed=SEEDS)
def test_backward_is_the_gradient(library: Library, seed: int) -> None:
    """A complex step of the oracle along a random direction in all factors is ⟨gradient, direction⟩."""
    rng = np.random.default_rng(seed)
    network, factors, scales = three_layers(library, rng)
    x, dy = library.draw(rng, 4, 2), library.draw(rng, 4, 2)
    way = {name: library.draw_factors(rng, *W.shape, 2) for name, W in network.weights.items()}
    output, cache = network.forward(x, factors, scales)
    grads = network.backward(dy, cache)
    held = SimpleNamespace(
        weights={name: to_numpy(W).tolist() for name, W in network.weights.items()},
        biases={name: to_numpy(b).tolist() for name, b in network.biases.items()},
    )
    stepped = {
        name: tuple(
            (to_numpy(w) + 1j * TINY * to_numpy(h)).tolist() for w, h in zip(factors[name], way[name], strict=True)
        )
        for name in network.weights
    }
    moved = np.asarray(oracle_run.mlp_forward((to_numpy(x) + 0j).tolist(), held, stepped, scales)[-1])
    terms = [np.ravel(to_numpy(g) * to_numpy(h)) for n in grads for g, h in zip(grads[n], way[n], strict=True)]
    slope, every = float(np.sum(to_numpy(dy) * moved.imag)) / TINY, np.concatenate(terms)
    assert close(output, moved.real, within=1e-13)
    assert abs(slope - np.sum(every)) <= 1e-12 * np.sum(np.abs(every))


# LAWS


@given(seed=SEEDS)
def test_one_layer_is_the_layer(library: Library, seed: int) -> None:
    """Without a second layer there is no tanh: forward and backward are those of the layer."""
    rng = np.random.default_rng(seed)
    W, b, factors = library.draw(rng, 3, 2), library.draw(rng, 3), library.draw_factors(rng, 3, 2, 1)
    x, dy = library.draw(rng, 4, 2), library.draw(rng, 4, 3)
    network = MLP({"only": W}, {"only": b})
    output, cache = network.forward(x, {"only": factors}, {"only": 0.5})
    y, held = linear_forward(x, W, factors, scale=0.5, bias=b)
    assert same(output, y)
    assert same(network.backward(dy, cache)["only"], linear_backward(dy, held)[1])


def test_leading_axes_are_rows(library: Library) -> None:
    """An input of shape (2, 3, d_in) gives what its six rows give, forward and backward."""
    rng = np.random.default_rng(3)
    network, factors, scales = three_layers(library, rng)
    x, dy = library.draw(rng, 6, 2), library.draw(rng, 6, 2)
    output, cache = network.forward(x, factors, scales)
    shaped, cache_shaped = network.forward(library.xp.reshape(x, (2, 3, 2)), factors, scales)
    assert same(shaped, to_numpy(output).reshape(2, 3, 2))
    grads = network.backward(library.xp.reshape(dy, (2, 3, 2)), cache_shaped)
    assert same(grads, network.backward(dy, cache))


@given(seed=SEEDS)
def test_merged_weights_make_the_same_network(library: Library, seed: int) -> None:
    """A network of merged weights, with factors of rank 0, computes the same up to rounding."""
    rng = np.random.default_rng(seed)
    network, factors, scales = three_layers(library, rng)
    x = library.draw(rng, 3, 2)
    merged = MLP(
        {name: merge(W, factors[name], scale=scales[name]) for name, W in network.weights.items()}, network.biases
    )
    empty = {name: library.draw_factors(rng, *W.shape, 0) for name, W in network.weights.items()}
    expected, _ = network.forward(x, factors, scales)
    assert close(merged.forward(x, empty, scales)[0], to_numpy(expected), within=1e-12)


def test_it_is_a_network_and_leaves_its_inputs(library: Library) -> None:
    """An MLP is what training asks for; neither pass changes weights, factors, inputs or cache."""
    rng = np.random.default_rng(2)
    network, factors, scales = three_layers(library, rng)
    assert isinstance(network, Network)
    x, dy = library.draw(rng, 4, 2), library.draw(rng, 4, 2)

    def bits() -> list[Any]:
        held = [*network.weights.values(), *network.biases.values(), x, dy, *(a for f in factors.values() for a in f)]
        return [to_numpy(a).tobytes() for a in held]

    before = bits()
    _, cache = network.forward(x, factors, scales)
    assert same(network.backward(dy, cache), network.backward(dy, cache))
    assert bits() == before
