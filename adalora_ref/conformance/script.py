"""The text of `repro.py`: a case, the call, what must come back, and the small program that compares."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from adalora_ref.conformance import standalone, standalone_network
from adalora_ref.conformance.cases import Inputs
from adalora_ref.conformance.literals import literal
from adalora_ref.conformance.minimise import Minimised
from adalora_ref.conformance.stages import Stage
from adalora_ref.conformance.standalone import Wanted
from adalora_ref.conformance.target import Lane, spoken
from adalora_ref.convention import SPEC

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
    "init_importance": 'return {{"state": target.init_importance(factors)}}',
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
    "init_adamw": 'return {{"state": target.init_adamw(factors)}}',
    "adamw_step": (
        "moved, moments = target.adamw_step(weights, grads, state, learning_rate=learning_rate{weight_decay})\n"
        'return {{"weights": Factors(*moved), "state": moments}}'
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

OPTIONS = ("std", "bias", "dropout_mask", "cost", "weight_decay")

NETWORK_OF_THE_KIT = """
import adalora_ref
from adalora_ref import Config, TrainState
from adalora_ref.networks import mlp


def MLP(weights, biases, *, labels):
    return mlp.MLP(weights, biases, adalora_ref.cross_entropy if labels else adalora_ref.mean_square)
"""
"""For arrays of other libraries, and where a convention is handed over, which is an object of adalora_ref."""


def script(stage: Stage, lane: Lane, case: Minimised, file: Path, spec: str, library: str, diagnosis: str) -> str:
    """Return a program that imports the target *spec*, calls it as the kit did, and shows where it departs."""
    call = _call(stage, case.inputs, lane)
    trains = "MLP(" in call
    kit = trains and (library != "numpy" or lane.convention is not SPEC)
    beside = {"ml_dtypes": lane.dtype == "bfloat16", library: library != "numpy", "adalora_ref": kit}
    needs = [name for name, needed in beside.items() if needed]
    told = {"library": library, "stage": stage.name, "equation": stage.equation_under(lane.convention)}
    arguments = [f"{name}={text!r}" for name, text in (told | {"diagnosis": diagnosis}).items() if text]
    used = _used(case.inputs, call)
    sections = [
        _heading(stage, file, spec, " and ".join(["NumPy", *needs]) if needs else "NumPy alone"),
        _imports() + ("\nimport ml_dtypes" if "ml_dtypes" in needs else ""),
        "# THE CASE, as small as it was still found to fail",
        _returns("case", "The arguments of the call.", used),
        *([_returns("before", "Those of the call before it.", _used(case.before, call))] if case.before else []),
        _indented(f"def call(target, *, {', '.join(used)}):", '"""The call; its results by name."""\n' + call),
        _returns("expected", "The results to 50 digits, as two doubles, and the bound of their error.", _wanted(case)),
        "# THE SAME IN EVERY REPRODUCTION",
        _body(standalone),
        *([NETWORK_OF_THE_KIT.strip() if kit else _body(standalone_network)] if trains else []),
        _indented(
            'if __name__ == "__main__":',
            f"sys.exit(main({spec!r}, case, call, expected, before={'before' if case.before else None},\n"
            f"              {', '.join(arguments)}))",
        ),
    ]
    return "\n\n\n".join(sections) + "\n"


def _heading(stage: Stage, file: Path, spec: str, needs: str) -> str:
    return (
        f'"""{stage.name} of {spec}: a case in which it failed, shown with {needs} beside the target.\n\n'
        f"    python {file.as_posix()}\n\n"
        f"Run it where {spec.partition(':')[0]} can be imported. The exit status is 1 if a result departs\n"
        'from what it should be, 0 if none does.\n"""'
    )


def _call(stage: Stage, inputs: Inputs, lane: Lane) -> str:
    """The body of the function `call`, with the optional arguments that the case has."""
    given = {name: f", {name}={name}" if inputs.get(name) is not None else "" for name in OPTIONS}
    convention = "" if lane.convention is SPEC else f", convention=adalora_ref.{lane.convention.name}"
    return CALLS[stage.name].format(**given, convention=convention)


def _used(inputs: Inputs, call: str) -> dict[str, Any]:
    """The arguments that the call names."""
    return {name: value for name, value in inputs.items() if value is not None and re.search(rf"\b{name}\b", call)}


def _wanted(case: Minimised) -> dict[str, Wanted]:
    """What is expected; a part that is zero everywhere is left out."""
    return {
        spoken(path): Wanted(want.high, _unless_zero(want.low), _unless_zero(want.error), want.dtype)
        for path, want in case.expected.items()
    }


def _unless_zero(a: Any) -> Any:
    return a if np.any(a) else 0.0


def _returns(name: str, says: str, value: Any) -> str:
    return _indented(f"def {name}():", f'"""{says}"""\nreturn {literal(value)}')


def _indented(head: str, body: str) -> str:
    return head + "".join(f"\n    {line}" for line in body.splitlines())


def _imports() -> str:
    """The imports of what is copied."""
    return inspect.getsource(standalone).split("\n\n\n", 1)[0].split("\n\n", 1)[1]


def _body(module: ModuleType) -> str:
    """What a module defines, without its docstring, its imports and its words to linters."""
    return re.sub(r"  # noqa.*", "", inspect.getsource(module).split("\n\n\n", 1)[1]).strip()
