"""How each stage calls a target: from the inputs of a case to the named results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from adalora_ref.adamw import AdamState
from adalora_ref.conformance.cases import Inputs
from adalora_ref.conformance.target import CannotExpress, Lane, Target
from adalora_ref.convention import SPEC
from adalora_ref.factors import Factors
from adalora_ref.importance import Importance
from adalora_ref.loss import cross_entropy, mean_square
from adalora_ref.networks.mlp import MLP
from adalora_ref.records import StepReport, TrainState


class WrongForm(ValueError):
    """What a target returned is not of the form that its function must return; the sentence says which."""


Outputs: TypeAlias = dict[str, Any]
Call: TypeAlias = Callable[[Target, Inputs, Lane], Outputs]

PHASES = ("warmup", "pruning", "final")


def init_factors(t: Target, i: Inputs, _: Lane) -> Outputs:
    """Draw from a fresh generator."""
    function, rng = t.require("init_factors"), np.random.default_rng(i["seed"])
    return {"factors": _factors(function(rng, i["d_out"], i["d_in"], i["r"], **_given(i, "std"), like=i["like"]))}


def linear_forward(t: Target, i: Inputs, _: Lane) -> Outputs:
    """The output of the layer; its cache is the target's own affair."""
    y, _ = _forward(t, i)
    return {"y": y}


def linear_backward(t: Target, i: Inputs, _: Lane) -> Outputs:
    """The backward pass from the cache of the target's own forward pass."""
    _, cache = _forward(t, i)
    dx, grads = pair_of("linear_backward", "(dx, factors)", t.require("linear_backward")(i["dy"], cache))
    return {"dx": dx, "d": _factors(grads)}


def increment(t: Target, i: Inputs, _: Lane) -> Outputs:
    """ΔW."""
    return {"ΔW": t.require("increment")(i["factors"], scale=i["scale"])}


def weight(name: str) -> Call:
    """`merge` or `unmerge`."""
    return lambda t, i, _: {"W": t.require(name)(i["W"], i["factors"], scale=i["scale"])}


def penalty(name: str) -> Call:
    """A penalty and its gradient."""

    def call(t: Target, i: Inputs, _: Lane) -> Outputs:
        R, gradient = pair_of(name, "(R, factors)", t.require(name)(i["factors"]))
        return {"R": R, "d": _factors(gradient)}

    return call


def init_importance(t: Target, i: Inputs, _: Lane) -> Outputs:
    """Ī and Ū before any update."""
    return {"state": _averages("init_importance", t.require("init_importance")(i["factors"]))}


def update_importance(t: Target, i: Inputs, _: Lane) -> Outputs:
    """Ī and Ū after an update."""
    function = t.require("update_importance")
    given = function(i["state"], i["weights"], i["grads"], beta1=i["beta1"], beta2=i["beta2"])
    return {"state": _averages("update_importance", given)}


def triplet_scores(t: Target, i: Inputs, _: Lane) -> Outputs:
    """The scores of one matrix."""
    return {"S": t.require("triplet_scores")(i["state"])}


def phase_at(t: Target, i: Inputs, _: Lane) -> Outputs:
    """The phase of every step, as its place in `PHASES`; −1 for any other answer."""
    phases = [t.require("phase_at")(i["schedule"], step) for step in i["steps"]]
    return {"phase": np.asarray([PHASES.index(p) if p in PHASES else -1 for p in phases])}


def each_step(name: str, result: str) -> Call:
    """`budget_at` or `allocates_at`, asked about every step."""
    return lambda t, i, _: {result: np.asarray([t.require(name)(i["schedule"], step) for step in i["steps"]])}


def allocate(t: Target, i: Inputs, _: Lane) -> Outputs:
    """Who is kept."""
    given = t.require("allocate")(i["scores"], i["budget"], **_given(i, "cost"))
    try:
        return {"keep": dict(given)}
    except (TypeError, ValueError):
        raise WrongForm(f"allocate must return a mask by the name of each matrix; got {_spoken(given)}") from None


def masked(name: str) -> Call:
    """`prune` or `compress`."""
    return lambda t, i, _: {"factors": _factors(t.require(name)(i["factors"], i["keep"]))}


def init_adamw(t: Target, i: Inputs, _: Lane) -> Outputs:
    """The moments before any step."""
    return {"state": _moments("init_adamw", t.require("init_adamw")(i["factors"]))}


def adamw_step(t: Target, i: Inputs, _: Lane) -> Outputs:
    """Weights and moments after one step."""
    options = {"learning_rate": i["learning_rate"], **_given(i, "weight_decay")}
    moved = t.require("adamw_step")(i["weights"], i["grads"], i["state"], **options)
    weights, state = pair_of("adamw_step", "(factors, state)", moved)
    return {"weights": _factors(weights, "the weights"), "state": _moments("adamw_step", state)}


def init_state(t: Target, i: Inputs, lane: Lane) -> Outputs:
    """The state from which training starts."""
    function, rng = t.require("init_state"), np.random.default_rng(i["seed"])
    state = function(network(i), i["config"], rng, **_convention(t, "init_state", lane))
    return {"state": _training("init_state", state)}


def train_step(t: Target, i: Inputs, lane: Lane) -> Outputs:
    """State and report after one step of Algorithm 1 on our own small network."""
    options = _convention(t, "train_step", lane)
    after = t.require("train_step")(i["state"], i["batch"], network(i), i["config"], **options)
    state, report = pair_of("train_step", "(state, report)", after)
    return {"state": _training("train_step", state), "report": _record("the report of train_step", StepReport, report)}


def _factors(value: Any, what: str = "factors") -> Factors:
    """What unpacks as B, s, A is Factors."""
    if isinstance(value, Factors):
        return value
    if len(parts := _unpacked(value)) != 3:
        raise WrongForm(f"{what} must be Factors, or unpack as B, s, A; got {_spoken(value)}")
    try:
        return Factors(*parts)
    except (TypeError, ValueError) as error:
        raise WrongForm(str(error)) from None


def _averages(name: str, value: Any) -> Importance:
    """What unpacks as two factors is Importance."""
    sensitivity, uncertainty = pair_of(name, "(sensitivity, uncertainty)", value)
    return Importance(_factors(sensitivity, "the sensitivity"), _factors(uncertainty, "the uncertainty"))


def _moments(name: str, value: Any) -> AdamState:
    """What unpacks as first, second, steps is AdamState."""
    if len(parts := _unpacked(value)) != 3:
        raise WrongForm(f"the state of {name} must unpack as first, second, steps; got {_spoken(value)}")
    return AdamState(_factors(parts[0], "the first moments"), _factors(parts[1], "the second moments"), parts[2])


def _training(name: str, value: Any) -> Any:
    """A state of training is a `TrainState`, or a record of one's own with its fields, and so is all that it holds."""
    what = f"the state of {name}"
    state = _record(what, TrainState, value)
    for field in ("factors", "importance", "optimizer", "masks"):
        if not isinstance(by_matrix := getattr(state, field), Mapping):
            raise WrongForm(f"{field} in {what} must be a dictionary by matrix; got {_spoken(by_matrix)}")
    for field, kind in (("factors", Factors), ("importance", Importance), ("optimizer", AdamState)):
        for matrix, held in getattr(state, field).items():
            place = f"{field}[{matrix}] in {what}"
            _record(place, kind, held)
            for half in () if kind is Factors else _names(kind)[:2]:
                _record(f"{half} of {place}", Factors, getattr(held, half))
    return state


def _record(what: str, kind: type[Any], value: Any) -> Any:
    """A record of that kind, or a named tuple with its fields."""
    names = _names(kind)
    if isinstance(value, kind) or set(names) <= set(getattr(value, "_fields", ())):
        return value
    raise WrongForm(f"{what} must be {kind.__name__} or a named tuple with {', '.join(names)}; got {_spoken(value)}")


def _names(kind: type[Any]) -> tuple[str, ...]:
    return ("B", "s", "A") if kind is Factors else kind._fields


def pair_of(name: str, form: str, value: Any) -> tuple[Any, Any]:
    """The two things that a function returns."""
    if len(parts := _unpacked(value)) != 2:
        raise WrongForm(f"{name} must return {form}; got {_spoken(value)}")
    return parts[0], parts[1]


def _unpacked(value: Any) -> tuple[Any, ...]:
    """What a value unpacks as: an array, a dictionary and a string as nothing."""
    whole = hasattr(value, "shape") or isinstance(value, Mapping | str) or not isinstance(value, Iterable)
    return () if whole else tuple(value)


def _spoken(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"an array of shape {tuple(shape)}"
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, tuple | list) else type(value).__name__


def _given(inputs: Inputs, *names: str) -> dict[str, Any]:
    return {name: inputs[name] for name in names if inputs[name] is not None}


def _forward(t: Target, i: Inputs) -> tuple[Any, Any]:
    options = {"scale": i["scale"], **_given(i, "bias", "dropout_mask")}
    given = t.require("linear_forward")(i["x"], i["W"], i["factors"], **options)
    return pair_of("linear_forward", "(y, cache)", given)


def network(i: Inputs) -> MLP:
    """Our own small network, with the weights of the case."""
    return MLP(i["weights"], i["biases"], cross_entropy if i["labels"] else mean_square)


def _convention(t: Target, name: str, lane: Lane) -> dict[str, Any]:
    """The convention as an argument; SPEC is the default and need not be passed."""
    if lane.convention is SPEC:
        return {}
    if t.lacks_option(name, "convention"):
        raise CannotExpress(f"the target's {name} takes no convention")
    return {"convention": lane.convention}
