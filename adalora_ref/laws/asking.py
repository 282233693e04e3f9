"""How a law questions an implementation: by the calls of the kit's table of stages, each answer with its bounds."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from adalora_ref.array import FLOATING
from adalora_ref.conformance.cases import Inputs
from adalora_ref.conformance.checking import stage_named
from adalora_ref.conformance.expectations import Expectation, Undecided
from adalora_ref.conformance.limits import SECONDS, OutOfTime, time_limit
from adalora_ref.conformance.stages import Stage
from adalora_ref.conformance.target import CannotExpress, Lane, Target, TargetError, leaves, on_host, spoken
from adalora_ref.conformance.verdict import Divergence, Verdict, compare
from adalora_ref.convention import SPEC, Convention
from adalora_ref.factors import Factors
from adalora_ref.laws.measured import Broken, within


class Triple(NamedTuple):
    """B, s and A as exact numbers; `Factors` holds floating arrays alone."""

    B: Any
    s: Any
    A: Any


class Answer:
    """What an implementation returned for one call.

    Attributes
    ----------
    inputs, lane
        What was asked, and under what it is judged.
    bounded
        Whether its numbers carry their bounds; else they are taken as they are.
    returned
        The results as they came, by name.
    host
        Each array or number of them on the host, under the path that the kit gives it.
    """

    def __init__(self, stage: Stage, inputs: Inputs, lane: Lane, returned: dict[str, Any], *, bounded: bool) -> None:
        self.stage, self.inputs, self.lane, self.returned, self.bounded = stage, inputs, lane, returned, bounded
        self.host = {path: on_host(value) for path, value in leaves(returned)}

    @cached_property
    def expected(self) -> Expectation:
        """What the oracles say of this call, with bounds; a result of another form breaks every law."""
        found = self.stage.expect(self.inputs, self.lane)
        for path, want in found.items():
            if path not in self.host:
                raise Broken(f"{self.stage.name} must return {spoken(path)}; the results lack it")
            if self.host[path].shape != want.high.shape:
                shapes = want.high.shape, self.host[path].shape
                raise Broken(f"{spoken(path)} of {self.stage.name} must have shape {shapes[0]}; got {shapes[1]}")
        return found

    def __getitem__(self, name: str) -> Any:
        """A result as exact numbers with their bounds; also an attribute: ``answer.dx``."""
        return self._numbers(self.returned[name], f"[{name}]")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self.returned:
            raise AttributeError(name)
        return self[name]

    def factors(self, name: str = "factors") -> Factors:
        """A result that is Factors as it came, for the next call."""
        return Factors(*(self.host[f"[{name}].{part}"] for part in "BsA"))

    def departure(self) -> Divergence | str | None:
        """Where this answer leaves what the oracles say, if it does."""
        try:
            results = [compare(spoken(path), self.host[path], want) for path, want in self.expected.items()]
        except Broken as error:
            return str(error)
        except Undecided:
            return None
        failed = [(d, reason) for verdict, _, d, reason in results if verdict is Verdict.FAIL]
        return (failed[0][0] or failed[0][1]) if failed else None

    def _numbers(self, value: Any, path: str) -> Any:
        """The same form, every floating array in it as numbers with bounds; `leaves` walks in the same way."""
        if isinstance(value, Factors):
            return Triple(*(self._numbers(a, f"{path}.{part}") for part, a in zip("BsA", value, strict=True)))
        if isinstance(value, dict):
            return {key: self._numbers(item, f"{path}[{key}]") for key, item in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return SimpleNamespace(**{n: self._numbers(getattr(value, n), f"{path}.{n}") for n in value._fields})
        host = self.host.get(path)
        if host is None or host.dtype.name not in FLOATING:
            return host
        error = self.expected[path].error if self.bounded else np.zeros(host.shape)
        return within(f"{spoken(path)} of {self.stage.name}", host, error)


class Asked:
    """An implementation that answers one case of a law; it keeps what it was asked.

    Attributes
    ----------
    bounded
        Whether answers carry their bounds. What is equal without them needs none, and they take most of the time.
    """

    def __init__(self, target: Target, dtype: str, *, bounded: bool = True, convention: Convention = SPEC) -> None:
        self.target, self.bounded = target, bounded
        self.lane = Lane(dtype, target.accumulation, convention)
        self.answers: list[Answer] = []

    def __call__(self, stage_name: str, inputs: Inputs, *, convention: Convention | None = None) -> Answer:
        """Call a stage with its complete inputs."""
        stage = stage_named(stage_name)
        lane = self.lane if convention is None else self.lane._replace(convention=convention)
        takes = stage.needs[-1]
        lacking = [o for o in stage.options if inputs.get(o) is not None and self.target.lacks_option(takes, o)]
        if lacking:
            raise CannotExpress(f"the target's {takes} takes no {' and no '.join(lacking)}")
        answer: Answer = self.guarded(
            stage_name,
            lambda: Answer(
                stage, inputs, lane, stage.call(self.target, self.target.hand_over(inputs), lane), bounded=self.bounded
            ),
        )
        self.answers.append(answer)
        return answer

    def guarded(self, name: str, call: Callable[[], Any]) -> Any:
        """Run what belongs to the target; whatever it raises breaks the law."""
        try:
            with time_limit(SECONDS):
                return call()
        except CannotExpress:
            raise
        except TargetError as error:
            raise CannotExpress(str(error)) from None
        except OutOfTime:
            raise Broken(f"{name} took longer than {SECONDS:g} s") from None
        except (Exception, SystemExit) as error:  # whatever a target raises is a finding about it
            raise Broken(f"{name} raised {type(error).__name__}: {error}") from error
