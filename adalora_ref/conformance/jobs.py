"""The rows of a report: one stage after the other, or several at once, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple, TypeAlias

from adalora_ref.conformance.checking import check_stages, stage_named
from adalora_ref.conformance.known_failures import Known, mark
from adalora_ref.conformance.reproduction import Place, with_reproduction
from adalora_ref.conformance.target import Target, TargetError
from adalora_ref.conformance.verdict import Row
from adalora_ref.convention import convention

Load: TypeAlias = Callable[[], Sequence[Target]]
"""How another process comes by the targets: a function of a module, or a `functools.partial` of one."""


class Plan(NamedTuple):
    """What is to be checked, in plain values, so that other processes can be told."""

    stages: tuple[str, ...]
    convention: str
    dtypes: tuple[str, ...]
    cases: int
    seed: int
    known: tuple[Known, ...] = ()
    place: Place | None = None


def rows_of(plan: Plan, targets: Sequence[Target], load: Load | None = None, jobs: int = 1) -> Iterator[Row]:
    """Yield the row of every stage, in their order; in *jobs* processes where these can *load* the targets."""
    if load is None or jobs == 1:
        yield from (_row(plan, name, targets) for name in plan.stages)
    else:
        yield from _in_processes(plan, load, jobs)


def _row(plan: Plan, stage: str, targets: Sequence[Target]) -> Row:
    rules = convention(plan.convention)
    found = check_stages(
        targets, [stage_named(stage)], rules, dtypes=plan.dtypes, cases=plan.cases, seed=plan.seed
    )  # fmt: skip
    row = mark(next(found), plan.known)
    return row if plan.place is None else with_reproduction(row, targets, rules, plan.place)


def _in_processes(plan: Plan, load: Load, jobs: int) -> Iterator[Row]:
    """The same from processes, which end with this one, whatever ends it."""
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _leave_interrupts_to_the_parent)
    try:
        yield from pool.map(_loaded_row, *zip(*((plan, load, name) for name in plan.stages), strict=True))
    except BrokenProcessPool:
        raise TargetError("the target ended the process that checked it; --stage NAME shows which stage does") from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _loaded_row(plan: Plan, load: Load, stage: str) -> Row:
    if not TARGETS:
        TARGETS.extend(load())
    return _row(plan, stage, TARGETS)


TARGETS: list[Target] = []
"""Of a process that checks, once it has loaded them."""
