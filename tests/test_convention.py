"""The conventions: each difference in numbers."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adalora_ref import (
    LORA,
    LORALIB,
    PAPER,
    PEFT,
    SPEC,
    BudgetSchedule,
    Factors,
    Importance,
    allocate,
    map_factors,
    orthogonality_norm,
    orthogonality_penalty,
    triplet_scores,
)
from adalora_ref.array import to_numpy
from adalora_ref.convention import CONVENTIONS, Convention, convention
from tests.conftest import Library, same

SCHEDULE = BudgetSchedule(initial=20, target=4, warmup=2, final=3, total=12, interval=4)
"""T − t_f = 9, of which ΔT = 4 is no divisor."""

# BY HAND


@pytest.mark.parametrize(
    ("rules", "alpha", "initial", "kept", "scale"),
    [
        (SPEC, 8.0, 4, 2, 4.0),
        (SPEC, 8.0, 4, 0, 8.0),
        (PAPER, 8.0, 4, 2, 2.0),
        (PAPER, 8.0, 0, 0, 8.0),
        (LORA, 8.0, 4, 2, 2.0),
        (LORALIB, 8.0, 4, 2, 8 / 4.00001),
        (PEFT, -1.0, 4, 2, 4 / 4.00001),
        (PEFT, 0.0, 4, 1, 4 / 4.00001),
    ],
)
def test_the_scale(rules: Convention, alpha: float, initial: int, kept: int, scale: float) -> None:
    """SPEC follows the kept rank, the others the initial one; the release adds 1e-5 and replaces α ≤ 0 by the rank."""
    assert rules.scale(alpha, initial, kept) == scale


@pytest.mark.parametrize(
    ("rules", "budgets"),
    [
        (SPEC, [20, 20, 20, 14, 9, 6, 5, 4, 4, 4, 4, 4, 4]),
        (LORALIB, [20, 20, 20, 14, 9, 6, 5, 4, 4, 4, 4, 4, 4]),
        (LORA, [20] * 13),
    ],
)
def test_the_budget(rules: Convention, budgets: list[int]) -> None:
    """4 + 16 · ((9 − t) / 7)³ floored: 14.07…, 9.83…, 7 → 6.98…; LoRA never falls."""
    cubic = [4 + 16 * ((9 - t) / 7) ** 3 for t in range(2, 10)]
    assert [math.floor(b) for b in cubic] == [20, 14, 9, 6, 5, 4, 4, 4] or rules is LORA
    assert [rules.budget(SCHEDULE, t) for t in range(13)] == budgets


def test_doubles_are_one_off_where_the_exact_budget_is_whole() -> None:
    """4 + 1000 · (3/5)³ is 220 under SPEC and 219 in the release's doubles."""
    schedule = BudgetSchedule(initial=1004, target=4, warmup=0, final=1, total=6)
    assert [rules.budget(schedule, 2) for rules in (SPEC, PAPER, LORALIB, PEFT)] == [220, 220, 219, 219]


def test_allocations() -> None:
    """SPEC counts ΔT from t_i = 2, the release from 0; at T − t_f = 9 SPEC and PEFT allocate, LORALIB from then on."""
    due = {r.name: [t for t in range(14) if r.allocates(SCHEDULE, t)] for r in CONVENTIONS.values()}
    assert due == {
        "SPEC": [2, 6, 9],
        "PAPER": [2, 6, 9],
        "LORALIB": [4, 8, 10, 11, 12, 13],
        "PEFT": [4, 8, 9],
        "LORA": [],
    }


def test_a_step_of_warm_up_is_never_an_allocation_in_the_release() -> None:
    """Where ΔT divides t_i SPEC allocates there, at the full budget; the release does not."""
    schedule = BudgetSchedule(initial=8, target=4, warmup=4, final=2, total=12, interval=2)
    assert [rules.allocates(schedule, 4) for rules in (SPEC, LORALIB, PEFT)] == [True, False, False]
    assert [rules.allocates(schedule, 0) for rules in (SPEC, LORALIB, PEFT)] == [False, False, False]


def test_selection_of_ties(library: Library) -> None:
    """With 2, 2 and 1 at a budget of 1 SPEC keeps the first; a threshold of 2 keeps what lies above it, nobody."""
    scores = {"q": library.floats([2, 1]), "v": library.floats([2])}
    exact, above = (rules.allocate(scores, 1) for rules in (SPEC, PEFT))
    assert {name: to_numpy(mask).tolist() for name, mask in exact.items()} == {"q": [True, False], "v": [False]}
    assert {name: to_numpy(mask).tolist() for name, mask in above.items()} == {"q": [False, False], "v": [False]}


def test_penalties(library: Library) -> None:
    """SPEC adds squares up, the release takes the mean of the 2n norms, LoRA has none."""
    factors = library.factors([[2]], [1], [[1, 1]])
    assert [float(rules.penalty(factors)[0]) for rules in (SPEC, PAPER, LORALIB, PEFT, LORA)] == [10, 10, 4, 4, 0]
    assert [rules.penalty_factor(3) for rules in (SPEC, PAPER, LORALIB, PEFT)] == [1.0, 1.0, 1 / 6, 1 / 6]
    assert not any(np.any(to_numpy(g)) for g in LORA.penalty(factors)[1])
    assert (SPEC.penalty, PEFT.penalty) == (orthogonality_penalty, orthogonality_norm)


def test_what_sensitivity_sees(library: Library) -> None:
    """SPEC takes the unclipped gradient at the weights before the step, the release the clipped one at those after."""
    before, gradient, after, clipped = (library.factors([[v]], [v], [[v]]) for v in (1, 2, 3, 4))
    for rules in (SPEC, PAPER):
        assert rules.sensitivity(before, gradient, after, clipped) == (before, gradient)
    for rules in (LORALIB, PEFT):
        assert rules.sensitivity(before, gradient, after, clipped) == (after, clipped)


def test_what_is_trained_and_how_it_starts(library: Library) -> None:
    """LoRA holds s, at 1, and starts from B = 0; its A is the one that AdaLoRA draws."""
    held, moved = library.factors([[1]], [2], [[3]]), library.factors([[4]], [5], [[6]])
    assert same(LORA.trained(held, moved), library.factors([[4]], [2], [[6]]))
    assert all(rules.trained(held, moved) is moved for rules in (SPEC, PAPER, LORALIB, PEFT))
    like = library.floats([0])
    ours, lora = (rules.initial(np.random.default_rng(3), 3, 2, 2, like=like) for rules in (SPEC, LORA))
    assert same(lora, (np.zeros((3, 2)), np.ones(2), to_numpy(ours.A)))
    assert not np.any(to_numpy(ours.s))
    assert np.all(to_numpy(ours.B) != 0)


def test_counting_and_the_last_phase() -> None:
    """PAPER counts steps from 1; SPEC alone insists on a last phase."""
    assert {r.name: (r.first_step, r.least_final) for r in CONVENTIONS.values()} == {
        "SPEC": (0, 1),
        "PAPER": (1, 0),
        "LORALIB": (0, 0),
        "PEFT": (0, 0),
        "LORA": (0, 0),
    }


# LAWS


@given(seed=st.integers(0, 2**32 - 1), ranks=st.lists(st.integers(0, 4), min_size=1, max_size=3), share=st.floats(0, 1))
def test_a_threshold_keeps_at_most_the_budget(library: Library, seed: int, ranks: list[int], share: float) -> None:
    """It keeps a part of what SPEC keeps; all of it where scores differ, or where nothing is to be dropped."""
    rng = np.random.default_rng(seed)
    tied = {f"m{i}": library.floats(rng.integers(0, 3, r)) for i, r in enumerate(ranks)}
    order = iter(rng.permutation(sum(ranks)).tolist())
    apart = {name: library.floats([next(order) for _ in range(v.shape[0])]) for name, v in tied.items()}
    budget = round(share * sum(ranks))
    for scores, equal in ((tied, budget == sum(ranks)), (apart, True)):
        exact, above = (rule(scores, budget) for rule in (allocate, PEFT.allocate))
        pairs = [(to_numpy(exact[name]), to_numpy(above[name])) for name in scores]
        assert all(np.all(b <= a) for a, b in pairs)
        assert not equal or all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("rules", CONVENTIONS.values(), ids=lambda rules: rules.name)
def test_every_convention_scores_by_importance(library: Library, rules: Convention) -> None:
    """The score of all five is that of the mathematics; other scores can be put in its place."""
    factors = library.eighth_factors(np.random.default_rng(1), 3, 2, 2)
    state = Importance(*(map_factors(abs, factors) for _ in range(2)))
    assert same(rules.score(state, factors), triplet_scores(state))


def test_a_convention_is_its_fields() -> None:
    """PAPER, LORALIB, PEFT and LORA differ from SPEC in these fields, and in no other."""

    def differences(rules: Convention) -> set[str]:
        return {f.name for f in fields(rules) if getattr(rules, f.name) != getattr(SPEC, f.name)} - {"name"}

    release = {"scale", "penalty", "penalty_factor", "sensitivity", "budget", "allocates", "allocate", "least_final"}
    assert differences(PAPER) == {"scale", "first_step", "least_final"}
    assert differences(LORALIB) == differences(PEFT) == release
    assert differences(LORA) == {"initial", "trained", "scale", "penalty", "budget", "allocates", "least_final"}
    assert {f.name for f in fields(PEFT) if getattr(PEFT, f.name) != getattr(LORALIB, f.name)} == {"name", "allocates"}


@pytest.mark.parametrize("name", ["peft", "PEFT", "Peft"])
def test_names_may_be_in_any_case(name: Any) -> None:
    """A convention is found by its name."""
    assert convention(name) is PEFT


def test_no_penalty_has_the_form_of_one(library: Library) -> None:
    """R = 0 in the dtype of the factors, and zeros in their shapes."""
    factors: Factors = library.factors([[1, 2]], [3, 4], [[5], [6]], "float32")
    R, gradient = LORA.penalty(factors)
    assert (to_numpy(R).dtype, to_numpy(R).shape) == (np.float32, ())
    assert same(gradient, (np.zeros((1, 2), np.float32), np.zeros(2, np.float32), np.zeros((2, 1), np.float32)))
