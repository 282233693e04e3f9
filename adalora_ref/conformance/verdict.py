"""From results to verdicts: one check per case, one row per stage, one exit status per report."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


class Verdict(enum.StrEnum):
    """What can be said of a check, a stage or a target."""

    PASS = "PASS"
    WARN = "WARN"
    FAIL = "FAIL"
    KNOWN = "KNOWN"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOT_RUN = "NOT RUN"


@dataclass(frozen=True, eq=False)
class Expected:
    """One tensor as it should be: value = high + low, and how far each element may lie from it.

    `error` is the worst-case rounding-error bound, `sharp` the tighter tier above which a result is suspicious; both
    are 0 where the result is exact.
    """

    high: Any
    low: Any
    error: Any
    sharp: Any
    dtype: str

    @classmethod
    def exact(cls, value: Any, dtype: str) -> Expected:
        """A result without rounding."""
        high = np.asarray(value)
        zeros = np.zeros(high.shape)
        return cls(high, zeros, zeros, zeros, dtype)


class Divergence(NamedTuple):
    """The worst element of a quantity that departs from the mathematics; ulps is NaN where there are none."""

    quantity: str
    element: tuple[int, ...]
    got: float
    expected: float
    bound: float
    ratio: float
    ulps: float

    @property
    def where(self) -> str:
        """The quantity with the index of the element: ``state.uncertainty.B[0, 0]``."""
        return self.quantity + (f"[{', '.join(map(str, self.element))}]" if self.element else "")


class Check(NamedTuple):
    """One case of one stage, on one array library in one dtype."""

    stage: str
    case: str
    library: str
    dtype: str
    verdict: Verdict
    ratio: float = 0.0
    divergence: Divergence | None = None
    reason: str = ""
    known: str = ""
    """Why it is known to fail, and where that is written down."""
    link: str = ""


class Growth(NamedTuple):
    """How far a run lies from the reference's after a step, over the largest factor."""

    lane: str
    step: int
    apart: float


class Row(NamedTuple):
    """All checks of one stage."""

    stage: str
    equation: str
    verdict: Verdict
    checks: tuple[Check, ...]
    diagnosis: str = ""
    note: str = ""
    """What is worth knowing whatever the verdict."""
    conventions: tuple[str, ...] = ()
    """Names of the other conventions under which a stage that failed is right."""
    reproduction: str = ""
    """The command that shows the first failure again, or why there is none."""
    growth: tuple[Growth, ...] = ()
    """Of a whole run."""

    @property
    def run(self) -> int:
        """How many checks ran."""
        return sum(check.verdict is not Verdict.NOT_RUN for check in self.checks)

    @property
    def inconclusive(self) -> int:
        """How many checks ran but could not decide."""
        return sum(check.verdict is Verdict.INCONCLUSIVE for check in self.checks)

    @property
    def worst(self) -> float:
        """Largest error over bound of the conclusive checks."""
        return max((c.ratio for c in self.checks if c.verdict in CONCLUSIVE), default=math.nan)

    @property
    def first_failure(self) -> Check | None:
        """The first check that failed."""
        return next((check for check in self.checks if check.verdict is Verdict.FAIL), None)


CONCLUSIVE = (Verdict.PASS, Verdict.WARN, Verdict.FAIL, Verdict.KNOWN)
TINY = 2.0**-900
"""Bounds below this come from underflow alone, and decide."""


def compare(quantity: str, got: Any, expected: Expected) -> tuple[Verdict, float, Divergence | None, str]:
    """Hold a result against what is expected: verdict, error over bound, worst element; or, in words, a wrong form."""
    if wrong := _wrong_form(quantity, got, expected):
        return Verdict.FAIL, math.inf, None, wrong
    if not got.size:
        return Verdict.PASS, 0.0, None, ""
    error, ratio = deviation(got, expected)
    worst = int(np.argmax(ratio))
    largest = float(ratio.reshape(-1)[worst])
    if not np.all(np.isfinite(expected.error)):
        return Verdict.INCONCLUSIVE, largest, None, "the bound is not finite"
    if largest > 1.0:
        return Verdict.FAIL, largest, _divergence(quantity, got, expected, error, ratio, worst), ""
    bound = np.linalg.norm(expected.error)
    if bound > TINY and bound > np.linalg.norm(np.asarray(expected.high, dtype=np.float64)) / 10:
        return Verdict.INCONCLUSIVE, largest, None, "the bound exceeds a tenth of the value"
    return (Verdict.WARN if np.any(error > expected.sharp) else Verdict.PASS), largest, None, ""


def _wrong_form(quantity: str, got: Any, expected: Expected) -> str:
    if got.shape != expected.high.shape:
        return f"{quantity} must have shape {expected.high.shape}; got {got.shape}"
    if got.dtype.name != expected.dtype:
        return f"{quantity} must have dtype {expected.dtype}; got {got.dtype.name}"
    return ""


def deviation(got: Any, expected: Expected) -> tuple[Any, Any]:
    """Return |got − expected| and its ratio to the bound, element by element; 0/0 is 0, and what is not finite is ∞."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        wide = got.astype(np.float64)  # a signalling NaN is invalid already here
        error = np.abs((wide - expected.high) - expected.low)
        error = np.where(np.isfinite(wide), error, np.inf)
        return error, np.where(error == 0, 0.0, error / expected.error)


def _divergence(quantity: str, got: Any, expected: Expected, error: Any, ratio: Any, worst: int) -> Divergence:
    element = tuple(int(i) for i in np.unravel_index(worst, got.shape))
    value = _number(expected.high[element], expected.dtype)
    eps = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}.get(expected.dtype)
    ulp = eps * 2.0 ** math.floor(math.log2(abs(value))) if eps and value else math.nan
    return Divergence(
        quantity,
        element,
        _number(got[element], expected.dtype),
        value,
        float(expected.error[element]),
        float(ratio[element]),
        float(error[element]) / ulp,
    )


def _number(value: Any, dtype: str) -> float:
    """A number as its dtype shows it: True, 3, or 3.0."""
    return bool(value) if dtype == "bool" else int(value) if "int" in dtype else float(value)


def judge(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict over several: one failure fails; inconclusive only if nothing was conclusive."""
    found = set(verdicts) - {Verdict.NOT_RUN}
    for verdict in (Verdict.FAIL, Verdict.KNOWN, Verdict.WARN, Verdict.PASS, Verdict.INCONCLUSIVE):
        if verdict in found:
            return verdict
    return Verdict.NOT_RUN


def row(stage: str, equation: str, checks: Iterable[Check], diagnose: Callable[[], str] = str) -> Row:
    """Sum up the checks of a stage; *diagnose* is asked only when one of them failed."""
    checks = tuple(checks)
    verdict = judge(check.verdict for check in checks)
    return Row(stage, equation, verdict, checks, diagnose() if verdict is Verdict.FAIL else "")


def exit_status(rows: Iterable[Row], require: Iterable[str] = ()) -> int:
    """0 conforms; 1 does not; 3 where a stage is inconclusive, or a required one did not run."""
    verdicts = [(r.stage, r.verdict) for r in rows]
    if any(verdict is Verdict.FAIL for _, verdict in verdicts):
        return 1
    ran = {stage for stage, verdict in verdicts if verdict is not Verdict.NOT_RUN}
    inconclusive = any(verdict is Verdict.INCONCLUSIVE for _, verdict in verdicts)
    return 3 if inconclusive or not ran or not set(require) <= ran else 0
