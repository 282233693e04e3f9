"""What every test shares: array libraries, annotations that are checked, and how many cases Hypothesis draws."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import hypothesis
import jaxtyping
import numpy as np
import pytest
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

# jaxtyping wants the name of a checker, and ours takes an int where a float is asked for.
checker = ModuleType("adalora_ref_tests_checker")
checker.checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # type: ignore[attr-defined]
sys.modules[checker.__name__] = checker
assert "adalora_ref" not in sys.modules, "the package was imported before its annotations could be checked"
# The core alone: the kit computes with numbers one by one, which would take four times as long.
CORE = ("array", "checks", "factors", "linear", "loss", "orthogonality", "importance", "budget", "allocation", "adamw",
        "convention", "records", "networks", "training")  # fmt: skip
install_import_hook([f"adalora_ref.{room}" for room in CORE], f"{checker.__name__}.checked")

from adalora_ref import Factors  # noqa: E402
from adalora_ref.array import backend, like_host, to_numpy  # noqa: E402

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores Ctrl-C, and so would the commands that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("quick", max_examples=25, deadline=None, derandomize=True)
hypothesis.settings.register_profile("thorough", max_examples=2000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Switch the check of annotations off, so that what is seen is the package's own doing."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def _forget_targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Forget the modules that a test wrote and imported: another test may write another one of that name."""
    before, made = set(sys.modules), str(tmp_path_factory.getbasetemp())
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(made):
            del sys.modules[name]


class Library(NamedTuple):
    """An array library, and the device on which a test puts its arrays."""

    name: str
    xp: Any
    device: Any

    def array(self, values: Any, dtype: str = "float64") -> Any:
        """Host values as an array, bool and integers as they are, everything else in *dtype*."""
        host = np.asarray(values)
        kind = host.dtype.name if host.dtype.kind in "biu" and dtype == "float64" else dtype
        return like_host(host, self.xp.zeros((1,), dtype=getattr(self.xp, kind), device=self.device))

    def floats(self, values: Any, dtype: str = "float64") -> Any:
        """Host values as an array of *dtype*, integers too."""
        return self.array(np.asarray(values, dtype=np.float64), dtype)

    def factors(self, B: Any, s: Any, A: Any, dtype: str = "float64") -> Factors:
        """Host values as Factors of *dtype*."""
        return Factors(*(self.floats(part, dtype) for part in (B, s, A)))

    def draw(self, rng: np.random.Generator, *shape: int, dtype: str = "float64") -> Any:
        """Gaussian entries."""
        return self.floats(rng.standard_normal(shape), dtype)

    def eighths(self, rng: np.random.Generator, *shape: int) -> Any:
        """Entries k/8."""
        return self.floats(eighths(rng, *shape))

    def eighth_factors(self, rng: np.random.Generator, d_out: int, d_in: int, r: int) -> Factors:
        """Factors of entries k/8."""
        return Factors(*(self.eighths(rng, *shape) for shape in ((d_out, r), (r,), (r, d_in))))

    def draw_factors(self, rng: np.random.Generator, d_out: int, d_in: int, r: int, dtype: str = "float64") -> Factors:
        """Gaussian factors."""
        return Factors(*(self.draw(rng, *shape, dtype=dtype) for shape in ((d_out, r), (r,), (r, d_in))))


@pytest.fixture(scope="session", params=["numpy", "array_api_strict", "array_api_strict on device1", "cupy"])
def library(request: pytest.FixtureRequest) -> Library:
    """Every array library that must work; CuPy where there is a GPU."""
    name, _, device = request.param.partition(" on ")
    try:
        xp = backend(name)
    except RuntimeError as error:
        pytest.skip(str(error))
    return Library(name, xp, xp.Device(device) if device else None)


def eighths(rng: np.random.Generator, *shape: int) -> Any:
    """Numbers k/8 with small integer k: sums and products of a few of them are exact in float64."""
    return rng.integers(-8, 9, shape) / 8


def same(got: Any, expected: Any) -> bool:
    """Whether two results are equal bit for bit, zeros' signs aside; what is empty, or of another shape, is not."""
    pairs = list(zip(flat(got), flat(expected), strict=True))
    return bool(pairs) and all(a.shape == b.shape and bool(np.all(a == b)) for a, b in pairs)


def close(got: Any, expected: Any, *, within: float = 1e-12) -> bool:
    """Whether every pair of arrays differs by at most *within* of the largest expected entry; NaN never."""
    pairs = list(zip(flat(got), flat(expected), strict=True))
    largest = [float(np.max(np.abs(b), initial=0.0)) for _, b in pairs]
    return bool(pairs) and all(
        a.shape == b.shape and bool(np.all(np.abs(a - b) <= within * top))
        for (a, b), top in zip(pairs, largest, strict=True)
    )


def flat(value: Any) -> list[Any]:
    """Every array or number in Factors, tuples, lists and dictionaries, on the host."""
    if isinstance(value, dict):
        return [a for item in value.values() for a in flat(item)]
    if isinstance(value, Factors | Sequence) and not isinstance(value, str):
        return [a for item in value for a in flat(item)]
    host = np.asarray(value if isinstance(value, int | float | bool) else to_numpy(value))
    return [host.astype(np.float64) if host.dtype.name == "bfloat16" else host]
