"""The installed PEFT: each of its stages, its recorded run, and that mistakes planted in it are seen."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import adalora_ref as ref
from adalora_ref import convention
from adalora_ref.conformance import cases, oracles, peft_run, peft_target
from adalora_ref.conformance.cases import Draw, Inputs
from adalora_ref.conformance.lifting import evaluate, ratio
from adalora_ref.conformance.peft_target import PeftTarget
from adalora_ref.conformance.target import CannotExpress, TargetError, leaves, on_host
from adalora_ref.conformance.verdict import Expected, Row, Verdict

DTYPES = ("float32", "float64")


def drawn(draw: Callable[[Draw], Inputs], dtype: str, index: int) -> Inputs:
    """Return the arguments of a canonical case."""
    return draw(Draw(np.random.default_rng([index, len(dtype)]), dtype, index))


def rows(a: Any) -> Any:
    """Flatten leading axes, as the oracles take them."""
    return None if a is None else a.reshape(-1, a.shape[-1])


def worst(got: Any, want: dict[str, Expected]) -> float:
    """Return the largest ratio of error to bound; other names or dtypes than expected, or nothing at all, fail."""
    held = {path: on_host(value) for path, value in leaves(got)}
    assert held.keys() == want.keys()
    assert {path: value.dtype.name for path, value in held.items()} == {path: e.dtype for path, e in want.items()}
    return max(float(np.max(ratio(value, want[path]), initial=0.0)) for path, value in held.items())


# EACH STAGE


def forward(peft: PeftTarget, i: Inputs) -> tuple[Any, Any]:
    """Run PEFT's layer on a case."""
    return peft.linear_forward(
        i["x"], i["W"], i["factors"], scale=i["scale"], bias=i["bias"], dropout_mask=i["dropout_mask"]
    )


def of_forward(peft: PeftTarget, i: Inputs, dtype: str) -> float:
    y, _ = forward(peft, i)
    options = {"scale": i["scale"], "bias": i["bias"], "dropout_mask": rows(i["dropout_mask"])}
    return worst(
        y, evaluate(oracles.linear_forward, rows(i["x"]), i["W"], i["factors"], **options, working=dtype, like=y)
    )


def of_backward(peft: PeftTarget, i: Inputs, dtype: str) -> float:
    got, own = peft.linear_backward(i["dy"], forward(peft, i)[1]), (rows(i["dy"]), rows(i["x"]), i["W"], i["factors"])
    assert got[0].shape == i["x"].shape
    options = {"scale": i["scale"], "dropout_mask": rows(i["dropout_mask"])}
    return worst(got, evaluate(oracles.linear_backward, *own, **options, working=dtype, like=got))


def of_weight(name: str) -> Callable[[PeftTarget, Inputs, str], float]:
    def of(peft: PeftTarget, i: Inputs, dtype: str) -> float:
        got = getattr(peft, name)(i["W"], i["factors"], scale=i["scale"])
        want = evaluate(getattr(oracles, name), i["W"], i["factors"], scale=i["scale"], working=dtype, like=i["W"])
        return worst(got, want)

    return of


def of_increment(peft: PeftTarget, i: Inputs, dtype: str) -> float:
    options = {"scale": i["scale"], "d_in": i["W"].shape[1], "working": dtype, "like": i["W"]}
    return worst(peft.increment(i["factors"], scale=i["scale"]), evaluate(oracles.increment, i["factors"], **options))


def of_norm(peft: PeftTarget, i: Inputs, dtype: str) -> float:
    got = peft.orthogonality_norm(i["factors"])
    assert got[0].shape == ()
    return worst(got, evaluate(oracles.orthogonality_norm, i["factors"], working=dtype, like=got))


def of_start(peft: PeftTarget, i: Inputs, dtype: str) -> float:
    start = ref.init_importance(i["weights"])
    return worst(peft.init_importance(i["weights"]), evaluate(lambda held: held, start, working=dtype, like=start))


def of_update(peft: PeftTarget, i: Inputs, dtype: str) -> float:
    betas, own = {"beta1": 0.85, "beta2": 0.75}, (i["state"], i["weights"], i["grads"])
    want = evaluate(oracles.update_importance, *own, **betas, working=dtype, like=i["state"])
    return worst(peft.update_importance(*own, **betas), want)


def of_scores(peft: PeftTarget, i: Inputs, dtype: str) -> float:
    like = i["state"].sensitivity.s
    return worst(
        peft.triplet_scores(i["state"]), evaluate(oracles.triplet_scores, i["state"], working=dtype, like=like)
    )


def of_masked(name: str) -> Callable[[PeftTarget, Inputs, str], float]:
    def of(peft: PeftTarget, i: Inputs, dtype: str) -> float:
        like = getattr(ref, name)(i["factors"], i["keep"])
        want = evaluate(getattr(oracles, name), i["factors"], i["keep"], working=dtype, like=like)
        return worst(getattr(peft, name)(i["factors"], i["keep"]), want)

    return of


STAGES: dict[str, tuple[Callable[[Draw], Inputs], Callable[[PeftTarget, Inputs, str], float]]] = {
    "linear_forward": (cases.linear, of_forward),
    "linear_backward": (cases.linear, of_backward),
    "increment": (cases.weight, of_increment),
    "merge": (cases.weight, of_weight("merge")),
    "unmerge": (cases.weight, of_weight("unmerge")),
    "orthogonality_norm": (cases.factors, of_norm),
    "init_importance": (cases.importance, of_start),
    "update_importance": (cases.importance, of_update),
    "triplet_scores": (cases.importance, of_scores),
    "prune": (cases.masked, of_masked("prune")),
    "compress": (cases.masked, of_masked("compress")),
}


def ratio_of(name: str, dtype: str, indices: range = range(24)) -> float:
    """Return the largest ratio of PEFT's error to its bound over the canonical cases of a stage."""
    draw, of = STAGES[name]
    return max(of(PeftTarget(), drawn(draw, dtype, index), dtype) for index in indices)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", STAGES)
def test_peft_stays_within_the_rounding_error(name: str, dtype: str) -> None:
    """Every element of every stage of PEFT lies within its bound of the 50-digit value."""
    assert ratio_of(name, dtype) <= 1.0


def test_the_schedule_is_that_of_the_convention() -> None:
    """Budget and allocation steps of PEFT are those of the convention PEFT, at every step of every schedule."""
    peft, seen = PeftTarget(), 0
    for index in range(24):
        i = drawn(cases.schedule, "float64", index)
        for step in i["steps"]:
            assert peft.budget_at(i["schedule"], step) == convention.PEFT.budget(i["schedule"], step)
            assert peft.allocates_at(i["schedule"], step) == convention.PEFT.allocates(i["schedule"], step)
            seen += 1
    assert seen > 500


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_masks_are_those_of_the_convention(dtype: str) -> None:
    """PEFT keeps what the convention PEFT keeps, over matrices of several ranks, ties included."""
    compared = 0
    for index in range(30):
        scores = drawn(cases.scores, dtype, index)["scores"]
        for budget in range(sum(s.shape[0] for s in scores.values())):
            got, want = PeftTarget().allocate(scores, budget), convention.PEFT.allocate(scores, budget)
            assert {n: m.tolist() for n, m in got.items()} == {n: m.tolist() for n, m in want.items()}
            assert all(mask.dtype == bool for mask in got.values())
            compared += 1
    assert compared > 100


def test_peft_raises_where_a_mask_would_keep_everything() -> None:
    """Where N − b is 0 the convention keeps all; PEFT raises, and the target hides nothing of it."""
    scores = {"q": np.array([1.0, 2.0])}
    assert convention.PEFT.allocate(scores, 2)["q"].all()
    with pytest.raises(RuntimeError, match="kthvalue"):
        PeftTarget().allocate(scores, 2)


def test_what_peft_has_no_way_to_say() -> None:
    """A cost, and a β of 0, are calls that PEFT cannot express."""
    i = drawn(cases.importance, "float64", 1)
    own = (i["state"], i["weights"], i["grads"])
    with pytest.raises(CannotExpress, match="cost"):
        PeftTarget().allocate({"q": np.ones(2)}, 1, cost={"q": 1})
    for betas in ({"beta1": 0.0, "beta2": 0.5}, {"beta1": 0.5, "beta2": 0.0}):
        with pytest.raises(CannotExpress, match="between 0 and 1"):
            PeftTarget().update_importance(*own, **betas)


def test_a_cache_belongs_to_its_own_forward_pass() -> None:
    """Another forward pass in between changes no backward pass, and a backward pass can be repeated."""
    peft = PeftTarget()
    one, two = drawn(cases.linear, "float64", 1), drawn(cases.linear, "float64", 2)
    _, cache = forward(peft, one)
    first = dict(leaves(peft.linear_backward(one["dy"], cache)))
    forward(peft, two)
    again = dict(leaves(peft.linear_backward(one["dy"], cache)))
    assert first.keys() == again.keys() == {"[0]", "[1].B", "[1].s", "[1].A"}
    assert all(np.array_equal(first[path], again[path]) for path in first)


def test_inputs_stay_as_they_are() -> None:
    """No call changes an array that it was given."""
    for draw, of in STAGES.values():
        i = drawn(draw, "float64", 1)
        before = {path: on_host(value).tobytes() for path, value in leaves(i)}
        of(PeftTarget(), i, "float64")
        assert {path: on_host(value).tobytes() for path, value in leaves(i)} == before


# THE RUN


def by_name(base: str, *, frozen: bool) -> dict[str, Row]:
    """Return the rows of a recorded run."""
    found = {row.stage: row for row in peft_run.check_run(base, freeze_ranknum=frozen)}
    assert found.keys() == peft_run.EQUATIONS.keys()
    return found


@pytest.mark.parametrize(("base", "frozen"), peft_run.LANES)
def test_every_stage_of_the_run_agrees_from_its_own_inputs(base: str, frozen: bool) -> None:  # noqa: FBT001
    """From PEFT's own inputs only `ranknum`, and what it spoils, departs; a bfloat16 base leaves sums undecided."""
    spoilt = {"ranknum", "scale", "clip"} if base != "float32" and not frozen else set()
    undecided = {"objective", "gradient"} if base == "bfloat16" else set()
    for name, row in by_name(base, frozen=frozen).items():
        expected = Verdict.FAIL if name in spoilt else Verdict.INCONCLUSIVE if name in undecided else Verdict.PASS
        assert row.verdict is expected, (name, row.first_failure)
        assert row.run >= 2 * 5, name


@pytest.mark.parametrize("base", ["float64", "bfloat16"])
def test_a_trained_ranknum_is_named_first(base: str) -> None:
    """As shipped, a base that is not float32 has `ranknum` trained: that departs at step 0, and the scale at step 1."""
    run = peft_run.record(base, freeze_ranknum=False)
    failed = [check for check in peft_run.run_checks(run) if check.verdict is Verdict.FAIL]
    assert failed[0].divergence is not None
    assert (failed[0].stage, failed[0].divergence.quantity) == ("ranknum", "ranknum[layer0][requires_grad]")
    assert failed[0].case == f"{base}/shipped/step 0"
    drifted = next(check for check in failed if check.stage == "scale")
    assert drifted.case == f"{base}/shipped/step 1"


def test_one_row_for_each_lane() -> None:
    """The verdict has a row for each base and state of `ranknum`; where it fails, its diagnosis shows the drift."""
    lanes = {row.stage: row for row in peft_run.run_rows()}
    assert {name: row.verdict for name, row in lanes.items()} == {
        "train_step on float32, ranknum as shipped": Verdict.PASS,
        "train_step on float64, ranknum as shipped": Verdict.FAIL,
        "train_step on float64, ranknum frozen": Verdict.PASS,
        "train_step on bfloat16, ranknum as shipped": Verdict.FAIL,
        "train_step on bfloat16, ranknum frozen": Verdict.PASS,
    }
    for row in lanes.values():
        assert ("ranknum departs first" in row.diagnosis) == (row.verdict is Verdict.FAIL)
        assert ("layer0 4 → 3.7" in row.diagnosis) == (row.verdict is Verdict.FAIL)


def test_ours_runs_beside_it() -> None:
    """In float64, ranknum frozen, both runs differ by rounding alone to the end; as shipped they part at once."""
    grown = {frozen: peft_run.growth(peft_run.record("float64", freeze_ranknum=frozen)) for frozen in (True, False)}
    assert [g.step for g in grown[True]] == list(range(peft_run.CONFIG.schedule.total))
    assert 0 < max(g.relative for g in grown[True]) < 2.0**-45
    assert min(g.relative for g in grown[False][1:]) > 2.0**-20


def test_the_run_uses_all_that_it_is_about() -> None:
    """It is clipped and not clipped while it estimates, allocates by schedule and by force, drops, and fine-tunes."""
    steps = [held.run for held in peft_run.record("float64", freeze_ranknum=True).steps]
    schedule = peft_run.CONFIG.schedule
    same = [np.array_equal(s.gradient["layer0"].B, s.clipped["layer0"].B) for s in steps[: schedule.end_of_pruning]]
    assert True in same
    assert False in same
    assert [s.number for s in steps if s.scores] == [4, 6, 8, 10, 11]
    assert schedule.end_of_pruning % schedule.interval
    assert sum(int(mask.sum()) for mask in steps[-1].masks.values()) == schedule.target


# MISTAKES PLANTED IN PEFT


def added(allocator: Any, name: str) -> Any:
    """Score by Ī + Ū."""
    return allocator.exp_avg_ipt[name] + allocator.exp_avg_unc[name]


def planted(monkeypatch: pytest.MonkeyPatch, owner: str, method: str, spoil: Callable[..., Any]) -> None:
    """Replace a method of one of PEFT's classes by *spoil*, which is given the true one first."""
    from peft.tuners import adalora

    held = getattr(adalora, owner)
    true = getattr(held, method)
    monkeypatch.setattr(held, method, lambda *args, **options: spoil(true, *args, **options))


PLANTED: dict[str, tuple[str, str, Callable[..., Any]]] = {
    "linear_forward": ("SVDLinear", "forward", lambda true, layer, x: true(layer, x) * (1 + 2.0**-18)),
    "linear_backward": ("SVDLinear", "forward", lambda true, layer, x: true(layer, 2 * x - x.detach())),
    "increment": ("SVDLinear", "get_delta_weight", lambda true, *a: true(*a) * 1.00001),
    "merge": ("SVDLinear", "get_delta_weight", lambda true, *a: -true(*a)),
    "unmerge": ("SVDLinear", "get_delta_weight", lambda true, *a: -true(*a)),
    "update_importance": ("RankAllocator", "update_ipt", lambda true, *a: (true(*a), true(*a))),
    "triplet_scores": ("RankAllocator", "_element_score", lambda true, allocator, name: added(allocator, name)),
    "prune": ("RankAllocator", "mask_using_rank_pattern", lambda true, *a: None),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_mistake_planted_in_peft_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What PEFT's own classes compute is what is judged: spoil one, and its stage leaves the bound."""
    planted(monkeypatch, *PLANTED[name])
    assert ratio_of(name, "float64", range(1, 5)) > 1.0


RUN_MISTAKES: dict[str, tuple[str, str, Callable[..., Any]]] = {
    "gradient": ("SVDLinear", "forward", lambda true, layer, x: true(layer, 2 * x - x.detach())),
    "update_importance": ("RankAllocator", "update_ipt", lambda true, *a: (true(*a), true(*a))),
    "budget_at": ("RankAllocator", "budget_schedule", lambda true, a, step: (true(a, step + 1)[0], true(a, step)[1])),
    "allocates_at": ("RankAllocator", "budget_schedule", lambda true, a, step: (true(a, step)[0], step == 5)),
    "triplet_scores": ("RankAllocator", "_element_score", lambda true, allocator, name: added(allocator, name)),
    "prune": ("RankAllocator", "mask_using_rank_pattern", lambda true, *a: None),
}


@pytest.mark.parametrize("name", RUN_MISTAKES)
def test_a_mistake_planted_in_the_run_is_named_first(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first check that fails is that of the stage where the mistake is."""
    planted(monkeypatch, *RUN_MISTAKES[name])
    peft_run.record.cache_clear()
    try:
        checks = peft_run.run_checks(peft_run.record("float64", freeze_ranknum=True))
    finally:
        peft_run.record.cache_clear()
    assert next(check.stage for check in checks if check.verdict is Verdict.FAIL) == name


def test_a_missing_peft_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torch or PEFT the module still imports, and the target says which extra has them."""
    for missing in ("torch", "peft"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, missing, None)
            peft_target.peers.cache_clear()
            with pytest.raises(TargetError, match=r"pip install '\.\[peers\]' in a checkout"):
                PeftTarget()
    peft_target.peers.cache_clear()
