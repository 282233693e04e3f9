"""The penalty that keeps B's columns and A's rows orthonormal, squared and not, with its gradient."""

from __future__ import annotations

from jaxtyping import Float

from adalora_ref.array import Array, cast, device, namespace, promote
from adalora_ref.factors import Factors, require_factors


def orthogonality_penalty(factors: Factors, /) -> tuple[Float[Array, ""], Factors]:
    """R = ‖BᵀB − I‖²_F + ‖AAᵀ − I‖²_F, and its gradient: dB = 4 B (BᵀB − I), dA = 4 (AAᵀ − I) A, ds = 0.

    Examples
    --------
    >>> import numpy as np
    >>> R, (dB, ds, dA) = orthogonality_penalty(Factors(np.array([[2.0]]), np.array([7.0]), np.array([[1.0]])))
    >>> float(R), dB, ds, dA  # (4 − 1)² and 4 · 2 · 3
    (9.0, array([[24.]]), array([0.]), array([[0.]]))

    References
    ----------
    Specification (5); paper equation (4).
    """
    require_factors(factors)
    xp = namespace(*factors)
    dtype, (B, s, A) = promote(*factors)
    Z_B, Z_A = _defects(B, A)
    R = xp.sum(Z_B * Z_B) + xp.sum(Z_A * Z_A)  # ()
    dB = 4.0 * (B @ Z_B)  # (d_out, r)
    dA = 4.0 * (Z_A @ A)  # (r, d_in)
    return cast(R, dtype), Factors(cast(dB, dtype), cast(xp.zeros_like(s), dtype), cast(dA, dtype))


def orthogonality_norm(factors: Factors, /) -> tuple[Float[Array, ""], Factors]:
    """R = ‖BᵀB − I‖_F + ‖AAᵀ − I‖_F, and its gradient: dB = 2 B (BᵀB − I) / ‖BᵀB − I‖_F, dA alike, ds = 0.

    Where a norm is 0 its gradient is 0. *Near* orthonormality the gradient is noise: a B that is orthonormal up to
    rounding has a norm of the order of 1e-16 (5.5e-16 was seen), yet entries of the gradient up to 0.83, because
    the direction of a defect made of rounding errors is arbitrary while its length is divided out. Two correct
    implementations may differ there by as much as the gradient itself. The squared penalty has no such place.

    Examples
    --------
    >>> import numpy as np
    >>> R, (dB, ds, dA) = orthogonality_norm(Factors(np.array([[2.0]]), np.array([7.0]), np.array([[1.0]])))
    >>> float(R), dB, ds, dA  # 4 − 1, and 2 · 2 · 3 / 3
    (3.0, array([[4.]]), array([0.]), array([[0.]]))

    References
    ----------
    Specification (6); released ``compute_orth_regu``; PEFT ``AdaLoraModel.forward``. Paper equation (4) squares it.
    """
    require_factors(factors)
    xp = namespace(*factors)
    dtype, (B, s, A) = promote(*factors)
    Z_B, Z_A = _defects(B, A)
    norm_B, norm_A = xp.sqrt(xp.sum(Z_B * Z_B)), xp.sqrt(xp.sum(Z_A * Z_A))  # ()
    dB = 2.0 * (B @ Z_B) / xp.where(norm_B > 0, norm_B, xp.ones_like(norm_B))  # (d_out, r)
    dA = 2.0 * (Z_A @ A) / xp.where(norm_A > 0, norm_A, xp.ones_like(norm_A))  # (r, d_in)
    return cast(norm_B + norm_A, dtype), Factors(cast(dB, dtype), cast(xp.zeros_like(s), dtype), cast(dA, dtype))


def _defects(B: Float[Array, "d_out r"], A: Float[Array, "r d_in"]) -> tuple[Float[Array, "r r"], Float[Array, "r r"]]:
    """BᵀB − I and AAᵀ − I."""
    identity = namespace(B).eye(B.shape[1], dtype=B.dtype, device=device(B))
    return B.T @ B - identity, A @ A.T - identity
