"""The kit, tested: what kills each planted mistake, how often the diagnosis names it, and what correct variants do.

The exit status is 1 if a mistake survives, if fewer than 95 % are named, or if something that is right fails.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import adalora_ref as ref
from adalora_ref.conformance.checking import PRESETS
from adalora_ref.conformance.mutants import Hunt, Trial, holds, hunt, try_variants
from adalora_ref.conformance.stages import STAGES
from adalora_ref.conformance.verdict import Verdict

HEAD = """# The kit, tested by planted mistakes and by correct variants

Every entry of [the catalogue](../verify/catalogue.md) is planted in the reference and every stage that calls the
function it sits in is run; each correct variant is run on at least as many random checks as the table says.
`adalora-ref mutants --json FILE` writes the matrix in full: for each mistake the verdict of every check.

"""


def failed_of(held: Hunt) -> list[str]:
    """The stages that fail under a mistake."""
    return [row.stage for row in held.rows if row.verdict is Verdict.FAIL]


def summary(hunts: Sequence[Hunt]) -> Iterator[str]:
    """Killed and named, of how many; and what is not told apart."""
    counted = [h for h in hunts if h.counts]
    killed, named = sum(h.killed for h in counted), sum(h.named for h in counted)
    equivalent = ", ".join(f"`{h.mistake.name}` ({h.mistake.equivalent})" for h in hunts if not h.counts)
    yield f"- killed at the stage that their entry names: {killed} of {len(counted)}"
    yield f"- named by the diagnosis, and by that name alone: {named} of {len(counted)}"
    yield f"- equivalent, not counted, failed by no check: {equivalent}"
    unnamed = [
        f"`{h.mistake.name}` ({h.own.diagnosis.split(';')[0] or 'nothing is said'})" for h in counted if not h.named
    ]
    yield f"- not named alone: {'; '.join(unnamed) or 'none; every two entries are told apart'}"


def by_stage(hunts: Sequence[Hunt]) -> Iterator[str]:
    """A row for each stage: its mistakes, and which stages kill them."""
    yield "| stage | mistakes | killed here | named | also killed by |"
    yield "| --- | --- | --- | --- | --- |"
    for stage in STAGES:
        held = [h for h in hunts if h.mistake.stage == stage.name and h.counts]
        if held:
            others = Counter(name for h in held for name in failed_of(h) if name != stage.name)
            also = ", ".join(f"{name} {count}" for name, count in others.items())
            killed, named = sum(h.killed for h in held), sum(h.named for h in held)
            yield f"| {stage.name} | {len(held)} | {killed} | {named} | {also} |"


def matrix(hunts: Sequence[Hunt]) -> Iterator[str]:
    """A row for each mistake: the checks that fail of those that run, by stage."""
    yield "| mistake | checks failed of those run |"
    yield "| --- | --- |"
    for h in hunts:
        cells = [
            f"{row.stage} {sum(c.verdict is Verdict.FAIL for c in row.checks)}/{row.run}"
            for row in h.rows
            if row.verdict is Verdict.FAIL
        ]
        yield f"| `{h.mistake.name}` | {', '.join(cells) or 'none: equivalent'} |"


def variants(trials: Sequence[Trial]) -> Iterator[str]:
    """A row for each correct variant."""
    yield "| variant | what it does | checks | false alarms | largest error / bound |"
    yield "| --- | --- | --- | --- | --- |"
    for t in trials:
        worst = max((row.worst for row in t.rows), default=0.0)
        found = t.absent or f"{t.checks} | {t.false_alarms} | {worst:.2f}"
        yield f"| {t.variant.name} | {t.variant.says} | {found} |"


def robustness(seeds: Sequence[int]) -> Iterator[str]:
    """How many are killed and named where there are few cases, other seeds, or one dtype alone."""
    yield "| preset | dtypes | seed | killed | named | not named alone |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for dtypes in ((), ("float32",)):
        for seed in seeds:
            hunts = [h for h in hunt(cases=PRESETS["quick"], seed=seed, dtypes=dtypes) if h.counts]
            killed, named = sum(h.killed for h in hunts), sum(h.named for h in hunts)
            unnamed = ", ".join(f"`{h.mistake.name}`{'' if h.killed else ' (survived)'}" for h in hunts if not h.named)
            which, share = ", ".join(dtypes) or "float64, float32", f"{named / len(hunts):.1%}"
            yield f"| quick | {which} | {seed} | {killed} of {len(hunts)} | {named}, {share} | {unnamed} |"


def main() -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checks", type=int, default=1000, help="of each variant, at least")
    parser.add_argument("--seeds", type=int, default=5, help="of the quick preset")
    parser.add_argument("--out", type=Path, help="Markdown file; without it the page is printed")
    asked = parser.parse_args()
    hunts = list(hunt(cases=PRESETS["default"], seed=0))
    trials = list(try_variants(checks=asked.checks, seed=0))
    command = f"python tests/benchmarks/mutants.py --checks {asked.checks} --seeds {asked.seeds}"
    made = (
        f"Made with `{command}`, adalora_ref {ref.__version__}, Python {platform.python_version()}, NumPy "
        f"{np.__version__}."
    )
    parts = [
        "## Mistakes, default preset", "\n".join(summary(hunts)), "\n".join(by_stage(hunts)),
        "## Correct variants", "\n".join(variants(trials)),
        "## Few cases, other seeds, one dtype", "\n".join(robustness(range(asked.seeds))),
        "## The matrix", "\n".join(matrix(hunts)), made,
    ]  # fmt: skip
    text = HEAD + "\n\n".join(parts) + "\n"
    if asked.out:
        asked.out.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 0 if holds(hunts, trials) else 1


if __name__ == "__main__":
    sys.exit(main())
