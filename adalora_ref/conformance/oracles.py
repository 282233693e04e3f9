"""What each public function should return, written another way: plain Python loops over i and j, on any type of number.

Matrices are lists of rows, factors are tuples (B, s, A), leading axes are flattened to rows. One oracle serves

- `fractions.Fraction`, where the stage is rational: exact;
- mpmath's mpf: 50 digits;
- `complex`: derivatives by the complex step, f(x + ih) / h;
- `Bounded`: 50 digits and, in the same pass, how far a correct result may lie from them.

`lifting` turns arrays into such lists, and what an oracle returns into arrays to compare with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, TypeAlias

from adalora_ref.budget import BudgetSchedule
from adalora_ref.conformance.bounds import Number, allow, either, exp, log, mean, power, settle, sqrt, total

Row: TypeAlias = list[Number]
Matrix: TypeAlias = list[Row]
Triple: TypeAlias = tuple[Matrix, Row, Matrix]

# START


def init_factors(normals: tuple[Matrix, Matrix], r: int, /, *, std: Number) -> Triple:
    """B and A are *std* times standard normal numbers; s is 0."""
    B, A = ([[std * z for z in row] for row in part] for part in normals)
    return B, [0] * r, A


# LAYER


def linear_forward(
    x: Matrix,
    W: Matrix,
    factors: Triple,
    /,
    *,
    scale: Number,
    bias: Row | None = None,
    dropout_mask: Matrix | None = None,
) -> Matrix:
    """y_nj = Σ_i x_ni W_ji + b_j + Σ_k scale · u_nk s_k B_jk, as one sum."""
    B, s, _ = factors
    u = _projected(x, factors, dropout_mask)
    return [
        [
            total(
                [x_n[i] * W[j][i] for i in range(len(x_n))]
                + [scale * u[n][k] * s[k] * B[j][k] for k in range(len(s))]
                + ([] if bias is None else [bias[j]])
            )
            for j in range(len(W))
        ]
        for n, x_n in enumerate(x)
    ]


def linear_backward(
    dy: Matrix, x: Matrix, W: Matrix, factors: Triple, /, *, scale: Number, dropout_mask: Matrix | None = None
) -> tuple[Matrix, Triple]:
    """(dx, (dB, ds, dA)): each is the sum over all paths from it to y, of dy times the rest of the path."""
    B, s, A = factors
    rows, d_out, d_in, r = range(len(x)), range(len(W)), range(len(W[0])), range(len(s))
    u = _projected(x, factors, dropout_mask)
    v = [[total(scale * dy[n][j] * B[j][k] for j in d_out) for k in r] for n in rows]
    dB = [[total(dy[n][j] * u[n][k] * s[k] * scale for n in rows) for k in r] for j in d_out]
    ds = [total(v[n][k] * u[n][k] for n in rows) for k in r]
    dA = [[total(v[n][k] * s[k] * _masked(x, dropout_mask, n, i) for n in rows) for i in d_in] for k in r]
    dx = [
        [
            total(
                [dy[n][j] * W[j][i] for j in d_out]
                + [v[n][k] * s[k] * A[k][i] * (1 if dropout_mask is None else dropout_mask[n][i]) for k in r]
            )
            for i in d_in
        ]
        for n in rows
    ]
    return dx, (dB, ds, dA)


def _masked(x: Matrix, mask: Matrix | None, n: int, i: int) -> Number:
    return x[n][i] if mask is None else x[n][i] * mask[n][i]


def _projected(x: Matrix, factors: Triple, mask: Matrix | None) -> Matrix:
    """u_nk = Σ_i x̂_ni A_ki."""
    return [
        [total(_masked(x, mask, n, i) * A_k[i] for i in range(len(A_k))) for A_k in factors[2]] for n in range(len(x))
    ]


def increment(factors: Triple, /, *, scale: Number, d_in: int) -> Matrix:
    """ΔW_ji = Σ_k scale · B_jk s_k A_ki; *d_in* is stated because at rank 0 A has no row to count it by."""
    return [[total(_paths(factors, scale, j, i)) for i in range(d_in)] for j in range(len(factors[0]))]


def merge(W: Matrix, factors: Triple, /, *, scale: Number) -> Matrix:
    """W_ji + Σ_k scale · B_jk s_k A_ki."""
    return [[total([W[j][i], *_paths(factors, scale, j, i)]) for i in range(len(W[j]))] for j in range(len(W))]


def unmerge(W: Matrix, factors: Triple, /, *, scale: Number) -> Matrix:
    """W_ji − Σ_k scale · B_jk s_k A_ki."""
    return [
        [total([W[j][i], *(-p for p in _paths(factors, scale, j, i))]) for i in range(len(W[j]))] for j in range(len(W))
    ]


def _paths(factors: Triple, scale: Number, j: int, i: int) -> Row:
    B, s, A = factors
    return [scale * B[j][k] * s[k] * A[k][i] for k in range(len(s))]


# LOSS


def cross_entropy(logits: Matrix, labels: list[int], /) -> tuple[Number, Matrix]:
    """Mean of log Σ_c exp(z_c) − z_label, and (exp(z_c − log Σ exp) − [c = label]) / n."""
    n = len(logits)
    losses, gradient = [], []
    for z, label in zip(logits, labels, strict=True):
        pivot = max(z, key=lambda entry: entry.real)
        log_sum = log(total(exp(entry - pivot) for entry in z))
        losses.append(total([log_sum, pivot, -z[label]]))
        chances = [exp(total([entry, -pivot, -log_sum])) for entry in z]
        gradient.append([(p - 1 if c == label else p) / n for c, p in enumerate(chances)])
    return mean(losses), gradient


def mean_square(output: Matrix, target: Matrix, /) -> tuple[Number, Matrix]:
    """Σ (o − t)² / size, and 2 (o − t) / size."""
    size = sum(len(row) for row in output)
    gaps = [[o - t for o, t in zip(*rows, strict=True)] for rows in zip(output, target, strict=True)]
    return mean(gap * gap for row in gaps for gap in row), [[2 * gap / size for gap in row] for row in gaps]


# PENALTY


def orthogonality_penalty(factors: Triple, /) -> tuple[Number, Triple]:
    """R = Σ_kl (Σ_j B_jk B_jl − [k = l])² + the same of A's rows; dB_jk = Σ_l 4 B_jl Z_lk, dA_ki = Σ_l 4 Z_kl A_li."""
    Z_B, Z_A = defects = _defects(factors)
    dB, dA = _pulled_back(factors, defects)
    R = total(settle(z) * settle(z) for row in Z_B + Z_A for z in row)
    R = allow(R, 3)  # the square of a norm rounds twice in the root, and once more
    return R, ([[2 * g for g in row] for row in dB], [0 for _ in factors[1]], [[2 * g for g in row] for row in dA])


def orthogonality_norm(factors: Triple, /) -> tuple[Number, Triple]:
    """√ of each of the two sums of squares, added; each gradient is 2 B Z over its norm, and 0 where that is 0."""
    gradients, norms = [], []
    defects = _defects(factors)
    for Z, dX in zip(defects, _pulled_back(factors, defects), strict=True):
        norm = sqrt(total(settle(z) * settle(z) for row in Z for z in row))
        norm = allow(norm, 2)  # max|z| · ‖Z / max|z|‖, which cannot overflow, divides and multiplies too
        gradients.append([[g / norm if norm else 0 for g in row] for row in dX])
        norms.append(norm)
    return total(norms), (gradients[0], [0 for _ in factors[1]], gradients[1])


def _defects(factors: Triple) -> tuple[Matrix, Matrix]:
    """Z_kl = Σ_j B_jk B_jl − [k = l], and Σ_i A_ki A_li − [k = l]."""
    B, s, A = factors
    r = range(len(s))
    columns = [[B_j[k] for B_j in B] for k in r]

    def gram(rows: Matrix) -> Matrix:
        products = [[[a * b for a, b in zip(rows[k], rows[l], strict=True)] for l in r] for k in r]
        return [[total([*products[k][l], -1] if k == l else products[k][l]) for l in r] for k in r]

    return gram(columns), gram(A)


def _pulled_back(factors: Triple, defects: tuple[Matrix, Matrix]) -> tuple[Matrix, Matrix]:
    """2 Σ_l B_jl Z_lk and 2 Σ_l Z_kl A_li; Z is not formed here, as 2 (B Bᵀ B − B) is the same product chain."""
    (B, s, A), (Z_B, Z_A) = factors, defects
    r = range(len(s))
    dB = [[total(2 * B_j[l] * Z_B[l][k] for l in r) for k in r] for B_j in B]
    dA = [[total(2 * Z_A[k][l] * A[l][i] for l in r) for i in range(len(A[0]))] for k in r]
    return dB, dA


# IMPORTANCE


def update_importance(
    state: tuple[Triple, Triple], weights: Triple, grads: Triple, /, *, beta1: Number, beta2: Number
) -> tuple[Triple, Triple]:
    """For every entry: I = |w g|, Ī = β1 Ī + (1 − β1) I, Ū = β2 Ū + (1 − β2) |I − Ī|, with the new Ī."""
    rest1, rest2 = 1 - beta1, 1 - beta2

    def averages(I_bar: Number, U_bar: Number, w: Number, g: Number) -> tuple[Number, Number]:
        I = abs(w * g)
        I_bar = _smoothed(beta1, rest1, I_bar, I)
        return I_bar, _smoothed(beta2, rest2, U_bar, abs(I - I_bar))

    both = each(averages, *state, weights, grads)
    return each(lambda pair: pair[0], both), each(lambda pair: pair[1], both)


def _smoothed(beta: Number, rest: Number, old: Number, new: Number) -> Number:
    """Return β · old + (1 − β) · new; interpolation, old + (1 − β)(new − old), is the same but for rounding."""
    return either(total([beta * old, rest * new]), total([old, rest * (new - old)]))


def triplet_scores(state: tuple[Triple, Triple], /) -> Row:
    """Ī Ū of s_k, plus the mean of Ī Ū over B_jk, plus the mean over A_ki."""
    return per_triplet(each(lambda I_bar, U_bar: I_bar * U_bar, *state))


def per_triplet(entries: Triple, /) -> Row:
    """s_k + mean_j B_jk + mean_i A_ki."""
    B, s, A = entries
    return [total([s[k], mean(B_j[k] for B_j in B), mean(A[k])]) for k in range(len(s))]


def each(f: Callable[..., Any], *triples: Triple) -> Triple:
    """Apply *f* to the entries of factors, one by one."""
    Bs, ss, As = zip(*triples, strict=True)

    def matrix(held: tuple[Matrix, ...]) -> Matrix:
        return [[f(*entries) for entries in zip(*rows, strict=True)] for rows in zip(*held, strict=True)]

    return matrix(Bs), [f(*entries) for entries in zip(*ss, strict=True)], matrix(As)


# BUDGET


def phase_at(schedule: BudgetSchedule, step: int, /) -> str:
    """How many of the two boundaries lie behind."""
    return ("warmup", "pruning", "final")[(step >= schedule.warmup) + (step >= schedule.total - schedule.final)]


def budget_at(schedule: BudgetSchedule, step: int, /) -> int:
    """Floor the rational b^T + (b⁰ − b^T) (1 − done)³, done clipped to [0, 1]."""
    window = schedule.total - schedule.final - schedule.warmup
    done = min(max(Fraction(step - schedule.warmup, window), Fraction(0)), Fraction(1))
    return math.floor(schedule.target + (schedule.initial - schedule.target) * (1 - done) ** 3)


def allocates_at(schedule: BudgetSchedule, step: int, /) -> bool:
    """Membership in t_i, t_i + ΔT, … before T − t_f, and T − t_f."""
    end = schedule.total - schedule.final
    return step == end or step in range(schedule.warmup, end, schedule.interval)


def budget_in_doubles(schedule: BudgetSchedule, step: int, /) -> int:
    """Round each operation of the released code's cubic to a double; t_i is warm-up, and T − t_f on the cubic."""
    end = schedule.total - schedule.final
    if not schedule.warmup < step <= end:
        return schedule.initial if step <= schedule.warmup else schedule.target
    done = float(Fraction(step - schedule.warmup, end - schedule.warmup))
    left = float(1 - Fraction(done))
    cube = float(Fraction(left) ** 3)
    product = float((schedule.initial - schedule.target) * Fraction(cube))
    return int(float(schedule.target + Fraction(product)))


def allocates_as_released(schedule: BudgetSchedule, step: int, /) -> bool:
    """Membership in the multiples of ΔT in (t_i, T − t_f], or any later step."""
    end = schedule.total - schedule.final
    return step > end or (step in range(0, end + 1, schedule.interval) and step > schedule.warmup)


def allocates_as_peft(schedule: BudgetSchedule, step: int, /) -> bool:
    """Membership in the multiples of ΔT in (t_i, T − t_f), and T − t_f."""
    end = schedule.total - schedule.final
    return step == end or (step in range(0, end, schedule.interval) and step > schedule.warmup)


# ALLOCATION


def allocate(
    scores: Mapping[str, Row], budget: int, /, *, cost: Mapping[str, int] | None = None
) -> dict[str, list[bool]]:
    """Sort by (−score, matrix, index); take from the front until the budget is spent."""
    ranked = sorted(
        (-score.real, place, k, name) for place, (name, row) in enumerate(scores.items()) for k, score in enumerate(row)
    )
    kept, left = set(), budget
    for _, _, k, name in ranked:
        left -= 1 if cost is None else cost[name]
        if left < 0:
            break
        kept.add((name, k))
    return {name: [(name, k) in kept for k in range(len(row))] for name, row in scores.items()}


def allocate_above_threshold(scores: Mapping[str, Row], budget: int, /) -> dict[str, list[bool]]:
    """Keep a score if at least N − b scores lie strictly below it, so that ties with the threshold are dropped."""
    everyone = [score.real for row in scores.values() for score in row]
    dropped = len(everyone) - budget
    return {
        name: [sum(other < score.real for other in everyone) >= dropped for score in row]
        for name, row in scores.items()
    }


def prune(factors: Triple, keep: list[bool], /) -> Triple:
    """s_k becomes 0 where it is not kept."""
    B, s, A = factors
    return B, [s_k if kept else 0 for s_k, kept in zip(s, keep, strict=True)], A


def compress(factors: Triple, keep: list[bool], /) -> Triple:
    """Only the kept columns of B, entries of s and rows of A."""
    B, s, A = factors
    stay = [k for k in range(len(s)) if keep[k]]
    return [[B_j[k] for k in stay] for B_j in B], [s[k] for k in stay], [A[k] for k in stay]


# OPTIMISER


def adamw_step(
    weights: Triple,
    grads: Triple,
    state: tuple[Triple, Triple, int],
    /,
    *,
    learning_rate: Number,
    beta1: Number,
    beta2: Number,
    epsilon: Number,
    weight_decay: Number,
) -> tuple[Triple, tuple[Triple, Triple, int]]:
    """For every entry: the moments, their bias corrections, and the decayed weight minus the step."""
    first, second, steps = state
    steps += 1
    correction1, correction2 = 1 - power(beta1, steps), sqrt(1 - power(beta2, steps))
    rest1, rest2, decayed = 1 - beta1, 1 - beta2, 1 - learning_rate * weight_decay

    def moved(w: Number, g: Number, m: Number, v: Number) -> tuple[Number, Number, Number]:
        m = total([beta1 * m, rest1 * g])
        v = total([beta2 * v, rest2 * (g * g)])
        step = (m / correction1) / (sqrt(v) / correction2 + epsilon)
        return total([decayed * w, -(learning_rate * step)]), m, v

    results = each(moved, weights, grads, first, second)
    w, m, v = (each(lambda entry, part=part: entry[part], results) for part in range(3))
    return w, (m, v, steps)
