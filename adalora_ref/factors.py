"""The increment ΔW = B · diag(s) · A, held as its three factors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float

from adalora_ref.array import Array, cast, like_host, namespace, normal, promote, require_arrays, require_floating
from adalora_ref.checks import count, real

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, eq=False)
class Factors:
    """B (d_out, r), s (r,) and A (r, d_in); triplet i is (B[:, i], s[i], A[i, :]).

    Parameters, gradients, optimiser moments, sensitivities and uncertainties all have this form.

    Raises
    ------
    TypeError
        If the three are not real floating arrays of one library.
    ValueError
        If the shapes do not fit, d_in or d_out is 0, or the arrays lie on two devices.

    Examples
    --------
    >>> import numpy as np
    >>> B, s, A = Factors(np.ones((3, 2)), np.zeros(2), np.ones((2, 5)))
    >>> B.shape, s.shape, A.shape
    ((3, 2), (2,), (2, 5))
    """

    B: Float[Array, "d_out r"]
    s: Float[Array, " r"]
    A: Float[Array, "r d_in"]

    def __post_init__(self) -> None:
        require_arrays(B=self.B, s=self.s, A=self.A)
        require_floating(*self)
        B, s, A = (tuple(a.shape) for a in self)
        if not (len(B) == len(A) == 2 and s == B[1:] == A[:1] and B[0] >= 1 and A[1] >= 1):
            raise ValueError(
                f"B, s, A must be (d_out, r), (r,), (r, d_in) with d_out and d_in at least 1; got {(B, s, A)}"
            )

    def __iter__(self) -> Iterator[Array]:
        return iter((self.B, self.s, self.A))


def map_factors(f: Callable[..., Array], /, *factors: Factors) -> Factors:
    """Apply *f* to the three arrays: ``Factors(f(B, …), f(s, …), f(A, …))``.

    Raises
    ------
    TypeError, ValueError
        If there are no factors, or if they differ in shape, library or device.

    Examples
    --------
    >>> import numpy as np
    >>> one = Factors(np.ones((1, 1)), np.ones(1), np.ones((1, 1)))
    >>> map_factors(lambda w, g: w - 0.5 * g, one, one).s
    array([0.5])

    References
    ----------
    Specification (8) is written with it: one rule, for B, s and A alike.
    """
    if not callable(f):
        raise TypeError(f"f must be a function of arrays; got {type(f).__name__}")
    if not factors:
        raise TypeError("map_factors needs at least one Factors; got none")
    _check_alike(factors)
    return Factors(*(f(*arrays) for arrays in zip(*factors, strict=True)))


def init_factors(
    rng: np.random.Generator, d_out: int, d_in: int, r: int, /, *, std: float = 0.02, like: Array
) -> Factors:
    """Draw B, then A, from N(0, std²); s = 0, so that the increment starts at zero.

    Parameters
    ----------
    rng
        Drawn from on the host, so that every library and device starts from the same numbers.
    std
        Standard deviation, at least 0.
    like
        An array whose library, dtype and device the factors take.

    References
    ----------
    Specification (1); paper §3.1 (s zero, B and A Gaussian); released ``SVDLinear.reset_parameters`` (standard
    deviation 0.02).
    """
    require_arrays(like=like)
    require_floating(like)
    d_out, d_in, r = count("d_out", d_out, least=1), count("d_in", d_in, least=1), count("r", r)
    std = real("std", std, least=0.0)
    B = normal(rng, (d_out, r), std=std, like=like)
    A = normal(rng, (r, d_in), std=std, like=like)
    return Factors(B, like_host([0.0] * r, like), A)


def wide_zeros(like: Factors) -> Factors:
    """Zeros in *like*'s shapes, in a dtype of at least 32 bits."""
    require_factors(like)
    xp = namespace(*like)
    return map_factors(lambda w: xp.zeros_like(promote(w)[1][0]), like)


def promote_factors(*factors: Factors) -> list[Factors]:
    """Cast *factors* to the one dtype in which to compute with them all; refuse those that differ in shape."""
    _check_alike(factors)
    _, arrays = promote(*(a for held in factors for a in held))
    return [Factors(*arrays[i : i + 3]) for i in range(0, len(arrays), 3)]


def with_dtypes_of(old: Factors, new: Factors) -> Factors:
    """Round *new* to the dtypes of what it replaces."""
    return map_factors(lambda o, n: cast(n, o.dtype), old, new)


def require_factors(*factors: Factors) -> None:
    """Refuse, with TypeError, what is no `Factors`: a tuple of three arrays has passed no check."""
    for held in factors:
        if not isinstance(held, Factors):
            raise TypeError(f"Factors are needed; got {type(held).__name__}")


def _check_alike(factors: tuple[Factors, ...]) -> None:
    require_factors(*factors)
    namespace(*(a for held in factors for a in held))
    shapes = {tuple(tuple(a.shape) for a in held) for held in factors}
    if len(shapes) > 1:
        raise ValueError(f"all Factors of one call must have the same shapes; got {sorted(shapes)}")
