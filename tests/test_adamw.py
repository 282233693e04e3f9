"""AdamW: worked by hand, and its laws."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adalora_ref import AdamState, Factors, adamw_step, init_adamw, map_factors
from adalora_ref.array import dtype_name, to_numpy
from tests.conftest import Library, close, same

SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 3))


def one(library: Library, value: float) -> Factors:
    return library.factors([[value]], [value], [[value]])


# BY HAND


def test_the_first_step_by_hand(library: Library) -> None:
    """Bias correction undoes 1 − β: m̂ = g = 3, √v̂ = 3, so the step is lr · 3 / (3 + 1) = 3/16; the decay takes 1/64."""
    options = {"learning_rate": 0.25, "beta1": 0.5, "beta2": 0.75, "epsilon": 1.0, "weight_decay": 1 / 16}
    weights, state = adamw_step(one(library, 1), one(library, 3), init_adamw(one(library, 1)), **options)
    assert same(weights, one(library, 1 - 1 / 64 - 3 / 16))
    assert same((state.first, state.second), (one(library, 1.5), one(library, 9 / 4)))
    assert state.steps == 1


def test_the_second_step_by_hand(library: Library) -> None:
    """m = ½ · 2 + ½ · 5 = 3.5, m̂ = 3.5 / ¾; v = 0 · 7 + 1 · 25, v̂ = 25; the step is ½ · (14/3) / 5."""
    state = AdamState(one(library, 2), one(library, 7), 1)
    weights, state = adamw_step(
        one(library, 0), one(library, 5), state, learning_rate=0.5, beta1=0.5, beta2=0.0, epsilon=0.0
    )
    assert close(weights, one(library, -0.5 * (14 / 3) / 5), within=2e-16)
    assert same((state.first, state.second), (one(library, 3.5), one(library, 25)))
    assert state.steps == 2


# LAWS


@given(seed=SEEDS, sizes=SIZES)
def test_the_first_step_follows_the_sign(library: Library, seed: int, sizes: tuple[int, int, int]) -> None:
    """Without ε the first step is lr · sign(g), whatever the size of g and the βs."""
    rng = np.random.default_rng(seed)
    w = library.draw_factors(rng, *sizes)
    g = map_factors(lambda a: a * 1e-7, library.draw_factors(rng, *sizes))
    moved, _ = adamw_step(w, g, init_adamw(w), learning_rate=0.01, epsilon=0.0)
    expected = map_factors(lambda w, g: library.floats(to_numpy(w) - 0.01 * np.sign(to_numpy(g))), w, g)
    assert sizes[2] == 0 or close(moved, expected, within=1e-14)


@given(seed=SEEDS, sizes=SIZES)
def test_decay_is_decoupled(library: Library, seed: int, sizes: tuple[int, int, int]) -> None:
    """Without a gradient w becomes (1 − lr·λ) w, and the moments stay zero; without decay too nothing moves."""
    w = library.eighth_factors(np.random.default_rng(seed), *sizes)
    zeros = map_factors(lambda a: 0.0 * a, w)
    decayed, state = adamw_step(w, zeros, init_adamw(w), learning_rate=0.5, weight_decay=0.25)
    still, _ = adamw_step(w, zeros, init_adamw(w), learning_rate=0.5)
    assert sizes[2] == 0 or same(decayed, map_factors(lambda a: 0.875 * a, w))
    assert sizes[2] == 0 or same(still, w)
    assert not any(np.any(to_numpy(a)) for held in (state.first, state.second) for a in held)


@given(seed=SEEDS)
def test_steps_are_counted_and_moments_are_averages(library: Library, seed: int) -> None:
    """After k equal gradients m is (1 − β1ᵏ) g and v (1 − β2ᵏ) g²: the corrected moments are g and g²."""
    g = library.draw_factors(np.random.default_rng(seed), 2, 3, 2)
    weights, state = g, init_adamw(g)
    for k in range(1, 6):
        weights, state = adamw_step(weights, g, state, learning_rate=0.01)
        assert state.steps == k
        assert close(state.first, map_factors(lambda a, k=k: (1 - 0.9**k) * a, g), within=1e-14)
        assert close(state.second, map_factors(lambda a, k=k: (1 - 0.999**k) * a * a, g), within=1e-12)


def test_the_defaults_are_those_of_the_field(library: Library) -> None:
    """β1 = 0.9, β2 = 0.999, ε = 1e-8 and no decay."""
    rng = np.random.default_rng(0)
    w, g = library.draw_factors(rng, 2, 3, 1), library.draw_factors(rng, 2, 3, 1)
    stated = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0}
    defaults, named = (adamw_step(w, g, init_adamw(w), learning_rate=0.1, **options) for options in ({}, stated))
    assert same((defaults[0], defaults[1].first, defaults[1].second), (named[0], named[1].first, named[1].second))


def test_epsilon_stands_outside_the_root(library: Library) -> None:
    """With g = 1e-8 the step is lr · ½, since √v̂ = ε; inside the root it would be lr · 1e-4."""
    moved, _ = adamw_step(one(library, 0), one(library, 1e-8), init_adamw(one(library, 0)), learning_rate=1.0)
    assert math.isclose(float(moved.s[0]), -0.5, rel_tol=1e-12)


def test_nothing_given_is_changed(library: Library) -> None:
    """Weights, gradient and state stay as they were."""
    rng = np.random.default_rng(1)
    w, g, m, v = (map_factors(abs, library.draw_factors(rng, 2, 3, 2)) for _ in range(4))
    inputs = [a for held in (w, g, m, v) for a in held]
    before = [to_numpy(a).tobytes() for a in inputs]
    adamw_step(w, g, AdamState(m, v, 3), learning_rate=0.1, weight_decay=0.1)
    assert [to_numpy(a).tobytes() for a in inputs] == before


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_16_bit_weights_have_float32_moments(dtype: Any) -> None:
    """Weights keep their 16 bits, rounded once from a float32 step; moments are float32."""
    rng = np.random.default_rng(2)
    w, g = (Factors(*(rng.standard_normal(s).astype(dtype) for s in ((3, 2), (2,), (2, 4)))) for _ in range(2))
    moved, state = adamw_step(w, g, init_adamw(w), learning_rate=0.1, weight_decay=0.1)
    wide_w, wide_g = (map_factors(lambda a: a.astype(np.float32), held) for held in (w, g))
    wide, wide_state = adamw_step(wide_w, wide_g, init_adamw(wide_w), learning_rate=0.1, weight_decay=0.1)
    assert {dtype_name(a) for a in moved} == {np.dtype(dtype).name}
    assert same(moved, map_factors(lambda a: a.astype(dtype), wide))
    assert same((state.first, state.second), (wide_state.first, wide_state.second))
