"""AdaLoRA as someone else might have written it, on NumPy alone; the tests copy it, spoil it, and check it."""

import math
from collections import namedtuple

import numpy as np

Factors = namedtuple("Factors", "B s A")
Importance = namedtuple("Importance", "sensitivity uncertainty")
AdamState = namedtuple("AdamState", "first second steps")
TrainState = namedtuple("TrainState", "step factors importance optimizer masks")
StepReport = namedtuple(
    "StepReport", "step loss penalty budget kept parameters threshold revived dropped penalty_share"
)


def each(rule, *factors):
    return Factors(*(rule(*arrays) for arrays in zip(*factors, strict=True)))


def init_factors(rng, d_out, d_in, r, /, *, std=0.02, like):
    B = (std * rng.standard_normal((d_out, r))).astype(like.dtype)
    A = (std * rng.standard_normal((r, d_in))).astype(like.dtype)
    return Factors(B, np.zeros(r, like.dtype), A)


def linear_forward(x, W, factors, /, *, scale, bias=None, dropout_mask=None):
    B, s, A = factors
    masked = x if dropout_mask is None else x * dropout_mask
    y = x @ W.T + scale * (((masked @ A.T) * s) @ B.T)
    return y if bias is None else y + bias, (x, W, (B, s, A), scale, dropout_mask)


def linear_backward(dy, cache, /):
    x, W, (B, s, A), scale, mask = cache
    rows, upstream = (x if mask is None else x * mask).reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    u, dz = rows @ A.T, scale * (upstream @ B)
    dx = ((dz * s) @ A).reshape(x.shape)
    grads = Factors(scale * (upstream.T @ (u * s)), np.sum(dz * u, axis=0), (dz * s).T @ rows)
    return dy @ W + (dx if mask is None else dx * mask), grads


def increment(factors, /, *, scale):
    B, s, A = factors
    return scale * ((B * s) @ A)


def merge(W, factors, /, *, scale):
    return W + increment(factors, scale=scale)


def unmerge(W, factors, /, *, scale):
    return W - increment(factors, scale=scale)


def orthogonality_penalty(factors, /):
    B, s, A = factors
    left, right = B.T @ B - np.eye(len(s), dtype=B.dtype), A @ A.T - np.eye(len(s), dtype=B.dtype)
    return np.sum(left * left) + np.sum(right * right), Factors(4 * (B @ left), np.zeros_like(s), 4 * (right @ A))


def orthogonality_norm(factors, /):
    B, s, A = factors
    left, right = B.T @ B - np.eye(len(s), dtype=B.dtype), A @ A.T - np.eye(len(s), dtype=B.dtype)
    norms = [np.sqrt(np.sum(part * part)) for part in (left, right)]
    dB, dA = (
        2 * product / norm if norm else 0 * product for product, norm in zip((B @ left, right @ A), norms, strict=True)
    )
    return norms[0] + norms[1], Factors(dB, np.zeros_like(s), dA)


def init_importance(like, /):
    zeros = each(np.zeros_like, like)
    return Importance(zeros, zeros)


def update_importance(state, weights, grads, /, *, beta1, beta2):
    now = each(lambda w, g: np.abs(w * g), weights, grads)
    mean = each(lambda m, i: beta1 * m + (1 - beta1) * i, state[0], now)
    return Importance(mean, each(lambda u, i, m: beta2 * u + (1 - beta2) * np.abs(i - m), state[1], now, mean))


def triplet_scores(state, /):
    return of_triplets(each(lambda m, u: m * u, *state))


def of_triplets(values):
    B, s, A = values
    return s + B.mean(axis=0) + A.mean(axis=1)


def phase_at(schedule, step, /):
    if step < schedule.warmup:
        return "warmup"
    return "pruning" if step < schedule.total - schedule.final else "final"


def budget_at(schedule, step, /):
    phase, end = phase_at(schedule, step), schedule.total - schedule.final
    left = {"warmup": 1, "final": 0}.get(phase, end - step)
    window = 1 if phase != "pruning" else end - schedule.warmup
    return schedule.target + (schedule.initial - schedule.target) * left**3 // window**3


def allocates_at(schedule, step, /):
    due = phase_at(schedule, step) == "pruning" and (step - schedule.warmup) % schedule.interval == 0
    return due or step == schedule.total - schedule.final


def allocate(scores, budget, /, *, cost=None):
    order = sorted((-float(x), n, i) for n, name in enumerate(scores) for i, x in enumerate(scores[name]))
    keep, names = {name: np.zeros(len(s), dtype=bool) for name, s in scores.items()}, list(scores)
    for _, n, i in order:
        budget -= 1 if cost is None else cost[names[n]]
        if budget < 0:
            break
        keep[names[n]][i] = True
    return keep


def prune(factors, keep, /):
    return Factors(factors.B, np.where(keep, factors.s, np.zeros_like(factors.s)), factors.A)


def compress(factors, keep, /):
    return Factors(factors.B[:, keep], factors.s[keep], factors.A[keep])


def init_adamw(like, /):
    zeros = each(np.zeros_like, like)
    return AdamState(zeros, zeros, 0)


def adamw_step(weights, grads, state, /, *, learning_rate, beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.0):
    t = state.steps + 1
    m = each(lambda m, g: beta1 * m + (1 - beta1) * g, state.first, grads)
    v = each(lambda v, g: beta2 * v + (1 - beta2) * g * g, state.second, grads)
    step = each(lambda m, v: m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + epsilon), m, v)
    decayed = each(lambda w, d: (1 - learning_rate * weight_decay) * w - learning_rate * d, weights, step)
    return decayed, AdamState(m, v, t)


def init_state(network, config, rng, /):
    r = config.initial_rank
    factors = {n: init_factors(rng, *W.shape, r, like=W) for n, W in network.weights.items()}
    return TrainState(
        0,
        factors,
        {n: init_importance(f) for n, f in factors.items()},
        {n: init_adamw(f) for n, f in factors.items()},
        {n: np.ones(r, dtype=bool) for n in factors},
    )


def train_step(state, batch, network, config, /):
    schedule, t = config.schedule, state.step
    end = schedule.total - schedule.final
    scales = {n: config.alpha / max(1, int(mask.sum())) for n, mask in state.masks.items()}
    losses, task = [], {n: each(np.zeros_like, f) for n, f in state.factors.items()}
    for x, target in batch:
        output, cache = network.forward(x, state.factors, scales)
        loss, doutput = network.loss(output, target)
        losses.append(float(loss))
        grads = network.backward(doutput, cache)
        task = {n: each(lambda a, b: a + b / len(batch), task[n], grads[n]) for n in task}
    gamma, penalties = config.orthogonality_weight, {n: orthogonality_penalty(f) for n, f in state.factors.items()}
    regular = {n: each(lambda g: gamma * g, dR) for n, (_, dR) in penalties.items()}
    gradient = {n: each(lambda a, b: a + b, task[n], regular[n]) for n in task}
    norm = math.sqrt(sum(float(np.sum(g * g)) for held in gradient.values() for g in held))
    clip = 1.0 if config.clip_norm is None else min(1.0, config.clip_norm / (norm + 1e-6))
    after, moments, importance = {}, {}, dict(state.importance)
    for n, w in state.factors.items():
        after[n], moments[n] = adamw_step(
            w, each(lambda g: g * clip, gradient[n]), state.optimizer[n], learning_rate=config.learning_rate,
            beta1=config.adam_beta1, beta2=config.adam_beta2, epsilon=config.adam_epsilon,
            weight_decay=config.weight_decay,
        )  # fmt: skip
        if t < end:
            importance[n] = update_importance(
                importance[n], w, gradient[n], beta1=config.importance_beta1, beta2=config.importance_beta2
            )
    scores, due = {n: triplet_scores(held) for n, held in importance.items()}, allocates_at(schedule, t)
    masks = allocate(scores, budget_at(schedule, t)) if due else state.masks
    if due or t > end:
        after = {n: prune(w, masks[n]) for n, w in after.items()}
    kept, lowest = {n: int(mask.sum()) for n, mask in masks.items()}, [s[masks[n]] for n, s in scores.items()]
    p, q = (
        {n: of_triplets(each(lambda w, g: np.abs(w * g), state.factors[n], held[n])) for n in held}
        for held in (regular, task)
    )
    report = StepReport(
        t,
        math.fsum(losses) / len(losses),
        gamma * sum(float(R) for R, _ in penalties.values()),
        budget_at(schedule, t),
        kept,
        {n: kept[n] * (sum(W.shape) + 1) for n, W in network.weights.items()},
        float(np.min(np.concatenate(lowest))) if due and sum(kept.values()) else None,
        {n: mask & ~state.masks[n] for n, mask in masks.items()},
        {n: ~mask & state.masks[n] for n, mask in masks.items()},
        {n: np.where(p[n] + q[n] > 0, p[n] / np.where(p[n] + q[n] > 0, p[n] + q[n], 1), 0 * p[n]) for n in p},
    )
    return TrainState(t + 1, after, importance, moments, masks), report
