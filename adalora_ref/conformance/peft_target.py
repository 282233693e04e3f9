"""Hugging Face PEFT as a target: the installed library, driven as its users drive it, behind our function names.

Each method builds a small network, has `get_peft_model` adapt it, copies the given arrays into PEFT's parameters, lets
PEFT's own layer, regulariser or `RankAllocator` work, and reads what they left. None of PEFT's mathematics is repeated
here. torch and PEFT are imported at the first use, so that this module can be imported without them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from adalora_ref.array import Array
from adalora_ref.budget import BudgetSchedule
from adalora_ref.conformance.target import CannotExpress, TargetError
from adalora_ref.factors import Factors
from adalora_ref.importance import Importance

ADAPTER = "default"
"""The name that `get_peft_model` gives to an adapter."""


@cache
def peers() -> tuple[Any, Any]:
    """Return the modules torch and peft; TargetError says how to install them."""
    try:
        return importlib.import_module("torch"), importlib.import_module("peft")
    except ImportError as error:
        raise TargetError(
            f"PEFT is checked with torch and peft: pip install '.[peers]' in a checkout ({error})"
        ) from error


def peft_version() -> str:
    """Return the version of the installed PEFT."""
    peers()
    return version("peft")


@cache
def _network_class() -> Any:
    torch, _ = peers()

    class Network(torch.nn.Module):  # type: ignore[misc, name-defined]
        """Linear layers with tanh between them, and a loss where there are labels, as transformers' models have it."""

        def __init__(self, weights: Mapping[str, Any], biases: Mapping[str, Any], loss: Callable[..., Any]) -> None:
            super().__init__()
            self.config, self.loss = {"model_type": "custom"}, loss
            self.layers = torch.nn.ModuleDict()
            for name, W in weights.items():
                self.layers[name] = torch.nn.Linear(*W.shape[::-1], bias=name in biases, dtype=W.dtype)
                self.layers[name].weight.data.copy_(W)
                if name in biases:
                    self.layers[name].bias.data.copy_(biases[name])

        def forward(self, input_ids: Any, labels: Any = None, **_: Any) -> SimpleNamespace:
            *hidden, last = self.layers.values()
            for layer in hidden:
                input_ids = torch.tanh(layer(input_ids))
            logits = last(input_ids)
            return SimpleNamespace(logits=logits, loss=None if labels is None else self.loss(logits, labels))

    return Network


class Adapted:
    """A small network that PEFT has adapted, and the way to its parts.

    Attributes
    ----------
    model, network, allocator
        What `get_peft_model` returned, the network within, whose parameters PEFT's allocator names, and that allocator.
    config
        The configuration that PEFT holds.
    """

    def __init__(
        self,
        weights: Mapping[str, Any],
        ranks: Mapping[str, int],
        *,
        biases: Mapping[str, Any] | None = None,
        loss: Callable[..., Any] = lambda logits, _: logits.new_zeros(()),
        **settings: Any,
    ) -> None:
        _, peft = peers()
        rank = max(ranks.values())
        settings = {"init_r": rank, "target_r": 0, "total_step": 1, "lora_alpha": 1.0} | settings
        # Without a task type PEFT leaves the regulariser out of the loss.
        config = peft.AdaLoraConfig(task_type="FEATURE_EXTRACTION", target_modules=list(weights), **settings)
        self.model = peft.get_peft_model(_network_class()(weights, biases or {}, loss), config)
        self.network, self.config = self.model.base_model.model, self.model.peft_config[ADAPTER]
        if any(r != rank for r in ranks.values()):
            self.resize({name: [i < r for i in range(rank)] for name, r in ranks.items()})
        self.allocator = self.model.base_model.rankallocator

    def resize(self, keep: Mapping[str, list[bool]]) -> None:
        """Remove triplets as PEFT does when it loads a checkpoint, and give the model an allocator for what is left."""
        base = self.model.base_model
        base.resize_modules_by_rank_pattern(self.pattern(keep), ADAPTER)
        base.rankallocator = type(base.rankallocator)(self.network, self.config, ADAPTER)

    def layer(self, name: str) -> Any:
        """Return PEFT's layer of that name."""
        return self.network.layers[name]

    def load(self, name: str, factors: Factors) -> None:
        """Copy *factors* into the parameters of a layer."""
        for parameter, value in zip(self.parameters(name).values(), factors, strict=True):
            parameter.data.copy_(tensor(value).reshape(parameter.shape))

    def parameters(self, name: str) -> dict[str, Any]:
        """Return lora_B, lora_E and lora_A of a layer, under the names that PEFT's allocator uses."""
        layer = self.layer(name)
        return {f"layers.{name}.{p}.{ADAPTER}": getattr(layer, p)[ADAPTER] for p in ("lora_B", "lora_E", "lora_A")}

    def factors(self, name: str, part: Callable[[Any], Any] = lambda parameter: parameter) -> Factors:
        """Return the parameters of a layer, or a *part* of each, such as its gradient, as Factors."""
        return triple(*(part(parameter) for parameter in self.parameters(name).values()))

    def averages(self, name: str) -> Importance:
        """Return Ī and Ū of a layer as PEFT's allocator holds them."""
        kept = (self.allocator.exp_avg_ipt, self.allocator.exp_avg_unc)
        return Importance(*(triple(*(averages[key] for key in self.parameters(name))) for averages in kept))

    def set_averages(self, name: str, state: Importance) -> None:
        """Put Ī and Ū of a layer into PEFT's allocator, which keeps them under the names of the parameters."""
        for kept, factors in zip((self.allocator.exp_avg_ipt, self.allocator.exp_avg_unc), state, strict=True):
            for (key, parameter), value in zip(self.parameters(name).items(), factors, strict=True):
                kept[key] = tensor(value).reshape(parameter.shape)
                self.allocator.ipt[key] = kept[key].new_zeros(parameter.shape)

    def pattern(self, keep: Mapping[str, list[bool]]) -> dict[str, list[bool]]:
        """Return masks in the form of PEFT's rank pattern."""
        return {f"layers.{name}.lora_E.{ADAPTER}": mask for name, mask in keep.items()}


def tensor(value: Array) -> Any:
    """Return a NumPy array as a torch tensor that shares no memory with it."""
    return peers()[0].tensor(value)


def triple(B: Any, E: Any, A: Any) -> Factors:
    """Return three tensors in PEFT's shapes as Factors of NumPy arrays."""
    return Factors(array(B), array(E)[:, 0], array(A))


def array(value: Any) -> Array:
    """Return a torch tensor as a NumPy array that shares no memory with it."""
    return value.detach().numpy().copy()


def recorded(owner: Any, method: str) -> list[Any]:
    """Return a list that grows by what *method* of *owner* returns, whenever it is called."""
    inner, seen = getattr(owner, method), []

    def outer(*args: Any) -> Any:
        seen.append(inner(*args))
        return seen[-1]

    setattr(owner, method, outer)
    return seen


class Cache(NamedTuple):
    """What autograd needs: the input, PEFT's parameters in the order B, s, A, and the output that hangs on them."""

    x: Any
    parameters: tuple[Any, ...]
    y: Any


class PeftTarget:
    """Some of the public functions of `adalora_ref`, computed by the installed PEFT."""

    array_library = "numpy"
    dtypes = ("float32", "float64")

    def __init__(self) -> None:
        peers()

    # LAYER

    def linear_forward(
        self,
        x: Array,
        W: Array,
        factors: Factors,
        /,
        *,
        scale: float,
        bias: Array | None = None,
        dropout_mask: Array | None = None,
    ) -> tuple[Array, Cache]:
        """The forward pass of PEFT's layer; the mask stands where its dropout does."""
        held = _scaled(W, factors, scale, bias)
        layer, x = held.layer("layer"), tensor(x).requires_grad_()
        if dropout_mask is not None:
            mask = tensor(dropout_mask)
            layer.lora_dropout[ADAPTER].register_forward_hook(lambda _, __, kept: kept * mask)
        y = layer(x)
        return array(y), Cache(x, tuple(held.parameters("layer").values()), y)

    def linear_backward(self, dy: Array, cache: Cache, /) -> tuple[Array, Factors]:
        """Autograd's backward pass through PEFT's layer, its weight and bias frozen."""
        torch, _ = peers()
        dx, *grads = torch.autograd.grad(cache.y, (cache.x, *cache.parameters), tensor(dy), retain_graph=True)
        return array(dx), triple(*grads)

    def increment(self, factors: Factors, /, *, scale: float) -> Array:
        """`get_delta_weight` of PEFT's layer."""
        return array(_scaled(_zero_weight(factors), factors, scale).layer("layer").get_delta_weight(ADAPTER))

    def merge(self, W: Array, factors: Factors, /, *, scale: float) -> Array:
        """The base weight after `merge` of PEFT's layer."""
        layer = _scaled(W, factors, scale).layer("layer")
        layer.merge()
        return array(layer.get_base_layer().weight)

    def unmerge(self, W: Array, factors: Factors, /, *, scale: float) -> Array:
        """The base weight after `unmerge` of a PEFT layer that is merged and whose weight is *W*."""
        layer = _scaled(W, factors, scale).layer("layer")
        layer.merge()
        layer.get_base_layer().weight.data.copy_(tensor(W))
        layer.unmerge()
        return array(layer.get_base_layer().weight)

    # PENALTY

    def orthogonality_norm(self, factors: Factors, /) -> tuple[Array, Factors]:
        """What PEFT's model adds to a loss of zero, and autograd's gradient of it.

        PEFT takes the mean over the two norms of each matrix; with one matrix and a weight of 2 that is their sum.
        """
        torch, _ = peers()
        W = tensor(_zero_weight(factors))
        held = Adapted({"layer": W}, {"layer": factors.s.shape[0]}, orth_reg_weight=2.0)
        held.load("layer", factors)
        R = held.model(input_ids=W.new_zeros((1, W.shape[1])), labels=0).loss
        parameters = tuple(held.parameters("layer").values())
        return array(R), triple(*torch.autograd.grad(R, parameters, materialize_grads=True))

    # IMPORTANCE

    def init_importance(self, like: Factors, /) -> Importance:
        """The averages that PEFT's allocator starts from, seen after an update in which every gradient is zero."""
        zeros = Factors(*(np.zeros_like(a) for a in like))
        held = _with_gradients(like, zeros)
        held.allocator.update_ipt(held.network)
        return held.averages("layer")

    def update_importance(
        self, state: Importance, weights: Factors, grads: Factors, /, *, beta1: float, beta2: float
    ) -> Importance:
        """`RankAllocator.update_ipt` with its averages, its parameters and their gradients set to what is given."""
        if not (0 < beta1 < 1 and 0 < beta2 < 1):
            raise CannotExpress(f"PEFT's β1 and β2 lie between 0 and 1, both excluded; got {beta1} and {beta2}")
        held = _with_gradients(weights, grads, beta1=beta1, beta2=beta2)
        held.set_averages("layer", state)
        held.allocator.update_ipt(held.network)
        return held.averages("layer")

    def triplet_scores(self, state: Importance, /) -> Array:
        """The scores that `RankAllocator.mask_to_budget` forms on its way to the threshold.

        A second matrix with one triplet stands beside the given one, since PEFT finds no threshold without triplets.
        """
        (d_out, r), (_, d_in) = state.sensitivity.B.shape, state.sensitivity.A.shape
        one = np.zeros((1, 1), dtype=state.sensitivity.s.dtype)
        empty = Factors(one, one[0], one)
        held = Adapted({"layer": tensor(np.zeros((d_out, d_in))), "other": tensor(one)}, {"layer": r, "other": 1})
        held.set_averages("layer", state)
        held.set_averages("other", Importance(empty, empty))
        seen = recorded(held.allocator, "_combine_ipt")
        held.allocator.mask_to_budget(held.network, 0)
        return array(seen[0])

    # BUDGET AND ALLOCATION

    def budget_at(self, schedule: BudgetSchedule, step: int, /) -> int:
        """The budget of `RankAllocator.budget_schedule`."""
        budget, _ = _scheduled(schedule)[0].allocator.budget_schedule(step)
        return int(budget)

    def allocates_at(self, schedule: BudgetSchedule, step: int, /) -> bool:
        """Whether `update_and_allocate`, called at that step, asks the allocator for a new mask."""
        held, asked = _scheduled(schedule)
        asked.clear()
        held.model.base_model.update_and_allocate(step)
        return bool(asked)

    def allocate(
        self, scores: Mapping[str, Array], budget: int, /, *, cost: Mapping[str, int] | None = None
    ) -> dict[str, Array]:
        """The triplets that `RankAllocator.mask_to_budget` leaves, its averages set so that it scores as given."""
        if cost is not None:
            raise CannotExpress("PEFT's budget counts triplets; it knows no cost")
        one = np.ones((1, 1))
        held = Adapted({name: tensor(one) for name in scores}, {name: s.shape[0] for name, s in scores.items()})
        for name, s in scores.items():
            zeros = np.zeros((1, *s.shape), dtype=s.dtype)
            held.set_averages(name, Importance(Factors(zeros, s, zeros.T), Factors(zeros, np.ones_like(s), zeros.T)))
            held.layer(name).lora_E[ADAPTER].data.fill_(1.0)
        held.allocator.mask_to_budget(held.network, budget)
        return {name: array(held.layer(name).lora_E[ADAPTER])[:, 0] != 0 for name in scores}

    def prune(self, factors: Factors, keep: Array, /) -> Factors:
        """`RankAllocator.mask_using_rank_pattern`, as after every step of the last phase."""
        held = _loaded(factors)
        held.allocator.mask_using_rank_pattern(held.network, held.pattern({"layer": keep.tolist()}))
        return held.factors("layer")

    def compress(self, factors: Factors, keep: Array, /) -> Factors:
        """`resize_modules_by_rank_pattern`, as when a checkpoint is loaded."""
        held = _loaded(factors)
        held.resize({"layer": keep.tolist()})
        return held.factors("layer")


def _zero_weight(factors: Factors) -> Array:
    B, s, A = factors
    return np.zeros((B.shape[0], A.shape[1]), dtype=s.dtype)


def _loaded(factors: Factors, **settings: Any) -> Adapted:
    """One matrix, adapted, with these factors."""
    held = Adapted({"layer": tensor(_zero_weight(factors))}, {"layer": factors.s.shape[0]}, **settings)
    held.load("layer", factors)
    return held


def _scaled(W: Array, factors: Factors, scale: float, bias: Array | None = None) -> Adapted:
    """A layer on *W* at exactly this scale.

    PEFT's layer multiplies by `scaling` and divides by `ranknum` + 1e-5. Here the divisor is made 1, so that any scale
    arrives as it is given; whether PEFT's own α and rank make up the right scale is checked on the recorded run.
    """
    weights, biases = {"layer": tensor(W)}, {} if bias is None else {"layer": tensor(bias)}
    held = Adapted(weights, {"layer": factors.s.shape[0]}, biases=biases)
    layer = held.layer("layer")
    layer.scaling[ADAPTER] = scale
    layer.ranknum[ADAPTER].data.fill_(1.0 - 1e-5)
    held.load("layer", factors)
    return held


def _with_gradients(weights: Factors, grads: Factors, **settings: Any) -> Adapted:
    held = _loaded(weights, **settings)
    for parameter, g in zip(held.parameters("layer").values(), grads, strict=True):
        parameter.grad = tensor(g).reshape(parameter.shape)
    return held


@lru_cache(maxsize=16)
def _scheduled(schedule: BudgetSchedule) -> tuple[Adapted, list[Any]]:
    """One matrix that holds the whole budget, and a list that grows when its allocator is asked for a mask.

    The request goes no further: PEFT raises where a mask would keep everything, which `allocate` reports.
    """
    held = Adapted(
        {"layer": tensor(np.ones((1, 1)))},
        {"layer": schedule.initial},
        target_r=schedule.target,
        tinit=schedule.warmup,
        tfinal=schedule.final,
        total_step=schedule.total,
        deltaT=schedule.interval,
    )
    for parameter in held.parameters("layer").values():
        parameter.grad = peers()[0].zeros_like(parameter)
    everything = held.pattern({"layer": [True] * schedule.initial})
    held.config.rank_pattern = everything
    held.allocator.mask_to_budget = lambda *_: everything
    return held, recorded(held.allocator, "mask_to_budget")
