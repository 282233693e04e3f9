"""Bad input, handed to a target's functions: what it refuses, and what it accepts without a word.

The specification says what the reference refuses; an implementation may leave that to its callers. So this is
reported, and never part of the verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np

from adalora_ref.adamw import init_adamw
from adalora_ref.budget import BudgetSchedule
from adalora_ref.conformance.limits import OutOfTime, time_limit
from adalora_ref.conformance.target import Target
from adalora_ref.factors import Factors
from adalora_ref.importance import Importance

SECONDS = 5.0
"""For one call."""


class Handed(NamedTuple):
    """What was handed to which function, and the words in which it was refused; empty: it was accepted."""

    function: str
    given: str
    refused: str


class Loose(NamedTuple):
    """What unpacks as B, s, A and, unlike `Factors`, checks nothing."""

    B: Any
    s: Any
    A: Any


def hand_bad_input(target: Target, stages: Collection[str] = ()) -> tuple[Handed, ...]:
    """Call every function that the target has, or those of *stages*, with bad input; say what it refuses."""
    found = []
    for name, given, call in BAD_INPUT:
        function = target.function(name)
        if function is not None and (not stages or name in stages):
            found.append(Handed(name, given, _refusal(function, target, call)))
    return tuple(found)


def _refusal(function: Callable[..., Any], target: Target, call: Callable[..., Any]) -> str:
    try:
        with time_limit(SECONDS):
            call(function, lambda value: _moved(target, value))
    except OutOfTime:
        return f"no answer within {SECONDS:g} s"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  however it refuses, it refuses
        return f"{type(error).__name__}: {error}"
    return ""


def _moved(target: Target, value: Any) -> Any:
    return Loose(*map(target.hand_over, value)) if isinstance(value, Loose) else target.hand_over(value)


X, W = np.ones((2, 3)), np.ones((2, 3))
GOOD = Factors(np.ones((2, 2)), np.ones(2), np.ones((2, 3)))
COLUMN = Loose(GOOD.B, GOOD.s[:, None], GOOD.A)
SHORT = Loose(GOOD.B, GOOD.s[:1], GOOD.A)
WHOLE = Loose(*(a.astype(np.int64) for a in GOOD))
STATE = Importance(GOOD, GOOD)
SCORES = {"q": np.array([2.0, 1.0]), "v": np.array([3.0])}
PLAN = BudgetSchedule(initial=3, target=1, warmup=1, final=1, total=4)
BETAS = {"beta1": 0.85, "beta2": 0.85}

BAD_INPUT: tuple[tuple[str, str, Callable[..., Any]], ...] = (
    ("linear_forward", "s of shape (r, 1)", lambda f, on: f(on(X), on(W), on(COLUMN), scale=1.0)),
    ("linear_forward", "one s for two triplets", lambda f, on: f(on(X), on(W), on(SHORT), scale=1.0)),
    ("linear_forward", "integer factors", lambda f, on: f(on(X), on(W), on(WHOLE), scale=1.0)),
    ("linear_forward", "x with too few columns", lambda f, on: f(on(X[:, :1]), on(W), on(GOOD), scale=1.0)),
    ("linear_forward", "a scale of NaN", lambda f, on: f(on(X), on(W), on(GOOD), scale=np.nan)),
    ("merge", "one W entry for all", lambda f, on: f(on(W[:1, :1]), on(GOOD), scale=1.0)),
    ("update_importance", "gradients of another shape",
     lambda f, on: f(on(STATE), on(GOOD), on(SHORT), **BETAS)),
    ("update_importance", "β1 = 1", lambda f, on: f(on(STATE), on(GOOD), on(GOOD), beta1=1.0, beta2=0.85)),
    ("budget_at", "step −1", lambda f, on: f(PLAN, -1)),
    ("budget_at", "step 1.5", lambda f, on: f(PLAN, 1.5)),
    ("allocate", "NaN scores", lambda f, on: f(on({**SCORES, "v": np.array([np.nan])}), 2)),
    ("allocate", "a budget above all triplets", lambda f, on: f(on(SCORES), 4)),
    ("allocate", "a budget below zero", lambda f, on: f(on(SCORES), -1)),
    ("allocate", "no matrix at all", lambda f, on: f({}, 0)),
    ("prune", "a mask of 0 and 1", lambda f, on: f(on(GOOD), on(np.array([0, 1])))),
    ("prune", "one mask entry for two triplets", lambda f, on: f(on(GOOD), on(np.array([True])))),
    ("adamw_step", "a learning rate below zero",
     lambda f, on: f(on(GOOD), on(GOOD), on(init_adamw(GOOD)), learning_rate=-1.0)),
)  # fmt: skip
"""The function, what is wrong with its input, and the call."""
