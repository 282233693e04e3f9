"""Known mistakes in pruning: schedule, selection, and masks.

Each is a drop-in for the public function of its stage, on NumPy arrays, written from the reference with the one
difference that its sentence states.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import adalora_ref as ref
from adalora_ref.conformance.known import Deviation
from adalora_ref.convention import allocate_above_threshold, allocates_as_peft, allocates_as_released, budget_in_doubles
from adalora_ref.factors import Factors


def linear_schedule(schedule: ref.BudgetSchedule, step: int, /) -> int:
    """Fall linearly."""
    window = schedule.end_of_pruning - schedule.warmup
    left = min(max(schedule.end_of_pruning - step, 0), window)
    return schedule.target + (schedule.initial - schedule.target) * left // window


def _real_budget(schedule: ref.BudgetSchedule, step: int, shift: int = 0) -> float:
    phase = ref.phase_at(schedule, step)
    if phase != "pruning":
        return schedule.initial if phase == "warmup" else schedule.target
    done = (step - schedule.warmup - shift) / (schedule.end_of_pruning - schedule.warmup)
    return schedule.target + (schedule.initial - schedule.target) * (1 - done) ** 3


def allocate_per_matrix(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    """Give each matrix its share of the budget."""
    keep, whole = {}, sum(len(v) for v in scores.values())
    for name, value in scores.items():
        keep.update(ref.allocate({name: value}, budget * len(value) // whole))
    return keep


def _ties_are_dropped(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    return allocate_above_threshold(scores, budget)


def _ties_go_to_the_later(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    backwards = {name: value[::-1] for name, value in reversed(scores.items())}
    masks = ref.allocate(backwards, budget, cost=cost)
    return {name: masks[name][::-1] for name in scores}


def _keeps_all_ties(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    flat = np.sort(np.concatenate(list(scores.values())))[::-1]
    threshold = flat[budget - 1] if budget else math.inf
    return {name: value >= threshold for name, value in scores.items()}


def keep_the_worst(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    """Keep the lowest scores."""
    return ref.allocate({name: -value for name, value in scores.items()}, budget, cost=cost)


def _skips_what_does_not_fit(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    if cost is None:
        return ref.allocate(scores, budget)
    masks = {name: np.zeros(len(value), bool) for name, value in scores.items()}
    ranked = sorted(
        (-value[i], k, i, name) for k, (name, value) in enumerate(scores.items()) for i in range(len(value))
    )
    for _, _, i, name in ranked:
        if cost[name] <= budget:
            masks[name][i], budget = True, budget - cost[name]
    return masks


def _prune_zeroes_B_and_A(factors: Factors, keep: Any, /) -> Factors:
    B, s, A = factors
    return Factors(np.where(keep, B, B * 0), np.where(keep, s, s * 0), np.where(keep[:, None], A, A * 0))


def _prune_inverted(factors: Factors, keep: Any, /) -> Factors:
    return ref.prune(factors, ~keep)


def _power(exponent: int) -> Callable[..., int]:
    """The schedule with another exponent than 3."""

    def budget(schedule: ref.BudgetSchedule, step: int, /) -> int:
        window = schedule.end_of_pruning - schedule.warmup
        left = min(max(schedule.end_of_pruning - step, 0), window)
        return int(schedule.target + (schedule.initial - schedule.target) * left**exponent // window**exponent)

    return budget


def _budget_to_the_end(schedule: ref.BudgetSchedule, step: int, /) -> int:
    return ref.budget_at(replace(schedule, final=0), step)


def _allocates_outside_pruning(schedule: ref.BudgetSchedule, step: int, /) -> bool:
    return ref.phase_at(schedule, step) != "pruning" or ref.allocates_at(schedule, step)


def _warmup_includes_t_i(schedule: ref.BudgetSchedule, step: int, /) -> str:
    return "warmup" if step == schedule.warmup else ref.phase_at(schedule, step)


def _final_begins_later(schedule: ref.BudgetSchedule, step: int, /) -> str:
    return "pruning" if step == schedule.end_of_pruning else ref.phase_at(schedule, step)


def _every_matrix_keeps_one(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    masks = ref.allocate(scores, budget, cost=cost)
    return {
        name: mask if mask.any() or not mask.size else np.arange(mask.size) == np.argmax(scores[name])
        for name, mask in masks.items()
    }


def _keeps_one_less(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    return ref.allocate(scores, max(0, budget - 1), cost=cost)


def _keeps_what_the_budget_drops(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    whole = sum(len(v) * (1 if cost is None else cost[n]) for n, v in scores.items())
    return ref.allocate(scores, whole - budget, cost=cost)


def _compress_keeps_the_first(factors: Factors, keep: Any, /) -> Factors:
    return ref.compress(factors, np.arange(keep.size) < keep.sum())


def _geometric(schedule: ref.BudgetSchedule, step: int, /) -> int:
    window = schedule.end_of_pruning - schedule.warmup
    done = min(max(step - schedule.warmup, 0), window) / window
    if done in {0.0, 1.0} or not schedule.initial:
        return schedule.target if done == 1.0 else schedule.initial
    fraction: float = (schedule.target / schedule.initial) ** done
    return math.floor(schedule.initial * fraction)


def _per_matrix_but_one(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    keep, whole = {}, sum(len(v) for v in scores.values())
    for name, value in scores.items():
        share = min(len(value), max(1, budget * len(value) // whole))
        keep.update(ref.allocate({name: value}, share))
    return keep


def _nan_is_kept(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    return ref.allocate({n: np.nan_to_num(v, nan=math.inf) for n, v in scores.items()}, budget, cost=cost)


def _compared_as_doubles(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    return ref.allocate({name: value.astype(np.float64) for name, value in scores.items()}, budget, cost=cost)


def _counted_from_zero(schedule: ref.BudgetSchedule, step: int, /) -> int:
    phase, end = ref.phase_at(schedule, step), schedule.end_of_pruning
    if phase != "pruning":
        return schedule.initial if phase == "warmup" else schedule.target
    return schedule.target + (schedule.initial - schedule.target) * (end - step) ** 3 // end**3


def _ties_go_to_the_first_name(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    masks = ref.allocate({name: scores[name] for name in sorted(scores)}, budget, cost=cost)
    return {name: masks[name] for name in scores}


def _compared_in_single(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    return ref.allocate({name: value.astype(np.float32) for name, value in scores.items()}, budget, cost=cost)


def _ties_go_to_the_last_name(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    ordered = {name: scores[name] for name in sorted(scores, reverse=True)}
    masks = ref.allocate(ordered, budget, cost=cost)
    return {name: masks[name] for name in scores}


def _spent_in_order(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    return ref.allocate({name: np.ones(len(value)) for name, value in scores.items()}, budget, cost=cost)


def _normalised(scores: dict[str, Any], budget: int, /, *, cost: Any = None) -> dict[str, Any]:
    wide = {name: value.astype(np.float64) for name, value in scores.items()}
    shares = {name: value / top if (top := value.max(initial=0)) > 0 else value for name, value in wide.items()}
    return ref.allocate(shares, budget, cost=cost)


IN_PRUNING: tuple[Deviation, ...] = (
    Deviation("warmup_includes_t_i", "phase_at", "t = t_i is still warm-up", _warmup_includes_t_i),
    Deviation("last_phase_begins_later", "phase_at", "t = T − t_f is still pruning", _final_begins_later),
    Deviation("linear_schedule", "budget_at", "the budget falls linearly instead of as a cubic", linear_schedule),
    Deviation("quadratic_schedule", "budget_at", "the budget falls as a square instead of as a cubic", _power(2)),
    Deviation(
        "budget_falls_to_the_end",
        "budget_at",
        "the budget falls until T, as if there were no last phase",
        _budget_to_the_end,
    ),
    Deviation(
        "budget_is_rounded",
        "budget_at",
        "the budget is rounded to nearest instead of floored",
        lambda schedule, step: round(_real_budget(schedule, step)),
    ),
    Deviation(
        "budget_is_ceiled",
        "budget_at",
        "the budget is rounded up instead of floored",
        lambda schedule, step: math.ceil(_real_budget(schedule, step)),
    ),
    Deviation(
        "budget_as_misprinted",
        "budget_at",
        "the numerator is t − t_i − t_f, the misprint of the paper's equation (12)",
        lambda schedule, step: math.floor(_real_budget(schedule, step, schedule.final)),
    ),
    Deviation(
        "budget_in_doubles",
        "budget_at",
        "warm-up includes t_i and the cubic is truncated from doubles, as LORALIB and PEFT do",
        budget_in_doubles,
    ),
    Deviation(
        "geometric_schedule",
        "budget_at",
        "the budget falls by the same fraction at every step instead of as a cubic",
        _geometric,
    ),
    Deviation(
        "interval_counts_from_zero",
        "allocates_at",
        "allocations are due where ΔT divides t, for t_i < t ≤ T − t_f, and at every step after, as LORALIB does",
        allocates_as_released,
    ),
    Deviation(
        "interval_counts_from_zero_once",
        "allocates_at",
        "allocations are due where ΔT divides t, for t_i < t < T − t_f, and at T − t_f, as PEFT does",
        allocates_as_peft,
    ),
    Deviation(
        "no_allocation_at_the_end",
        "allocates_at",
        "no allocation is made at T − t_f",
        lambda schedule, step: ref.allocates_at(schedule, step) and step != schedule.end_of_pruning,
    ),
    Deviation(
        "allocates_at_every_step",
        "allocates_at",
        "the interval ΔT is ignored",
        lambda schedule, step: ref.allocates_at(replace(schedule, interval=1), step),
    ),
    Deviation(
        "allocates_outside_pruning",
        "allocates_at",
        "allocations are made in warm-up and at every step of the last phase too",
        _allocates_outside_pruning,
    ),
    Deviation(
        "ties_are_dropped",
        "allocate",
        "what ties with the threshold is dropped, as LORALIB and PEFT do",
        _ties_are_dropped,
    ),
    Deviation(
        "ties_are_kept",
        "allocate",
        "everything that ties with the last kept score is kept, beyond the budget",
        _keeps_all_ties,
    ),
    Deviation(
        "ties_go_to_the_later", "allocate", "ties go to the later matrix and the higher index", _ties_go_to_the_later
    ),
    Deviation(
        "budget_per_matrix",
        "allocate",
        "each matrix keeps its share of the budget, instead of all competing for one",
        allocate_per_matrix,
    ),
    Deviation(
        "budget_per_matrix_with_at_least_one",
        "allocate",
        "each matrix keeps its share of the budget, and at least one triplet",
        _per_matrix_but_one,
    ),
    Deviation(
        "nan_scores_are_kept",
        "allocate",
        "a NaN counts as the largest score, as with kthvalue",
        _nan_is_kept,
        equivalent="scores must be finite: a NaN is refused before anyone is chosen",
    ),
    Deviation(
        "scores_are_compared_as_doubles",
        "allocate",
        "scores are compared with a threshold in float64",
        _compared_as_doubles,
        equivalent="widening is exact and keeps the order",
    ),
    Deviation("keeps_the_worst", "allocate", "the lowest scores are kept", keep_the_worst),
    Deviation(
        "skips_what_does_not_fit",
        "allocate",
        "with a cost, a triplet that does not fit is skipped instead of ending the selection",
        _skips_what_does_not_fit,
    ),
    Deviation(
        "every_matrix_keeps_one",
        "allocate",
        "a matrix of which nothing would be kept keeps its best triplet, beyond the budget",
        _every_matrix_keeps_one,
    ),
    Deviation("keeps_one_less", "allocate", "one triplet less than the budget is kept", _keeps_one_less),
    Deviation(
        "keeps_what_the_budget_drops", "allocate", "as many are kept as should be dropped", _keeps_what_the_budget_drops
    ),
    Deviation(
        "ignores_the_cost",
        "allocate",
        "the budget counts triplets though a cost is given",
        lambda scores, budget, /, *, cost=None: ref.allocate(scores, min(budget, sum(map(len, scores.values())))),
    ),
    Deviation(
        "prune_zeroes_all_three",
        "prune",
        "B and A of a dropped triplet are zeroed too, so that it cannot return",
        _prune_zeroes_B_and_A,
    ),
    Deviation("prune_is_inverted", "prune", "the kept triplets are dropped, the dropped ones kept", _prune_inverted),
    Deviation(
        "prune_does_nothing",
        "prune",
        "nothing is zeroed: the masked copy of s is thrown away",
        lambda factors, keep, /: ref.prune(factors, np.ones_like(keep)),
    ),
    Deviation(
        "compress_keeps_the_first",
        "compress",
        "the first triplets are kept, as many as should be, instead of those that should be",
        _compress_keeps_the_first,
    ),
    Deviation(
        "compress_is_inverted",
        "compress",
        "the kept triplets are removed, the dropped ones stay",
        lambda factors, keep, /: ref.compress(factors, ~keep),
    ),
    Deviation(
        "budget_counts_from_zero",
        "budget_at",
        "while pruning, the cubic is (1 − t / (T − t_f))³, as if t_i were 0",
        _counted_from_zero,
    ),
    Deviation(
        "ties_go_to_the_last_name",
        "allocate",
        "ties go to the matrix whose name comes last in the alphabet",
        _ties_go_to_the_last_name,
    ),
    Deviation(
        "ties_go_to_the_first_name",
        "allocate",
        "ties go to the matrix whose name comes first in the alphabet",
        _ties_go_to_the_first_name,
    ),
    Deviation(
        "scores_are_compared_in_single",
        "allocate",
        "scores are rounded to float32 before they are compared, whatever their dtype",
        _compared_in_single,
    ),
    Deviation(
        "budget_is_spent_in_order",
        "allocate",
        "matrices are served in forward order until the budget is spent, whatever the scores",
        _spent_in_order,
    ),
    Deviation(
        "scores_normalised_per_matrix",
        "allocate",
        "each matrix's scores are divided by its largest before they are compared",
        _normalised,
    ),
)
