"""The text of the `repro.py` of an allocator: what it is fed, and what it must show after the last step."""

from __future__ import annotations

from adalora_ref.conformance import standalone, standalone_allocator, standalone_comparison
from adalora_ref.conformance.feed import Feed
from adalora_ref.conformance.minimise_feed import MinimisedFeed
from adalora_ref.conformance.script_parts import (
    EXPECTED,
    READING,
    SHARED,
    STATUS,
    About,
    Data,
    body,
    ending,
    heading,
    imports,
    indented,
    joined,
    returns,
    set_aside,
    wanted,
    with_what,
)

AGAIN = "fed(target, schedule, betas, steps)  # start has to forget this\nsteps = steps[:{number}]\n"

FACTORS = '{n: Factors(*f) for n, f in said["after"].items()}'
AVERAGES = '{n: Importance(*(Factors(*f) for f in pair)) for n, pair in said["importance"].items()}'

SHOWN = {
    "update": "",
    "update_importance": AVERAGES,
    "budget_at": 'int(said["budget"])',
    "allocates_at": 'bool(said["due"])',
    "triplet_scores": 'said["scores"]',
    "allocate": 'said["masks"]',
    "masks": 'said["masks"]',
    "prune": FACTORS,
}
"""Where an answer has a quantity; whatever pairs and triples it holds become records, which have names."""


def allocator_script(stage: str, case: MinimisedFeed, about: About, whole: Feed | None = None) -> tuple[str, Data]:
    """Return a program that feeds the allocator up to the step that fails, and shows where that departs; its data.

    One that does not forget what it was fed before is fed the *whole* of it first.
    """
    fed = case.feed if whole is None else whole
    steps = [{"weights": weights, "grads": grads} for weights, grads in fed.steps]
    again = AGAIN.format(number=len(case.feed.steps)) if whole else ""
    held = {
        "case": {"schedule": case.feed.schedule, "betas": case.feed.betas, "steps": steps},
        "expected": wanted(case.expected),
    }
    parts, data = set_aside(held)
    needs = [] if about.library == "numpy" else [about.library]
    shown = f'{{"{stage}": {SHOWN[stage]}}}' if SHOWN[stage] else "{}"
    sections = [
        heading(
            f"{stage} of {about.spec}: {about.says}.",
            about.file,
            f"{with_what(needs)} Run it where {about.spec.partition(':')[0]} can be imported.\n{STATUS}",
        ),
        imports(standalone_comparison, standalone, standalone_allocator),
        READING if data else "",
        "# THE CASE",
        returns("case", "What the allocator is fed, from the first step to the one that fails.", parts["case"]),
        indented(
            "def call(target, *, schedule, betas, steps):",
            '"""What it shows after the last step."""\n'
            f"{again}said = fed(target, schedule, betas, steps)\nreturn {shown}",
        ),
        returns("expected", EXPECTED, parts["expected"]),
        SHARED,
        *map(body, (standalone_comparison, standalone, standalone_allocator)),
        ending(
            f"{about.spec!r}, case, call, expected",
            *about.told(library=about.library, stage=stage),
            "any_library=True",
        ),
    ]
    return joined(sections), data
