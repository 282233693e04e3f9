"""Laws of AdaLoRA that any implementation can be held to, over cases that Hypothesis draws and shrinks."""

from __future__ import annotations

from difflib import get_close_matches

from adalora_ref.laws.allocation import ALLOCATION_LAWS
from adalora_ref.laws.budget import BUDGET_LAWS
from adalora_ref.laws.forms import FORM_LAWS
from adalora_ref.laws.importance import IMPORTANCE_LAWS
from adalora_ref.laws.law import Law
from adalora_ref.laws.layer import LAYER_LAWS
from adalora_ref.laws.machine_runs import check_run
from adalora_ref.laws.machines import allocator_machine, training_machine
from adalora_ref.laws.measured import Broken
from adalora_ref.laws.penalty import PENALTY_LAWS
from adalora_ref.laws.running import PROFILES, check, law_test, law_tests
from adalora_ref.laws.runs import RUN_LAWS
from adalora_ref.laws.searching import run_law, run_laws
from adalora_ref.laws.start import START_LAWS

LAWS: tuple[Law, ...] = (
    *START_LAWS,
    *LAYER_LAWS,
    *FORM_LAWS,
    *PENALTY_LAWS,
    *IMPORTANCE_LAWS,
    *BUDGET_LAWS,
    *ALLOCATION_LAWS,
    *RUN_LAWS,
)


def law_named(name: str) -> Law:
    """The law of that name; ValueError names those that are spelled alike."""
    found = next((law for law in LAWS if law.name == name), None)
    if found is None:
        raise ValueError(f"there is no law {name!r}; {close_to(name, [law.name for law in LAWS])}")
    return found


def close_to(name: str, names: list[str]) -> str:
    """Which of the names are spelled much like *name*, or how many there are."""
    close = get_close_matches(name, names, cutoff=0.5)
    return f"spelled alike: {', '.join(close)}" if close else f"docs/laws.md lists all {len(names)}"


__all__ = [
    "LAWS",
    "PROFILES",
    "Broken",
    "Law",
    "allocator_machine",
    "check",
    "check_run",
    "law_named",
    "law_test",
    "law_tests",
    "run_law",
    "run_laws",
    "training_machine",
]
