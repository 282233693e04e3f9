"""The machines as the command runs them, beside the laws, and a run of one as its reproduction repeats it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import hypothesis
from hypothesis.errors import DidNotReproduce, HypothesisException, InvalidArgument
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from adalora_ref.conformance.expectations import Undecided
from adalora_ref.conformance.target import CannotExpress, Target
from adalora_ref.laws.asking import Hung
from adalora_ref.laws.machines import ALLOCATOR, allocator_machine, lacking_stages, training_machine, what_broke
from adalora_ref.laws.measured import Broken
from adalora_ref.laws.running import LAX, Failure, Watch
from adalora_ref.laws.searching import PHASES, Outcome, in_slices


class Machine(NamedTuple):
    """A machine as the command runs it, beside the laws."""

    factory: Callable[[Any], type[RuleBasedStateMachine]]
    says: str
    stages: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the factory."""
        return self.factory.__name__

    def lacking(self, target: Target) -> str:
        """What the target lacks for this machine, or nothing."""
        return lacking_stages(target, self.stages)


MACHINES = (
    Machine(
        allocator_machine,
        "Updates, odd gradients, skips, saving and compressing, in any order, keep budget, mask, shapes and scores.",
        ALLOCATOR,
    ),
    Machine(
        training_machine,
        "Steps, odd gradients, refused ones, saving and compressing, in any order, keep W, budget, mask and scores.",
        ("train_step",),
    ),
)

STEPS = 15
"""Rules of one run."""


def check_run(name: str, target: Target, run: tuple[str, bytes]) -> None:
    """Repeat the run of a machine that Hypothesis wrote down; raise `Broken` if it breaks, ValueError if it cannot be.

    *run* is the version of Hypothesis and what its `reproduce_failure` takes: it is read by that version alone.
    """
    machine, watch = next(machine for machine in MACHINES if machine.name == name), Watch()
    made = watched(machine, target, watch)
    settings = hypothesis.settings(**LAX, stateful_step_count=STEPS, database=None)
    try:
        run_state_machine_as_test(hypothesis.reproduce_failure(*run)(made), settings=settings)
    except DidNotReproduce:
        return
    except Hung as error:
        raise Broken(str(error)) from None
    except InvalidArgument as error:
        raise ValueError(str(error)) from None


def run_machine(
    machine: Machine,
    target: Target,
    *,
    examples: int | None = None,
    seed: int = 0,
    seconds: float | None = None,
    end: float = math.inf,
) -> Outcome:
    """Run a machine as `run_law` tries a law; a run of so many rules counts as an example."""
    watch = Watch(end=end)

    def once(size: int, seed: int) -> None:
        settings = hypothesis.settings(
            **LAX, max_examples=size, stateful_step_count=STEPS, derandomize=False, phases=PHASES, print_blob=True
        )
        try:
            run_state_machine_as_test(hypothesis.seed(seed)(watched(machine, target, watch)), settings=settings)
        except (Broken, Undecided, CannotExpress, HypothesisException):
            raise
        except Exception as error:
            raise _noted(Broken(what_broke(error)), error) from error

    found = in_slices(machine, once, watch, examples=examples, seed=seed, seconds=seconds)
    return found if found.failure is None else found._replace(failure=_with_rules(found.failure))


def _with_rules(failure: Failure) -> Failure:
    """The failure with the rules that ran and what they drew, out of all that Hypothesis notes."""
    lines = failure.steps.splitlines()
    start = next((n for n, line in enumerate(lines) if line.startswith("state = ")), len(lines))
    end = next((n for n, line in enumerate(lines) if line.startswith("state.teardown")), len(lines))
    ran = [line for line in lines[start + 1 : end] if not INVARIANT.fullmatch(line)]
    return failure._replace(steps="\n".join(ran))


INVARIANT = re.compile(r"state\.(?!skip|save_and_load|compress)\w+\(\)")
"""A line of the notes without arguments that is no rule."""


def _noted(broken: Broken, error: Exception) -> Broken:
    for note in getattr(error, "__notes__", ()):
        broken.add_note(note)
    return broken


def watched(machine: Machine, target: Target, watch: Watch) -> type[RuleBasedStateMachine]:
    """The machine, what becomes of its runs being watched."""
    made = machine.factory(target)
    made.watch = watch
    return made
