"""Hypothesis strategies for AdaLoRA: what to draw when you test an implementation of your own.

Every argument may be a plain value or itself a strategy. Entries are by default eighths, on which the arithmetic of
small cases is exact, so that laws hold with ``==``; all shrinking ends at small sizes and small eighths, cases that a
person can work by hand. `xp` chooses the array library.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from adalora_ref.array import HALF, Array, cast, like_host
from adalora_ref.budget import BudgetSchedule
from adalora_ref.factors import Factors
from adalora_ref.importance import Importance

T = TypeVar("T")
Given: TypeAlias = T | SearchStrategy[T]
"""A plain value, or a strategy that draws one."""

DTYPES = ("float64", "float32", "float16", "bfloat16")

LAYOUTS = ("C", "Fortran", "strided", "read-only", "zero-size")

Cases: TypeAlias = SearchStrategy[dict[str, Any]]

# NUMBERS


def sizes(least: int = 1, most: int = 3) -> SearchStrategy[int]:
    """Numbers of rows, columns, triplets or samples."""
    return st.integers(least, most)


def dtypes(*names: str) -> SearchStrategy[str]:
    """Names of real floating dtypes, by default of all four; it shrinks to the first.

    Examples
    --------
    >>> DTYPES
    ('float64', 'float32', 'float16', 'bfloat16')
    """
    return st.sampled_from(names or DTYPES)


def layouts(*names: str) -> SearchStrategy[str]:
    """How an array lies in memory: C, Fortran, strided, read-only (on NumPy), or of size zero; it shrinks to C."""
    return st.sampled_from(names or LAYOUTS)


def eighths(most: int = 16) -> SearchStrategy[float]:
    """k/8 for k from −*most* to *most*: sums and products of a few of them are exact, in float32 too.

    It shrinks to 1, then to other whole numbers, then to halves, so that what is left can be worked by hand and is not
    all zeros.
    """
    values = sorted(range(-most, most + 1), key=lambda k: (8 // math.gcd(k, 8), abs(abs(k) - 8), k < 0))
    return st.sampled_from([k / 8 for k in values])


EIGHTHS = eighths()


def ordinary() -> SearchStrategy[float]:
    """Numbers that no arithmetic keeps exact, of magnitude 2⁻¹⁰ to 2, and zero."""
    sizes = st.floats(2.0**-10, 2.0, width=64)
    return st.builds(math.copysign, sizes, st.sampled_from([1.0, -1.0])) | st.just(0.0)


def realistic(typical: Given[float] = 0.02) -> SearchStrategy[float]:
    """Numbers of the order of *typical*, as training has them: 0.02 for factors, 1e-7 for gradients."""
    return st.builds(lambda scale, z: scale * z, _of(typical), ordinary())


# ARRAYS


@st.composite
def arrays(
    draw: DrawFn,
    shape: Given[tuple[int, ...]],
    *,
    dtype: Given[str] = "float64",
    entries: SearchStrategy[float] | None = None,
    layout: Given[str] = "C",
    xp: Any = np,
) -> Array:
    """Arrays of one shape, each entry rounded to *dtype*."""
    lengths = draw(_of(shape))
    element = EIGHTHS if entries is None else entries
    values = np.asarray([draw(element) for _ in range(math.prod(lengths))], dtype=np.float64)
    return _laid_out(_moved(values.reshape(lengths), draw(_of(dtype)), xp), draw(_of(layout)), xp)


@st.composite
def factors(
    draw: DrawFn,
    *,
    d_out: Given[int] | None = None,
    d_in: Given[int] | None = None,
    r: Given[int] | None = None,
    dtype: Given[str] = "float64",
    entries: SearchStrategy[float] | None = None,
    layout: Given[str] = "C",
    xp: Any = np,
) -> Factors:
    """B (d_out, r), s (r,) and A (r, d_in); sizes are by default 1 to 3, and r may be 0."""
    rows, columns = (draw(_of(sizes() if size is None else size)) for size in (d_out, d_in))
    rank, dtype, layout = draw(_of(sizes(0) if r is None else r)), draw(_of(dtype)), draw(_of(layout))
    if layout == "zero-size":
        rank, layout = 0, "C"
    kind: dict[str, Any] = {"dtype": dtype, "entries": entries, "layout": layout, "xp": xp}
    return Factors(*(draw(arrays(shape, **kind)) for shape in ((rows, rank), (rank,), (rank, columns))))


def gradients(
    like: Factors, *, entries: SearchStrategy[float] | None = None, dtype: Given[str] = "float64", xp: Any = np
) -> SearchStrategy[Factors]:
    """Factors in the shapes of *like*, by default of eighths; `realistic(1e-7)` gives the magnitudes of training."""
    (d_out, r), (_, d_in) = like.B.shape, like.A.shape
    return factors(d_out=d_out, d_in=d_in, r=r, dtype=dtype, entries=entries, xp=xp)


@st.composite
def linear_cases(
    draw: DrawFn,
    *,
    n: Given[int] | None = None,
    d_out: Given[int] | None = None,
    d_in: Given[int] | None = None,
    r: Given[int] | None = None,
    scale: Given[float] | None = None,
    bias: Given[bool] = st.booleans(),  # noqa: B008  a strategy is a value
    dropout: Given[bool] = st.booleans(),  # noqa: B008  likewise
    dtype: Given[str] = "float64",
    entries: SearchStrategy[float] | None = None,
    layout: Given[str] = "C",
    xp: Any = np,
) -> dict[str, Any]:
    """Arguments of a forward and a backward pass: x, W, factors, scale, bias, dropout_mask and dy."""
    rows, columns = (draw(_of(sizes() if size is None else size)) for size in (d_out, d_in))
    samples, dtype, layout = draw(_of(sizes() if n is None else n)), draw(_of(dtype)), draw(_of(layout))
    held = draw(
        factors(
            d_out=rows, d_in=columns, r=_of(sizes() if r is None else r), dtype=dtype, entries=entries, layout=layout,
            xp=xp,
        )
    )  # fmt: skip
    samples, layout = (0, "C") if layout == "zero-size" else (samples, layout)
    kind: dict[str, Any] = {"dtype": dtype, "entries": entries, "layout": layout, "xp": xp}
    twos = kind | {"entries": st.sampled_from([2.0, 0.0])}
    return {
        "x": draw(arrays((samples, columns), **kind)),
        "W": draw(arrays((rows, columns), **kind)),
        "factors": held,
        "scale": draw(_of(st.sampled_from([1.0, 2.0, -0.5, 0.375]) if scale is None else scale)),
        "bias": draw(arrays((rows,), **kind)) if draw(_of(bias)) else None,
        "dropout_mask": draw(arrays((samples, columns), **twos)) if draw(_of(dropout)) else None,
        "dy": draw(arrays((samples, rows), **kind)),
    }


# MATRICES WITH A PROPERTY


@st.composite
def orthogonal(draw: DrawFn, n: Given[int], *, dtype: Given[str] = "float64", xp: Any = np) -> Array:
    """Square matrices Q with Q Qᵀ = I exactly: signed permutations; in four dimensions also halves of ±1 all over."""
    size = draw(_of(n))
    order = draw(st.permutations(range(size)))
    signs = draw(st.lists(st.sampled_from([1.0, -1.0]), min_size=size, max_size=size))
    matrix = np.eye(size)[list(order)] * np.asarray(signs).reshape(-1, 1)
    if size == 4 and draw(st.booleans()):
        pair = np.asarray([[1.0, 1.0], [1.0, -1.0]])
        matrix = matrix @ np.kron(pair, pair) / 2
    return _moved(matrix, draw(_of(dtype)), xp)


@st.composite
def conditioned(
    draw: DrawFn,
    *,
    rows: Given[int] | None = None,
    columns: Given[int] | None = None,
    kappa: Given[float],
    dtype: Given[str] = "float64",
    xp: Any = np,
) -> Array:
    """Matrices whose singular values run from 1 down to 1/κ: ``conditioned(kappa=1e6)``.

    Both sides are turned by the orthonormal factors of a QR decomposition of drawn entries, so κ holds up to rounding.
    """
    shape = tuple(draw(_of(sizes() if size is None else size)) for size in (rows, columns))
    rank, condition = min(shape), draw(_of(kappa))
    turns = [np.linalg.qr(draw(arrays((size, rank), entries=ordinary())) + 3 * np.eye(size, rank))[0] for size in shape]
    matrix = (turns[0] * np.geomspace(1.0, 1.0 / condition, rank)) @ turns[1].T
    return _moved(matrix, draw(_of(dtype)), xp)


# PRUNING


@st.composite
def importance_states(
    draw: DrawFn,
    like: Given[Factors] | None = None,
    *,
    entries: SearchStrategy[float] | None = None,
    fresh: Given[bool] = False,
    dtype: Given[str] = "float64",
    xp: Any = np,
) -> Importance:
    """Averages Ī and Ū without sign, in the shapes of *like*; both zero where *fresh*.

    They have the dtype that state has: float32 for 16-bit factors.
    """
    held = draw(factors() if like is None else _of(like))
    state = "float32" if (name := draw(_of(dtype))) in HALF else name
    sized = st.just(0.0) if draw(_of(fresh)) else (EIGHTHS if entries is None else entries).map(abs)
    return Importance(*(draw(gradients(held, entries=sized, dtype=state, xp=xp)) for _ in range(2)))


@st.composite
def schedules(
    draw: DrawFn,
    *,
    target: Given[int] | None = None,
    falls_by: Given[int] | None = None,
    warmup: Given[int] | None = None,
    window: Given[int] | None = None,
    final: Given[int] | None = None,
    interval: Given[int] | None = None,
    whole: Given[bool] = st.booleans(),  # noqa: B008  a strategy is a value
) -> BudgetSchedule:
    """Valid schedules; where *whole*, the cubic is a whole number at every step, which doubles often miss."""
    low, start, last = (draw(_of(sizes(0, 9) if n is None else n)) for n in (target, warmup, final))
    pruning = draw(_of(sizes(1, 12) if window is None else window))
    drop = draw(_of(sizes(0, 60) if falls_by is None else falls_by))
    drop = drop * pruning**3 if draw(_of(whole)) else drop
    return BudgetSchedule(
        initial=low + drop,
        target=low,
        warmup=start,
        final=last,
        total=start + pruning + last,
        interval=draw(_of(sizes(1, 4) if interval is None else interval)),
    )


def boundary_schedules() -> SearchStrategy[BudgetSchedule]:
    """Valid schedules at the edge of the rules: nothing falls, nothing is left, one step of pruning, no last phase."""
    return st.one_of(
        schedules(falls_by=0),
        schedules(target=0),
        schedules(window=1),
        schedules(warmup=0, final=0),
        schedules(interval=1000),
    )


@st.composite
def invalid_schedules(draw: DrawFn) -> dict[str, Any]:
    """Arguments that `BudgetSchedule` refuses: valid ones, one rule broken."""
    held = draw(schedules())
    given = {name: getattr(held, name) for name in ("initial", "target", "warmup", "final", "total", "interval")}
    broken: list[dict[str, Any]] = [
        {"target": held.initial + 1},
        {"total": held.warmup + held.final},
        {"interval": 0},
        {"warmup": -1},
        {"final": True},
        {"initial": held.initial + 0.5},
    ]
    one: dict[str, Any] = draw(st.sampled_from(broken))
    return given | one


@st.composite
def score_maps(
    draw: DrawFn,
    *,
    matrices: Given[int] | None = None,
    ranks: SearchStrategy[int] | None = None,
    margin: Given[float] = 0.0,
    dtype: Given[str] = "float64",
    xp: Any = np,
) -> dict[str, Array]:
    """Scores by matrix, with ties, near ties, zeros of both signs, subnormals, and ranges over the whole format.

    Parameters
    ----------
    margin
        Relative distance of near ties; 0 makes none.
    """
    name, near = draw(_of(dtype)), draw(_of(margin))
    kind = ml_dtypes.finfo(_host_dtype(name))
    odd = [0.0, -0.0, float(kind.smallest_subnormal), float(kind.tiny), float(kind.max) / 4]
    pool = [k / 8 for k in range(1, 17)] + odd
    close = [value * (1.0 + near) for value in pool[:4]] if near else []
    entry = st.sampled_from(pool[:3]) | st.sampled_from(pool + close)
    lengths = draw(
        st.lists(sizes(0, 3) if ranks is None else ranks, min_size=(count := draw(_of(matrices or sizes()))),
                 max_size=count)
    )  # fmt: skip
    return {
        f"layer{i}": _moved(np.asarray(draw(st.lists(entry, min_size=r, max_size=r)), dtype=np.float64), name, xp)
        for i, r in enumerate(lengths)
    }


@st.composite
def scripts(
    draw: DrawFn,
    *,
    schedule: Given[BudgetSchedule] | None = None,
    shapes: Given[Mapping[str, tuple[int, int]]] | None = None,
    r: Given[int] | None = None,
    entries: SearchStrategy[float] | None = None,
    dtype: Given[str] = "float64",
    xp: Any = np,
) -> dict[str, Any]:
    """Scripted runs of an allocator: a schedule over all matrices, their first weights, a gradient for each step."""
    named = draw(_of(st.just({"q": (2, 2), "v": (1, 2)}) if shapes is None else shapes))
    rank, name = draw(_of(sizes(1, 2) if r is None else r)), draw(_of(dtype))
    whole = rank * len(named)
    low = draw(st.integers(0, whole))
    plan = draw(
        schedules(target=low, falls_by=whole - low, warmup=sizes(0, 2), window=sizes(1, 4), final=1, whole=False)
        if schedule is None
        else _of(schedule)
    )
    weights = {
        matrix: draw(factors(d_out=d_out, d_in=d_in, r=rank, entries=entries, dtype=name, xp=xp))
        for matrix, (d_out, d_in) in named.items()
    }
    steps = [
        {matrix: draw(gradients(held, entries=entries, dtype=name, xp=xp)) for matrix, held in weights.items()}
        for _ in range(plan.total)
    ]
    return {"schedule": plan, "weights": weights, "gradients": steps}


# FORM


def _of(value: Any) -> SearchStrategy[Any]:
    return value if isinstance(value, SearchStrategy) else st.just(value)


def _host_dtype(name: str) -> Any:
    if name not in DTYPES:
        raise ValueError(f"the dtype must be one of {', '.join(DTYPES)}; got {name!r}")
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def _moved(host: Any, dtype: str, xp: Any) -> Array:
    """Host values as an array of *xp*, each rounded once to *dtype*."""
    rounded = np.asarray(host).astype(_host_dtype(dtype))
    if xp is np:
        return rounded
    wide = like_host(rounded, xp.zeros((1,), dtype=getattr(xp, "float32" if dtype in HALF else dtype)))
    return cast(wide, _host_dtype(dtype)) if dtype in HALF else wide


def _laid_out(a: Array, layout: str, xp: Any) -> Array:
    """The same numbers, elsewhere in memory."""
    ways: dict[str, Callable[[], Array]] = {
        "C": lambda: a,
        "Fortran": lambda: _by_columns(a, xp),
        "strided": lambda: xp.stack([a, xp.zeros_like(a)], axis=-1)[..., 0],
        "read-only": lambda: _locked(a),
        "zero-size": lambda: a[:0],
    }
    if layout not in ways:
        raise ValueError(f"the layout must be one of {', '.join(LAYOUTS)}; got {layout!r}")
    return ways[layout]()


def _locked(a: Array) -> Array:
    if isinstance(a, np.ndarray):
        a.setflags(write=False)
    return a


def _by_columns(a: Array, xp: Any) -> Array:
    """A matrix whose columns lie one after the other; what has no columns has no other order."""
    if len(a.shape) != 2 or 0 in a.shape:
        return a
    return xp.stack([a[:, j] for j in range(a.shape[1])]).T
