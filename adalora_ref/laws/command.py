"""What `adalora-ref laws` does: run laws and machines against a target, show what broke, and leave a reproduction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
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
from adalora_ref.conformance.target import Target, TargetError, spoken
from adalora_ref.conformance.verdict import Divergence, Verdict
from adalora_ref.laws import LAWS, law_named
from adalora_ref.laws.asking import Answer
from adalora_ref.laws.law import Law
from adalora_ref.laws.machines import MACHINES, Machine, run_machine
from adalora_ref.laws.reproduction import FOLDER, departing, keep, require_place, source, write_reproduction
from adalora_ref.laws.running import Failure, Outcome, run_laws


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks for.

    Attributes
    ----------
    seconds
        In all; None: until every law has its examples.
    laws
        Names of laws, to run these alone.
    keep
        Whether the calls that depart are kept as vectors.
    out
        Where reproductions are written.
    """

    examples: int = 100
    seed: int = 0
    seconds: float | None = None
    laws: tuple[str, ...] = ()
    keep: bool = False
    out: Path = FOLDER

    def __post_init__(self) -> None:
        machines = [machine.name for machine in MACHINES]
        for name in self.laws:
            if name not in machines:
                law_named(name)
        require_place(self.out)


def run(spec: str | None, options: Options, console: Console) -> int:
    """Run the laws against what *spec* names, by default the reference; return the exit status."""
    name = spec or "adalora_ref"
    target = Target(name, reference()) if name == "adalora_ref" else loaded(name)
    laws = [law for law in LAWS if not options.laws or law.name in options.laws]
    machines = [machine for machine in MACHINES if not options.laws or machine.name in options.laws]
    everything: list[Law | Machine] = [*laws, *machines]
    if not any(held.stages and not held.lacking(target) for held in everything):
        raise TargetError(f"{name!r} has not the functions that any of the {len(laws)} laws needs")
    outcomes = list(_with_progress(laws, machines, target, options, console))
    show(name, outcomes, options, console)
    for outcome in outcomes:
        for line in _left_behind(outcome, name, options):
            console.print(Text(line), soft_wrap=True)
    return exit_status(outcomes)


def exit_status(outcomes: Sequence[Outcome]) -> int:
    """0 if all laws hold; 1 if one broke; 3 if one could not be decided or none ran."""
    found = {outcome.verdict for outcome in outcomes}
    if Verdict.FAIL in found:
        return 1
    return 3 if Verdict.INCONCLUSIVE in found or Verdict.PASS not in found else 0


def _with_progress(
    laws: Sequence[Law], machines: Sequence[Machine], target: Target, options: Options, console: Console
) -> Iterator[Outcome]:
    """Pass outcomes on, with a progress bar on a terminal."""
    found = run_laws(laws, target, examples=options.examples, seed=options.seed, seconds=options.seconds)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        names = [law.name for law in laws] + [machine.name for machine in machines]
        task = progress.add_task(names[0], total=len(names))
        ran = (run_machine(machine, target, seed=options.seed) for machine in machines)
        for outcome, following in zip(chain(found, ran), [*names[1:], "done"], strict=True):
            progress.update(task, advance=1, description=following)
            yield outcome


# WHAT IS SHOWN


def show(name: str, outcomes: Sequence[Outcome], options: Options, console: Console) -> None:
    """Print a row for each law that ran, what broke in full, what the target lacks, and the verdict."""
    console.print(
        f"adalora-ref {adalora_ref.__version__} · specification {adalora_ref.SPECIFICATION} · "
        f"seed {options.seed} · up to {options.examples} examples"
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
    failure = outcome.failure
    if failure is None:
        if outcome.verdict is Verdict.FAIL:
            yield Text(f"\n{outcome.law.name}: broken", style="bold red")
            yield Text("  " + outcome.reason.replace("\n", "\n  "))
        return
    yield Text(f"\n{outcome.law.name}: broken, smallest case found, in {failure.dtype}", style="bold red")
    yield Text(f"  law      {outcome.law.says}")
    yield Text(f"  broken   {failure.message}")
    table = Table("  given", "", box=None, pad_edge=False, show_header=False)
    for name, value in failure.case.items():
        for path, text in _rows(name, value):
            table.add_row(Text(f"  {path}"), Text(text))
    yield Text("  case")
    yield unwrapped(table, console)
    yield Text("  calls")
    for answer in failure.answers[:MOST_CALLS]:
        yield Text(f"    {answer.stage.name} → {_results(answer)}")
    if len(failure.answers) > MOST_CALLS:
        yield Text(f"    and {len(failure.answers) - MOST_CALLS} more")
    departs = departing(failure)
    if departs is not None and (where := departs.departure()) is not None:
        yield Text(f"  departs  {departs.stage.name}, {_where(where)}")


MOST_CALLS = 12


def _rows(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """One row for each array or number of an argument, spelled so that it can be typed in again."""
    if hasattr(value, "s") and hasattr(value, "B"):
        for part in "BsA":
            yield f"  {name}.{part}", _short(getattr(value, part))
    elif isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _rows(f"{name}[{key}]", item)
    elif hasattr(value, "_fields"):
        for key in value._fields:
            yield from _rows(f"{name}.{key}", getattr(value, key))
    else:
        yield f"  {name}", _short(value)


def _short(value: Any) -> str:
    return str(value.tolist()) if hasattr(value, "tolist") else source(value)


def _results(answer: Answer) -> str:
    return ", ".join(f"{spoken(path)} = {a.tolist()}" for path, a in answer.host.items())


def _where(where: Divergence | str) -> str:
    if isinstance(where, str):
        return where
    bound = f"{where.bound:.3g}" if where.bound else "0, since nothing rounds here"
    return f"{where.where}: got {where.got!r}, expected {where.expected!r}, bound {bound}"


def _left_behind(outcome: Outcome, name: str, options: Options) -> Iterator[str]:
    """Write what stays of a law that broke, and say where."""
    failure: Failure | None = outcome.failure
    if failure is None:
        return
    path = write_reproduction(outcome, name, options.out)
    yield f"\n{outcome.law.name}: shown again by  python {path.as_posix()}"
    if failure.blob:
        yield f"  in a test of your own:  {failure.blob}"
    answer = departing(failure)
    if options.keep and answer is not None:
        yield f"  {_kept(answer, outcome.law.name, options.out / 'vectors')}"


def _kept(answer: Answer, law: str, folder: Path) -> str:
    try:
        return f"kept as {keep(answer, law, folder).as_posix()}"
    except ValueError as error:
        return f"not kept: {error}"
