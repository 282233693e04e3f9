"""What is checked: a module or object that has some of the public functions, and how to hand it arrays."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from adalora_ref.array import HALF, backend, like_host, to_numpy
from adalora_ref.conformance.cases import NUMPY_DTYPES
from adalora_ref.conformance.limits import time_limit
from adalora_ref.conformance.untrusted import what_was_raised
from adalora_ref.convention import Convention
from adalora_ref.factors import Factors

if TYPE_CHECKING:
    from adalora_ref.conformance.stages import Stage

T = TypeVar("T")

UNDECLARED_DTYPES = ("float64", "float32")


class Lane(NamedTuple):
    """Under what a case is judged: dtype of its arrays, dtype in which 16-bit results are computed, convention."""

    dtype: str
    accumulation: str
    convention: Convention

    @property
    def working(self) -> str:
        """The dtype in which results are computed."""
        return self.accumulation if self.dtype in HALF else self.dtype

    @property
    def wide(self) -> str:
        """The dtype of state, at least 32 bits."""
        return "float32" if self.dtype in HALF else self.dtype


class CannotExpress(ValueError):
    """Raised by a target for a call that its implementation has no way to make; the kit lists it as not run."""


class TargetError(ValueError):
    """A target that cannot be checked at all: wrong usage, not a failed check."""


@dataclass(frozen=True)
class Target:
    """An implementation, under the name that the report gives it.

    Attributes
    ----------
    held
        Any object or module with some of the public functions of `adalora_ref`. It may declare `dtypes` (names),
        `accumulation` (dtype name in which it computes 16-bit results) and `array_library`; undeclared means NumPy
        arrays, float64 and float32.
    library
        Overrides `array_library`.
    """

    name: str
    held: Any
    library: str | None = None

    def function(self, name: str) -> Callable[..., Any] | None:
        """Return the public function of that name, if the target has it."""
        try:
            found = getattr(self.held, name, None)
        except Exception as error:
            raise TargetError(f"{self.name}.{name} raised {what_was_raised(error)}") from error
        return found if callable(found) else None

    def require(self, name: str) -> Callable[..., Any]:
        """Return the public function of that name; TargetError if the target lacks it."""
        found = self.function(name)
        if found is None:
            raise TargetError(f"{self.name} has no {name}")
        return found

    def lacks_option(self, name: str, option: str) -> bool:
        """Whether the function's signature has no room for the keyword *option*."""
        function = self.function(name)
        try:
            parameters = inspect.signature(function).parameters.values() if function else ()
        except (TypeError, ValueError):  # built-in functions may show no signature
            return False
        return not any(p.name == option or p.kind is p.VAR_KEYWORD for p in parameters)

    def lacks(self, stage: Stage, options: Sequence[str]) -> str:
        """Why the target cannot run a case of *stage* that uses these optional arguments, or nothing."""
        if missing := [name for name in stage.needs if self.function(name) is None]:
            return f"the target has no {missing[0]}"
        name = stage.needs[-1]
        lacking = [option for option in options if self.lacks_option(name, option)]
        return f"the target's {name} takes no {' and no '.join(lacking)}" if lacking else ""

    def limit(self, seconds: float) -> AbstractContextManager[None]:
        """What interrupts a call that takes longer."""
        return time_limit(seconds)

    @property
    def array_library(self) -> str:
        """The library whose arrays the target takes."""
        return self.library or str(getattr(self.held, "array_library", "numpy"))

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Names of the dtypes that the target claims to support."""
        held = getattr(self.held, "dtypes", UNDECLARED_DTYPES)
        declared = (held,) if isinstance(held, str) else tuple(held)
        unknown = [name for name in declared if name not in NUMPY_DTYPES]
        if unknown or not declared:
            raise TargetError(f"{self.name}.dtypes must be among {', '.join(NUMPY_DTYPES)}; got {declared}")
        return declared

    @property
    def usable_dtypes(self) -> tuple[str, ...]:
        """Those of them that its library has: 16-bit ones exist on NumPy and CuPy alone."""
        return tuple(d for d in self.dtypes if d not in HALF or self.array_library in ("numpy", "cupy"))

    @property
    def accumulation(self) -> str:
        """The dtype in which 16-bit results are computed before they are rounded once."""
        declared = str(getattr(self.held, "accumulation", "float32"))
        if declared not in NUMPY_DTYPES:
            raise TargetError(f"{self.name}.accumulation must be among {', '.join(NUMPY_DTYPES)}; got {declared!r}")
        return declared

    def answer(self, stage: Stage, inputs: dict[str, Any], lane: Lane) -> dict[str, Any]:
        """Return what the target makes of one case, each result under the path that `leaves` gives it."""
        return dict(leaves(stage.call(self, inputs, lane)))

    def hand_over(self, value: Any) -> Any:
        """Return *value* with every NumPy array in it as a fresh array of the target's library."""
        xp = backend(self.array_library)

        def move(a: Any) -> Any:
            if self.array_library == "numpy":
                return a.copy()
            if a.dtype.kind in "biu":
                return xp.asarray(a)
            like = xp.zeros((1,), dtype=getattr(xp, a.dtype.name))
            return like_host(a, like)

        return tree_map(move, value)


def load_target(spec: str) -> Target:
    """Import ``package.module:object`` or ``package.module``; the current directory is importable.

    A class is instantiated without arguments.

    Raises
    ------
    TargetError
        If there is no such module or object; or if it raises while it is imported, its own error being the cause.
    """
    module_name, _, path = spec.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise TargetError(f"a target is written package.module or package.module:object; got {spec!r}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    doing = "imported"
    try:
        held = _found(module_name, path)
        if inspect.isclass(held):
            doing = "called without arguments"
            held = held()
    except TargetError:
        raise
    except (Exception, SystemExit) as error:
        raise TargetError(f"the target {spec!r} raised {type(error).__name__} when it was {doing}") from error
    return Target(spec, held)


def _found(module_name: str, path: str) -> Any:
    try:
        held: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise
        raise TargetError(f"there is no module {error.name!r} to import, here or among the installed ones") from None
    for attribute in filter(None, path.split(".")):
        if not hasattr(held, attribute):
            raise TargetError(f"{module_name!r} has no {path!r}")
        held = getattr(held, attribute)
    return held


def tree_map(f: Callable[[Any], Any], value: Any) -> Any:
    """Apply *f* to every NumPy array inside Factors, tuples, lists and dictionaries."""
    if isinstance(value, np.ndarray):
        return f(value)
    if isinstance(value, Factors):
        return Factors(*(tree_map(f, a) for a in value))
    if isinstance(value, dict):
        return {key: tree_map(f, item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(tree_map(f, item) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(tree_map(f, item) for item in value)
    return value


def in_order(held: dict[str, T], matrices: Iterable[str]) -> dict[str, T]:
    """A dictionary in the order of *matrices*, whatever its own; what it has beside them comes last."""
    return {n: held[n] for n in (*matrices, *held) if n in held}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Walk through results: every array or number with the path that names it, ``uncertainty.B`` or ``[layer0]``."""
    if isinstance(value, Factors):
        for name, a in zip(("B", "s", "A"), value, strict=True):
            yield f"{path}.{name}".lstrip("."), a
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}[{key}]")
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        for name, item in zip(value._fields, value, strict=True):
            yield from leaves(item, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}[{index}]")
    elif value is not None:
        yield path, value


def spoken(path: str) -> str:
    """The path of a result as one says it: ``[state].uncertainty.B`` is state.uncertainty.B."""
    return re.sub(r"^\[(.*?)\]", r"\1", path)


def on_host(value: Any) -> Any:
    """Return a copy of an array of any library, or of a number, as a NumPy array."""
    return np.array(value if isinstance(value, bool | int | float) else to_numpy(value))
