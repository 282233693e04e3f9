"""The table of stages: each quantity once, with its equation, its inputs, its call, and what the oracles say of it.

The table is the contract. It drives the protocol, the checks, the reports and the diagnosis. Reading a row from left to
right: `cases` draws the arguments, `calls` hands them to the target, `expectations` says what must come back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from adalora_ref.budget import budget_at
from adalora_ref.conformance import calls, cases, expectations, oracles
from adalora_ref.conformance.calls import Call
from adalora_ref.conformance.cases import Draw, Inputs
from adalora_ref.conformance.expectations import Expect
from adalora_ref.convention import SPEC, Convention


class Stage(NamedTuple):
    """One row of the table.

    Attributes
    ----------
    name, equation
        The public function that is checked, and what it computes, with the number in docs/specification.md.
    needs
        The functions that the check calls.
    options
        Optional arguments of the last of them that some cases use; a target without them runs the others.
    draw, call, expect
        Inputs of a case; its results by the target; the same results by the oracles, with bounds.
    holds_under
        Whether the stage has a meaning under a convention.
    """

    name: str
    equation: str
    needs: tuple[str, ...]
    options: tuple[str, ...]
    draw: Callable[[Draw], Inputs]
    call: Call
    expect: Expect
    holds_under: Callable[[Convention], bool] = lambda _: True

    def equation_under(self, convention: Convention) -> str:
        """The equation, or what a convention that has a function of its own says of that."""
        own = {"budget_at": "budget", "allocates_at": "allocates", "allocate": "allocate"}.get(self.name)
        rule = getattr(convention, own) if own else None
        if rule is None or rule is getattr(SPEC, str(own)):
            return self.equation
        return f"{str(rule.__doc__).splitlines()[0]} (convention {convention.name})"


def _phases_are_ours(convention: Convention) -> bool:
    """LORALIB and PEFT count t_i as warm-up, and have no function that says so."""
    return convention.budget is budget_at


LAYER = ("bias", "dropout_mask")

STAGES: tuple[Stage, ...] = (
    Stage(
        "init_factors", "(1) B, then A, from N(0, std²); s = 0",
        ("init_factors",), ("std",), cases.initial, calls.init_factors, expectations.init_factors,
    ),
    Stage(
        "linear_forward", "(2) y = x Wᵀ + b + scale · ((x ⊙ M) Aᵀ ⊙ s) Bᵀ",
        ("linear_forward",), LAYER, cases.linear, calls.linear_forward, expectations.linear_forward,
    ),
    Stage(
        "linear_backward", "(3) dz = scale · dy B, dB = scale · dyᵀ z, ds = Σ dz ⊙ u, dA = duᵀ x̂, dx = dy W + du A ⊙ M",
        ("linear_backward", "linear_forward"), LAYER, cases.linear, calls.linear_backward, expectations.linear_backward,
    ),
    Stage(
        "increment", "(4) ΔW = scale · B · diag(s) · A",
        ("increment",), (), cases.product, calls.increment, expectations.increment,
    ),
    Stage(
        "merge", "(4) W + ΔW",
        ("merge",), (), cases.weight, calls.weight("merge"), expectations.weight(oracles.merge),
    ),
    Stage(
        "unmerge", "(4) W − ΔW",
        ("unmerge",), (), cases.weight, calls.weight("unmerge"), expectations.weight(oracles.unmerge),
    ),
    Stage(
        "orthogonality_penalty", "(5) R = ‖BᵀB − I‖²_F + ‖AAᵀ − I‖²_F, dB = 4 B (BᵀB − I), dA = 4 (AAᵀ − I) A, ds = 0",
        ("orthogonality_penalty",), (), cases.factors,
        calls.penalty("orthogonality_penalty"), expectations.penalty(oracles.orthogonality_penalty),
    ),
    Stage(
        "orthogonality_norm", "(6) R = ‖BᵀB − I‖_F + ‖AAᵀ − I‖_F, and its gradient, 0 where a norm is 0",
        ("orthogonality_norm",), (), cases.factors,
        calls.penalty("orthogonality_norm"), expectations.penalty(oracles.orthogonality_norm),
    ),
    Stage(
        "init_importance", "(8) Ī = Ū = 0",
        ("init_importance",), (), cases.masked, calls.init_importance, expectations.zero_importance,
    ),
    Stage(
        "update_importance", "(8) I = |w · g|, Ī ← β1 Ī + (1 − β1) I, Ū ← β2 Ū + (1 − β2) |I − Ī| with the new Ī",
        ("update_importance",), (), cases.importance, calls.update_importance, expectations.update_importance,
    ),
    Stage(
        "triplet_scores", "(9) S_i = (Ī·Ū)(s_i) + mean_j (Ī·Ū)(B_ji) + mean_j (Ī·Ū)(A_ij)",
        ("triplet_scores",), (), cases.importance, calls.triplet_scores, expectations.triplet_scores,
    ),
    Stage(
        "phase_at", "(10) warmup for t < t_i, pruning for t_i ≤ t < T − t_f, then final",
        ("phase_at",), (), cases.schedule, calls.phase_at, expectations.phase_at, _phases_are_ours,
    ),
    Stage(
        "budget_at", "(11) b(t) = ⌊b^T + (b⁰ − b^T) · (1 − (t − t_i) / (T − t_i − t_f))³⌋ while pruning",
        ("budget_at",), (), cases.schedule, calls.each_step("budget_at", "b"), expectations.budget_at,
    ),
    Stage(
        "allocates_at", "(12) t ∈ {t_i, t_i + ΔT, …} while pruning, and t = T − t_f",
        ("allocates_at",), (), cases.schedule, calls.each_step("allocates_at", "due"), expectations.allocates_at,
    ),
    Stage(
        "allocate", "(13) the b best triplets of all matrices; ties to the earlier matrix, then to the lower index",
        ("allocate",), ("cost",), cases.scores, calls.allocate, expectations.allocate,
    ),
    Stage(
        "prune", "(14) s_i = 0 where not kept; B and A stay",
        ("prune",), (), cases.masked, calls.masked("prune"), expectations.prune,
    ),
    Stage(
        "compress", "(15) the kept columns of B, entries of s, rows of A",
        ("compress",), (), cases.masked, calls.masked("compress"), expectations.compress,
    ),
    Stage(
        "init_adamw", "(18) m = v = 0, no step yet",
        ("init_adamw",), (), cases.masked, calls.init_adamw, expectations.zero_moments,
    ),
    Stage(
        "adamw_step", "(18) w ← (1 − lr·λ) · w − lr · m̂ / (√v̂ + ε)",
        ("adamw_step",), ("weight_decay",), cases.optimiser, calls.adamw_step, expectations.adamw_step,
    ),
    Stage(
        "init_state", "(1), (8), (18) for every matrix in forward order; all triplets kept",
        ("init_state",), (), cases.start, calls.init_state, expectations.init_state,
    ),
    Stage(
        "train_step", "Algorithm 1: (7), (17), (18), (8), (9), (11) to (14), with the scales of (16)",
        ("train_step",), (), cases.training, calls.train_step, expectations.train_step,
    ),
)  # fmt: skip
