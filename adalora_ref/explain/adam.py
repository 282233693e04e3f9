"""A step of AdamW, by the lines of the core."""

from __future__ import annotations

from functools import partial

import numpy as np

from adalora_ref.adamw import adamw_step, init_adamw
from adalora_ref.array import namespace
from adalora_ref.explain import drawing
from adalora_ref.explain.drawing import Options
from adalora_ref.explain.steps import Scope, Step, Worked, carried_out, given, scope_of
from adalora_ref.factors import Factors


def adamw(options: Options) -> Worked:
    """The second step of AdamW, from the moments that the first one left."""
    rng = options.rng()
    w = drawing.telling(lambda: drawing.factors(rng, options), _decays)
    before, g = drawing.two_gradients(rng, options)
    beta1, beta2, epsilon, decay = (0.5, 0.5, 0.0, 0.5) if options.exact else (0.9, 0.999, 1e-8, 0.1)
    told = {"learning_rate": 0.5, "beta1": beta1, "beta2": beta2, "epsilon": epsilon, "weight_decay": decay}
    _, state = adamw_step(w, before, init_adamw(w), **told)
    local = {"lr": 0.5, "decay": decay, "beta1": beta1, "beta2": beta2, "epsilon": epsilon}
    scope = scope_of(adamw_step, xp=namespace(w.s), w=w, g=g, m=state.first, v=state.second, state=state, **local)
    starts = [given("w", w), given("g", g), given("m", state.first), given("v", state.second)]
    starts += [given("steps", state.steps, "steps made"), given("lr", 0.5), given("decay", decay, "λ")]
    starts += [given("beta1", beta1, "β1"), given("beta2", beta2, "β2"), given("epsilon", epsilon, "ε")]
    new, moments = adamw_step(w, g, state, **told)
    returned = {"w": new, "m": moments.first, "v": moments.second, "steps": moments.steps}
    return Worked(starts, {"The step": _adamw_steps(scope)}, returned, "adamw_step")


def _decays(w: Factors) -> bool:
    return bool(np.all(w.s) and np.any(w.B) and np.any(w.A))


def _adamw_steps(scope: Scope) -> list[Step]:
    step = partial(carried_out, scope, adamw_step)
    return [
        step("steps", "k, the number of this step"),
        step("correction1", "1 − β1ᵏ", "1.0 - beta1**steps"),
        step("correction2", "1 − β2ᵏ", "1.0 - beta2**steps"),
        step("m", "m ← β1 m + (1 − β1) g"),
        step("v", "v ← β2 v + (1 − β2) g²"),
        step("m_hat", "m̂ = m / (1 − β1ᵏ)", "m / correction1", over=("m",)),
        step("root", "√v̂ = √(v / (1 − β2ᵏ))", "xp.sqrt(v / correction2)", over=("v",)),
        step("step", "m̂ / (√v̂ + ε)"),
        step("w", "w ← (1 − lr·λ) w − lr · m̂ / (√v̂ + ε)"),
    ]
