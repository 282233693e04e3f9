"""A reference implementation of AdaLoRA, by hand and without autograd, and the kit that checks others against it."""

from adalora_ref.adamw import AdamState, adamw_step, init_adamw
from adalora_ref.allocation import allocate, compress, prune
from adalora_ref.budget import BudgetSchedule, allocates_at, budget_at, phase_at
from adalora_ref.convention import LORA, LORALIB, PAPER, PEFT, SPEC, Convention
from adalora_ref.factors import Factors, init_factors, map_factors
from adalora_ref.importance import Importance, init_importance, triplet_scores, update_importance
from adalora_ref.linear import LinearCache, increment, linear_backward, linear_forward, merge, unmerge
from adalora_ref.loss import cross_entropy, mean_square
from adalora_ref.orthogonality import orthogonality_norm, orthogonality_penalty
from adalora_ref.records import Config, StepReport, TrainState
from adalora_ref.training import init_state, scales_of, train, train_step

__version__ = "0.1.0"
SPECIFICATION = "1.0"
"""Version of docs/specification.md that this package implements; printed in every verdict."""

__all__ = [
    "LORA",
    "LORALIB",
    "PAPER",
    "PEFT",
    "SPEC",
    "SPECIFICATION",
    "AdamState",
    "BudgetSchedule",
    "Config",
    "Convention",
    "Factors",
    "Importance",
    "LinearCache",
    "StepReport",
    "TrainState",
    "adamw_step",
    "allocate",
    "allocates_at",
    "budget_at",
    "compress",
    "cross_entropy",
    "increment",
    "init_adamw",
    "init_factors",
    "init_importance",
    "init_state",
    "linear_backward",
    "linear_forward",
    "map_factors",
    "mean_square",
    "merge",
    "orthogonality_norm",
    "orthogonality_penalty",
    "phase_at",
    "prune",
    "scales_of",
    "train",
    "train_step",
    "triplet_scores",
    "unmerge",
    "update_importance",
]
