"""A verdict with one of each thing that a verdict can say."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

from adalora_ref.conformance.bad_input import Handed
from adalora_ref.conformance.findings import Finding, Kind, Observed
from adalora_ref.conformance.report import Report
from adalora_ref.conformance.verdict import Check, Divergence, Growth, Verdict, row

DEPARTED = Divergence("scores[q.proj]", (1, 2), 0.25, 0.5, 1e-15, 2.5e14, 4.5e15)
EXACT = Divergence("ranknum[layer0][value]", (), 3, 4, 0.0, math.inf, math.nan)
MASKED = Divergence("masks[q]", (0,), False, True, 0.0, math.inf, math.nan)


def of_case(stage: str, case: int, verdict: Verdict, ratio: float = 0.0, dtype: str = "float64", **more: Any) -> Check:
    return Check(stage, f"{stage}/{dtype}/0/{case}", "numpy", dtype, verdict, ratio, **more)


def of_step(stage: str, step: int, verdict: Verdict, ratio: float = 0.0, lane: str = "float64", **more: Any) -> Check:
    return Check(stage, f"{lane}/step {step}", "torch", "float64", verdict, ratio, **more)


def everything() -> Report:
    """A verdict with one of each thing that a verdict can say."""
    merge = [
        of_case("merge", case, Verdict.PASS, case / tenth, dtype)
        for dtype, tenth in zip(DTYPES, (20, 10), strict=True)
        for case in range(3)
    ]
    scores = [
        of_case("triplet_scores", 0, Verdict.PASS, 0.004),
        of_case("triplet_scores", 1, Verdict.FAIL, 2.5e14, divergence=DEPARTED),
        of_case("triplet_scores", 1, Verdict.WARN, 0.97, "float32"),
    ]
    known = [of_case("prune", 0, Verdict.KNOWN, 12.0, known="it is old", link="issue 7")]
    unsure = [of_case("allocate", 2, Verdict.INCONCLUSIVE, reason="two are right")]
    absent = [of_case("compress", case, Verdict.NOT_RUN, reason="the target has no compress") for case in range(3)]
    partly = [of_case("unmerge", 0, Verdict.PASS), of_case("unmerge", 1, Verdict.NOT_RUN, reason="no bias")]
    run = [
        of_step("budget_at", step, Verdict.PASS, lane=lane) for lane in ("float64", "float64/ties") for step in (0, 1)
    ]
    sums = [
        of_step("ranknum", 0, Verdict.PASS),
        of_step("ranknum", 1, Verdict.FAIL, math.inf, divergence=EXACT),
        of_step("weights", 1, Verdict.FAIL, math.inf, reason="weights must have shape (2,)"),
        of_step("masks", 1, Verdict.FAIL, math.inf, divergence=MASKED),
    ]
    rows = (
        row("merge", "W + ΔW", merge),
        row("triplet_scores", "S = <s>", scores, lambda: "matches `scores_of_s_alone` in all")._replace(
            conventions=("PEFT",), reproduction="python repro.py", note="a note"
        ),
        *(row(checks[0].stage, "equation", checks) for checks in (known, unsure, absent, partly, run)),
        row("update", "start, then update", [Check("update", "float64", "torch", "float64", Verdict.PASS)]),
        row("train_step as shipped", "Algorithm 1", sums, lambda: "ranknum departs first")._replace(
            growth=(Growth("float64", 0, 0.0), Growth("float64", 9, 1e-7))
        ),
    )
    findings = tuple(
        Finding(f"f{i}", kind, "It breaks.", "a.py", "", observed, "1", "2", "", "print(1 < 2)\n", "python f.py")
        for i, (kind, observed) in enumerate(product(Kind, Observed))
    )
    handed = (Handed("prune", "a mask of 0 and 1", ""), Handed("prune", "one entry", "ValueError: no"))
    return Report("mine:Mine", "SPEC", "quick", 3, rows, 1, findings, ("prune no longer fails",), ("merge",), handed)


DTYPES = ("float64", "float32")
