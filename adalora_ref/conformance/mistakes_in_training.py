"""Known mistakes in the order of Algorithm 1: each a drop-in for `train_step`, made of the reference's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np

import adalora_ref as ref
from adalora_ref.conformance.known import Deviation
from adalora_ref.conformance.mistakes_in_pruning import allocate_per_matrix, keep_the_worst, linear_schedule
from adalora_ref.convention import (
    SPEC,
    Convention,
    after_the_step,
    allocates_as_released,
    mean_over_norms,
    no_penalty,
    s_is_held,
    scale_as_released,
    scale_by_initial_rank,
)
from adalora_ref.factors import Factors, map_factors
from adalora_ref.records import StepReport, TrainState

Step: TypeAlias = Callable[..., tuple[TrainState, StepReport]]


def _under(**fields: Any) -> Step:
    """A step under a convention with some fields replaced."""

    def step(state: TrainState, batch: Any, network: Any, config: Any, /, *, convention: Convention = SPEC) -> Any:
        return ref.train_step(state, batch, network, config, convention=replace(convention, **fields))

    return step


def _with(change: Callable[[Any, Sequence[Any]], Any]) -> Step:
    """A step with a configuration that *change* makes of configuration and batch."""

    def step(state: TrainState, batch: Any, network: Any, config: Any, /, *, convention: Convention = SPEC) -> Any:
        return ref.train_step(state, batch, network, change(config, batch), convention=convention)

    return step


def _then(change: Callable[..., TrainState]) -> Step:
    """A step whose new state *change* alters, given the one before, whether an allocation was due, and t."""

    def step(state: TrainState, batch: Any, network: Any, config: Any, /, *, convention: Convention = SPEC) -> Any:
        after, report = ref.train_step(state, batch, network, config, convention=convention)
        t = state.step + convention.first_step
        return change(state, after, convention.allocates(config.schedule, t), t, config), report

    return step


def _task_alone(state: TrainState, batch: Any, network: Any, config: Any, /, *, convention: Convention = SPEC) -> Any:
    weight = config.orthogonality_weight * convention.penalty_factor(len(state.factors))

    def sensitivity(before: Factors, gradient: Factors, *_: Factors) -> tuple[Factors, Factors]:
        return before, map_factors(lambda g, p: g - weight * p, gradient, convention.penalty(before)[1])

    return _under(sensitivity=sensitivity)(state, batch, network, config, convention=convention)


def _summed(state: TrainState, batch: Any, network: Any, config: Any, /, *, convention: Convention = SPEC) -> Any:
    def loss(output: Any, target: Any) -> Any:
        value, gradient = network.loss(output, target)
        return value * len(batch), gradient * len(batch)

    return ref.train_step(state, batch, _with_parts(network, loss=loss), config, convention=convention)


def _with_parts(network: Any, **replaced: Callable[..., Any]) -> Any:
    """The network with some of its functions replaced."""
    parts = {"weights": network.weights, "forward": network.forward, "backward": network.backward, "loss": network.loss}
    return SimpleNamespace(**{**parts, **replaced})


def _masked_in_forward(
    state: TrainState, batch: Any, network: Any, config: Any, /, *, convention: Convention = SPEC
) -> Any:
    def forward(x: Any, factors: Any, scales: Any) -> Any:
        return network.forward(x, {n: ref.prune(f, state.masks[n]) for n, f in factors.items()}, scales)

    def backward(doutput: Any, cache: Any) -> Any:
        grads = network.backward(doutput, cache)
        return {n: Factors(g.B, g.s * state.masks[n], g.A) for n, g in grads.items()}

    masked = _with_parts(network, forward=forward, backward=backward)
    return ref.train_step(state, batch, masked, config, convention=convention)


def _optimiser_after_the_mask(
    state: TrainState, batch: Any, network: Any, config: Any, /, *, convention: Convention = SPEC
) -> Any:
    clipped: list[Factors] = []

    def watched(*parts: Factors) -> tuple[Factors, Factors]:
        clipped.append(parts[3])
        return convention.sensitivity(*parts)

    after, report = _under(sensitivity=watched)(state, batch, network, config, convention=convention)
    t = state.step + convention.first_step
    if not (convention.allocates(config.schedule, t) or t > config.schedule.end_of_pruning):
        return after, report
    rates = {"learning_rate": config.learning_rate, "weight_decay": config.weight_decay}
    moved = {
        n: ref.adamw_step(ref.prune(f, after.masks[n]), g, state.optimizer[n], **rates)[0]
        for (n, f), g in zip(state.factors.items(), clipped, strict=True)
    }
    return after._replace(factors=moved), report


def _permanent(state: TrainState, batch: Any, network: Any, config: Any, /, *, convention: Convention = SPEC) -> Any:
    def among_the_living(scores: Any, budget: int, /, *, cost: Any = None) -> Any:
        alive = {n: value[state.masks[n]] for n, value in scores.items()}
        kept = ref.allocate(alive, min(budget, sum(map(len, alive.values()))), cost=cost)
        masks = {n: mask.copy() for n, mask in state.masks.items()}
        for n, mask in masks.items():
            mask[mask] = kept[n]
        return masks

    return _under(allocate=among_the_living)(state, batch, network, config, convention=convention)


def _stale(state: TrainState, batch: Any, network: Any, config: Any, /, *, convention: Convention = SPEC) -> Any:
    before = iter([ref.triplet_scores(held) for held in state.importance.values()])
    return _under(score=lambda *_: next(before))(state, batch, network, config, convention=convention)


def _unmasked(state: TrainState, batch: Any, network: Any, config: Any, convention: Convention) -> TrainState:
    """The state after the step with no mask applied to it, at the scales that the masks make."""
    scales = iter(ref.scales_of(state, config, convention=convention).values())
    full = state._replace(masks={name: np.ones_like(mask) for name, mask in state.masks.items()})
    held = replace(convention, scale=lambda *_: next(scales), allocates=lambda *_: False)
    return ref.train_step(full, batch, network, config, convention=held)[0]


def _mask_discarded(
    state: TrainState, batch: Any, network: Any, config: Any, /, *, convention: Convention = SPEC
) -> Any:
    after, report = ref.train_step(state, batch, network, config, convention=convention)
    return after._replace(factors=_unmasked(state, batch, network, config, convention).factors), report


def _comes_back(state: TrainState, batch: Any, network: Any, config: Any, /, *, convention: Convention = SPEC) -> Any:
    t = state.step + convention.first_step
    after, report = ref.train_step(state, batch, network, config, convention=convention)
    if convention.allocates(config.schedule, t) or t <= config.schedule.end_of_pruning:
        return after, report
    return after._replace(factors=_unmasked(state, batch, network, config, convention).factors), report


def _never_frozen(state: TrainState, batch: Any, network: Any, config: Any, /, *, convention: Convention = SPEC) -> Any:
    after, report = ref.train_step(state, batch, network, config, convention=convention)
    longer = replace(config, schedule=replace(config.schedule, final=0, total=state.step + 9))
    moving, _ = ref.train_step(state, batch, network, longer, convention=convention)
    return after._replace(importance=moving.importance), report


def _penalty_in_the_loss(
    state: TrainState, batch: Any, network: Any, config: Any, /, *, convention: Convention = SPEC
) -> Any:
    after, report = ref.train_step(state, batch, network, config, convention=convention)
    return after, report._replace(loss=report.loss + report.penalty)


def _first_alone(state: TrainState, batch: Any, network: Any, config: Any, /, *, convention: Convention = SPEC) -> Any:
    return ref.train_step(state, batch[:1], network, config, convention=convention)


def _lengths(weights: Factors) -> tuple[Any, Any]:
    return (weights.B**2).sum(axis=0) ** 0.5, (weights.A**2).sum(axis=1) ** 0.5


def _s_times_lengths(_: Any, weights: Factors) -> Any:
    B, A = _lengths(weights)
    return abs(weights.s) * (B + A)


def _product_of_lengths(_: Any, weights: Factors) -> Any:
    B, A = _lengths(weights)
    return B * A


def _averages_wait(before: TrainState, after: TrainState, due: bool, t: int, config: Any) -> TrainState:  # noqa: FBT001
    return after if due else after._replace(importance=before.importance)


def _masked_always(before: TrainState, after: TrainState, due: bool, t: int, config: Any) -> TrainState:  # noqa: FBT001
    return after._replace(factors={name: ref.prune(f, after.masks[name]) for name, f in after.factors.items()})


def _emptied(factors: Factors, keep: Any) -> Factors:
    B, s, A = factors
    return Factors(B * keep, s * keep, A * keep[:, None])


def _averages_reset(before: TrainState, after: TrainState, due: bool, t: int, config: Any) -> TrainState:  # noqa: FBT001
    fresh = {name: ref.init_importance(f) for name, f in after.factors.items()}
    return after._replace(importance=fresh) if due else after


def _moments_cleared(before: TrainState, after: TrainState, due: bool, t: int, config: Any) -> TrainState:  # noqa: FBT001
    if not due:
        return after
    optimizer = {
        name: ref.AdamState(
            _emptied(held.first, after.masks[name]), _emptied(held.second, after.masks[name]), held.steps
        )
        for name, held in after.optimizer.items()
    }
    return after._replace(optimizer=optimizer)


def _all_three_emptied(before: TrainState, after: TrainState, due: bool, t: int, config: Any) -> TrainState:  # noqa: FBT001
    if not due:
        return after
    return after._replace(factors={name: _emptied(f, after.masks[name]) for name, f in after.factors.items()})


def _deviation(name: str, says: str, function: Step) -> Deviation:
    return Deviation(name, "train_step", says, function)


def _first_of_each(scores: Any, budget: int, /, *, cost: Any = None) -> Any:
    masks = ref.allocate(scores, budget, cost=cost)
    return {name: np.arange(mask.size) < mask.sum() for name, mask in masks.items()}


IN_TRAINING: tuple[Deviation, ...] = (
    _deviation("scale_stays", "the scale is α / r_init and does not follow the rank, as in the paper",
               _under(scale=scale_by_initial_rank)),
    _deviation("scale_stays_as_released", "the scale is α / (r_init + 1e-5), as LORALIB and PEFT have it",
               _under(scale=scale_as_released)),
    _deviation("scale_is_alpha", "α is not divided by the rank", _under(scale=lambda alpha, *_: alpha)),
    _deviation("penalty_is_left_out", "the orthogonality term never reaches the objective", _under(penalty=no_penalty)),
    _deviation("penalty_of_unsquared_norms", "the objective has norms, not their squares, as LORALIB and PEFT have it",
               _under(penalty=ref.orthogonality_norm)),
    _deviation("penalty_is_averaged", "the penalty is the mean over the 2n norms instead of the sum over matrices",
               _under(penalty_factor=mean_over_norms)),
    _deviation("penalty_in_every_micro_batch", "the penalty is added for every micro-batch instead of once",
               _with(lambda c, batch: replace(c, orthogonality_weight=c.orthogonality_weight * len(batch)))),
    _deviation("micro_batches_are_summed", "loss and gradients of micro-batches are added up, not averaged", _summed),
    _deviation("sensitivity_at_moved_weights", "the sensitivity is taken at the weights after the optimiser's step",
               _under(sensitivity=lambda before, gradient, after, clipped: (after, gradient))),
    _deviation("sensitivity_of_clipped_gradient", "the sensitivity is made of the clipped gradient",
               _under(sensitivity=lambda before, gradient, after, clipped: (before, clipped))),
    _deviation("sensitivity_as_released", "the sensitivity is made of the clipped gradient at the moved weights, as "
               "LORALIB and PEFT have it", _under(sensitivity=after_the_step)),
    _deviation("sensitivity_of_the_task_alone", "the sensitivity leaves out the gradient of the penalty", _task_alone),
    _deviation("s_is_not_trained", "s is not trained", _under(trained=s_is_held)),
    _deviation("steps_count_from_one", "the first step is t = 1, as in the paper", _under(first_step=1)),
    _deviation("interval_counts_from_zero_in_training", "ΔT is counted from step 0, as LORALIB has it",
               _under(allocates=allocates_as_released)),
    _deviation("never_allocates", "no mask is ever made: the rank never changes", _under(allocates=lambda *_: False)),
    _deviation("score_is_the_size_of_s", "a triplet is scored by |s|", _under(score=lambda _, weights: abs(weights.s))),
    _deviation("budget_per_matrix_in_training", "each matrix keeps its share of the budget",
               _under(allocate=allocate_per_matrix)),
    _deviation("keeps_the_worst_in_training", "the lowest scores are kept", _under(allocate=keep_the_worst)),
    _deviation("clipping_is_left_out", "the gradient is never clipped", _with(lambda c, _: replace(c, clip_norm=None))),
    _deviation("averages_only_at_allocations", "Ī and Ū are updated at allocations alone", _then(_averages_wait)),
    _deviation("pruned_triplets_come_back", "the mask is not applied after the steps of the last phase", _comes_back),
    _deviation("masked_between_allocations", "the mask is applied after every step, so that no triplet can return",
               _then(_masked_always)),
    _deviation("pruning_clears_the_moments", "pruning sets the optimiser's moments of dropped triplets to zero",
               _then(_moments_cleared)),
    _deviation("pruning_empties_B_and_A", "pruning sets B and A of dropped triplets to zero too",
               _then(_all_three_emptied)),
    _deviation("scale_by_root_of_rank", "the scale is α / √r, as in rank-stabilised LoRA",
               _under(scale=lambda alpha, _, kept: alpha / max(1, kept) ** 0.5)),
    _deviation("scale_is_one_without_alpha", "an α ≤ 0 makes the scale 1, as LORALIB and PEFT have it",
               _under(scale=lambda alpha, _, kept: alpha / max(1, kept) if alpha > 0 else 1.0)),
    _deviation("penalty_is_not_weighted", "the penalty is added without γ",
               _with(lambda c, _: replace(c, orthogonality_weight=1.0))),
    _deviation("loss_includes_the_penalty", "the reported loss has the penalty in it",
               _penalty_in_the_loss),
    _deviation("first_micro_batch_alone", "the step is made on the first micro-batch, the others are lost",
               _first_alone),
    _deviation("averages_never_freeze", "Ī and Ū go on being updated in the last phase",
               _never_frozen),
    _deviation("mask_is_discarded", "the mask is made and never applied: the masked copy of s is thrown away",
               _mask_discarded),
    _deviation("score_is_s_times_lengths", "a triplet is scored by |s| (‖B_i‖ + ‖A_i‖)",
               _under(score=_s_times_lengths)),
    _deviation("score_is_product_of_lengths", "a triplet is scored by ‖B_i‖ · ‖A_i‖",
               _under(score=_product_of_lengths)),
    _deviation("mask_in_the_forward_pass", "the mask multiplies s in the forward pass, so that a dropped triplet never "
               "acts between allocations", _masked_in_forward),
    _deviation("masked_before_the_optimiser", "the mask is applied before the optimiser's step, which revives what was "
               "zeroed", _optimiser_after_the_mask),
    _deviation("pruning_is_permanent", "a dropped triplet is never considered again", _permanent),
    _deviation("averages_are_reset_by_an_allocation", "Ī and Ū start again from zero after each allocation",
               _then(_averages_reset)),
    _deviation("mask_from_stale_scores", "the allocation scores by the averages before this step's update", _stale),
    _deviation("loss_scale_is_forgotten", "the sensitivity is made of a gradient that is still multiplied by the loss "
               "scale, here 65536", _under(sensitivity=lambda before, gradient, after, clipped: (
                   before, map_factors(lambda g: 65536 * g, gradient)))),
    _deviation("last_micro_batch_alone", "the step is made on the last micro-batch, the others are lost",
               lambda state, batch, network, config, /, *, convention=SPEC: ref.train_step(
                   state, batch[-1:], network, config, convention=convention)),
    _deviation("score_of_s_alone_in_training", "a triplet's score is its s-term alone, without B and A",
               _under(score=lambda held, _: held.sensitivity.s * held.uncertainty.s)),
    _deviation("no_allocation_at_the_end_in_training", "no allocation is made at T − t_f", _under(
        allocates=lambda schedule, t: ref.allocates_at(schedule, t) and t != schedule.end_of_pruning)),
    _deviation("linear_schedule_in_training", "the budget falls linearly instead of as a cubic",
               _under(budget=linear_schedule)),
    _deviation("masks_keep_the_first", "each matrix keeps as many triplets as it should, but the first ones",
               _under(allocate=_first_of_each)),
)  # fmt: skip
