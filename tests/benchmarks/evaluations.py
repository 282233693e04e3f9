"""Correct evaluations of every stage that rounds: other orders of sums and products, other formulas, other machines.

An evaluation takes a `Machine`, which decides how to add and to multiply, and the inputs of a case; it returns what the
stage returns. A bound that does not admit one of them is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

import adalora_ref as ref
from adalora_ref.conformance.calls import network
from adalora_ref.conformance.expectations import ADAM
from adalora_ref.factors import Factors, map_factors

Evaluation = Callable[["Machine", dict[str, Any]], Any]


# HOW TO ADD: each takes the terms along the last axis, as products left · right, and what is kept of a result


def one_by_one(left: Any, right: Any, keep: Callable[[Any], Any]) -> Any:
    """From the first term to the last."""
    return reduce(lambda held, term: keep(held + term), np.moveaxis(keep(left * right), -1, 0))


def pairwise(left: Any, right: Any, keep: Callable[[Any], Any]) -> Any:
    """Halves, each summed for itself."""
    middle = left.shape[-1] // 2
    if not middle:
        return keep(left * right)[..., 0]
    halves = (slice(middle), slice(middle, None))
    return keep(sum(pairwise(left[..., half], right[..., half], keep) for half in halves))


def in_blocks(left: Any, right: Any, keep: Callable[[Any], Any]) -> Any:
    """Blocks of three, each summed for itself."""
    starts = range(0, left.shape[-1], 3)
    return reduce(
        lambda held, term: keep(held + term),
        [one_by_one(left[..., k : k + 3], right[..., k : k + 3], keep) for k in starts],
    )


def fused(left: Any, right: Any, keep: Callable[[Any], Any]) -> Any:
    """Fused multiply-add: a product is rounded with the sum. Only float32 has a wider type that holds the product."""
    if left.dtype != np.float32:
        return one_by_one(left, right, keep)
    wide = np.moveaxis(left.astype(np.float64) * right.astype(np.float64), -1, 0)
    return reduce(lambda held, term: keep((held + term).astype(np.float32)), wide, np.zeros(wide.shape[1:], np.float32))


SUMS = (one_by_one, pairwise, in_blocks, fused)


class Machine(NamedTuple):
    """One way to compute: order of terms and factors, way to add, and whether subnormal numbers are flushed."""

    rng: np.random.Generator
    add: Callable[..., Any]
    flushes: bool

    def one_of(self, *choices: Any) -> Any:
        """Any of several correct forms."""
        return choices[self.rng.integers(len(choices))]

    def keep(self, a: Any) -> Any:
        """A result as this machine holds it."""
        return np.where(np.abs(a) < np.finfo(a.dtype).tiny, a * 0, a) if self.flushes else a

    def times(self, *factors: Any) -> Any:
        """A product, its factors in any order."""
        order = self.rng.permutation(len(factors))
        return reduce(lambda held, factor: self.keep(held * factor), [factors[k] for k in order])

    def total(self, terms: Any, right: Any = None) -> Any:
        """A sum over the last axis, of terms or of products."""
        right = np.ones_like(terms) if right is None else right
        terms, right = np.broadcast_arrays(terms, right)
        if not terms.shape[-1]:
            return np.zeros(terms.shape[:-1], terms.dtype)
        order = self.rng.permutation(terms.shape[-1])
        return self.keep(self.add(terms[..., order], right[..., order], self.keep))

    def sum_of(self, *parts: Any) -> Any:
        """A sum of arrays, in any order; None is no term."""
        return self.total(np.stack([part for part in parts if part is not None], axis=-1))

    def product(self, a: Any, b: Any) -> Any:
        """The matrix product a b, each entry in the same order."""
        return self.total(a[:, None, :], b.T[None])

    def flat(self, *factors: Any, axes: int) -> Any:
        """Products of broadcast factors, the last *axes* made one."""
        terms = self.times(*np.broadcast_arrays(*factors))
        return terms.reshape(*terms.shape[:-axes], math.prod(terms.shape[-axes:]))


def rows(a: Any) -> Any:
    """Flatten the leading axes."""
    return None if a is None else a.reshape(-1, a.shape[-1])


def scalar(value: float, like: Any) -> Any:
    """A hyperparameter in the dtype of *like*."""
    return like.dtype.type(value)


# LAYER


def masked(m: Machine, i: dict[str, Any]) -> Any:
    """The input of the adapter."""
    return rows(i["x"]) if i["dropout_mask"] is None else m.keep(rows(i["x"]) * rows(i["dropout_mask"]))


def forward_chain(m: Machine, i: dict[str, Any]) -> Any:
    """Through u = x Aᵀ and z = u s, the scale anywhere."""
    (B, s, A), c = i["factors"], scalar(i["scale"], i["W"])
    u, place = m.product(masked(m, i), A.T), m.rng.integers(3)
    z = m.times(u, s, c) if place == 0 else m.times(u, s)
    low = m.product(z, (m.times(B, c) if place == 1 else B).T)
    bias = None if i["bias"] is None else np.broadcast_to(i["bias"], low.shape)
    return {"y": m.sum_of(m.product(rows(i["x"]), i["W"].T), m.times(low, c) if place == 2 else low, bias)}


def forward_at_once(m: Machine, i: dict[str, Any]) -> Any:
    """As one sum over all monomials."""
    (B, s, A), c, x, h = i["factors"], scalar(i["scale"], i["W"]), rows(i["x"]), masked(m, i)
    frozen = m.times(*np.broadcast_arrays(x[:, None, :], i["W"][None]))
    low = m.flat(h[:, None, None, :], A[None, None], s[None, None, :, None], B[None, :, :, None], c, axes=2)
    terms = [frozen, low]
    if i["bias"] is not None:
        terms.append(np.broadcast_to(i["bias"][None, :, None], (*frozen.shape[:2], 1)))
    return {"y": m.total(np.concatenate(terms, axis=-1))}


def forward_merged(m: Machine, i: dict[str, Any]) -> Any:
    """By W + ΔW, where there is no mask."""
    if i["dropout_mask"] is not None:
        return forward_chain(m, i)
    y = m.product(rows(i["x"]), merge_chain(m, i)["W"].T)
    return {"y": y if i["bias"] is None else m.keep(y + i["bias"])}


def increment_chain(m: Machine, i: dict[str, Any]) -> Any:
    """B, s and the scale first, then A."""
    (B, s, A), c = i["factors"], scalar(i["scale"], i["factors"].s)
    return {"ΔW": m.one_of(lambda: m.product(m.times(B, s, c), A), lambda: m.times(m.product(m.times(B, s), A), c))()}


def increment_at_once(m: Machine, i: dict[str, Any]) -> Any:
    """Each monomial in its own order."""
    (B, s, A), c = i["factors"], scalar(i["scale"], i["factors"].s)
    return {"ΔW": m.total(m.times(*np.broadcast_arrays(B[:, None, :], s, A.T[None], c)))}


def merge_chain(m: Machine, i: dict[str, Any], sign: int = 1) -> Any:
    """W ± ΔW."""
    return {"W": m.keep(i["W"] + sign * m.one_of(increment_chain, increment_at_once)(m, i)["ΔW"])}


def merge_at_once(m: Machine, i: dict[str, Any], sign: int = 1) -> Any:
    """As one sum that begins anywhere."""
    (B, s, A), c = i["factors"], scalar(sign * i["scale"], i["W"])
    paths = m.times(*np.broadcast_arrays(B[:, None, :], s, A.T[None], c))
    return {"W": m.total(np.concatenate([i["W"][..., None], paths], axis=-1))}


def backward_chain(m: Machine, i: dict[str, Any]) -> Any:
    """Through dz and du."""
    (B, s, A), c, dy, h = i["factors"], scalar(i["scale"], i["W"]), rows(i["dy"]), masked(m, i)
    u, dz = m.product(h, A.T), m.times(m.product(dy, B), c)
    du = m.times(dz, s)
    dB = m.one_of(lambda: m.times(m.product(dy.T, m.times(u, s)), c), lambda: m.product(dy.T, m.times(u, s, c)))()
    through = m.product(du, A)
    through = through if i["dropout_mask"] is None else m.keep(through * rows(i["dropout_mask"]))
    dx = m.keep(m.product(dy, i["W"]) + through)
    return {"dx": dx, "d": Factors(dB, m.total(dz.T, u.T), m.product(du.T, h))}


def backward_by_the_weight(m: Machine, i: dict[str, Any]) -> Any:
    """Through D = dyᵀ x, the gradient of a merged weight."""
    (B, s, A), c, dy, h = i["factors"], scalar(i["scale"], i["W"]), rows(i["dy"]), masked(m, i)
    D = m.product(dy.T, h)
    DA, BD = m.product(D, A.T), m.product(B.T, D)
    ds = m.times(m.one_of(lambda: m.total(DA.T, B.T), lambda: m.total(BD, A))(), c)
    dx = backward_chain(m, i)["dx"] if i["dropout_mask"] is not None else m.product(dy, merge_chain(m, i)["W"])
    return {"dx": dx, "d": Factors(m.times(DA, s, c), ds, m.times(BD, s[:, None], c))}


def backward_at_once(m: Machine, i: dict[str, Any]) -> Any:
    """Each gradient as one sum over all indices, as an unoptimised einsum takes it."""
    (B, s, A), c, dy, h = i["factors"], scalar(i["scale"], i["W"]), rows(i["dy"]), masked(m, i)
    dB = m.flat(dy.T[:, None, :, None], h[None, None], A[None, :, None, :], s[None, :, None, None], c, axes=2)
    ds = m.flat(dy[None, :, :, None], B.T[:, None, :, None], h[None, :, None, :], A[:, None, None, :], c, axes=3)
    dA = m.flat(dy[None, None], B.T[:, None, None, :], h.T[None, :, :, None], s[:, None, None, None], c, axes=2)
    frozen = m.times(*np.broadcast_arrays(dy[:, None, :], i["W"].T[None]))
    paths = (dy[:, None, :, None], B[None, None], s[None, None, None, :], A.T[None, :, None, :], c)
    mask = () if i["dropout_mask"] is None else (rows(i["dropout_mask"])[:, :, None, None],)
    dx = m.total(np.concatenate([frozen, m.flat(*paths, *mask, axes=2)], axis=-1))
    return {"dx": dx, "d": Factors(m.total(dB), m.total(ds), m.total(dA))}


# PENALTY


def gap(m: Machine, vectors: Any) -> Any:
    """The Gram matrix of the rows, less the identity, which may come first."""
    products = m.times(*np.broadcast_arrays(vectors[:, None, :], vectors[None]))
    unit = -np.eye(len(vectors), dtype=vectors.dtype)[..., None]
    return m.total(np.concatenate([products, unit], axis=-1))


def norm(m: Machine, Z: Any) -> Any:
    """Of all entries; or of what was divided by the largest, which cannot overflow."""
    largest = np.max(np.abs(Z), initial=0)
    if m.rng.random() < 0.5 or not largest:
        return np.sqrt(m.total(Z.reshape(-1), Z.reshape(-1)))
    scaled = m.keep(Z / largest).reshape(-1)
    return m.keep(largest * np.sqrt(m.total(scaled, scaled)))


def penalty(m: Machine, i: dict[str, Any]) -> Any:
    """Squares of entries or of norms; 4 B Z, or 4 (B Bᵀ B − B)."""
    B, s, A = i["factors"]
    grads = []
    for X in (B.T, A):
        Z, four = gap(m, X), X.dtype.type(4)
        cube = m.one_of(lambda X: m.product(X, m.product(X.T, X)), lambda X: m.product(m.product(X, X.T), X))
        grads.append(m.one_of(m.product, lambda _, X, cube=cube: m.keep(cube(X) - X))(Z, X) * four)
    Z = np.concatenate([gap(m, B.T).reshape(-1), gap(m, A).reshape(-1)])
    norms = [norm(m, gap(m, B.T)), norm(m, gap(m, A))]
    R = m.total(Z, Z) if m.rng.random() < 0.5 else m.keep(norms[0] * norms[0] + norms[1] * norms[1])
    return {"R": np.asarray(R), "d": Factors(grads[0].T, s * 0, grads[1])}


def unsquared(m: Machine, i: dict[str, Any]) -> Any:
    """The gradient divided last, or Z divided first."""
    B, s, A = i["factors"]
    norms, grads = [], []
    for X in (B.T, A):
        Z = gap(m, X)
        length, two = norm(m, Z), X.dtype.type(2)
        norms.append(length)
        divided = m.one_of(lambda Z, X, n: m.product(Z, X) / n, lambda Z, X, n: m.product(m.keep(Z / n), X))
        grads.append(two * divided(Z, X, length) if length else X * 0)
    return {"R": np.asarray(norms[0] + norms[1]), "d": Factors(grads[0].T, s * 0, grads[1])}


# IMPORTANCE


def smoothed(m: Machine, beta: float, old: Any, new: Any) -> Any:
    """As a weighted sum or by interpolation; 1 − β formed in either dtype."""
    b = scalar(beta, old)
    rest = m.one_of(scalar(1 - beta, old), old.dtype.type(1) - b)
    forms = (lambda: m.sum_of(m.times(b, old), m.times(rest, new)), lambda: m.keep(old + m.times(rest, new - old)))
    return m.keep(m.one_of(*forms)())


def averages(m: Machine, i: dict[str, Any]) -> Any:
    """The deviation directly, or as β1 |I − Ī| of the old Ī."""
    mean, deviation = [], []
    for w, g, old, spread in zip(i["weights"], i["grads"], *i["state"], strict=True):
        now = m.keep(abs(w * g))
        mean.append(smoothed(m, i["beta1"], old, now))
        away = m.one_of(m.keep(abs(now - mean[-1])), m.times(scalar(i["beta1"], old), m.keep(abs(now - old))))
        deviation.append(smoothed(m, i["beta2"], spread, away))
    return {"state": ref.Importance(Factors(*mean), Factors(*deviation))}


def scores(m: Machine, i: dict[str, Any]) -> Any:
    """Means by division, by a reciprocal, or entry by entry, in one sum or in three."""
    B, s, A = (m.times(*pair) for pair in zip(*i["state"], strict=True))
    by_division = lambda a: m.keep(m.total(a) / scalar(a.shape[-1], a))  # noqa: E731
    by_reciprocal = lambda a: m.times(m.total(a), scalar(1 / a.shape[-1], a))  # noqa: E731
    mean = m.one_of(by_division, by_reciprocal)
    if m.rng.random() < 0.5:
        return {"S": m.sum_of(s, mean(B.T), mean(A))}
    parts = [s[:, None], *(m.keep(a / scalar(a.shape[-1], a)) for a in (B.T, A))]
    return {"S": m.total(np.concatenate(parts, axis=-1))}


# OPTIMISER AND TRAINING


def adamw(m: Machine, i: dict[str, Any]) -> Any:
    """In the arrangements of torch, of optax, and with the corrections in the rate."""
    lr, decay, t = i["learning_rate"], i["weight_decay"] or 0.0, i["state"].steps + 1
    c1, c2 = 1 - ADAM["beta1"] ** t, 1 - ADAM["beta2"] ** t
    results = []
    for w, g, m1, m2 in zip(i["weights"], i["grads"], *i["state"][:2], strict=True):
        f = w.dtype.type
        first = smoothed(m, ADAM["beta1"], m1, g)
        second = m.sum_of(m.times(f(ADAM["beta2"]), m2), m.times(f(1 - ADAM["beta2"]), g, g))
        root, eps = np.sqrt(second), f(ADAM["epsilon"])
        forms = (
            lambda first=first, root=root, f=f, eps=eps: f(lr / c1) * first / (root / f(c2**0.5) + eps),
            lambda first=first, second=second, f=f, eps=eps: f(lr) * (first / f(c1) / (np.sqrt(second / f(c2)) + eps)),
            lambda first=first, root=root, f=f, eps=eps: f(lr * c2**0.5 / c1) * first / (root + eps * f(c2**0.5)),
        )
        step = m.one_of(*forms)()
        kept = m.one_of(w * f(1 - lr * decay), w - f(lr * decay) * w, w - f(lr) * (f(decay) * w))
        results.append((m.keep(kept - step), first, second))
    weights, first, second = (Factors(*part) for part in zip(*results, strict=True))
    return {"weights": weights, "state": ref.AdamState(first, second, t)}


def permuted_step(m: Machine, i: dict[str, Any]) -> Any:
    """The reference on the same problem with its samples, hidden units and triplets in another order."""
    state, sizes = i["state"], {n: W.shape for n, W in i["weights"].items()}
    first, last = sizes
    hidden = m.rng.permutation(sizes[first][0])
    outer = {first: (hidden, np.arange(sizes[first][1])), last: (np.arange(sizes[last][0]), hidden)}
    inner = {n: m.rng.permutation(f.s.shape[0]) for n, f in state.factors.items()}

    def moved(f: Factors, n: str) -> Factors:
        return Factors(f.B[outer[n][0]][:, inner[n]], f.s[inner[n]], f.A[inner[n]][:, outer[n][1]])

    def back(f: Factors, n: str) -> Factors:
        (out, into), k = (np.argsort(a) for a in outer[n]), np.argsort(inner[n])
        return Factors(f.B[out][:, k], f.s[k], f.A[k][:, into])

    shuffled = [m.rng.permutation(len(x)) for x, _ in i["batch"]]
    given = {
        **i,
        "weights": {n: W[outer[n][0]][:, outer[n][1]] for n, W in i["weights"].items()},
        "biases": {first: i["biases"][first][hidden]},
        "batch": [(x[p], t[p]) for (x, t), p in zip(i["batch"], shuffled, strict=True)],
        "state": _mapped(state, moved, lambda a, n: a[inner[n]]),
    }
    after, report = ref.train_step(given["state"], given["batch"], network(given), given["config"])
    held = {
        name: {n: a[np.argsort(inner[n])] for n, a in getattr(report, name).items()}
        for name in ("revived", "dropped", "penalty_share")
    }
    unmoved = _mapped(after, back, lambda a, n: a[np.argsort(inner[n])])
    return {"state": unmoved, "report": report._replace(**held)}


def _mapped(state: Any, f: Callable[[Factors, str], Factors], mask: Callable[[Any, str], Any]) -> Any:
    """A state with *f* applied to everything of the form of factors, *mask* to the masks."""
    return state._replace(
        factors={n: f(held, n) for n, held in state.factors.items()},
        importance={n: ref.Importance(*(f(a, n) for a in held)) for n, held in state.importance.items()},
        optimizer={n: ref.AdamState(f(h.first, n), f(h.second, n), h.steps) for n, h in state.optimizer.items()},
        masks={n: mask(held, n) for n, held in state.masks.items()},
    )


def unmerge_chain(m: Machine, i: dict[str, Any]) -> Any:
    """W − ΔW."""
    return merge_chain(m, i, -1)


def unmerge_at_once(m: Machine, i: dict[str, Any]) -> Any:
    """As one sum that begins anywhere."""
    return merge_at_once(m, i, -1)


EVALUATIONS: dict[str, Sequence[Evaluation]] = {
    "linear_forward": (forward_chain, forward_at_once, forward_merged),
    "linear_backward": (backward_chain, backward_by_the_weight, backward_at_once),
    "increment": (increment_chain, increment_at_once),
    "merge": (merge_chain, merge_at_once),
    "unmerge": (unmerge_chain, unmerge_at_once),
    "orthogonality_penalty": (penalty,),
    "orthogonality_norm": (unsquared,),
    "update_importance": (averages,),
    "triplet_scores": (scores,),
    "adamw_step": (adamw,),
    "train_step": (permuted_step,),
}
"""Of every stage in which something is rounded, the correct ways to compute it."""


def outputs(evaluate: Evaluation, machine: Machine, i: dict[str, Any]) -> Any:
    """What an evaluation returns, in the shapes of the stage's own results."""
    with np.errstate(all="ignore"):
        result = evaluate(machine, i)
    for name, like in (("y", "dy"), ("dx", "x")):
        if name in result:
            result[name] = result[name].reshape(i[like].shape)
    return result


__all__ = ["EVALUATIONS", "SUMS", "Machine", "map_factors", "outputs"]
