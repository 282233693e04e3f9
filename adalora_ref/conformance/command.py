"""What `adalora-ref verify` does: the reference itself, someone's target, or the installed PEFT."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from traceback import StackSummary, TracebackException
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress
from rich.text import Text

import adalora_ref
from adalora_ref.array import LIBRARIES, backend
from adalora_ref.conformance import allocator_check, growth, mutants, own_run, scripted
from adalora_ref.conformance.bad_input import Handed, hand_bad_input
from adalora_ref.conformance.cases import NUMPY_DTYPES
from adalora_ref.conformance.checking import (
    HUNG,
    PRESETS,
    check_stages,
    require_functions,
    require_library,
    stage_named,
)
from adalora_ref.conformance.deviations import DEVIATIONS, planted, reference
from adalora_ref.conformance.findings import Finding
from adalora_ref.conformance.jobs import Load, Plan, rows_of
from adalora_ref.conformance.known_failures import Known, mark, read_known, unexpected
from adalora_ref.conformance.program import running
from adalora_ref.conformance.report import Report, require_writable, show, write_json, write_junit
from adalora_ref.conformance.reproduction import (
    FOLDER,
    PROGRAM,
    Place,
    refusal,
    unwritable,
    with_feed,
    with_formula,
    with_step,
)
from adalora_ref.conformance.stages import STAGES, Stage
from adalora_ref.conformance.target import Target, TargetError, load_target
from adalora_ref.conformance.trace import Run
from adalora_ref.conformance.trace_diagnosis import explained
from adalora_ref.conformance.trace_file import read_trace
from adalora_ref.conformance.variants import VARIANTS
from adalora_ref.conformance.verdict import Row, Verdict, exit_status
from adalora_ref.convention import PEFT, SPEC, Convention, convention

T = TypeVar("T")

PLANTED = "uncertainty_uses_previous_mean"
"""The mistake that a newcomer sees being caught."""

VARIANT_CHECKS = {"quick": 100, "default": 250, "thorough": 1000}
"""How many checks each correct variant must pass, at least."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks for.

    Attributes
    ----------
    convention
        None: SPEC, and PEFT for the target peft.
    dtypes
        None given: those that the target declares.
    stages, require
        Names of stages: to run these alone; to insist that these run.
    known
        A file of known failures.
    jobs
        How many processes run stages at once.
    repro, no_repro
        Another folder for reproductions; none at all.
    """

    convention: str | None = None
    preset: str = "default"
    seed: int = 0
    dtypes: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    json: Path | None = None
    junit: Path | None = None
    known: Path | None = None
    jobs: int = 1
    repro: Path | None = None
    no_repro: bool = False

    def __post_init__(self) -> None:
        if self.convention is not None:
            convention(self.convention)
        for name in (*self.stages, *self.require):
            stage_named(name)
        for dtype in self.dtypes:
            if dtype not in NUMPY_DTYPES:
                raise ValueError(f"the dtype must be one of {', '.join(NUMPY_DTYPES)}; got {dtype!r}")
        for path in filter(None, (self.json, self.junit)):
            require_writable(path)
        self.known_failures()
        if self.repro is not None and self.no_repro:
            raise ValueError("--repro and --no-repro exclude each other")
        if self.repro is not None and (why := refusal(self.repro)):
            raise ValueError(why)

    def known_failures(self) -> tuple[Known, ...]:
        """The failures that are known."""
        return () if self.known is None else read_known(self.known)

    def place(self, spec: str | None) -> Place | None:
        """Where reproductions go for a target that a script finds as *spec*."""
        return None if self.no_repro else Place(self.repro or FOLDER, spec)

    def rules(self, default: Convention = SPEC) -> Convention:
        """The convention to check under."""
        return default if self.convention is None else convention(self.convention)


def verify(spec: str | None, options: Options, console: Console) -> int:
    """Check what *spec* names, show the verdict, and return the exit status."""
    if spec is None:
        return verify_reference(options, console)
    if spec == "peft":
        return verify_peft(options, console)
    if spec.startswith(PROGRAM):
        return verify_program(spec.removeprefix(PROGRAM), options, console)
    if spec.startswith("trace:"):
        return verify_trace(Path(spec.removeprefix("trace:")), options, console)
    if spec == "adalora_ref":
        load = partial(_reference_on, options.rules().name, ["numpy"])
        (held,) = load()
        runs = _runs(held, spec, options)
        return _report(spec, [held], options, options.rules(), console, runs, load=load, spec=spec).status
    return verify_target(spec, options, console)


def verify_reference(options: Options, console: Console) -> int:
    """Check the reference on every array library installed here; then show one planted mistake being caught."""
    libraries, absent = installed_libraries()
    rules = options.rules()
    console.print("1. The reference itself, against oracles in 50 digits.\n")
    load = partial(_reference_on, rules.name, libraries)
    report = _report("adalora_ref", load(), options, rules, console, load=load, spec="adalora_ref")
    for reason in absent:
        console.print(Text(f"not checked: {reason}", style="dim"), soft_wrap=True)
    known = next(d for d in DEVIATIONS if d.name == PLANTED)
    console.print(
        Text(f"\n2. The same check on the reference with one mistake planted: {known.says}.\n"), soft_wrap=True
    )
    spoilt = Target("the reference with a planted mistake", planted(known))
    rows = tuple(check_stages([spoilt], [stage_named(known.stage)], SPEC, cases=PRESETS["quick"], seed=options.seed))
    show(Report(spoilt.name, SPEC.name, "quick", options.seed, rows, exit_status(rows)), console)
    console.print("\n3. Yours: any module or object that has some of these functions, under these names.\n")
    console.print(Text("    adalora-ref verify your_module:your_object", style="bold"))
    return report.status


def _reference_on(rules: str, libraries: Sequence[str]) -> list[Target]:
    """The reference under a convention, on the array libraries of these names."""
    return [Target("adalora_ref", reference(convention(rules)), name) for name in libraries]


def _target_alone(spec: str) -> list[Target]:
    return [load_target(spec)]


def loaded(spec: str) -> Target:
    """Import ``package.module:object`` and see that its array library can be used; show its own error if it raises."""
    try:
        target = load_target(spec)
    except TargetError as error:
        if error.__cause__ is not None:
            _show_their_traceback(error.__cause__)
        raise
    require_library(target)
    return target


def verify_target(spec: str, options: Options, console: Console) -> int:
    """Check ``package.module:object``."""
    target = loaded(spec)
    if allocator_check.is_allocator(target):
        return verify_allocator(target, options, console)
    require_functions(target)
    load, rules = partial(_target_alone, spec), options.rules()
    return _report(spec, [target], options, rules, console, _runs(target, spec, options), load=load, spec=spec).status


def _runs(target: Target, spec: str, options: Options) -> Iterator[Row]:
    """A whole training run, if the target has a training step and nothing less was asked for."""
    if target.function("train_step") and not options.stages:
        found, steps = own_run.train(target, options.rules(), dtypes=options.dtypes, seed=options.seed)
        place = options.place(spec)
        found = mark(found, options.known_failures())
        yield found if place is None else with_step(found, target, options.rules(), place, steps)


def verify_allocator(target: Target, options: Options, console: Console) -> int:
    """Check a stateful allocator, fed scripted weights and gradients for a whole schedule."""
    rules = options.rules()
    found = allocator_check.check_allocator(target, rules, dtypes=options.dtypes, seed=options.seed)
    hung = any(check.reason.endswith(HUNG) for row in found for check in row.checks)
    rows, place = _asked_for(found, options), options.place(target.name)
    if place is not None:
        rows = tuple(with_feed(row, target, rules, place, options.seed) for row in rows)
    bad_input = () if hung else (scripted.hand_nan(target),)
    return _shown(target.name, rows, options, rules, console, bad_input=bad_input).status


def verify_program(command: str, options: Options, console: Console) -> int:
    """Check a program in any language, which is asked case by case on its standard streams."""
    with running(command) as target:
        return _report(target.name, [target], options, options.rules(), console, spec=f"{PROGRAM}{command}").status


def verify_trace(path: Path, options: Options, console: Console) -> int:
    """Check a run that another program recorded, each stage from the run's own inputs to it."""
    steps, judge = read_trace(path)
    judge = judge if options.convention is None else judge._replace(convention=options.rules())
    if options.dtypes and judge.working not in options.dtypes:
        raise ValueError(f"the trace {str(path)!r} is of {judge.working}; got --dtype {options.dtypes[0]}")
    run = Run(tuple(steps), judge, "trace", judge.working)
    first, *rows = explained([run])
    grown = growth.of_trace(run)
    first = first._replace(note="; ".join(filter(None, (first.note, growth.shown(grown)))), growth=grown)
    found, place = _asked_for([first, *rows], options), options.place(str(path))
    if place is not None:
        found = tuple(with_formula(row, run, place) for row in found)
    return _shown(str(path), found, options, judge.convention, console).status


def _asked_for(rows: Iterable[Row], options: Options) -> tuple[Row, ...]:
    """The rows of a run that --stage names, or all; what is known to fail is marked."""
    known = options.known_failures()
    return tuple(mark(row, known) for row in rows if not options.stages or row.stage in options.stages)


def _show_their_traceback(error: BaseException) -> None:
    """Print what happened in the target's own code, without the frames of ours and of the import machinery."""
    told = TracebackException.from_exception(error)
    ours = (str(Path(adalora_ref.__file__).parent), "<frozen importlib", importlib.__file__)
    told.stack = StackSummary.from_list(frame for frame in told.stack if not frame.filename.startswith(ours))
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print("".join(told.format()).rstrip())


def verify_peft(options: Options, console: Console) -> int:
    """Check the installed PEFT, driven as its users do: its functions, whole training runs, and its findings."""
    from adalora_ref.conformance.peft_findings import CLAIMS, look, written
    from adalora_ref.conformance.peft_run import run_rows
    from adalora_ref.conformance.peft_target import PeftTarget, peft_version

    target = Target(f"peft {peft_version()}", PeftTarget())
    spec = f"{PeftTarget.__module__}:{PeftTarget.__qualname__}"
    load, rules = partial(_target_alone, spec), options.rules(PEFT)
    if options.stages:
        return _report(target.name, [target], options, rules, console, load=load, spec=spec).status
    looked: Iterable[Finding] = _in_progress(look(), len(CLAIMS), "findings", console)
    place = options.place(spec)
    if place and not unwritable(place.folder):
        looked = written(looked, place.folder)
    return _report(target.name, [target], options, rules, console, run_rows(), looked, load=load, spec=spec).status


def installed_libraries() -> tuple[list[str], list[str]]:
    """Names of the array libraries that can be used here, and for the others why not."""
    usable, absent = [], []
    for name in LIBRARIES:
        try:
            backend(name)
        except RuntimeError as error:
            absent.append(str(error))
        else:
            usable.append(name)
    return usable, absent


def _report(
    name: str,
    targets: Sequence[Target],
    options: Options,
    rules: Convention,
    console: Console,
    more: Iterable[Row] = (),
    findings: Iterable[Finding] = (),
    *,
    load: Load | None = None,
    spec: str | None = None,
) -> Report:
    """Run the stages, then *more*, then look for *findings*; show and write the verdict.

    Other processes get the targets by *load*, reproductions by *spec*. Without the one there are no other processes;
    without the other a reproduction is data instead of a script.
    """
    stages = [stage_named(s) for s in dict.fromkeys(options.stages)] or [s for s in STAGES if s.holds_under(rules)]
    plan = Plan(
        tuple(stage.name for stage in stages),
        rules.name,
        options.dtypes,
        PRESETS[options.preset],
        options.seed,
        options.known_failures(),
        options.place(spec),
    )
    rows = rows_of(plan, targets, load, options.jobs)
    checked = tuple(_with_progress(rows, more, stages, console))
    found, refusals = tuple(findings), hand_bad_input(targets[0], options.stages)
    return _shown(name, checked, options, rules, console, findings=found, bad_input=refusals)


def _shown(
    name: str,
    rows: tuple[Row, ...],
    options: Options,
    rules: Convention,
    console: Console,
    *,
    findings: tuple[Finding, ...] = (),
    bad_input: tuple[Handed, ...] = (),
) -> Report:
    """Show and write the verdict; a defect that was found fails it like a stage, and so does an unexpected pass."""
    known = options.known_failures()
    rows = tuple(mark(row, known) for row in rows)
    missed = unexpected(rows, known)
    failed = missed or any(finding.is_defect for finding in findings)
    status = 1 if failed else exit_status(rows, options.require)
    ran = {row.stage for row in rows if row.verdict is not Verdict.NOT_RUN}
    missing = tuple(stage for stage in dict.fromkeys(options.require) if stage not in ran)
    report = Report(name, rules.name, options.preset, options.seed, rows, status, findings, missed, missing, bad_input)
    show(report, console)
    if options.json:
        write_json(report, options.json)
    if options.junit:
        write_junit(report, options.junit)
    return report


def _with_progress(
    rows: Iterable[Row], more: Iterable[Row], stages: Sequence[Stage], console: Console
) -> Iterator[Row]:
    """Pass *rows* and *more* on, with a progress bar on a terminal."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("checking", total=len(stages))
        for row in rows:
            progress.update(task, advance=1, description=row.stage)
            yield row
        progress.update(task, total=None, description="whole runs")
        yield from more


def _in_progress(steps: Iterable[T], total: int, description: str, console: Console) -> Iterator[T]:
    """Pass *steps* on, with a progress bar on a terminal."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        yield from progress.track(steps, total, description=description)


def mutate(options: Options, console: Console) -> int:
    """Hunt every planted mistake, try every correct variant, show what came of it, and return the exit status."""
    cases, checks, seed = PRESETS[options.preset], VARIANT_CHECKS[options.preset], options.seed
    mistakes = [d for d in DEVIATIONS if not options.stages or d.stage in options.stages]
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        hunted = mutants.hunt(mistakes, cases=cases, seed=seed, dtypes=options.dtypes)
        hunts = tuple(progress.track(hunted, len(mistakes), description="mistakes"))
        tried = () if options.stages else mutants.try_variants(checks=checks, seed=seed)
        trials = tuple(progress.track(tried, len(VARIANTS), description="variants"))
    mutants.show(hunts, trials, console)
    if options.json:
        mutants.write(hunts, trials, options.json)
    return 0 if mutants.holds(hunts, trials) else 1
