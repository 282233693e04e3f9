"""Every quantity of a run in plain NumPy, as one writes it on a sheet of paper; a reproduction has one of them in it.

Each stands alone, since its source is copied. Arguments are arrays of one matrix, unless the name says otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def unchanged(before: Any) -> Any:
    """Nothing happens to it."""
    return before


def clip(gradient: Any, gradients_of_all: Any, clip_norm: Any) -> Any:
    """The norm is over all trained arrays of all matrices."""
    norm = np.sqrt(sum(np.sum(g * g) for g in gradients_of_all))
    return gradient * min(1.0, clip_norm / (norm + 1e-6))


def first_moment(g: Any, m: Any, beta1: Any) -> Any:
    """Adam's m."""
    return beta1 * m + (1 - beta1) * g


def second_moment(g: Any, v: Any, beta2: Any) -> Any:
    """Adam's v."""
    return beta2 * v + (1 - beta2) * g * g


def adamw(
    w: Any,
    g: Any,
    m: Any,
    v: Any,
    t: Any,
    learning_rate: Any,
    weight_decay: Any,
    beta1: Any,
    beta2: Any,
    epsilon: Any,
) -> Any:
    """The weights after step t, the first being 1; m and v are those of the step before."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    step = (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon)
    return (1 - learning_rate * weight_decay) * w - learning_rate * step


def sensitivity(w: Any, g: Any, I_before: Any, beta1: Any) -> Any:
    """Ī."""
    return beta1 * I_before + (1 - beta1) * np.abs(w * g)


def uncertainty(w: Any, g: Any, I_before: Any, U_before: Any, beta1: Any, beta2: Any) -> Any:
    """Ū, from Ī after its update."""
    I = np.abs(w * g)
    I_now = beta1 * I_before + (1 - beta1) * I
    return beta2 * U_before + (1 - beta2) * np.abs(I - I_now)


def triplet_scores(I: Any, U: Any) -> Any:
    """Ī Ū of s, plus its mean over each column of B, plus its mean over each row of A."""
    return I["s"] * U["s"] + np.mean(I["B"] * U["B"], axis=0) + np.mean(I["A"] * U["A"], axis=1)


def budget_at(t: Any, initial: Any, target: Any, warmup: Any, final: Any, total: Any) -> Any:
    """The floor of the cubic, in integers."""
    end = total - final
    if t < warmup:
        return initial
    if t >= end:
        return target
    return target + (initial - target) * (end - t) ** 3 // (end - warmup) ** 3


def budget_in_doubles(t: Any, initial: Any, target: Any, warmup: Any, final: Any, total: Any) -> Any:
    """The cubic in doubles, truncated; t_i belongs to warm-up."""
    end = total - final
    if t <= warmup:
        return initial
    if t > end:
        return target
    return int(target + (initial - target) * (1 - (t - warmup) / (end - warmup)) ** 3)


def full_budget(initial: Any) -> Any:
    """Everything is kept."""
    return initial


def allocates_at(t: Any, warmup: Any, final: Any, total: Any, interval: Any) -> Any:
    """Every ΔT steps from t_i, and at T − t_f."""
    end = total - final
    return t == end or (warmup <= t < end and (t - warmup) % interval == 0)


def allocates_as_released(t: Any, warmup: Any, final: Any, total: Any, interval: Any) -> Any:
    """Where ΔT divides t, after t_i; after T − t_f at every step."""
    return t > total - final or (t > warmup and t % interval == 0)


def allocates_as_peft(t: Any, warmup: Any, final: Any, total: Any, interval: Any) -> Any:
    """Where ΔT divides t, after t_i and before T − t_f, and at T − t_f."""
    end = total - final
    return t == end or (warmup < t < end and t % interval == 0)


def never() -> Any:
    """No allocation."""
    return False


def allocate(scores_of_all: Any, matrix: Any, budget: Any, cost: Any) -> Any:
    """The best of all matrices are kept until the budget is spent; of equals, the earlier one."""
    triplets = [(name, k) for name, scores in scores_of_all.items() for k in range(len(scores))]
    triplets.sort(key=lambda triplet: -scores_of_all[triplet[0]][triplet[1]])  # a sort that keeps the order of equals
    kept = set()
    for name, k in triplets:
        budget -= 1 if cost is None else cost[name]
        if budget < 0:
            break
        kept.add((name, k))
    return np.array([(matrix, k) in kept for k in range(len(scores_of_all[matrix]))])


def allocate_above_threshold(scores_of_all: Any, matrix: Any, budget: Any) -> Any:
    """Kept is what lies above the (N − b)-th smallest score of all matrices; where N − b is 0, everything."""
    ordered = np.sort(np.concatenate(list(scores_of_all.values())))
    dropped = len(ordered) - budget
    return scores_of_all[matrix] > (ordered[dropped - 1] if dropped else -np.inf)


def prune(s: Any, keep: Any) -> Any:
    """s is 0 where it is not kept."""
    return np.where(keep, s, 0.0)
