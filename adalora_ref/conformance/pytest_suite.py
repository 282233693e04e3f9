"""The checks as tests of a user's own pytest suite."""

from __future__ import annotations

import atexit
import inspect
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache, partial
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from adalora_ref.conformance import allocator_check
from adalora_ref.conformance.cases import NUMPY_DTYPES
from adalora_ref.conformance.checking import PRESETS, check_case, require_functions, require_library, stage_named
from adalora_ref.conformance.diagnosis import diagnose
from adalora_ref.conformance.known_failures import Known, matching, read_known
from adalora_ref.conformance.program import Program, running
from adalora_ref.conformance.protocol import ProtocolError
from adalora_ref.conformance.report import explain
from adalora_ref.conformance.seen import Seen
from adalora_ref.conformance.stages import STAGES, Stage
from adalora_ref.conformance.target import Lane, Target, TargetError, load_target
from adalora_ref.conformance.verdict import Row, Verdict
from adalora_ref.convention import Convention
from adalora_ref.convention import convention as convention_named


def conformance_checks(
    implementation: Any,
    *,
    convention: str = "SPEC",
    preset: str = "quick",
    dtypes: Sequence[str] = (),
    stages: Sequence[str] = (),
    seed: int = 0,
    known: str | Path | None = None,
) -> Callable[..., None]:
    """Return a parametrised test: one item for each check, under its stable id, ``prune/float64/0/3``.

    An item fails with the first divergence and its diagnosis, is skipped where the check cannot run or cannot decide,
    warns where a result is suspicious, and is an expected failure where it is known.

    Parameters
    ----------
    implementation
        A module or object with some of the public functions, a class to be instantiated without arguments,
        ``"package.module:object"``, ``"exec:COMMAND"`` for a program in any language, or a `Target`. A stateful
        allocator, with `start` and `update`, has one item for each quantity.
    dtypes, stages
        By default those that the implementation declares, and all that the convention has.
    known
        A TOML file of known failures. It is strict: every check that one of its patterns matches has to fail.

    Raises
    ------
    ValueError
        If the implementation has none of the functions, a program cannot be started, or another argument is unknown;
        pytest then reports an error of collection.

    Examples
    --------
    >>> import adalora_ref
    >>> test_conforms = conformance_checks(adalora_ref)
    """
    import pytest

    target = _target(implementation)
    require_library(target)
    expected = () if known is None else read_known(Path(known))
    if allocator_check.is_allocator(target):
        played = partial(
            allocator_check.check_allocator, target, convention_named(convention), dtypes=dtypes, seed=seed
        )
        return _allocator_checks(target, cache(played), stages, expected)
    if not isinstance(target, Program):
        require_functions(target)
    asked = _items(target, convention_named(convention), preset, dtypes, stages, seed)
    marked = [pytest.param(item, id=item.id, marks=_marks(item.id, expected)) for item in asked]

    @pytest.mark.parametrize("conformance_check", marked)
    def test_conforms(conformance_check: _Item) -> None:
        """A check of the kit holds."""
        __tracebackhide__ = True
        try:
            _run(conformance_check, _target(implementation) if isinstance(target, Program) else target)
        except ProtocolError as error:
            _end(str(implementation))
            pytest.fail(f"{target.name}: {conformance_check.id} fails\n{error}", pytrace=False)

    return staticmethod(test_conforms)  # so that a class can have it, which would pass itself to a method


def _allocator_checks(
    target: Target, played: Callable[[], list[Row]], stages: Sequence[str], known: Sequence[Known]
) -> Callable[..., None]:
    """One item for each quantity of an allocator, which is played once for all of them."""
    import pytest

    asked = [name for name in ("update", *allocator_check.STAGES_SEEN) if not stages or name in stages]

    @pytest.mark.parametrize("quantity", [pytest.param(name, id=name, marks=_marks(name, known)) for name in asked])
    def test_conforms(quantity: str) -> None:
        """What the allocator says and does is right."""
        __tracebackhide__ = True
        row = next((row for row in played() if row.stage == quantity), None)
        if row is not None and row.first_failure is not None:
            lines = explain(row.equation, row.first_failure, row.diagnosis)
            pytest.fail("\n".join([f"{target.name}: {row.first_failure.case} fails", *lines]), pytrace=False)
        if row is None or row.verdict in (Verdict.NOT_RUN, Verdict.INCONCLUSIVE):
            pytest.skip("the allocator does not show it" if row is None else f"{row.verdict}: {row.checks[0].reason}")

    return staticmethod(test_conforms)


class _Item(NamedTuple):
    """One check."""

    stage: Stage
    lane: Lane
    seed: int
    number: int

    @property
    def id(self) -> str:
        return f"{self.stage.name}/{self.lane.dtype}/{self.seed}/{self.number}"


def _target(implementation: Any) -> Target:
    if isinstance(implementation, Target):
        return implementation
    if isinstance(implementation, str):
        if implementation.startswith("trace:"):
            raise TargetError(f"recorded runs are checked by `adalora-ref verify` alone; got {implementation!r}")
        command = implementation.removeprefix("exec:")
        return load_target(implementation) if command == implementation else _started(command)
    if isinstance(implementation, ModuleType):
        return Target(implementation.__name__, implementation)
    if inspect.isclass(implementation):
        return Target(implementation.__qualname__, implementation())
    return Target(type(implementation).__qualname__, implementation)


_PROGRAMS: dict[str, tuple[Program, ExitStack]] = {}
"""Those that run, by command, and what ends them."""


def _started(command: str) -> Program:
    """The program, which is started once and ended with pytest."""
    if command not in _PROGRAMS:
        kept = ExitStack()
        _PROGRAMS[command] = kept.enter_context(running(command)), kept
        atexit.register(kept.close)
    return _PROGRAMS[command][0]


def _end(spec: str) -> None:
    """End a program that broke the protocol; the next check starts it anew."""
    program = _PROGRAMS.pop(spec.removeprefix("exec:"), None)
    if program is not None:
        program[1].close()


def _items(
    target: Target, rules: Convention, preset: str, dtypes: Sequence[str], stages: Sequence[str], seed: int
) -> list[_Item]:
    """Every check that is asked for, in the order of the table."""
    if preset not in PRESETS:
        raise ValueError(f"the preset must be one of {', '.join(PRESETS)}; got {preset!r}")
    if unknown := [dtype for dtype in dtypes if dtype not in NUMPY_DTYPES]:
        raise ValueError(f"the dtype must be one of {', '.join(NUMPY_DTYPES)}; got {unknown[0]!r}")
    rows = [stage_named(name) for name in stages] or [stage for stage in STAGES if stage.holds_under(rules)]
    lanes = [Lane(dtype, target.accumulation, rules) for dtype in dtypes or target.usable_dtypes]
    return [_Item(*asked[:2], seed, asked[2]) for asked in product(rows, lanes, range(PRESETS[preset]))]


def _marks(case: str, known: Sequence[Known]) -> list[Any]:
    import pytest

    entry = matching(case, known)
    if entry is None:
        return []
    return [pytest.mark.xfail(strict=True, reason=" ".join(filter(None, (entry.reason, entry.link))))]


def _run(item: _Item, target: Target) -> None:
    """Run a check, and tell pytest what came of it."""
    import pytest

    __tracebackhide__ = True
    seen: list[Seen] = []
    check = check_case(item.stage, target, item.lane, item.seed, item.number, seen)
    if check.verdict is Verdict.FAIL:
        equation = item.stage.equation_under(item.lane.convention)
        lines = explain(equation, check, diagnose(item.stage, seen))
        pytest.fail("\n".join([f"{target.name}: {item.id} fails", *lines]), pytrace=False)
    if check.verdict in (Verdict.NOT_RUN, Verdict.INCONCLUSIVE):
        pytest.skip(check.reason if check.verdict is Verdict.NOT_RUN else f"inconclusive: {check.reason}")
    if check.verdict is Verdict.WARN:
        reason = check.reason or "within the worst case, but further off than rounding is likely to take it"
        warnings.warn(f"{target.name}: {item.id}: {reason}", stacklevel=1)
