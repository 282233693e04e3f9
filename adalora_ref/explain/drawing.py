"""The numbers of a worked example: small integers for a pencil, or random ones of two decimals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from adalora_ref.factors import Factors

NUMBERS = ("integers", "random")
TRIES = 10_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which numbers, and how many of them."""

    numbers: str = "integers"
    seed: int = 0
    r: int = 2
    d_in: int = 3
    d_out: int = 3
    n: int = 2

    @property
    def exact(self) -> bool:
        """Whether a pencil can follow every number."""
        return self.numbers == "integers"

    def rng(self) -> np.random.Generator:
        """A generator that starts anew."""
        return np.random.default_rng(self.seed)


EXERCISE = {
    "x": np.array([[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]]),
    "W": np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
    "dy": np.array([[1.0, 0.0, -1.0], [2.0, -1.0, 1.0]]),
}
EXERCISE_FACTORS = Factors(
    B=np.array([[1.0, 0.0], [2.0, 1.0], [0.0, -1.0]]),
    s=np.array([2.0, -1.0]),
    A=np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]]),
)
"""The layer of the exercises in docs/derivations; what one gets unless one asks for another."""


def array(rng: np.random.Generator, options: Options, *shape: int) -> Any:
    """Integers from −2 to 2, or Gaussian numbers of two decimals, so that what is shown is what is computed with."""
    if options.exact:
        return rng.integers(-2, 3, shape).astype(np.float64)
    return np.round(rng.standard_normal(shape), 2) + 0.0  # no -0.0


def positive(rng: np.random.Generator, options: Options, *shape: int) -> Any:
    """Averages of sensitivities: 0, 2 or 4, or numbers of two decimals below 4."""
    if options.exact:
        return 2.0 * rng.integers(0, 3, shape)
    return np.round(4.0 * rng.random(shape), 2)


def factors(rng: np.random.Generator, options: Options, draw: Any = array) -> Factors:
    """Factors whose entries are drawn by *draw*."""
    shapes = ((options.d_out, options.r), (options.r,), (options.r, options.d_in))
    return Factors(*(draw(rng, options, *shape) for shape in shapes))


def layer(options: Options) -> tuple[dict[str, Any], Factors]:
    """x, W, dy and the factors of a layer."""
    if options == Options():
        return EXERCISE, EXERCISE_FACTORS
    rng = options.rng()
    shapes = {"x": (options.n, options.d_in), "W": (options.d_out, options.d_in), "dy": (options.n, options.d_out)}
    return {name: array(rng, options, *shape) for name, shape in shapes.items()}, factors(rng, options)


def with_whole_norms(options: Options) -> Factors:
    """Factors whose two defects have whole norms above 0, if the sizes allow it and the numbers are integers."""
    if options == Options():
        return EXERCISE_FACTORS
    rng = options.rng()
    held = factors(rng, options)
    for _ in range(TRIES if options.exact else 0):
        if all(square and math.isqrt(square) ** 2 == square for square in _squared_defects(held)):
            break
        held = factors(rng, options)
    return held


def _squared_defects(held: Factors) -> list[int]:
    grams = (held.B.T @ held.B, held.A @ held.A.T)
    return [int(np.sum((gram - np.eye(len(gram))) ** 2)) for gram in grams]


def two_gradients(rng: np.random.Generator, options: Options) -> tuple[Factors, Factors]:
    """Gradients of two steps; for integers (g₁² + 2 g₂²) / 3 is a square, so that √v̂ is whole at β2 = 1/2."""
    if not options.exact:
        return factors(rng, options), factors(rng, options)
    pairs = np.array([(1, 1), (2, 2), (3, 3), (5, 1), (10, 2)])

    def pair(shape: tuple[int, ...]) -> Any:
        signs = rng.choice([-1.0, 1.0], (*shape, 2))
        return pairs[rng.integers(0, len(pairs), shape)] * signs

    drawn = [pair(shape) for shape in ((options.d_out, options.r), (options.r,), (options.r, options.d_in))]
    return Factors(*(a[..., 0] for a in drawn)), Factors(*(a[..., 1] for a in drawn))
