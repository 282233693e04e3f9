"""Laws of one layer in several forms: merged, pruned, compressed, and cut into shards."""

from __future__ import annotations

from typing import Any

import numpy as np

from adalora_ref.conformance.cases import Inputs
from adalora_ref.factors import Factors
from adalora_ref.laws.asking import Answer, Asked, Triple
from adalora_ref.laws.law import Law
from adalora_ref.laws.layer_cases import (
    BACKWARD,
    FORWARD,
    cut,
    given,
    layers,
    weight_of,
    with_keep,
    with_more_ranks,
)
from adalora_ref.laws.measured import equal, exact, plain

# ONE LAYER, SEVERAL FORMS


def forward_is_merged(it: Asked, case: Inputs) -> None:
    """Without a mask the layer is one matrix: y = x (W + ΔW)ᵀ + b."""
    y, V = it("linear_forward", given(case, dropout_mask=None)).y, it("increment", weight_of(case)).ΔW
    whole = exact(case["x"]) @ (exact(case["W"]) + V).T
    equal("y", y, "x (W + ΔW)ᵀ + b", whole if case["bias"] is None else whole + exact(case["bias"]))


def merging_adds_the_increment(it: Asked, case: Inputs) -> None:
    """merge(W) = W + ΔW."""
    merged, V = it("merge", weight_of(case)).W, it("increment", weight_of(case)).ΔW
    equal("merge(W)", merged, "W + ΔW", exact(case["W"]) + V)


def merge_then_unmerge(it: Asked, case: Inputs) -> None:
    """What was merged is taken out again: unmerge(merge(W)) = W."""
    merged = it("merge", weight_of(case))
    taken = it("unmerge", weight_of(case, W=merged.host["[W]"])).W
    # `taken` is exact at what merge returned, which lies off W + ΔW by the bound of merge.
    equal("unmerge(merge(W))", taken + (merged.W - plain(merged.W)), "W", exact(case["W"]))


def pruned_is_compressed(it: Asked, case: Inputs) -> None:
    """At a given scale, pruned factors and compressed ones are the same layer."""
    masked, fewer = (it(name, _masked(case)).factors() for name in ("prune", "compress"))
    a, b = (it("linear_forward", given(case, factors=held)).y for held in (masked, fewer))
    equal("y of the pruned", a, "y of the compressed", b)


def prune_then_compress(it: Asked, case: Inputs) -> None:
    """Pruning first changes nothing for who stays: compress(prune(f, k), k) = compress(f, k)."""
    both = it("compress", {"factors": it("prune", _masked(case)).factors(), "keep": case["keep"]})
    once = it("compress", _masked(case))
    for part, a, b in zip("BsA", _parts(both), _parts(once), strict=True):
        equal(f"{part}, pruned and compressed", a, f"{part}, compressed", b)


def pruning_spares_B_and_A(it: Asked, case: Inputs) -> None:
    """Pruning takes s alone, so that a triplet can return: B and A stay, s_i = 0 where dropped."""
    (B, s, A), (B0, s0, A0) = _parts(it("prune", _masked(case))), map(exact, case["factors"])
    equal("B of the pruned", B, "B", B0)
    equal("A of the pruned", A, "A", A0)
    equal("s of the pruned", s, "s where kept, else 0", s0 * case["keep"].astype(int))


def _masked(case: Inputs) -> Inputs:
    return {"factors": case["factors"], "keep": case["keep"]}


def _parts(answer: Answer) -> Triple:
    return Triple(*answer["factors"])


# SHARDS


def _shard(case: Inputs, rows: Any) -> Inputs:
    mask = case["dropout_mask"]
    return given(case, x=case["x"][rows], dy=case["dy"][rows], dropout_mask=None if mask is None else mask[rows])


def splitting_a_batch(it: Asked, case: Inputs) -> None:
    """The gradients of two parts of a batch add up to the batch's: dB = dB₁ + dB₂, ds and dA alike; dx is stacked."""
    at = case["cut"]
    whole, first, second = (
        it("linear_backward", c) for c in (given(case), _shard(case, slice(None, at)), _shard(case, slice(at, None)))
    )
    equal("dx", whole.dx, "dx₁ over dx₂", np.concatenate([first.dx, second.dx]))
    for part, a, b, c in zip("BsA", whole.d, first.d, second.d, strict=True):
        equal(f"d{part}", a, f"d{part}₁ + d{part}₂", b + c)


def data_parallel(it: Asked, case: Inputs) -> None:
    """Workers with one sample each, their gradients added up, have the gradients of the whole batch."""
    whole = it("linear_backward", given(case)).d
    shards = [it("linear_backward", _shard(case, slice(i, i + 1))).d for i in range(case["x"].shape[0])]
    for part, a, *parts in zip("BsA", whole, *shards, strict=True):
        equal(f"d{part}", a, f"Σ d{part} over workers", sum(parts))


def column_parallel(it: Asked, case: Inputs) -> None:
    """Shards of the output rows of W, B, b and dy: y and dB are stacked, ds, dA and dx add up."""
    at, (B, s, A), b = case["cut"], case["factors"], case["bias"]
    parts = [
        given(case, W=case["W"][j], factors=Factors(B[j], s, A), bias=None if b is None else b[j], dy=case["dy"][:, j])
        for j in (slice(None, at), slice(at, None))
    ]
    y = it("linear_forward", given(case)).y
    equal("y", y, "y₁ beside y₂", np.concatenate([it("linear_forward", c).y for c in parts], axis=1))
    whole, first, second = (it("linear_backward", c) for c in (given(case), *parts))
    equal("dB", whole.d.B, "dB₁ over dB₂", np.concatenate([first.d.B, second.d.B]))
    equal("ds", whole.d.s, "ds₁ + ds₂", first.d.s + second.d.s)
    equal("dA", whole.d.A, "dA₁ + dA₂", first.d.A + second.d.A)
    equal("dx", whole.dx, "dx₁ + dx₂", first.dx + second.dx)


def row_parallel(it: Asked, case: Inputs) -> None:
    """Shards of the input columns of x, W and A: y, dB and ds add up, the bias once; dA and dx are stacked."""
    at, (B, s, A), mask = case["cut"], case["factors"], case["dropout_mask"]
    parts = [
        given(case, x=case["x"][:, i], W=case["W"][:, i], factors=Factors(B, s, A[:, i]),
              dropout_mask=None if mask is None else mask[:, i], bias=bias)
        for i, bias in ((slice(None, at), case["bias"]), (slice(at, None), None))
    ]  # fmt: skip
    y = it("linear_forward", given(case)).y
    equal("y", y, "y₁ + y₂", sum(it("linear_forward", c).y for c in parts))
    whole, first, second = (it("linear_backward", c) for c in (given(case), *parts))
    equal("dB", whole.d.B, "dB₁ + dB₂", first.d.B + second.d.B)
    equal("ds", whole.d.s, "ds₁ + ds₂", first.d.s + second.d.s)
    equal("dA", whole.d.A, "dA₁ beside dA₂", np.concatenate([first.d.A, second.d.A], axis=1))
    equal("dx", whole.dx, "dx₁ beside dx₂", np.concatenate([first.dx, second.dx], axis=1))


def concatenating_ranks(it: Asked, case: Inputs) -> None:
    """Triplets add up: the increment of two sets of triplets side by side is the sum of their increments."""
    (B, s, A), (C, t, D) = case["factors"], case["more"]
    both = Factors(np.concatenate([B, C], axis=1), np.concatenate([s, t]), np.concatenate([A, D]))
    whole, first, second = (
        it("increment", weight_of(case, factors=held)).ΔW for held in (both, case["factors"], case["more"])
    )
    equal("ΔW of both", whole, "ΔW₁ + ΔW₂", first + second)


def forward_concatenates_ranks(it: Asked, case: Inputs) -> None:
    """Triplets add up in the forward pass too: y(f ∪ g) + y(∅) = y(f) + y(g)."""
    (B, s, A), (C, t, D) = case["factors"], case["more"]
    both = Factors(np.concatenate([B, C], axis=1), np.concatenate([s, t]), np.concatenate([A, D]))
    none = Factors(B[:, :0], s[:0], A[:0])
    whole, bare, first, second = (
        it("linear_forward", given(case, factors=held)).y for held in (both, none, case["factors"], case["more"])
    )
    equal("y(f ∪ g) + y(∅)", whole + bare, "y(f) + y(g)", first + second)


FORM_LAWS: tuple[Law, ...] = (
    Law(forward_is_merged, ("linear_forward", "increment"), layers, "scale_is_not_applied"),
    Law(merging_adds_the_increment, ("merge", "increment"), layers, "merge_lacks_s"),
    Law(merge_then_unmerge, ("merge", "unmerge"), layers, "unmerge_adds"),
    Law(pruned_is_compressed, ("prune", "compress", "linear_forward"), with_keep, "prune_does_nothing"),
    Law(prune_then_compress, ("prune", "compress"), with_keep, "prune_is_inverted"),
    Law(pruning_spares_B_and_A, ("prune",), with_keep, "prune_zeroes_all_three"),
    Law(splitting_a_batch, BACKWARD, cut("n"), "gradients_are_averaged"),
    Law(data_parallel, BACKWARD, layers, "ds_is_averaged"),
    Law(column_parallel, BACKWARD, cut("d_out"), "dB_rows_are_reversed"),
    Law(row_parallel, BACKWARD, cut("d_in"), "A_is_reshaped"),
    Law(concatenating_ranks, ("increment",), with_more_ranks, "increment_is_divided_by_the_rank"),
    Law(forward_concatenates_ranks, FORWARD, with_more_ranks, "rank_plus_epsilon_in_scale"),
)  # fmt: skip
