"""The numbers of a worked example: small integers for a pencil, or random ones of two decimals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from adalora_ref.factors import Factors
from adalora_ref.linear import linear_backward, linear_forward
from adalora_ref.orthogonality import orthogonality_penalty

T = TypeVar("T")
NUMBERS = ("integers", "random")
TRIES = 10_000
SCALE = 2.0


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


def telling(draw: Callable[[], T], tells: Callable[[T], bool]) -> T:
    """The first draw that *tells*, so that no quantity can be left out unnoticed; after many tries the last."""
    for _ in range(TRIES):
        if tells(drawn := draw()):
            break
    return drawn


def layer(options: Options) -> tuple[dict[str, Any], Factors]:
    """x, W, dy and the factors of a layer: every entry of ds counts, and no other result is all zeros."""
    if options == Options():
        return EXERCISE, EXERCISE_FACTORS
    rng = options.rng()
    shapes = {"x": (options.n, options.d_in), "W": (options.d_out, options.d_in), "dy": (options.n, options.d_out)}

    def draw() -> tuple[dict[str, Any], Factors]:
        return {name: array(rng, options, *shape) for name, shape in shapes.items()}, factors(rng, options)

    def tells(drawn: tuple[dict[str, Any], Factors]) -> bool:
        arrays, held = drawn
        x, W, dy = arrays["x"], arrays["W"], arrays["dy"]
        y, cache = linear_forward(x, W, held, scale=SCALE)
        dx, (dB, ds, dA) = linear_backward(dy, cache)
        parts = (x @ W.T, y - x @ W.T, dB, dA, dy @ W, dx - dy @ W)
        return bool(np.all(held.s * ds)) and all(np.any(part) for part in parts)

    return telling(draw, tells)


def penalised(options: Options, *, whole_norms: bool = False) -> Factors:
    """Factors with a gradient of both defects, which for integers may be asked to have whole norms, if sizes allow."""
    if options == Options():
        return EXERCISE_FACTORS
    rng = options.rng()

    def tells(held: Factors) -> bool:
        if whole_norms and options.exact and any(math.isqrt(n) ** 2 != n for n in _squared_defects(held)):
            return False
        _, gradient = orthogonality_penalty(held)
        return bool(np.any(gradient.B) and np.any(gradient.A))

    return telling(lambda: factors(rng, options), tells)


def averages(rng: np.random.Generator, options: Options) -> tuple[Factors, Factors]:
    """Ī and Ū whose product counts in every term of every score."""

    def pair(*shape: int, axis: int | None = None) -> tuple[Any, Any]:
        def tells(drawn: tuple[Any, Any]) -> bool:
            product = drawn[0] * drawn[1]
            return bool(np.all(product if axis is None else np.sum(product, axis=axis)))

        return telling(lambda: (positive(rng, options, *shape), positive(rng, options, *shape)), tells)

    pairs = (pair(options.d_out, options.r, axis=0), pair(options.r), pair(options.r, options.d_in, axis=1))
    return Factors(*(mean for mean, _ in pairs)), Factors(*(deviation for _, deviation in pairs))


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
