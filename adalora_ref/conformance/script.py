"""The text of `repro.py`: a case, the call, what must come back, and the small program that compares."""

from __future__ import annotations

import re
from typing import Any

from adalora_ref.conformance import standalone, standalone_comparison, standalone_network
from adalora_ref.conformance.cases import Inputs
from adalora_ref.conformance.minimise import Minimised
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
from adalora_ref.conformance.stages import Stage
from adalora_ref.conformance.target import Lane, spoken
from adalora_ref.conformance.verdict import Check
from adalora_ref.convention import SPEC, Convention

CALLS = {
    "init_factors": (
        "factors = target.init_factors(np.random.default_rng(seed), d_out, d_in, r{std}, like=like)\n"
        'return {{"factors": Factors(*factors)}}'
    ),
    "linear_forward": (
        'y = target.linear_forward(x, W, factors, scale=scale{bias}{dropout_mask})[0]\nreturn {{"y": y}}'
    ),
    "linear_backward": (
        "cache = target.linear_forward(x, W, factors, scale=scale{bias}{dropout_mask})[1]\n"
        "dx, grads = target.linear_backward(dy, cache)\n"
        'return {{"dx": dx, "d": Factors(*grads)}}'
    ),
    "increment": 'return {{"ΔW": target.increment(factors, scale=scale)}}',
    "merge": 'return {{"W": target.merge(W, factors, scale=scale)}}',
    "unmerge": 'return {{"W": target.unmerge(W, factors, scale=scale)}}',
    "orthogonality_penalty": (
        'R, gradient = target.orthogonality_penalty(factors)\nreturn {{"R": R, "d": Factors(*gradient)}}'
    ),
    "orthogonality_norm": (
        'R, gradient = target.orthogonality_norm(factors)\nreturn {{"R": R, "d": Factors(*gradient)}}'
    ),
    "init_importance": (
        "averages = target.init_importance(factors)\n"
        'return {{"state": Importance(*(Factors(*held) for held in averages))}}'
    ),
    "update_importance": (
        "averages = target.update_importance(state, weights, grads, beta1=beta1, beta2=beta2)\n"
        'return {{"state": Importance(*(Factors(*held) for held in averages))}}'
    ),
    "triplet_scores": 'return {{"S": target.triplet_scores(state)}}',
    "phase_at": (
        'names = ("warmup", "pruning", "final")  # −1 for any other answer\n'
        "phases = [target.phase_at(schedule, step) for step in steps]\n"
        'return {{"phase": np.asarray([names.index(p) if p in names else -1 for p in phases])}}'
    ),
    "budget_at": 'return {{"b": np.asarray([target.budget_at(schedule, step) for step in steps])}}',
    "allocates_at": 'return {{"due": np.asarray([target.allocates_at(schedule, step) for step in steps])}}',
    "allocate": 'return {{"keep": dict(target.allocate(scores, budget{cost}))}}',
    "prune": 'return {{"factors": Factors(*target.prune(factors, keep))}}',
    "compress": 'return {{"factors": Factors(*target.compress(factors, keep))}}',
    "init_adamw": (
        "first, second, steps = target.init_adamw(factors)\n"
        'return {{"state": AdamState(Factors(*first), Factors(*second), steps)}}'
    ),
    "adamw_step": (
        "moved, moments = target.adamw_step(weights, grads, state, learning_rate=learning_rate{weight_decay})\n"
        "first, second, steps = moments\n"
        'return {{"weights": Factors(*moved), "state": AdamState(Factors(*first), Factors(*second), steps)}}'
    ),
    "init_state": (
        "network = MLP(weights, biases, labels=labels)\n"
        'return {{"state": target.init_state(network, config, np.random.default_rng(seed){convention})}}'
    ),
    "train_step": (
        "network = MLP(weights, biases, labels=labels)\n"
        "after, report = target.train_step(state, batch, network, config{convention})\n"
        'return {{"state": after, "report": report}}'
    ),
}
"""How `calls` asks a target, written out; what is optional stands in braces."""

WHOLE_STEP = "gradient of loss + γ Σ R, clipping, AdamW, then Ī and Ū, scores, allocation, mask"

OF_A_STEP = {
    r"report\.loss": "the mean of the loss over the micro-batches",
    r"report\.penalty\b": "γ Σ R over the matrices",
    r"report\.penalty_share": "p / (p + q) of |w · γ ∇R| and |w · ∇loss|, over each triplet",
    r"report\.budget": "b(t) of the schedule",
    r"state\.optimizer": "m ← β1 m + (1 − β1) g, v ← β2 v + (1 − β2) g², g the gradient of loss + γ Σ R, clipped",
    r"state\.factors.*\.[BA]\b": "w ← (1 − lr·λ) · w − lr · m̂ / (√v̂ + ε)",
    r"state\.factors": "s ← (1 − lr·λ) · s − lr · m̂ / (√v̂ + ε), and then 0 where not kept",
    r"state\.importance": "I = |w · g|, Ī ← β1 Ī + (1 − β1) I, Ū ← β2 Ū + (1 − β2) |I − Ī|",
    r"report\.threshold": "the least score that is kept, where an allocation is due",
    r"state\.masks|report\.(kept|dropped|revived|parameters)": (
        "where an allocation is due, the b best triplets of all matrices are kept; else the mask stays"
    ),
}
"""What makes each result of a training step, in words that need no page beside them."""

OPTIONS = ("std", "bias", "dropout_mask", "cost", "weight_decay")

NETWORK_OF_THE_KIT = """
import adalora_ref
from adalora_ref import Config, TrainState
from adalora_ref.networks import mlp


def MLP(weights, biases, *, labels):
    return mlp.MLP(weights, biases, adalora_ref.cross_entropy if labels else adalora_ref.mean_square)
"""
"""For arrays of other libraries, and where a convention is handed over, which is an object of adalora_ref."""


def script(stage: Stage, lane: Lane, case: Minimised, about: About) -> tuple[str, Data]:
    """Return a program that imports the target, calls it as the kit did, and shows where it departs; and its data."""
    call = _call(stage, case.inputs, lane)
    trains = "MLP(" in call
    kit = trains and (about.library != "numpy" or lane.convention is not SPEC)
    beside = {"ml_dtypes": lane.dtype == "bfloat16", about.library: about.library != "numpy", "adalora_ref": kit}
    needs = [name for name, needed in beside.items() if needed]
    used = _used(case.inputs, call)
    held = {"case": used, "before": [_used(given, call) for given in case.before], "expected": wanted(case.named)}
    parts, data = (held, {}) if lane.dtype == "bfloat16" else set_aside(held)
    module, before = about.spec.partition(":")[0], "before" if case.before else None
    sections = [
        heading(
            f"{stage.name} of {about.spec}: {about.says}.",
            about.file,
            f"{with_what(needs)} Run it where {module} can be imported.\n{STATUS}",
        ),
        imports(standalone_comparison, standalone, others=("ml_dtypes",) if "ml_dtypes" in needs else ()),
        READING if data else "",
        "# THE CASE",
        returns("case", "The arguments of the call.", parts["case"]),
        returns("before", "Those of the calls before it.", parts["before"]) if before else "",
        indented(f"def call(target, *, {', '.join(used)}):", '"""The call; its results by name."""\n' + call),
        returns("expected", EXPECTED, parts["expected"]),
        SHARED,
        *map(body, (standalone_comparison, standalone)),
        *([NETWORK_OF_THE_KIT.strip() if kit else body(standalone_network)] if trains else []),
        ending(
            f"{about.spec!r}, case, call, expected, before={before}",
            *about.told(library=about.library, stage=stage.name),
        ),
    ]
    return joined(sections), data


def of_a_step(found: Check, rules: Convention) -> str:
    """The equation of a step that failed: what makes the first quantity that departs, and under which convention."""
    path = "" if found.divergence is None else spoken(found.divergence.quantity)
    words = next((words for pattern, words in OF_A_STEP.items() if re.match(pattern, path)), WHOLE_STEP)
    return f"Algorithm 1: {words}" + ("" if rules is SPEC else f", as convention {rules.name} has it")


def _call(stage: Stage, inputs: Inputs, lane: Lane) -> str:
    """The body of the function `call`, with the optional arguments that the case has."""
    given = {name: f", {name}={name}" if inputs.get(name) is not None else "" for name in OPTIONS}
    convention = "" if lane.convention is SPEC else f", convention=adalora_ref.{lane.convention.name}"
    return CALLS[stage.name].format(**given, convention=convention)


def _used(inputs: Inputs, call: str) -> dict[str, Any]:
    """The arguments that the call names."""
    return {name: value for name, value in inputs.items() if value is not None and re.search(rf"\b{name}\b", call)}
