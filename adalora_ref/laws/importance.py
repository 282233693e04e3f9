"""Laws of importance: averages of the sensitivity, and the scores of triplets; and of the optimiser beside them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from adalora_ref import strategies
from adalora_ref.adamw import AdamState
from adalora_ref.array import HALF
from adalora_ref.conformance.cases import NUMPY_DTYPES, Inputs
from adalora_ref.conformance.expectations import Undecided
from adalora_ref.factors import Factors, map_factors
from adalora_ref.importance import Importance
from adalora_ref.laws.asking import Answer, Asked
from adalora_ref.laws.law import Law
from adalora_ref.laws.measured import at_least, equal, exact, same, separated

UPDATE, SCORES = ("update_importance",), ("triplet_scores",)
BOTH = ("update_importance", "triplet_scores")

BETAS = st.sampled_from([0.5, 0.75, 0.85, 0.0])

ENTRIES = st.sampled_from([strategies.EIGHTHS, strategies.EIGHTHS, strategies.ordinary(), strategies.realistic()])
AVERAGES = strategies.realistic(1e-8)

# CASES


@st.composite
def updates(draw: DrawFn, /, dtype: str, *, fresh: Any = None, only_eighths: bool = False, **fixed: Any) -> Inputs:
    """A state, often from the start, weights, gradients, and two βs."""
    entries = strategies.EIGHTHS if only_eighths else draw(ENTRIES)
    weights = draw(strategies.factors(dtype=dtype, entries=entries, **fixed))
    fresh = st.booleans() if fresh is None else fresh
    return {
        "state": draw(strategies.importance_states(weights, entries=entries, fresh=fresh, dtype=dtype)),
        "weights": weights,
        "grads": draw(strategies.gradients(weights, entries=entries, dtype=dtype)),
        "beta1": draw(BETAS),
        "beta2": draw(BETAS),
    }


@st.composite
def steady(draw: DrawFn, /, dtype: str) -> Inputs:
    """A state whose Ī is just this step's |w · g|."""
    case = draw(updates(dtype, only_eighths=True))
    kind = NUMPY_DTYPES["float32" if dtype in HALF else dtype]
    pairs = zip(case["weights"], case["grads"], strict=True)
    mean = Factors(*(np.abs(w.astype(kind) * g.astype(kind)) for w, g in pairs))
    return case | {"state": Importance(mean, case["state"].uncertainty)}


@st.composite
def from_zero(draw: DrawFn, /, dtype: str) -> Inputs:
    """Weights and gradients of several matrices, from zero averages, and an exponent of two."""
    names = ["q", "v"][: draw(strategies.sizes(1, 2))]
    small = {name: strategies.sizes(1, 2) for name in ("d_out", "d_in", "r")}
    case = {name: draw(updates(dtype, fresh=True, only_eighths=True, **small)) for name in names}
    betas = {"beta1": draw(BETAS), "beta2": draw(BETAS)}
    count = sum(held["weights"].s.shape[0] for held in case.values())
    return {
        "matrices": {name: held | betas for name, held in case.items()},
        "exponent": draw(st.integers(-8, 8)),
        "budget": draw(st.integers(0, count)),
    }


@st.composite
def states(draw: DrawFn, /, dtype: str, *, only_eighths: bool = False) -> Inputs:
    """A state."""
    entries = strategies.EIGHTHS if only_eighths else draw(st.sampled_from([strategies.EIGHTHS, AVERAGES]))
    powers = st.sampled_from([1, 2, 4])
    shape: dict[str, Any] = {"d_out": powers, "d_in": powers, "r": strategies.sizes(1, 3)}
    return {"state": draw(strategies.importance_states(strategies.factors(**shape), entries=entries, dtype=dtype))}


@st.composite
def raised_states(draw: DrawFn, /, dtype: str) -> Inputs:
    """A state with positive entries, one of which is raised: of which average, in which array, and where."""
    state = map_state(lambda a: np.where(a == 0, a + 1, a), draw(states(dtype, only_eighths=True))["state"])
    which, part = draw(st.sampled_from([0, 1])), draw(st.sampled_from(["s", "B", "A"]))
    held = getattr(state[which], part)
    place = tuple(draw(st.integers(0, size - 1)) for size in held.shape)
    return {"state": state, "which": which, "part": part, "place": place}


@st.composite
def moments(draw: DrawFn, like: Factors, /, *, dtype: str) -> tuple[Factors, Factors]:
    """Adam's moments of one history: nowhere is the second smaller than the square of the first."""
    first, second = draw(strategies.importance_states(like, dtype=dtype))
    # Not by map_factors: our tests check its annotations by `random`, which Hypothesis allows in no strategy.
    return first, Factors(*(v + m * m for m, v in zip(first, second, strict=True)))


@st.composite
def optimised(draw: DrawFn, /, dtype: str) -> Inputs:
    """Weights, gradients, moments and rates of a step."""
    weights = draw(strategies.factors(dtype=dtype))
    fresh = draw(st.booleans())
    first, second = (_zero(held) if fresh else held for held in draw(moments(weights, dtype=dtype)))
    return {
        "weights": weights,
        "grads": draw(strategies.gradients(weights, dtype=dtype)),
        "state": AdamState(first, second, 0 if fresh else draw(st.integers(1, 5))),
        "learning_rate": draw(st.sampled_from([0.5, 0.0625, 0.01])),
        "weight_decay": draw(st.sampled_from([0.5, 0.125, 0.01])),
    }


def map_state(f: Any, state: Importance) -> Importance:
    """Apply *f* to all six arrays."""
    return Importance(*(Factors(*map(f, held)) for held in state))


def sensitivity_of(case: Inputs) -> tuple[Any, ...]:
    """I = |w · g| of every entry, exactly."""
    return tuple(abs(exact(w) * exact(g)) for w, g in zip(case["weights"], case["grads"], strict=True))


def _updated(it: Asked, case: Inputs, **changed: Any) -> Any:
    return it("update_importance", case | changed).state


def _zero(factors: Factors) -> Factors:
    return Factors(*map(np.zeros_like, factors))


# AVERAGES


def averages_are_not_negative(it: Asked, case: Inputs) -> None:
    """Ī ≥ 0 and Ū ≥ 0, whatever the signs of weights and gradients."""
    state = _updated(it, case)
    for name, held in (("Ī", state.sensitivity), ("Ū", state.uncertainty)):
        for part, a in zip("BsA", held, strict=True):
            at_least(f"{name} of {part}", a, "0", np.zeros(a.shape, dtype=int))


def mean_lies_between(it: Asked, case: Inputs) -> None:
    """Ī lies between its old value and I: min(Ī, I) ≤ Ī' ≤ max(Ī, I)."""
    new, old, now = _updated(it, case).sensitivity, map(exact, case["state"].sensitivity), sensitivity_of(case)
    for part, a, b, c in zip("BsA", new, old, now, strict=True):
        at_least(f"Ī' of {part}", a, "min(Ī, I)", np.minimum(b, c))
        at_least(f"max(Ī, I) of {part}", np.maximum(b, c), "Ī'", a)


def zero_gradient_shrinks_the_mean(it: Asked, case: Inputs) -> None:
    """A zero gradient shrinks Ī by β1: Ī' = β1 Ī."""
    new = _updated(it, case, grads=_zero(case["grads"])).sensitivity
    for part, a, b in zip("BsA", new, case["state"].sensitivity, strict=True):
        equal(f"Ī' of {part}", a, "β1 Ī", exact(case["beta1"]).item() * exact(b))


def steady_sensitivity_stays(it: Asked, case: Inputs) -> None:
    """Where I = Ī, the mean stays and the uncertainty shrinks by β2: Ī' = Ī, Ū' = β2 Ū."""
    new, old, beta2 = _updated(it, case), case["state"], exact(case["beta2"]).item()
    for part, a, b in zip("BsA", new.sensitivity, old.sensitivity, strict=True):
        equal(f"Ī' of {part}", a, "Ī", exact(b))
    for part, a, b in zip("BsA", new.uncertainty, old.uncertainty, strict=True):
        equal(f"Ū' of {part}", a, "β2 Ū", beta2 * exact(b))


def first_uncertainty_is_beta1_of_the_first_mean(it: Asked, case: Inputs) -> None:
    """From zero, |I − Ī| = β1 I with the new Ī: (1 − β1) Ū' = (1 − β2) β1 Ī'."""
    new, (beta1, beta2) = _updated(it, case), (exact(case[name]).item() for name in ("beta1", "beta2"))
    for part, mean, deviation in zip("BsA", new.sensitivity, new.uncertainty, strict=True):
        equal(f"(1 − β1) Ū' of {part}", (1 - beta1) * deviation, "(1 − β2) β1 Ī'", (1 - beta2) * beta1 * mean)


def signs_do_not_matter(it: Asked, case: Inputs) -> None:
    """Sensitivity is |w · g|: turning the signs of all gradients leaves both averages."""
    here, there = _updated(it, case), _updated(it, case, grads=map_factors(np.negative, case["grads"]))
    _equal_averages(there, "of −g", here, "of g")


def weight_and_gradient_are_alike(it: Asked, case: Inputs) -> None:
    """|w · g| is symmetric: exchanging weights and gradients leaves both averages."""
    here, there = _updated(it, case), _updated(it, case, weights=case["grads"], grads=case["weights"])
    _equal_averages(there, "of (g, w)", here, "of (w, g)")


def entries_are_independent(it: Asked, case: Inputs) -> None:
    """An entry's averages hang on its own w · g alone: a gradient of B and A by zero leaves those of s."""
    g = case["grads"]
    alone = Factors(np.zeros_like(g.B), g.s, g.A)
    alone.B[:1, :] = g.B[:1, :]
    here, there = _updated(it, case), _updated(it, case, grads=alone)
    for name in ("sensitivity", "uncertainty"):
        a, b = getattr(there, name), getattr(here, name)
        equal(f"{name} of B's first row, the others silent", a.B[:1], "as it was", b.B[:1])
        equal(f"{name} of s", a.s, "as it was", b.s)


def sensitivity_of_shards(it: Asked, case: Inputs) -> None:
    """|w (g + h)| ≤ |w g| + |w h|: the shards' sensitivities add up to too much; with h = −g to 2 |w g|, not 0."""
    g = map_factors(lambda a: a, case["grads"])
    h = case["other grads"]
    start = {"state": map_state(np.zeros_like, case["state"]), "beta1": 0.0, "beta2": 0.0}
    whole, first, second = (
        _updated(it, case, **start, grads=d).sensitivity for d in (map_factors(lambda a, b: a + b, g, h), g, h)
    )
    for part, a, b, c in zip("BsA", whole, first, second, strict=True):
        at_least(f"I(g) + I(h) of {part}", b + c, "I(g + h)", a)
    opposite = _updated(it, case, **start, grads=map_factors(np.negative, g)).sensitivity
    for part, a, b in zip("BsA", first, opposite, strict=True):
        equal(f"I(g) + I(−g) of {part}", a + b, "2 I(g)", 2 * a)


def loss_scale_scales_scores(it: Asked, case: Inputs) -> None:
    """From zero averages, gradients times c = 2ᵏ scale the scores by c²: S(c g) = c² S(g)."""
    factor = 2 ** abs(case["exponent"])
    for name, held in case["matrices"].items():
        small, large = (_scores_after(it, held, k).S for k in sorted((0, case["exponent"])))
        equal(f"S(c g) of {name}", large, "c² S(g)", factor**2 * small)


def loss_scale_leaves_allocations(it: Asked, case: Inputs) -> None:
    """From zero averages, gradients times c = 2ᵏ leave every allocation as it was."""
    masks = []
    for exponent in (0, case["exponent"]):
        answers = {name: _scores_after(it, held, exponent) for name, held in case["matrices"].items()}
        if not separated({name: answer.S for name, answer in answers.items()}):
            raise Undecided("two scores lie within their bounds of each other")
        scores = {name: answer.host["[S]"] for name, answer in answers.items()}
        masks.append(it("allocate", {"scores": scores, "budget": case["budget"], "cost": None}).keep)
    for name in case["matrices"]:
        same(f"who is kept of {name} at c", masks[1][name].tolist(), "the same as at 1", masks[0][name].tolist())


def _scores_after(it: Asked, held: Inputs, exponent: int) -> Answer:
    grads = map_factors(lambda g: (g * g.dtype.type(2.0**exponent)).astype(g.dtype), held["grads"])
    updated = it("update_importance", held | {"grads": grads})
    return it("triplet_scores", {"state": state_of(updated)})


def state_of(answer: Answer) -> Importance:
    """The averages as they were returned, for the next call."""
    return Importance(*(
        Factors(*(answer.host[f"[state].{name}.{part}"] for part in "BsA"))
        for name in ("sensitivity", "uncertainty")
    ))  # fmt: skip


def averages_start_at_zero(it: Asked, case: Inputs) -> None:
    """Ī = Ū = 0 at the start."""
    state = it("init_importance", {"factors": case["weights"]}).state
    for name in ("sensitivity", "uncertainty"):
        for part, a in zip("BsA", getattr(state, name), strict=True):
            equal(f"{name} of {part}", a, "0", np.zeros(a.shape, dtype=int))


def _equal_averages(there: Any, of_there: str, here: Any, of_here: str) -> None:
    for name in ("sensitivity", "uncertainty"):
        for part, a, b in zip("BsA", getattr(there, name), getattr(here, name), strict=True):
            equal(f"{name} of {part} {of_there}", a, of_here, b)


@st.composite
def with_other_gradients(draw: DrawFn, /, dtype: str) -> Inputs:
    """An update of eighths with a second gradient."""
    case = draw(updates(dtype, only_eighths=True))
    return case | {"other grads": draw(strategies.gradients(case["weights"], dtype=dtype))}


# SCORES


def raising_an_entry_raises_its_triplet(it: Asked, case: Inputs) -> None:
    """Raising one entry of Ī or Ū, the other being positive, raises that triplet's score and no other.

    Raised by 1 beside at least 1/8, and averaged over at most four entries: by 1/32 or more.
    """
    averages = [Factors(*(a.copy() for a in held)) for held in case["state"]]
    raised, place = getattr(averages[case["which"]], case["part"]), case["place"]
    raised[place] += raised.dtype.type(1.0)
    here, there = (it("triplet_scores", {"state": s}).S for s in (case["state"], Importance(*averages)))
    triplet = place[-1] if case["part"] == "B" else place[0]
    at_least(f"S[{triplet}], raised", there[triplet], "as it was, plus 1/32", here[triplet] + Fraction(1, 32))
    others = [i for i in range(len(here)) if i != triplet]
    equal("the scores of the others", there[others], "as they were", here[others])


def repeating_rows_leaves_scores(it: Asked, case: Inputs) -> None:
    """Scores take means: repeating the rows of B, or the columns of A, leaves them as they are."""
    wide = [Factors(np.concatenate([B, B]), s, np.concatenate([A, A], axis=1)) for B, s, A in case["state"]]
    here, there = (it("triplet_scores", {"state": s}).S for s in (case["state"], Importance(*wide)))
    equal("S with rows repeated", there, "S", here)


def scores_need_both_averages(it: Asked, case: Inputs) -> None:
    """Without uncertainty nothing is important: S = 0 where Ū = 0."""
    certain = Importance(case["state"].sensitivity, _zero(case["state"].uncertainty))
    S = it("triplet_scores", {"state": certain}).S
    equal("S", S, "0", np.zeros(S.shape, dtype=int))


def averages_may_change_places(it: Asked, case: Inputs) -> None:
    """Scores are made of products: exchanging Ī and Ū leaves them."""
    here, there = (it("triplet_scores", {"state": s}).S for s in (case["state"], Importance(*case["state"][::-1])))
    equal("S of (Ū, Ī)", there, "S of (Ī, Ū)", here)


# OPTIMISER


def decay_is_decoupled(it: Asked, case: Inputs) -> None:
    """Weight decay shrinks the weights beside the step: w'(λ) = w'(0) − lr λ w, and the moments do not see it."""
    decayed, free = (it("adamw_step", case | {"weight_decay": decay}) for decay in (case["weight_decay"], 0.0))
    rate = exact(case["learning_rate"]).item() * exact(case["weight_decay"]).item()
    for part, a, b, w in zip("BsA", decayed.weights, free.weights, case["weights"], strict=True):
        equal(f"w'(λ) of {part}", a, "w'(0) − lr λ w", b - rate * exact(w))
    for name in ("first", "second"):
        for part, a, b in zip("BsA", getattr(decayed.state, name), getattr(free.state, name), strict=True):
            equal(f"the {name} moment of {part} with decay", a, "without", b)


def first_step_has_the_length_of_the_rate(it: Asked, case: Inputs) -> None:
    """From zero moments the first step has the length of the rate at most: |w' − (1 − lr λ) w| ≤ lr."""
    weights = case["weights"]
    start = {"state": AdamState(_zero(case["state"].first), _zero(case["state"].second), 0)}
    moved = it("adamw_step", case | start).weights
    rate, decay = exact(case["learning_rate"]).item(), exact(case["weight_decay"]).item()
    for part, a, w in zip("BsA", moved, weights, strict=True):
        step = abs(a - (1 - rate * decay) * exact(w))
        at_least(f"lr at {part}", np.full(a.shape, rate), "|w' − (1 − lr λ) w|", step)
        live = getattr(case["grads"], part) != 0
        at_least(f"|w' − (1 − lr λ) w| of {part}", step[live], "lr / 2", np.full(a.shape, rate / 2)[live])


IMPORTANCE_LAWS: tuple[Law, ...] = (
    Law(averages_are_not_negative, UPDATE, updates, "sensitivity_is_signed"),
    Law(mean_lies_between, UPDATE, updates, "sensitivity_ignores_the_weight"),
    Law(zero_gradient_shrinks_the_mean, UPDATE, updates, "betas_weigh_the_new_value"),
    Law(steady_sensitivity_stays, UPDATE, steady, "betas_are_swapped"),
    Law(
        first_uncertainty_is_beta1_of_the_first_mean, UPDATE, lambda dtype: updates(dtype, fresh=True),
        "uncertainty_uses_previous_mean",
    ),
    Law(signs_do_not_matter, UPDATE, updates, "sensitivity_is_signed"),
    Law(weight_and_gradient_are_alike, UPDATE, updates, "sensitivity_ignores_the_weight"),
    Law(entries_are_independent, UPDATE, updates, "sensitivity_of_the_sum"),
    Law(sensitivity_of_shards, UPDATE, with_other_gradients, "sensitivity_is_gradient_squared"),
    Law(averages_start_at_zero, ("init_importance",), updates, "averages_start_at_one"),
    Law(raising_an_entry_raises_its_triplet, SCORES, raised_states, "scores_of_s_alone"),
    Law(repeating_rows_leaves_scores, SCORES, states, "scores_add_over_the_triplet"),
    Law(scores_need_both_averages, SCORES, states, "scores_add_mean_and_uncertainty"),
    Law(averages_may_change_places, SCORES, states, "scores_without_uncertainty"),
    Law(loss_scale_scales_scores, BOTH, from_zero, "sensitivity_is_gradient_squared"),
    Law(loss_scale_leaves_allocations, (*BOTH, "allocate"), from_zero, "scores_multiply_B_and_A"),
    Law(decay_is_decoupled, ("adamw_step",), optimised, "decay_in_the_gradient", ("weight_decay",)),
    Law(first_step_has_the_length_of_the_rate, ("adamw_step",), optimised, "no_bias_correction"),
)  # fmt: skip
