"""Laws of AdaLoRA that any implementation can be held to, over cases that Hypothesis draws and shrinks."""

from __future__ import annotations

from adalora_ref.laws.allocation import ALLOCATION_LAWS
from adalora_ref.laws.budget import BUDGET_LAWS
from adalora_ref.laws.forms import FORM_LAWS
from adalora_ref.laws.importance import IMPORTANCE_LAWS
from adalora_ref.laws.law import Law
from adalora_ref.laws.layer import LAYER_LAWS
from adalora_ref.laws.measured import Broken
from adalora_ref.laws.penalty import PENALTY_LAWS
from adalora_ref.laws.running import PROFILES, check, law_test, law_tests, run_law, run_laws
from adalora_ref.laws.runs import RUN_LAWS

LAWS: tuple[Law, ...] = (
    *LAYER_LAWS,
    *FORM_LAWS,
    *PENALTY_LAWS,
    *IMPORTANCE_LAWS,
    *BUDGET_LAWS,
    *ALLOCATION_LAWS,
    *RUN_LAWS,
)

__all__ = ["LAWS", "PROFILES", "Broken", "Law", "check", "law_test", "law_tests", "run_law", "run_laws"]
