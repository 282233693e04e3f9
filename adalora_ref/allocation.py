"""Who lives: choosing triplets over all matrices at once, masking the others, removing them."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Bool, Float

from adalora_ref.array import Array, device, dtype_name, namespace, promote, require_arrays
from adalora_ref.checks import count, instance
from adalora_ref.factors import Factors, require_factors

Scores = Mapping[str, Float[Array, "_"]]
Masks = dict[str, Bool[Array, "_"]]


def allocate(scores: Scores, budget: int, /, *, cost: Mapping[str, int] | None = None) -> Masks:
    """Keep the *budget* best triplets of all matrices; ties go to the earlier matrix, then to the lower index.

    Parameters
    ----------
    scores
        (r,) for each matrix, in forward order.
    budget
        How many triplets to keep, from 0 to all of them; with *cost*, how many parameters.
    cost
        Parameters per triplet of each matrix, positive. Triplets are then taken best first, stopping at the first
        that does not fit: the budget is never exceeded, and missed by less than that triplet's cost.

    Raises
    ------
    TypeError, ValueError
        If there is no matrix, a score is not finite (the matrix is named), or *budget* or *cost* break their rules.

    Examples
    --------
    >>> import numpy as np
    >>> allocate({"q": np.array([3.0, 1.0]), "v": np.array([1.0, 2.0])}, 3)
    {'q': array([ True,  True]), 'v': array([False,  True])}

    References
    ----------
    Specification (13); paper equation (6). The released code and PEFT use a threshold instead, which drops
    ties: see docs/conventions.md.
    """
    flat = joined(scores)
    xp = namespace(flat)
    costs = None if cost is None else _costs(scores, cost)
    budget = _budget(budget, scores, costs)
    order = xp.argsort(-flat, stable=True)  # (N,), best first
    place = xp.argsort(order, stable=True)  # (N,), each triplet's place in that order
    kept = budget if costs is None else _affordable(scores, costs, budget, order)
    return split(place < kept, scores)


def prune(factors: Factors, keep: Bool[Array, " r"], /) -> Factors:
    """s_i = 0 where *keep* is false; B and A stay, so that the triplet can return.

    Examples
    --------
    >>> import numpy as np
    >>> factors = Factors(np.ones((1, 2)), np.array([5.0, 7.0]), np.ones((2, 1)))
    >>> prune(factors, np.array([True, False])).s
    array([5., 0.])

    References
    ----------
    Specification (14).
    """
    require_keep(factors, keep)
    xp = namespace(*factors, keep)
    B, s, A = factors
    return Factors(B, xp.where(keep, s, xp.zeros_like(s)), A)


def compress(factors: Factors, keep: Bool[Array, " r"], /) -> Factors:
    """Remove the triplets where *keep* is false: column of B, entry of s, row of A.

    The caller carries the scale over: one computed anew from the smaller rank would be another layer.

    Examples
    --------
    >>> import numpy as np
    >>> factors = Factors(np.ones((1, 2)), np.array([5.0, 7.0]), np.ones((2, 1)))
    >>> compress(factors, np.array([False, True])).s
    array([7.])

    References
    ----------
    Specification (15).
    """
    require_keep(factors, keep)
    xp = namespace(*factors, keep)
    (index,) = xp.nonzero(keep)  # (kept,)
    B, s, A = factors
    return Factors(xp.take(B, index, axis=1), xp.take(s, index, axis=0), xp.take(A, index, axis=0))


def joined(scores: Scores) -> Float[Array, "N"]:
    """All scores in one row, in the order of the mapping; refuses what is not finite, naming the matrix."""
    if not isinstance(scores, Mapping):
        raise TypeError(f"scores must be a mapping of matrix names to arrays; got {type(scores).__name__}")
    if not scores:
        raise ValueError("scores of at least one matrix are needed; got none")
    for name, value in scores.items():
        require_arrays(**{f"scores[{name!r}]": value})
        if len(value.shape) != 1:
            raise ValueError(f"the scores of each matrix must be (r,); got {tuple(value.shape)} for {name!r}")
    xp = namespace(*scores.values())
    _, wide = promote(*scores.values())
    flat = xp.concat(wide)  # (N,)
    if not bool(xp.all(xp.isfinite(flat))):
        name, bad = next((n, a[~xp.isfinite(a)]) for n, a in zip(scores, wide, strict=True) if xp.any(~xp.isfinite(a)))
        raise ValueError(f"scores must be finite; got {float(bad[0])} for {name!r}")
    return flat


def split(flat: Bool[Array, "N"], scores: Scores) -> Masks:
    """The inverse of `joined`: one (r,) piece for each matrix."""
    masks, start = {}, 0
    for name, value in scores.items():
        masks[name] = flat[start : start + value.shape[0]]
        start += value.shape[0]
    return masks


def _budget(budget: int, scores: Scores, costs: dict[str, int] | None) -> int:
    whole = sum(value.shape[0] * (1 if costs is None else costs[name]) for name, value in scores.items())
    unit = "triplets" if costs is None else "parameters"
    budget = count("budget", budget)
    if budget > whole:
        raise ValueError(f"budget must be at most all {whole} {unit}; got {budget}")
    if (largest := max([whole, *(costs or {}).values()])) >= 2**63:
        raise ValueError(f"all costs together must be below 2**63; got {largest}")
    return budget


def _costs(scores: Scores, cost: Mapping[str, int]) -> dict[str, int]:
    instance("cost", cost, Mapping)
    if set(cost) != set(scores):
        raise ValueError(f"cost must name the matrices of scores, {list(scores)}; got {list(cost)}")
    return {name: count(f"cost of {name!r}", cost[name], least=1) for name in scores}


def _affordable(scores: Scores, costs: dict[str, int], budget: int, order: Array) -> int:
    """How many triplets, best first, fit into *budget* parameters."""
    xp = namespace(order)
    each = xp.concat(
        [xp.full(v.shape, costs[name], dtype=xp.int64, device=device(order)) for name, v in scores.items()]
    )
    spent = xp.cumulative_sum(xp.take(each, order, axis=0))  # (N,)
    return int(xp.sum(xp.astype(spent <= budget, xp.int64)))


def require_keep(factors: Factors, keep: Array) -> None:
    """Refuse a *keep* that is not boolean (TypeError) or not as long as s (ValueError)."""
    require_factors(factors)
    require_arrays(keep=keep)
    namespace(*factors, keep)
    if dtype_name(keep) != "bool":
        raise TypeError(f"keep must be boolean; got {keep.dtype}")
    if keep.shape != factors.s.shape:
        raise ValueError(f"keep must be (r,), here {tuple(factors.s.shape)}; got {tuple(keep.shape)}")
