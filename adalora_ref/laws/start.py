"""Laws of the start: what is drawn, and in which order."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from adalora_ref import strategies
from adalora_ref.conformance.cases import NUMPY_DTYPES, Inputs
from adalora_ref.laws.asking import Asked
from adalora_ref.laws.law import Law
from adalora_ref.laws.measured import equal

INIT = ("init_factors",)


@st.composite
def starts(draw: DrawFn, /, dtype: str) -> Inputs:
    """Sizes, a standard deviation that is a power of two, and the seed of the generator that is passed in."""
    return {
        "seed": draw(st.integers(0, 99)),
        "d_out": draw(strategies.sizes()),
        "d_in": draw(strategies.sizes()),
        "r": draw(strategies.sizes(0)),
        "std": draw(st.sampled_from([1.0, 0.5, 0.125])),
        "like": np.zeros(1, dtype=NUMPY_DTYPES[dtype]),
    }


def training_starts_from_W(it: Asked, case: Inputs) -> None:
    """s starts at zero, so that ΔW does, whatever B and A are."""
    s = it("init_factors", case)["factors"].s
    equal("s at the start", s, "0", np.zeros(s.shape, dtype=int))


def the_start_is_proportional_to_std(it: Asked, case: Inputs) -> None:
    """From one seed, twice the standard deviation gives twice B and twice A."""
    once, twice = (it("init_factors", case | {"std": k * case["std"]})["factors"] for k in (1, 2))
    equal("B at 2 std", twice.B, "2 B at std", 2 * once.B)
    equal("A at 2 std", twice.A, "2 A at std", 2 * once.A)


def B_is_drawn_first(it: Asked, case: Inputs) -> None:
    """B is drawn before A: from one seed, another d_in leaves B as it is."""
    here, there = (it("init_factors", case | {"d_in": d})["factors"].B for d in (1, case["d_in"] + 1))
    equal("B at another d_in", there, "B", here)


START_LAWS: tuple[Law, ...] = (
    Law(training_starts_from_W, INIT, starts, "s_starts_at_one"),
    Law(the_start_is_proportional_to_std, INIT, starts, "std_is_not_applied", ("std",)),
    Law(B_is_drawn_first, INIT, starts, "A_is_drawn_before_B"),
)
