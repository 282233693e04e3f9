"""The one room that names array libraries: namespaces, dtypes, devices, and the way to and from the host."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any, TypeAlias

import array_api_compat
import numpy as np

Array: TypeAlias = Any
"""An array of any library that follows the array API standard."""

DType: TypeAlias = Any

HALF = frozenset({"float16", "bfloat16"})
FLOATING = HALF | {"float32", "float64"}

LIBRARIES = {
    "numpy": "array_api_compat.numpy",
    "array_api_strict": "array_api_strict",
    "cupy": "array_api_compat.cupy",
    "torch": "array_api_compat.torch",
    "jax": "jax.numpy",
}


def namespace(*arrays: Array | None) -> Any:
    """Return the array-API namespace that all *arrays* share; ``None`` is passed over.

    Raises
    ------
    TypeError
        If one of them is no array, or if they belong to two libraries.
    ValueError
        If they are known to lie on two devices. Arrays that report no device (JAX tracers) are not compared.
    """
    given = [a for a in arrays if a is not None]
    kinds = {type(a): a for a in given}  # an array's type decides its library, and looking that up is slow
    for a in kinds.values():
        if not _is_array(a):
            raise TypeError(f"arrays of an array-API library are needed; got {type(a).__name__}")
    if not given:
        raise TypeError("at least one array is needed; got none")
    libraries = {array_api_compat.array_namespace(a) for a in kinds.values()}
    if len(libraries) != 1:
        names = sorted(xp.__name__ for xp in libraries)
        raise TypeError(f"the arrays of one call must belong to one library; got {names}")
    devices = {str(d) for a in given if (d := device(a)) is not None}
    if len(devices) > 1:
        raise ValueError(f"the arrays of one call must lie on one device; got {sorted(devices)}")
    return libraries.pop()


def device(a: Array) -> Any:
    """Return the device of *a*, or ``None`` where it reports none (a JAX tracer)."""
    try:
        return array_api_compat.device(a)
    except (AttributeError, TypeError):
        return None


def dtype_name(a: Array) -> str:
    """Return the bare name of an array's dtype, the same for every library: ``"float32"``."""
    library: Any = type(a.dtype)
    return _bare_name(library, a.dtype)


@cache
def _bare_name(library: Any, dtype: DType) -> str:  # noqa: ARG001  dtypes of two libraries must not be compared
    return str(dtype).rpartition(".")[2]


def require_arrays(**named: Array) -> None:
    """Refuse, with TypeError, what is no array, ``None`` included; the message says which argument it is."""
    for name, a in named.items():
        if not _is_array(a):
            raise TypeError(f"{name} must be an array of an array-API library; got {type(a).__name__}")


def _is_array(a: Any) -> bool:
    # A scalar type such as np.float64 has an array's methods; a masked array has them with another meaning.
    return not isinstance(a, type | np.ma.MaskedArray) and bool(array_api_compat.is_array_api_obj(a))


def require_floating(*arrays: Array | None) -> Any:
    """Return the namespace of *arrays*; refuse, with TypeError, what is not real floating, or float16 with bfloat16."""
    xp = namespace(*arrays)
    names = {dtype_name(a) for a in arrays if a is not None}
    if not names <= FLOATING:
        raise TypeError(f"real floating arrays are needed ({', '.join(sorted(FLOATING))}); got {sorted(names)}")
    if names >= HALF:
        raise TypeError("float16 and bfloat16 have no common dtype; cast one of them")
    if names & HALF and not has_half(xp):
        raise TypeError(f"16-bit dtypes are supported on NumPy and CuPy alone; got {sorted(names)} of {xp.__name__}")
    return xp


def has_half(xp: Any) -> bool:
    """Return whether 16-bit dtypes are supported on a library: on NumPy and CuPy alone."""
    return bool(array_api_compat.is_numpy_namespace(xp) or array_api_compat.is_cupy_namespace(xp))


def promote(*arrays: Array | None) -> tuple[DType, list[Any]]:
    """Return the dtype of the result, and *arrays* cast to the dtype in which to compute it.

    Both are the widest dtype given, but for 16-bit results, which are computed in float32 and rounded once.
    """
    xp = require_floating(*arrays)
    dtypes = {dtype_name(a): a.dtype for a in arrays if a is not None}
    working = xp.float64 if "float64" in dtypes else xp.float32
    result = working if dtypes.keys() - HALF else next(iter(dtypes.values()))
    return result, [None if a is None else cast(a, working) for a in arrays]


def cast(a: Array, dtype: DType) -> Array:
    """Return *a* in *dtype*, rounding each element once; *a* itself where it has that dtype already."""
    return a if a.dtype == dtype else namespace(a).astype(a, dtype)


def like_host(values: Any, like: Array) -> Array:
    """Return host *values* as an array of *like*'s library, dtype and device."""
    host = np.asarray(values)
    # CuPy and torch know no array of an ml_dtypes dtype, so the values travel in float32, which holds 16-bit ones.
    host = host.astype(np.float32) if host.dtype.name in HALF else host
    xp = namespace(like)
    return cast(xp.asarray(host, device=device(like)), like.dtype)


def normal(rng: np.random.Generator, shape: tuple[int, ...], /, *, std: float, like: Array) -> Array:
    """Draw from N(0, std²) on the host, in float64, then move to *like*'s library, dtype and device."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy.random.Generator, not a seed; got {rng!r}")
    return like_host(std * rng.standard_normal(shape), like)


def to_numpy(a: Array) -> Any:
    """Return *a* as a NumPy array on the host."""
    if array_api_compat.is_cupy_array(a):
        return a.get()
    if array_api_compat.is_torch_array(a):
        return a.detach().cpu().resolve_conj().numpy()
    if type(a).__module__.startswith("array_api_strict"):
        return np.asarray(a.to_device(namespace(a).Device("CPU_DEVICE")))
    return np.asarray(a)


def backend(name: str) -> Any:
    """Return the namespace of an installed array library.

    Parameters
    ----------
    name
        ``numpy``, ``cupy``, ``torch``, ``jax`` or ``array_api_strict``; JAX is switched to 64-bit dtypes, process-wide.

    Raises
    ------
    ValueError
        If *name* is none of these.
    RuntimeError
        If the library is not installed, or is CuPy without a usable GPU.
    """
    if not isinstance(name, str) or name not in LIBRARIES:
        raise ValueError(f"the array library must be one of {', '.join(LIBRARIES)}; got {name!r}")
    try:
        xp = importlib.import_module(LIBRARIES[name])
    except ImportError as error:
        raise RuntimeError(f"the array library {name} is not installed ({error})") from error
    if name == "cupy" and not xp.is_available():
        raise RuntimeError("cupy is installed, but finds no usable GPU")
    if name == "jax":
        importlib.import_module("jax").config.update("jax_enable_x64", True)
    return xp
