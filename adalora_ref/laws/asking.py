"""How a law questions an implementation: by the calls of the kit's table of stages, each answer with its bounds."""

from __future__ import annotations

from copy import copy
from functools import cached_property, partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from adalora_ref.array import FLOATING
from adalora_ref.conformance.calls import WrongForm
from adalora_ref.conformance.cases import Inputs
from adalora_ref.conformance.checking import stage_named, wrong_form
from adalora_ref.conformance.expectations import Expectation, Undecided
from adalora_ref.conformance.limits import SECONDS, OutOfTime, time_limit
from adalora_ref.conformance.stages import Stage
from adalora_ref.conformance.target import CannotExpress, Lane, Target, TargetError, leaves, on_host, spoken
from adalora_ref.conformance.verdict import Divergence, Verdict, compare
from adalora_ref.convention import SPEC, Convention
from adalora_ref.factors import Factors
from adalora_ref.laws.measured import Broken, within
from adalora_ref.laws.wellformed import form_as_of_the_reference


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
        """What the oracles say of this call, with bounds."""
        return self.stage.expect(self.inputs, self.lane)

    def with_bounds(self) -> Answer:
        """The same answer, its numbers with their bounds."""
        bounded = copy(self)
        bounded.bounded = True
        return bounded

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


class Failed(NamedTuple):
    """A call that gave no answer to work with: what was asked, and what is wrong.

    *error* is what the target raised, if it did.
    """

    stage: Stage
    inputs: Inputs
    lane: Lane
    message: str
    error: BaseException | None = None

    def departure(self) -> str:
        """What is wrong with it."""
        return self.message


class Hung(BaseException):
    """A call that took too long; no exception that Hypothesis shrinks, since each try would take as long."""


class Asked:
    """An implementation that answers one case of a law; it keeps what it was asked.

    Parameters
    ----------
    bounded
        Whether answers carry their bounds. What is equal without them needs none, and they take most of the time.
    before
        What was asked in the same case without bounds: a call that is found there is not made again, so that it is
        the answer that broke the law which is judged.
    seconds
        How long one call may take.
    """

    def __init__(
        self,
        target: Target,
        dtype: str,
        *,
        bounded: bool = True,
        convention: Convention = SPEC,
        before: Asked | None = None,
        seconds: float = SECONDS,
    ) -> None:
        self.target, self.bounded, self.seconds = target, bounded, seconds
        self.lane = Lane(dtype, target.accumulation, convention)
        self.calls: list[Answer | Failed] = []
        self._before = before.calls if before else []

    def __call__(self, stage_name: str, inputs: Inputs, *, convention: Convention | None = None) -> Answer:
        """Call a stage with its complete inputs."""
        stage = stage_named(stage_name)
        lane = self.lane if convention is None else self.lane._replace(convention=convention)
        takes = stage.needs[-1]
        lacking = [o for o in stage.options if inputs.get(o) is not None and self.target.lacks_option(takes, o)]
        if lacking:
            raise CannotExpress(f"the target's {takes} takes no {' and no '.join(lacking)}")
        known = self._known(stage, inputs, lane)
        if known is not None:
            self.calls.append(known)
        else:
            self.ask(stage, inputs, lane)
        call = self.calls[-1]
        if isinstance(call, Failed):
            raise Broken(call.message) from call.error
        return call

    def ask(self, stage: Stage, inputs: Inputs, lane: Lane) -> Answer:
        """Make one call and keep it; whatever the target raises, and an answer of the wrong form, breaks the law."""
        keep = partial(Failed, stage, inputs, lane)
        try:
            with time_limit(self.seconds):
                handed = self.target.hand_over(inputs)
                returned = stage.call(self.target, handed, lane)
                answer = Answer(stage, inputs, lane, returned, bounded=self.bounded)
                wrong = wrong_form(inputs, handed, dict(leaves(returned)), self.target)
                wrong = wrong and f"{stage.name}: {wrong}"
        except (CannotExpress, TargetError) as error:
            raise CannotExpress(str(error)) from None
        except OutOfTime:
            failed = keep(f"{stage.name} took longer than {self.seconds:.3g} s")
            self.calls.append(failed)
            raise Hung(failed.message) from None
        except WrongForm as error:
            failed = keep(str(error))
        except (Exception, SystemExit, GeneratorExit) as error:  # noqa: BLE001  whatever a target raises is a finding
            failed = keep(f"{stage.name} raised {type(error).__name__}: {error}".removesuffix(": "), error)
        else:
            if not wrong and not (wrong := form_as_of_the_reference(stage, inputs, lane, returned)):
                self.calls.append(answer)
                return answer
            failed = keep(wrong)
        self.calls.append(failed)
        raise Broken(failed.message) from failed.error

    def _known(self, stage: Stage, inputs: Inputs, lane: Lane) -> Answer | Failed | None:
        """The call at this place of the pass before, if it was the same one."""
        call = next(iter(self._before[len(self.calls) :]), None)
        if call is None or (call.stage, call.lane) != (stage, lane) or not _alike(call.inputs, inputs):
            return None
        return call if isinstance(call, Failed) else call.with_bounds()


def _alike(a: Inputs, b: Inputs) -> bool:
    """Whether two calls were given the same numbers."""
    these, those = list(leaves(a)), list(leaves(b))
    return len(these) == len(those) and all(
        p == q and (_bits(x) == _bits(y)) for (p, x), (q, y) in zip(these, those, strict=True)
    )


def _bits(value: Any) -> Any:
    return (value.shape, value.dtype.name, value.tobytes()) if isinstance(value, np.ndarray) else value
