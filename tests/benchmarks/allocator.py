"""One step of the allocator over all matrices of a model: the core against PEFT's RankAllocator."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # beside this script, which is no package
from harness import Benchmark, main

from adalora_ref import (
    BudgetSchedule,
    Factors,
    allocate,
    init_importance,
    prune,
    triplet_scores,
    update_importance,
)
from adalora_ref.convention import budget_in_doubles

Prepared = tuple[Callable[[], Any], Callable[[Any], float]]
Shapes = list[tuple[int, int]]

MODELS: dict[str, tuple[int, Shapes]] = {
    "DeBERTaV3-base": (12, 12 * [*4 * [(768, 768)], (3072, 768), (768, 3072)]),
    "Llama-7B": (16, 32 * [*4 * [(4096, 4096)], *2 * [(11008, 4096)], (4096, 11008)]),
    "tiny": (4, 3 * [(16, 24), (24, 16)]),
}
"""r, and (d_out, d_in) of every adapted matrix."""

STEP, TOTAL, BETA = 1, 1000, 0.85


def case_name(model: str) -> str:
    """Return the name with what it stands for: "tiny, 6 matrices, r = 4, 984 numbers"."""
    r, shapes = MODELS[model]
    return (
        f"{model}, {len(shapes)} matrices, r = {r}, {sum(r * (d_out + d_in + 1) for d_out, d_in in shapes):,} numbers"
    )


def arrays(case: str) -> tuple[dict[str, Factors], dict[str, Factors], BudgetSchedule]:
    """Return weights, gradients and schedule of a model; the same numbers in every process."""
    r, shapes = MODELS[case.partition(", ")[0]]
    rng = np.random.default_rng(0)

    def draw(std: float) -> dict[str, Factors]:
        sizes = {f"layer{i}": ((d_out, r), (r,), (r, d_in)) for i, (d_out, d_in) in enumerate(shapes)}
        return {
            name: Factors(*(np.float32(std) * rng.standard_normal(size, dtype=np.float32) for size in three))
            for name, three in sizes.items()
        }

    schedule = BudgetSchedule.from_ranks(shapes, initial_rank=r, target_rank=r // 2, warmup=0, final=0, total=TOTAL)
    return draw(0.02), draw(1e-3), schedule


def core(case: str) -> Prepared:
    """`update_importance`, `triplet_scores`, `allocate` and `prune`."""
    weights, grads, schedule = arrays(case)
    state = {name: init_importance(w) for name, w in weights.items()}
    budget = budget_in_doubles(schedule, STEP)

    def run() -> dict[str, Any]:
        for name, w in weights.items():
            state[name] = update_importance(state[name], w, grads[name], beta1=BETA, beta2=BETA)
        masks = allocate({name: triplet_scores(held) for name, held in state.items()}, budget)
        for name, w in weights.items():
            weights[name] = prune(w, masks[name])
        return weights

    return run, lambda pruned: sum(float(np.linalg.norm(w.s)) for w in pruned.values())


def peft(case: str) -> Prepared:
    """`RankAllocator.update_and_allocate`, as PEFT's model calls it at a step with an allocation."""
    from adalora_ref.conformance.peft_target import ADAPTER, array, peers, tensor

    torch, library = peers()
    weights, grads, _ = arrays(case)
    rank = next(iter(weights.values())).s.shape[0]
    config = library.AdaLoraConfig(
        init_r=rank, target_r=rank // 2, total_step=TOTAL, beta1=BETA, beta2=BETA, target_modules=list(weights)
    )
    model = library.get_peft_model(frozen(torch, weights), config)
    layers = {name: model.base_model.model[name] for name in weights}
    for name, layer in layers.items():
        for part, w, g in zip(("lora_B", "lora_E", "lora_A"), weights[name], grads[name], strict=True):
            parameter = getattr(layer, part)[ADAPTER]
            parameter.data.copy_(tensor(w).reshape(parameter.shape))
            parameter.grad = tensor(g).reshape(parameter.shape)

    def run() -> dict[str, Any]:
        model.base_model.update_and_allocate(STEP)
        return layers

    return run, lambda held: sum(float(np.linalg.norm(array(layer.lora_E[ADAPTER]))) for layer in held.values())


def frozen(torch: Any, weights: dict[str, Factors]) -> Any:
    """Return linear layers of the right sizes whose weights, which an allocator never reads, take no memory."""
    layers = torch.nn.ModuleDict()
    for name, (B, _, A) in weights.items():
        layers[name] = torch.nn.Linear(A.shape[1], B.shape[0], bias=False, device="meta")
        layers[name].weight = torch.nn.Parameter(torch.zeros(1, 1).expand(B.shape[0], A.shape[1]), requires_grad=False)
    return layers


if __name__ == "__main__":
    sys.exit(
        main(
            Benchmark(
                script=Path(__file__),
                title="Speed of the allocator",
                text="One step over all matrices: importance, scores, choice and mask; the core's functions against\n"
                "PEFT's RankAllocator. A ratio above 1 means that the core takes longer.\n\n"
                "Where the core takes longer, it is by what it does around the arithmetic: every call checks its\n"
                "arguments, which is most of the time at many small matrices, and every operation of the array API\n"
                "writes a new array.",
                libraries={"core": core, "peft": peft},
                cases=[case_name("DeBERTaV3-base"), case_name("Llama-7B")],
                tiny=[case_name("tiny")],
                packages=("numpy", "torch", "peft"),
            )
        )
    )
