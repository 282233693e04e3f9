"""Allocation: who is kept, the mask, and the removal."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adalora_ref import Factors, allocate, compress, increment, linear_forward, map_factors, prune
from adalora_ref.array import dtype_name, to_numpy
from adalora_ref.conformance import oracles
from tests.conftest import Library, same

SEEDS = st.integers(0, 2**32 - 1)


def ties(rng: np.random.Generator, ranks: tuple[int, ...]) -> dict[str, Any]:
    """Scores of several matrices from few values, zeros of both signs among them."""
    pool = np.asarray([0.0, -0.0, 5e-324, 1e-14, 1e-14 * (1 + 2.0**-52), 3.0])
    return {f"layer{i}": rng.choice(pool, r) for i, r in enumerate(ranks)}


def held(library: Library, scores: dict[str, Any]) -> dict[str, Any]:
    return {name: library.floats(value) for name, value in scores.items()}


def lists(masks: dict[str, Any]) -> dict[str, list[bool]]:
    return {name: to_numpy(mask).tolist() for name, mask in masks.items()}


RANKS = st.lists(st.integers(0, 5), min_size=1, max_size=4).map(tuple)

# BY HAND


def test_the_best_of_all_matrices_by_hand(library: Library) -> None:
    """3 of 3, 1, 1, 2: the best two, and of the tied ones the earlier."""
    scores = held(library, {"q": [3, 1], "v": [1, 2]})
    assert lists(allocate(scores, 3)) == {"q": [True, True], "v": [False, True]}
    assert lists(allocate(scores, 0)) == {"q": [False, False], "v": [False, False]}
    assert lists(allocate(scores, 4)) == {"q": [True, True], "v": [True, True]}


def test_ties_by_hand(library: Library) -> None:
    """Of equal scores the earlier matrix wins, and in a matrix the lower index; both zeros are equal."""
    scores = held(library, {"v": [0.0, 5.0, -0.0], "a": [0.0, 5.0]})
    assert lists(allocate(scores, 4)) == {"v": [True, True, True], "a": [False, True]}
    assert lists(allocate(scores, 3)) == {"v": [True, True, False], "a": [False, True]}
    assert lists(allocate(scores, 1)) == {"v": [False, True, False], "a": [False, False]}


def test_costs_by_hand(library: Library) -> None:
    """10, then 8, then another 10 does not fit into 25, and ends it, although the last 8 would not exceed 26."""
    scores = held(library, {"q": [4, 2], "v": [1, 3]})
    assert lists(allocate(scores, 25, cost={"v": 8, "q": 10})) == {"q": [True, False], "v": [False, True]}
    assert lists(allocate(scores, 26, cost={"v": 8, "q": 10})) == {"q": [True, False], "v": [False, True]}
    assert lists(allocate(scores, 28, cost={"v": 8, "q": 10})) == {"q": [True, True], "v": [False, True]}


def test_masking_and_removing_by_hand(library: Library) -> None:
    """prune zeroes s and leaves B and A; compress takes the column, the entry and the row out."""
    factors, keep = library.factors([[1, 2], [3, 4]], [5, 7], [[8, 9], [10, 11]]), library.array([False, True])
    assert same(prune(factors, keep), (*map(to_numpy, (factors.B,)), np.asarray([0.0, 7.0]), to_numpy(factors.A)))
    assert same(compress(factors, keep), (np.asarray([[2.0], [4.0]]), np.asarray([7.0]), np.asarray([[10.0, 11.0]])))


# LAWS


@given(seed=SEEDS, ranks=RANKS, share=st.floats(0, 1))
def test_exactly_the_budget_is_kept(library: Library, seed: int, ranks: tuple[int, ...], share: float) -> None:
    """However many ties there are, as many are kept as the budget says, the same as sorting in plain Python."""
    scores = ties(np.random.default_rng(seed), ranks)
    budget = round(share * sum(ranks))
    found = lists(allocate(held(library, scores), budget))
    assert sum(sum(mask) for mask in found.values()) == budget
    assert found == oracles.allocate({name: value.tolist() for name, value in scores.items()}, budget)
    assert list(found) == list(scores)


@given(seed=SEEDS, ranks=RANKS, share=st.floats(0, 1))
def test_a_cost_is_never_exceeded_and_missed_by_less_than_a_triplet(
    library: Library, seed: int, ranks: tuple[int, ...], share: float
) -> None:
    """What is spent is at most the budget, and the next best triplet would exceed it."""
    rng = np.random.default_rng(seed)
    scores = ties(rng, ranks)
    cost = {name: int(rng.integers(1, 9)) for name in scores}
    whole = sum(cost[name] * len(value) for name, value in scores.items())
    budget = round(share * whole)
    found = lists(allocate(held(library, scores), budget, cost=cost))
    spent = sum(cost[name] * sum(mask) for name, mask in found.items())
    ranked = sorted((-v, k, i, n) for k, (n, value) in enumerate(scores.items()) for i, v in enumerate(value.tolist()))
    kept = [found[name][i] for _, _, i, name in ranked]
    assert kept == sorted(kept, reverse=True)
    assert spent <= budget
    assert all(kept) or spent + cost[ranked[kept.index(False)][3]] > budget


@given(seed=SEEDS, ranks=RANKS, share=st.floats(0, 1))
def test_the_order_of_scores_is_all_that_counts(
    library: Library, seed: int, ranks: tuple[int, ...], share: float
) -> None:
    """A rising function of the scores keeps the same triplets; equal costs of 1 are no cost."""
    scores = ties(np.random.default_rng(seed), ranks)
    budget = round(share * sum(ranks))
    values = sorted({float(v) for value in scores.values() for v in value})
    raised = {name: np.asarray([3.0 * values.index(float(v)) - 7 for v in value]) for name, value in scores.items()}
    found = allocate(held(library, scores), budget)
    assert lists(found) == lists(allocate(held(library, raised), budget))
    assert lists(found) == lists(allocate(held(library, scores), budget, cost=dict.fromkeys(scores, 1)))


@given(seed=SEEDS, r=st.integers(0, 5))
def test_masked_and_removed_triplets_do_the_same(library: Library, seed: int, r: int) -> None:
    """At a given scale the increment and the layer are the same, and nothing of it hangs on what was dropped."""
    rng = np.random.default_rng(seed)
    factors, keep = library.eighth_factors(rng, 3, 4, r), library.array(rng.random(r) < 0.5)
    x, W = library.eighths(rng, 2, 4), library.eighths(rng, 3, 4)
    masked, removed = prune(factors, keep), compress(factors, keep)
    assert removed.s.shape[0] == int(np.sum(to_numpy(keep)))
    assert same(increment(masked, scale=0.5), increment(removed, scale=0.5))
    assert same(linear_forward(x, W, masked, scale=0.5)[0], linear_forward(x, W, removed, scale=0.5)[0])
    again = prune(masked, keep)
    assert r == 0 or same(again, masked)
    assert same(prune(factors, library.array(np.ones(r, dtype=bool))), factors) or r == 0


def test_what_was_dropped_is_zero_whatever_it_was(library: Library) -> None:
    """NaN and infinity in a dropped s become 0."""
    factors = library.factors([[1, 1, 1]], [np.nan, np.inf, 2], [[1], [1], [1]])
    assert same(prune(factors, library.array([False, False, True])).s, np.asarray([0.0, 0.0, 2.0]))


def test_nothing_given_is_changed(library: Library) -> None:
    """Scores, factors and masks stay as they were."""
    rng = np.random.default_rng(1)
    factors, keep = library.draw_factors(rng, 3, 2, 4), library.array([True, False, True, False])
    scores = {"q": library.draw(rng, 4)}
    inputs = [*factors, keep, scores["q"]]
    before = [to_numpy(a).tobytes() for a in inputs]
    allocate(scores, 2)
    prune(factors, keep)
    compress(factors, keep)
    assert [to_numpy(a).tobytes() for a in inputs] == before


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_16_bits_are_chosen_by_their_values_and_kept_as_they_are(dtype: Any) -> None:
    """16-bit scores are compared exactly, and masking changes no other bit."""
    scores = {"q": np.asarray([1.0, 1.0078125, 1.0]).astype(dtype), "v": np.asarray([1.0078125]).astype(dtype)}
    assert lists(allocate(scores, 2)) == {"q": [False, True, False], "v": [True]}
    rng = np.random.default_rng(2)
    factors = Factors(*(rng.standard_normal(shape).astype(dtype) for shape in ((3, 2), (2,), (2, 4))))
    found = prune(factors, np.asarray([True, False]))
    assert {dtype_name(a) for a in found} == {np.dtype(dtype).name}
    assert same(found, map_factors(lambda a: a, Factors(factors.B, factors.s * np.asarray([1, 0], dtype), factors.A)))


def test_scores_of_several_dtypes_meet_in_the_widest() -> None:
    """A float32 score is compared with a float64 one by its exact value."""
    third = np.float32(1 / 3)
    scores = {"q": np.asarray([third]), "v": np.asarray([float(third) - 1e-12])}
    assert lists(allocate(scores, 1)) == {"q": [True], "v": [False]}
