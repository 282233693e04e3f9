"""Where the paper, the authors' release and PEFT differ: one function or plain value per difference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jaxtyping import Float

from adalora_ref.allocation import Masks, Scores, allocate, joined, split
from adalora_ref.array import Array, namespace
from adalora_ref.budget import BudgetSchedule, allocates_at, budget_at
from adalora_ref.checks import count
from adalora_ref.factors import Factors, init_factors, map_factors
from adalora_ref.importance import Importance, triplet_scores
from adalora_ref.orthogonality import orthogonality_norm, orthogonality_penalty

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Convention:
    """What `train_step` asks wherever implementations of AdaLoRA differ; docs/conventions.md has the table.

    Attributes
    ----------
    initial
        (rng, d_out, d_in, r, /, *, like) -> the factors at the start.
    trained
        (held, moved) -> which of the three move; used on (zeros, gradient) and on (before, after).
    scale
        (alpha, initial_rank, kept) -> the factor in front of B · diag(s) · A.
    penalty
        (factors) -> (R, its gradient), for one matrix.
    penalty_factor
        (matrices) -> what γ · ΣR is multiplied by: 1 for the sum, 1 / 2n for the mean over the 2n norms.
    sensitivity
        (before, gradient, after, clipped) -> the pair (weights, gradient) that |w · g| is made of.
    score
        (importance, weights) -> (r,); weights are those scored.
    first_step
        The t of the first step: t = step + first_step.
    budget, allocates
        (schedule, t) -> the budget at t; whether an allocation is due.
    allocate
        (scores, budget, /, *, cost=None) -> masks.
    least_final
        Training refuses a schedule whose last phase has fewer steps, since the target would never be reached.
    """

    name: str
    initial: Callable[..., Factors]
    trained: Callable[[Factors, Factors], Factors]
    scale: Callable[[float, int, int], float]
    penalty: Callable[[Factors], tuple[Float[Array, ""], Factors]]
    penalty_factor: Callable[[int], float]
    sensitivity: Callable[[Factors, Factors, Factors, Factors], tuple[Factors, Factors]]
    score: Callable[[Importance, Factors], Float[Array, " r"]]
    first_step: int
    budget: Callable[[BudgetSchedule, int], int]
    allocates: Callable[[BudgetSchedule, int], bool]
    allocate: Callable[..., Masks]
    least_final: int


def all_move(held: Factors, moved: Factors) -> Factors:
    """B, s and A are trained."""
    return moved


def s_is_held(held: Factors, moved: Factors) -> Factors:
    """LoRA: s is not trained."""
    return Factors(moved.B, held.s, moved.A)


def scale_by_kept_rank(alpha: float, initial_rank: int, kept: int) -> float:
    """α / max(1, r), r the triplets that the latest allocation kept."""
    return alpha / max(1, kept)


def scale_by_initial_rank(alpha: float, initial_rank: int, kept: int) -> float:
    """α / max(1, r_init)."""
    return alpha / max(1, initial_rank)


def scale_as_released(alpha: float, initial_rank: int, kept: int) -> float:
    """(α if α > 0 else r_init) / (r_init + 1e-5)."""
    return (alpha if alpha > 0 else float(initial_rank)) / (initial_rank + 1e-5)


def no_penalty(factors: Factors) -> tuple[Float[Array, ""], Factors]:
    """R = 0."""
    zeros = map_factors(namespace(*factors).zeros_like, factors)
    return namespace(*factors).sum(zeros.s), zeros


def summed(matrices: int) -> float:
    """The penalties of all matrices are added up."""
    return 1.0


def mean_over_norms(matrices: int) -> float:
    """1 / 2n: the mean over two norms for each of the n matrices."""
    return 1.0 / (2 * matrices)


def where_taken(before: Factors, gradient: Factors, after: Factors, clipped: Factors) -> tuple[Factors, Factors]:
    """The gradient before clipping, at the weights where it was taken."""
    return before, gradient


def after_the_step(before: Factors, gradient: Factors, after: Factors, clipped: Factors) -> tuple[Factors, Factors]:
    """The clipped gradient, at the weights to which the optimiser has moved."""
    return after, clipped


def score_by_importance(importance: Importance, weights: Factors) -> Float[Array, " r"]:
    """Smoothed sensitivity times uncertainty, combined over the triplet."""
    return triplet_scores(importance)


def initial_lora(rng: np.random.Generator, d_out: int, d_in: int, r: int, /, *, like: Array) -> Factors:
    """B = 0, s = 1, A Gaussian with the numbers that AdaLoRA draws for it."""
    B, s, A = init_factors(rng, d_out, d_in, r, like=like)
    xp = namespace(B)
    return Factors(xp.zeros_like(B), xp.ones_like(s), A)


def budget_in_doubles(schedule: BudgetSchedule, t: int) -> int:
    """b⁰ for t ≤ t_i, b^T for t > T − t_f, between them the cubic in doubles, truncated."""
    if t <= schedule.warmup:
        return schedule.initial
    if t > schedule.end_of_pruning:
        return schedule.target
    left = 1 - (t - schedule.warmup) / (schedule.end_of_pruning - schedule.warmup)
    return int(schedule.target + (schedule.initial - schedule.target) * left**3)


def allocates_as_released(schedule: BudgetSchedule, t: int) -> bool:
    """Where ΔT divides t, for t_i < t ≤ T − t_f; then at every step."""
    return t > schedule.end_of_pruning or (t > schedule.warmup and t % schedule.interval == 0)


def allocates_as_peft(schedule: BudgetSchedule, t: int) -> bool:
    """Where ΔT divides t, for t_i < t < T − t_f, and at T − t_f; then never again."""
    return t == schedule.end_of_pruning or (t < schedule.end_of_pruning and allocates_as_released(schedule, t))


def allocate_above_threshold(scores: Scores, budget: int, /, *, cost: Mapping[str, int] | None = None) -> Masks:
    """Keep what lies strictly above the (N − b)-th smallest score; where N − b is 0, keep all.

    Ties at the threshold are all dropped, so fewer than *budget* triplets may remain, down to none.
    """
    if cost is not None:
        raise ValueError("threshold selection counts triplets, so cost must be None; got a cost")
    flat = joined(scores)
    xp = namespace(flat)
    dropped = flat.shape[0] - count("budget", budget)
    if dropped < 0:
        raise ValueError(f"budget must be at most all {flat.shape[0]} triplets; got {budget}")
    if dropped == 0:
        return split(xp.ones_like(flat, dtype=xp.bool), scores)
    return split(flat > xp.sort(flat)[dropped - 1], scores)


def full_budget(schedule: BudgetSchedule, t: int) -> int:
    """b⁰ at every step."""
    return schedule.initial


def never(schedule: BudgetSchedule, t: int) -> bool:
    """No allocation."""
    return False


SPEC = Convention(
    name="SPEC",
    initial=init_factors,
    trained=all_move,
    scale=scale_by_kept_rank,
    penalty=orthogonality_penalty,
    penalty_factor=summed,
    sensitivity=where_taken,
    score=score_by_importance,
    first_step=0,
    budget=budget_at,
    allocates=allocates_at,
    allocate=allocate,
    least_final=1,
)
PAPER = replace(SPEC, name="PAPER", scale=scale_by_initial_rank, first_step=1, least_final=0)
LORALIB = replace(
    SPEC,
    name="LORALIB",
    scale=scale_as_released,
    penalty=orthogonality_norm,
    penalty_factor=mean_over_norms,
    sensitivity=after_the_step,
    budget=budget_in_doubles,
    allocates=allocates_as_released,
    allocate=allocate_above_threshold,
    least_final=0,
)
PEFT = replace(LORALIB, name="PEFT", allocates=allocates_as_peft)
LORA = replace(
    SPEC,
    name="LORA",
    initial=initial_lora,
    trained=s_is_held,
    scale=scale_by_initial_rank,
    penalty=no_penalty,
    budget=full_budget,
    allocates=never,
    least_final=0,
)

CONVENTIONS: dict[str, Convention] = {c.name: c for c in (SPEC, PAPER, LORALIB, PEFT, LORA)}


def convention(name: Any) -> Convention:
    """Return the convention of that name, in any case; ValueError lists the names."""
    found = CONVENTIONS.get(str(name).upper())
    if found is None:
        raise ValueError(f"the convention must be one of {', '.join(CONVENTIONS)}; got {name!r}")
    return found
