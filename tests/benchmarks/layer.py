"""The adapted layer: the core against PEFT's layer and against the matrix products alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # beside this script, which is no package
from harness import Benchmark, main

from adalora_ref import Factors, linear_backward, linear_forward

Prepared = tuple[Callable[[], Any], Callable[[Any], float | None]]

SHAPES = ((512, 768, 768, 12), (2048, 768, 3072, 12), (2048, 4096, 4096, 16), (128, 1024, 1024, 8))
"""n, d_in, d_out, r."""

TINY = ((8, 32, 32, 4), (4, 16, 24, 2))
PASSES = ("forward", "forward and backward")
SCALE = 0.5


def names(shapes: tuple[tuple[int, ...], ...]) -> list[str]:
    """Every pass at every shape: "512, 768, 768, 12: forward"."""
    return [f"{', '.join(map(str, shape))}: {which}" for shape in shapes for which in PASSES]


def arrays(case: str) -> tuple[Any, Any, Factors, Any, bool]:
    """Return x, W, factors, dy and whether to go backward; the same numbers in every process."""
    sizes, which = case.split(": ")
    n, d_in, d_out, r = map(int, sizes.split(", "))
    rng = np.random.default_rng(0)

    def draw(*shape: int, std: float) -> Any:
        return np.float32(std) * rng.standard_normal(shape, dtype=np.float32)

    factors = Factors(draw(d_out, r, std=0.1), draw(r, std=1.0), draw(r, d_in, std=0.1))
    x, W, dy = draw(n, d_in, std=1.0), draw(d_out, d_in, std=0.05), draw(n, d_out, std=1.0)
    return x, W, factors, dy, which == PASSES[1]


def core(case: str) -> Prepared:
    """`linear_forward` and `linear_backward`."""
    x, W, factors, dy, backward = arrays(case)

    def run() -> list[Any]:
        y, cache = linear_forward(x, W, factors, scale=SCALE)
        if not backward:
            return [y]
        dx, grads = linear_backward(dy, cache)
        return [y, dx, *grads]

    return run, size


def peft(case: str) -> Prepared:
    """PEFT's SVDLinear and autograd, W frozen."""
    from adalora_ref.conformance.peft_target import Adapted, array, peers, tensor

    torch, _ = peers()
    x, W, factors, dy, backward = arrays(case)
    rank = factors.s.shape[0]
    held = Adapted({"layer": tensor(W)}, {"layer": rank}, lora_alpha=SCALE * (rank + 1e-5))
    held.load("layer", factors)
    layer, parameters = held.layer("layer"), tuple(held.parameters("layer").values())
    x, dy = tensor(x).requires_grad_(), tensor(dy)

    def run() -> list[Any]:
        y = layer(x)
        return [y, *torch.autograd.grad(y, (x, *parameters), dy)] if backward else [y]

    return run, lambda results: size([array(a) for a in results])


def products(case: str) -> Prepared:
    """The matrix products of the layer in NumPy, and nothing else."""
    x, W, (B, _, A), dy, backward = arrays(case)

    def run() -> None:
        u = x @ A.T
        x @ W.T
        u @ B.T
        if backward:
            dz = dy @ B
            dy @ W
            dy.T @ u
            dz.T @ x
            dz @ A

    return run, lambda _: None


def size(results: list[Any]) -> float:
    """Return the sum of the norms of all results."""
    return sum(float(np.linalg.norm(a.astype(np.float64))) for a in results)


if __name__ == "__main__":
    sys.exit(
        main(
            Benchmark(
                script=Path(__file__),
                title="Speed of the adapted layer",
                text="The core's layer, written to be read, against PEFT's (torch, autograd) and against its matrix\n"
                "products alone (NumPy). A case is n, d_in, d_out, r.\n"
                "A ratio above 1 means that the core takes longer.\n\n"
                "Where the forward pass takes longer than PEFT's, it is by additions: y = x Wᵀ + scale · z Bᵀ writes\n"
                "three arrays of y's size, and NumPy adds with one thread however many the products have. At the\n"
                "smallest case with two threads that is as much as the products themselves; with the backward pass,\n"
                "or at larger sizes, the products outweigh it.",
                libraries={"core": core, "peft": peft, "products": products},
                cases=names(SHAPES),
                tiny=names(TINY),
                packages=("numpy", "torch", "peft"),
            )
        )
    )
