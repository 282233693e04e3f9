"""What every reproduction that calls a Python target carries besides the comparison; its source is copied."""

from __future__ import annotations

import faulthandler
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adalora_ref.conformance.standalone_comparison import Wanted, compared, outcome


@dataclass(frozen=True, eq=False)
class Factors:
    """B (d_out, r), s (r,) and A (r, d_in); unpacks as B, s, A."""

    B: Any
    s: Any
    A: Any

    def __iter__(self) -> Iterator[Any]:
        return iter((self.B, self.s, self.A))


class Importance(NamedTuple):
    """The two running averages: Ī of the sensitivity, Ū of its deviation."""

    sensitivity: Factors
    uncertainty: Factors


class AdamState(NamedTuple):
    """First and second moments, and the number of steps made."""

    first: Factors
    second: Factors
    steps: int


@dataclass(frozen=True, kw_only=True)
class BudgetSchedule:
    """How many triplets may live: b⁰, b^T, t_i, t_f, T and ΔT."""

    initial: int
    target: int
    warmup: int
    final: int
    total: int
    interval: int = 1

    @property
    def end_of_pruning(self) -> int:
        """T − t_f, the step of the last allocation."""
        return self.total - self.final


class Departed(Exception):
    """What is wrong with a call, in words."""


def main(
    target: str,
    case: Callable[[], dict[str, Any]],
    call: Callable[..., dict[str, Any]],
    expected: Callable[[], dict[str, Wanted]],
    *,
    library: str = "numpy",
    before: Callable[[], list[dict[str, Any]]] | None = None,
    any_library: bool = False,
    seconds: float = 60.0,
    stage: str,
    **story: str,
) -> int:
    """Call the target, print where its result departs, and return 1; or 0, with a sentence, where it does not."""
    try:
        held = found(target)
    except ImportError as error:
        print(f"{target} cannot be imported here ({error}): run this where it can be", file=sys.stderr)
        return 2
    adopt_records()
    faulthandler.dump_traceback_later(seconds, exit=True)  # a target that hangs shows where, and the status is 1
    lines = departures(held, case, call, expected, library, before, any_library=any_library)
    faulthandler.cancel_dump_traceback_later()
    return outcome(f"{stage} of {target}", lines, **story)


def found(target: str) -> Any:
    """Import ``package.module:object``; the current directory is importable, and a class is instantiated."""
    sys.path.insert(0, str(Path.cwd()))
    module, _, path = target.partition(":")
    held: Any = importlib.import_module(module)
    for attribute in filter(None, path.split(".")):
        held = getattr(held, attribute)
    return held() if inspect.isclass(held) else held


def adopt_records() -> None:
    """Take the records of adalora_ref, should the target have imported it: it may ask for them by type."""
    theirs = sys.modules.get("adalora_ref")
    names = ("Factors", "Importance", "AdamState", "BudgetSchedule", "Config", "TrainState")
    globals().update({name: getattr(theirs, name) for name in names if theirs is not None})


def departures(
    held: Any,
    case: Callable[[], dict[str, Any]],
    call: Callable[..., dict[str, Any]],
    expected: Callable[[], dict[str, Wanted]],
    library: str,
    before: Callable[[], list[dict[str, Any]]] | None,
    *,
    any_library: bool,
) -> list[str]:
    """What is wrong with the results, in lines; nothing if nothing is."""
    move = mover(library)
    handed = converted(case(), move)
    earlier: dict[str, Any] = {}
    try:
        for given in () if before is None else before():
            earlier = named(call(held, **converted(given, move)))
        kept = {name: on_host(value) for name, value in earlier.items()}
        results = named(call(held, **handed))
    except Departed as error:
        return [f"  reason     {error}"]
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a target raises is what is shown
        traceback.print_exc()
        return [f"  reason     it raised {type(error).__name__}: {error}"]
    strange = [] if any_library else foreign(results, move)
    reasons = [
        *(f"the call changed its input {name}" for name in changed(named(case()), named(handed))),
        *(f"{name} must be an array of {library}; got {type(results[name])}" for name in strange),
        *(f"the call changed {name} that an earlier call returned" for name in changed(kept, earlier)),
    ]
    if reasons:
        return [f"  reason     {reasons[0]}"]
    return compared({name: on_host(value) for name, value in results.items()}, expected())


def named(value: Any, path: str = "") -> dict[str, Any]:
    """Every array or number inside a value, under the path that names it: ``state.uncertainty.B[0]``."""
    if isinstance(value, Factors):
        parts = {f".{name}": getattr(value, name) for name in ("B", "s", "A")}
    elif isinstance(value, dict):
        parts = {f"[{key}]" if path else str(key): item for key, item in value.items()}
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        parts = {f".{name}": item for name, item in zip(value._fields, value, strict=True)}
    elif isinstance(value, list | tuple):
        parts = {f"[{place}]": item for place, item in enumerate(value)}
    else:
        return {} if value is None else {path: value}
    return {name: leaf for part, item in parts.items() for name, leaf in named(item, path + part).items()}


def converted(value: Any, move: Callable[[Any], Any]) -> Any:
    """The value with every NumPy array in it moved."""
    if isinstance(value, np.ndarray):
        return move(value)
    if isinstance(value, dict):
        return {key: converted(item, move) for key, item in value.items()}
    if isinstance(value, Factors) or hasattr(value, "_fields"):
        return type(value)(*(converted(item, move) for item in value))
    return type(value)(converted(item, move) for item in value) if isinstance(value, list | tuple) else value


def mover(library: str) -> Callable[[Any], Any]:
    """How a NumPy array becomes one of the library whose arrays the target takes."""
    if library == "jax":
        importlib.import_module("jax").config.update("jax_enable_x64", True)
    xp: Any = importlib.import_module({"jax": "jax.numpy"}.get(library, library))
    return lambda a: xp.asarray(a.copy())


def on_host(value: Any) -> Any:
    """A copy of an array of any library, or of a number, as a NumPy array."""
    for to_host in ("detach", "cpu", "get"):  # torch has the first two, CuPy the last
        value = getattr(value, to_host)() if hasattr(value, to_host) else value
    return np.asarray(value).copy()


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names of the arrays that are not what they were."""
    return [n for n, a in before.items() if isinstance(a, np.ndarray) and a.tobytes() != on_host(after[n]).tobytes()]


def foreign(results: dict[str, Any], move: Callable[[Any], Any]) -> list[str]:
    """The names of the results that are arrays of another library."""
    kind = type(move(np.zeros(1)))
    kinds = (kind, np.generic) if kind is np.ndarray else (kind,)
    return [name for name, value in results.items() if hasattr(value, "shape") and not isinstance(value, kinds)]
