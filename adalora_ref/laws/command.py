"""What `adalora-ref laws` does: run laws and machines against a target, show what broke, and leave a reproduction."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

import adalora_ref
from adalora_ref.conformance.command import loaded
from adalora_ref.conformance.deviations import reference
from adalora_ref.conformance.report import COLOURS, unwrapped
from adalora_ref.conformance.target import Target, TargetError
from adalora_ref.conformance.verdict import Verdict
from adalora_ref.laws import LAWS, close_to
from adalora_ref.laws.law import Law
from adalora_ref.laws.machine_runs import MACHINES, Machine, run_machine
from adalora_ref.laws.reproduction import FOLDER, keep, require_place, write_reproduction
from adalora_ref.laws.running import Failure
from adalora_ref.laws.searching import EXAMPLES, Outcome, run_law, run_laws
from adalora_ref.laws.telling import calls_in_words, case_rows, indented

EVERYTHING: dict[str, Law | Machine] = {law.name: law for law in LAWS} | {held.name: held for held in MACHINES}

INTERRUPTED = 130
"""The exit status after Ctrl-C."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks for.

    Attributes
    ----------
    examples
        Of each law, at most; None: `EXAMPLES`, or as many as there is time for.
    seconds
        In all; None: until every law has its examples.
    laws
        Names of laws, to run these alone.
    keep
        Whether the calls that depart are kept as vectors.
    out
        Where reproductions are written.
    """

    examples: int | None = None
    seed: int = 0
    seconds: float | None = None
    laws: tuple[str, ...] = ()
    keep: bool = False
    out: Path = FOLDER

    def __post_init__(self) -> None:
        if self.seconds is not None and not math.isfinite(self.seconds):
            raise ValueError(f"the time must be a number of seconds; got {self.seconds}")
        for name in self.laws:
            if name not in EVERYTHING:
                raise ValueError(f"there is no law {name!r}; {close_to(name, list(EVERYTHING))}")
        require_place(self.out)

    @property
    def reach(self) -> str:
        """How many examples are tried, in words."""
        if self.examples is None and self.seconds is not None:
            return f"as many examples as {self.seconds:g} s allow"
        return f"up to {self.examples or EXAMPLES} examples"


def run(spec: str | None, options: Options, console: Console) -> int:
    """Run the laws against what *spec* names, by default the reference; return the exit status."""
    name = "adalora_ref" if spec is None else spec
    target = _target(name)
    chosen = [held for held in EVERYTHING.values() if not options.laws or held.name in options.laws]
    _require_any(name, chosen, target)
    outcomes: list[Outcome] = []
    stopped = False
    try:
        outcomes.extend(_with_progress(chosen, target, options, console))
    except KeyboardInterrupt:
        stopped = True
    if not (stopped and not outcomes):
        show(name, outcomes, options, console)
    written = [_left_behind(outcome, name, options, console) for outcome in outcomes]
    if stopped:
        done = f"interrupted after {len(outcomes)} of {len(chosen)} laws"
        console.print(Text(f"{done}; reproductions written: {sum(written)}"))
    return INTERRUPTED if stopped else exit_status(outcomes)


def _target(name: str) -> Target:
    if name == "adalora_ref":
        return Target(name, reference())
    if name.startswith(("exec:", "trace:")):
        raise TargetError(f"laws call functions; a program or a trace is for adalora-ref verify; got {name!r}")
    return loaded(name)


def _require_any(name: str, chosen: Sequence[Law | Machine], target: Target) -> None:
    """Refuse a target on which nothing could run, and name the functions."""
    if any(held.stages and not held.lacking(target) for held in chosen):
        return
    needed = list(dict.fromkeys(stage for held in chosen for stage in held.stages))
    told = f"the {len(chosen)} laws need" if len(chosen) > 1 else f"{chosen[0].name} needs"
    raise TargetError(f"{name!r} has not the functions that {told}: {', '.join(needed)}")


def exit_status(outcomes: Sequence[Outcome]) -> int:
    """0 if all laws hold; 1 if one broke; 3 if one could not be decided or none ran."""
    found = {outcome.verdict for outcome in outcomes}
    if Verdict.FAIL in found:
        return 1
    return 3 if Verdict.INCONCLUSIVE in found or Verdict.PASS not in found else 0


def _with_progress(
    chosen: Sequence[Law | Machine], target: Target, options: Options, console: Console
) -> Iterator[Outcome]:
    """Pass outcomes on, with a progress bar on a terminal."""
    found = run_laws(
        chosen, target, examples=options.examples, seed=options.seed, seconds=options.seconds, run=_run_either
    )
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        names = [held.name for held in chosen]
        task = progress.add_task(names[0], total=len(names))
        for outcome, following in zip(found, [*names[1:], "done"], strict=True):
            progress.update(task, advance=1, description=following)
            yield outcome


def _run_either(held: Law | Machine, target: Target, **options: Any) -> Outcome:
    run_it = partial(run_law, held) if isinstance(held, Law) else partial(run_machine, held)
    return run_it(target, **options)


# WHAT IS SHOWN


def show(name: str, outcomes: Sequence[Outcome], options: Options, console: Console) -> None:
    """Print a row for each law that ran, what broke in full, what the target lacks, and the verdict."""
    console.print(
        f"adalora-ref {adalora_ref.__version__} · specification {adalora_ref.SPECIFICATION} · "
        f"seed {options.seed} · {options.reach}"
    )
    table = Table("law", "verdict", "examples", "what it says", box=None, pad_edge=False)
    for outcome in outcomes:
        if outcome.verdict is not Verdict.NOT_RUN:
            verdict = Text(outcome.verdict, style=COLOURS[outcome.verdict])
            table.add_row(outcome.law.name, verdict, str(outcome.examples), Text(outcome.law.says))
    console.print(unwrapped(table, console), soft_wrap=True)
    for told in (line for outcome in outcomes for line in _described(outcome, console)):
        console.print(told, soft_wrap=True)
    for reason in _lacking(outcomes):
        console.print(Text(reason), soft_wrap=True)
    style = {0: "green", 1: "bold red", 3: "yellow"}[exit_status(outcomes)]
    console.print(Text(_sentence(name, outcomes), style=style), soft_wrap=True)


def _sentence(name: str, outcomes: Sequence[Outcome]) -> str:
    ran = [o for o in outcomes if o.verdict is not Verdict.NOT_RUN]
    broken = sum(o.verdict is Verdict.FAIL for o in ran)
    undecided = sum(o.verdict is Verdict.INCONCLUSIVE for o in ran)
    cases = sum(o.examples for o in ran)
    word = {0: "keeps the laws", 1: "breaks laws", 3: "is undecided"}[exit_status(outcomes)]
    return (
        f"{name} {word}: {len(ran)} of {len(outcomes)} laws ran, {broken} broken, {undecided} undecided, "
        f"{cases} examples held"
    )


def _lacking(outcomes: Sequence[Outcome]) -> list[str]:
    """The laws that did not run, gathered by what the target lacks."""
    gathered: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.verdict is Verdict.NOT_RUN:
            gathered.setdefault(outcome.reason, []).append(outcome.law.name)
    return [f"not run, {reason}: {', '.join(names)}" for reason, names in gathered.items()]


def _described(outcome: Outcome, console: Console) -> Iterator[Text]:
    """A law that broke: the smallest case as a table, every call with its result, and which call departs."""
    if outcome.verdict is Verdict.INCONCLUSIVE:
        yield Text(f"{outcome.law.name}: undecided, {outcome.reason}")
    if outcome.verdict is not Verdict.FAIL:
        return
    failure = outcome.failure
    if failure is None:
        yield Text(f"\n{outcome.law.name}: broken", style="bold red")
        yield Text(f"  broken   {indented(outcome.reason)}")
        return
    yield Text(f"\n{outcome.law.name}: broken, smallest case found, in {failure.dtype}", style="bold red")
    yield Text(f"  law      {outcome.law.says}")
    yield Text(f"  broken   {indented(failure.message)}")
    yield from _case(failure, console)
    yield from (Text(f"  {line}") for line in calls_in_words(failure))


def _case(failure: Failure, console: Console) -> Iterator[Any]:
    """The case as a table; of a machine, the rules that it ran."""
    if failure.case is None:
        yield Text("  rules")
        yield from (Text(f"    {line}") for line in failure.steps.splitlines())
        return
    table = Table("  given", "", box=None, pad_edge=False, show_header=False)
    asked = {call.stage.name for call in failure.calls}
    for name, value in failure.case.items():
        shown = {stage: given for stage, given in value.items() if stage in asked} if name == "stages" else value
        for path, text in case_rows(name, shown):
            table.add_row(Text(f"    {path}"), Text(text))
    yield Text("  case")
    yield unwrapped(table, console)


def _left_behind(outcome: Outcome, name: str, options: Options, console: Console) -> bool:
    """Write what stays of a law that broke, and say where; whether anything was written."""
    failure = outcome.failure
    if failure is None:
        return False

    def tell(line: str) -> None:
        console.print(Text(line), soft_wrap=True)

    if failure.case is None and not failure.blob:
        tell(f"\n{outcome.law.name}: no reproduction, since a run that took too long is not made smaller")
        return False
    try:
        path = write_reproduction(outcome, name, options.out)
    except OSError as error:
        tell(f"\n{outcome.law.name}: the reproduction could not be written: {error}")
        return False
    tell(f"\n{outcome.law.name}: shown again by  python {path.as_posix()}")
    if failure.blob and failure.case is not None:
        tell(f'  in a test of your own:  {failure.blob[1:]}(law_tests(…)["test_{outcome.law.name}"])')
    if options.keep:
        tell(f"  {_kept(outcome, options.out / 'vectors')}")
    return True


def _kept(outcome: Outcome, folder: Path) -> str:
    call = outcome.failure.departing() if outcome.failure and outcome.failure.case is not None else None
    if call is None:
        return "not kept: what breaks a machine is a run of calls, which the reproduction repeats"
    try:
        return f"kept as {keep(call, outcome.law.name, folder).as_posix()}"
    except (ValueError, OSError) as error:
        return f"not kept: {error}"
