"""The kit, tested: every known mistake planted and hunted, every correct variant let through."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from adalora_ref.array import backend
from adalora_ref.conformance.checking import check_stages
from adalora_ref.conformance.deviations import DEVIATIONS, planted
from adalora_ref.conformance.known import Deviation
from adalora_ref.conformance.report import unwrapped, write_text
from adalora_ref.conformance.stages import STAGES
from adalora_ref.conformance.target import Target
from adalora_ref.conformance.variants import VARIANTS, Variant
from adalora_ref.conformance.verdict import Row, Verdict
from adalora_ref.convention import SPEC

NAMED = 0.95
"""The least share of the mistakes that the diagnosis must name."""


class Hunt(NamedTuple):
    """What became of one planted mistake: a row for each stage that calls the function it sits in."""

    mistake: Deviation
    rows: tuple[Row, ...]

    @property
    def own(self) -> Row:
        """The stage that the entry names."""
        return next(row for row in self.rows if row.stage == self.mistake.stage)

    @property
    def killed(self) -> bool:
        """Whether that stage failed."""
        return self.own.verdict is Verdict.FAIL

    @property
    def counts(self) -> bool:
        """Whether it is a mistake, and none that only looks like one."""
        return not self.mistake.equivalent

    @property
    def named(self) -> bool:
        """Whether the diagnosis names the entry and no other."""
        return self.own.diagnosis.startswith(f"matches `{self.mistake.name}` in all ")


class Trial(NamedTuple):
    """What became of one correct variant: its rows, or why it could not be tried."""

    variant: Variant
    rows: tuple[Row, ...]
    absent: str = ""

    @property
    def checks(self) -> int:
        """How many checks ran."""
        return sum(row.run for row in self.rows)

    @property
    def false_alarms(self) -> int:
        """How many of them failed."""
        return sum(check.verdict is Verdict.FAIL for row in self.rows for check in row.checks)


def hunt(
    mistakes: Sequence[Deviation] = DEVIATIONS, *, cases: int, seed: int, dtypes: Sequence[str] = ()
) -> Iterator[Hunt]:
    """Plant each of *mistakes* in the reference and run every stage that calls the function it sits in."""
    for mistake in mistakes:
        stages = [stage for stage in STAGES if mistake.stage in stage.needs]
        target = Target(mistake.name, planted(mistake))
        yield Hunt(mistake, tuple(check_stages([target], stages, SPEC, dtypes=dtypes, cases=cases, seed=seed)))


def try_variants(variants: Sequence[Variant] = VARIANTS, *, checks: int, seed: int) -> Iterator[Trial]:
    """Run at least so many checks, in all, on each of *variants*."""
    for variant in variants:
        target = Target(variant.name, variant.held, variant.library)
        try:
            backend(variant.library)
        except RuntimeError as error:
            yield Trial(variant, (), str(error))
            continue
        stages = [stage for stage in STAGES if all(target.function(name) for name in stage.needs)]
        cases = -(-checks // (len(stages) * len(target.usable_dtypes)))
        rows = tuple(check_stages([target], stages, SPEC, cases=2 * cases, seed=seed))
        yield Trial(variant, rows)


def holds(hunts: Sequence[Hunt], trials: Sequence[Trial]) -> bool:
    """Whether every mistake was killed, enough of them were named, and nothing that is right was failed."""
    counted = [h for h in hunts if h.counts]
    named = sum(h.named for h in counted) >= NAMED * len(counted)
    return named and all(h.killed is h.counts for h in hunts) and not any(t.false_alarms for t in trials)


# WHAT IS SHOWN


def show(hunts: Sequence[Hunt], trials: Sequence[Trial], console: Console) -> None:
    """Print the kill matrix, the variants, and what they come to."""
    console.print(unwrapped(_matrix(hunts), console), soft_wrap=True)
    if trials:
        console.print(unwrapped(_variants(trials), console), soft_wrap=True)
    counted = [h for h in hunts if h.counts]
    killed, named = sum(h.killed for h in counted), sum(h.named for h in counted)
    alarms, checks = sum(t.false_alarms for t in trials), sum(t.checks for t in trials)
    console.print(f"\n{killed} of {len(counted)} mistakes killed at the stage that their entry names")
    console.print(f"{named} of {len(counted)} named by the diagnosis, and by that name alone")
    for unnamed in (h for h in counted if h.killed and not h.named):
        console.print(Text(f"{unnamed.mistake.name}: {unnamed.own.diagnosis or 'no diagnosis'}"), soft_wrap=True)
    if len(counted) < len(hunts):
        console.print(f"{len(hunts) - len(counted)} more are equivalent, and not counted")
    for line in (f"{t.variant.name} was not tried: {t.absent}" for t in trials if t.absent):
        console.print(Text(line), soft_wrap=True)
    tried = sum(not t.absent for t in trials)
    if trials:
        console.print(f"{alarms} false alarms in {checks} checks of {tried} correct variants")
    held = holds(hunts, trials)
    console.print(Text("the kit holds" if held else "the kit does not hold", style="green" if held else "bold red"))


def _matrix(hunts: Iterable[Hunt]) -> Table:
    """A row a mistake: the stages that failed, each with the checks that did, and what the diagnosis said."""
    table = Table("mistake", "killed by (checks failed of those run)", "diagnosis", box=None, pad_edge=False)
    for held in hunts:
        failed = [f"{row.stage} {_failed(row)}/{row.run}" for row in held.rows if row.verdict is Verdict.FAIL]
        style = "green" if held.killed is held.counts and held.named is held.counts else "bold red"
        outcome, said = ", ".join(failed) or "SURVIVED", "named" if held.named else held.own.diagnosis or "none"
        if not held.counts:
            outcome, said = ", ".join(failed) or "none, as it should be", f"equivalent: {held.mistake.equivalent}"
        table.add_row(held.mistake.name, Text(outcome, style=style), Text(said))
    return table


def _variants(trials: Iterable[Trial]) -> Table:
    table = Table("\ncorrect variant", "\nchecks", "\nfalse alarms", "\nlargest error/bound", box=None, pad_edge=False)
    for held in trials:
        if not held.absent:
            worst = max((row.worst for row in held.rows), default=0.0)
            table.add_row(held.variant.name, str(held.checks), str(held.false_alarms), f"{worst:.2g}")
    return table


def _failed(row: Row) -> int:
    return sum(check.verdict is Verdict.FAIL for check in row.checks)


def write(hunts: Sequence[Hunt], trials: Sequence[Trial], path: Path) -> None:
    """Write the whole matrix as JSON: for every mistake the verdict of every check, and by stage how many failed."""
    plain: dict[str, Any] = {
        "mistakes": [
            {
                "name": h.mistake.name,
                "stage": h.mistake.stage,
                "says": h.mistake.says,
                "killed": h.killed,
                "named": h.named,
                "diagnosis": h.own.diagnosis,
                "equivalent": h.mistake.equivalent,
                "failed": {row.stage: [_failed(row), row.run] for row in h.rows},
                "checks": {check.case: check.verdict for row in h.rows for check in row.checks},
            }
            for h in hunts
        ],
        "variants": [
            {"name": t.variant.name, "checks": t.checks, "false_alarms": t.false_alarms, "absent": t.absent}
            for t in trials
        ],
    }
    write_text(path, json.dumps(plain, indent=1, ensure_ascii=False) + "\n")
