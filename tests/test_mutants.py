"""The kit under test: planted mistakes are killed where they sit, and correct variants are let through."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import adalora_ref as ref
from adalora_ref.cli import main
from adalora_ref.conformance.checking import check_stages
from adalora_ref.conformance.deviations import DEVIATIONS, planted
from adalora_ref.conformance.known import Deviation
from adalora_ref.conformance.mutants import holds, hunt, try_variants
from adalora_ref.conformance.stages import STAGES
from adalora_ref.conformance.target import Target
from adalora_ref.conformance.variants import VARIANTS, Variant
from adalora_ref.conformance.verdict import Verdict
from adalora_ref.convention import SPEC


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_no_correct_variant_fails(variant: Variant) -> None:
    """Another order, library or rounding is correct: no false alarm in a thousand random cases."""
    (trial,) = try_variants([variant], checks=1000, seed=1)
    if trial.absent:
        pytest.skip(trial.absent)
    assert trial.checks >= 1000
    assert [c for row in trial.rows for c in row.checks if c.verdict is Verdict.FAIL] == []


def test_there_are_a_dozen_variants() -> None:
    """At least twelve variants are here, each with a name and a sentence of its own."""
    assert len({v.name for v in VARIANTS}) == len({v.says for v in VARIANTS}) == len(VARIANTS) >= 12


FIRST_OF_EACH_STAGE = list({known.stage: known for known in reversed(DEVIATIONS)}.values())[::-1]


@pytest.mark.parametrize("pair", list(pairwise(FIRST_OF_EACH_STAGE)), ids=lambda pair: f"{pair[0].name}-{pair[1].name}")
def test_two_mistakes_at_once_are_both_found(pair: tuple[Deviation, Deviation]) -> None:
    """With two mistakes planted, the first that departs is the first of the two, and each is named where it sits."""
    stages = [stage for stage in STAGES if {known.stage for known in pair} & set(stage.needs)]
    rows = list(check_stages([Target("two", planted(*pair))], stages, SPEC, cases=12, seed=0))
    failed = [row.stage for row in rows if row.verdict is Verdict.FAIL]
    order = [stage.name for stage in STAGES]
    assert failed[0] == min((known.stage for known in pair), key=order.index)
    diagnoses = {row.stage: row.diagnosis for row in rows}
    for known in pair:
        assert known.stage in failed
        # The backward pass is checked through the target's own forward pass, so a mistake there changes it too.
        if {other.stage for other in pair} != {"linear_forward", "linear_backward"}:
            assert f"`{known.name}`" in diagnoses[known.stage]


def test_a_variant_that_is_wrong_is_no_variant() -> None:
    """A trial of something incorrect counts false alarms, and the kit does not hold."""
    wrong = Variant("wrong", "", SimpleNamespace(triplet_scores=lambda state: 2 * ref.triplet_scores(state)))
    (trial,) = try_variants([wrong], checks=20, seed=0)
    assert trial.false_alarms > 0
    assert not holds((), [trial])


def test_a_mistake_that_is_none_survives() -> None:
    """What computes as the reference does is not killed, and the kit does not hold."""
    (found,) = hunt([Deviation("none", "prune", "nothing is wrong", ref.prune)], cases=6, seed=0)
    assert not found.killed
    assert not holds([found], ())


def test_mistakes_that_cannot_be_told_apart_are_named_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two entries compute the same, the diagnosis names both and says that it cannot tell them apart."""

    def inverted(factors: Any, keep: Any, /) -> Any:
        return ref.prune(factors, np.logical_not(keep))

    twin = Deviation("twin", "prune", "the same in other words", inverted)
    monkeypatch.setattr("adalora_ref.conformance.diagnosis.DEVIATIONS", (*DEVIATIONS, twin))
    (found,) = hunt([twin], cases=12, seed=0)
    assert "matches `prune_is_inverted`, `twin`, which these cases cannot tell apart" in found.own.diagnosis
    assert not found.named


def test_the_command_prints_the_matrix(tmp_path: Path) -> None:
    """`adalora-ref mutants` has a row a mistake with the checks that failed, and writes the matrix as JSON."""
    arguments = ["mutants", "--stage", "prune", "--preset", "quick", "--json", str(tmp_path / "m.json")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    assert "prune_is_inverted" in result.output
    assert "3 of 3 mistakes killed" in result.output
    matrix = json.loads((tmp_path / "m.json").read_text())
    assert {m["name"] for m in matrix["mistakes"]} == {d.name for d in DEVIATIONS if d.stage == "prune"}
    assert all(failed and run for m in matrix["mistakes"] for failed, run in m["failed"].values())
