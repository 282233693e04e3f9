"""What `adalora-ref verify` does: the reference itself, someone's target, or the installed PEFT."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from traceback import StackSummary, TracebackException
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress
from rich.text import Text

import adalora_ref
from adalora_ref.array import LIBRARIES, backend
from adalora_ref.conformance import mutants, scripted
from adalora_ref.conformance.cases import NUMPY_DTYPES
from adalora_ref.conformance.checking import PRESETS, check_stages, stage_named
from adalora_ref.conformance.deviations import DEVIATIONS, planted, reference
from adalora_ref.conformance.findings import Finding
from adalora_ref.conformance.report import Report, require_writable, show, write_json, write_junit
from adalora_ref.conformance.stages import STAGES, Stage
from adalora_ref.conformance.target import Target, TargetError, load_target
from adalora_ref.conformance.trace_diagnosis import explained
from adalora_ref.conformance.trace_file import read_trace
from adalora_ref.conformance.variants import VARIANTS
from adalora_ref.conformance.verdict import Row, exit_status
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
    repro
        The folder for reproductions.
    """

    convention: str | None = None
    preset: str = "default"
    seed: int = 0
    dtypes: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    json: Path | None = None
    junit: Path | None = None
    repro: Path | None = None

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
        if self.repro is not None and self.repro.exists() and not self.repro.is_dir():
            raise ValueError(f"reproductions must be written to a folder; got the file {str(self.repro)!r}")

    def rules(self, default: Convention = SPEC) -> Convention:
        """The convention to check under."""
        return default if self.convention is None else convention(self.convention)


def verify(spec: str | None, options: Options, console: Console) -> int:
    """Check what *spec* names, show the verdict, and return the exit status."""
    if spec is None:
        return verify_reference(options, console)
    if spec == "peft":
        return verify_peft(options, console)
    if spec.startswith("trace:"):
        return verify_trace(Path(spec.removeprefix("trace:")), options, console)
    if spec == "adalora_ref":
        return _report(spec, [Target(spec, reference(options.rules()))], options, options.rules(), console).status
    return verify_target(spec, options, console)


def verify_reference(options: Options, console: Console) -> int:
    """Check the reference on every array library installed here; then show one planted mistake being caught."""
    libraries, absent = installed_libraries()
    rules = options.rules()
    console.print("1. The reference itself, against oracles in 50 digits.\n")
    targets = [Target("adalora_ref", reference(rules), name) for name in libraries]
    report = _report("adalora_ref", targets, options, rules, console)
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


def loaded(spec: str) -> Target:
    """Import ``package.module:object`` and see that its array library can be used; show its own error if it raises."""
    try:
        target = load_target(spec)
    except TargetError as error:
        if error.__cause__ is not None:
            _show_their_traceback(error.__cause__)
        raise
    try:
        backend(target.array_library)
    except (ValueError, RuntimeError) as error:
        raise TargetError(f"{spec}.array_library cannot be used here: {error}") from None
    return target


def verify_target(spec: str, options: Options, console: Console) -> int:
    """Check ``package.module:object``."""
    target = loaded(spec)
    names = list(dict.fromkeys(stage.needs[0] for stage in STAGES))
    if scripted.is_allocator(target):
        return verify_allocator(target, options, console)
    if not any(target.function(name) for name in names):
        raise TargetError(f"{spec!r} has none of the functions that can be checked: {', '.join(names)}")
    return _report(spec, [target], options, options.rules(), console, _runs(target, options)).status


def _runs(target: Target, options: Options) -> Iterator[Row]:
    """A whole training run, if the target has a training step and nothing less was asked for."""
    if target.function("train_step") and not options.stages:
        yield scripted.check_run(target, options.rules(), seed=options.seed)


def verify_allocator(target: Target, options: Options, console: Console) -> int:
    """Check a stateful allocator, fed scripted weights and gradients for a whole schedule."""
    rows = tuple(scripted.check_allocator(target, options.rules(), seed=options.seed))
    return _shown(target.name, rows, options, options.rules(), console).status


def verify_trace(path: Path, options: Options, console: Console) -> int:
    """Check a run that another program recorded, each stage from the run's own inputs to it."""
    steps, judge = read_trace(path)
    judge = judge if options.convention is None else judge._replace(convention=options.rules())
    rows = tuple(explained(steps, judge, "trace"))
    return _shown(str(path), rows, options, judge.convention, console).status


def _show_their_traceback(error: BaseException) -> None:
    """Print what happened in the target's own code, without the frames of ours and of the import machinery."""
    told = TracebackException.from_exception(error)
    ours = (str(Path(adalora_ref.__file__).parent), "<frozen importlib", importlib.__file__)
    told.stack = StackSummary.from_list(frame for frame in told.stack if not frame.filename.startswith(ours))
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print("".join(told.format()).rstrip())


def verify_peft(options: Options, console: Console) -> int:
    """Check the installed PEFT, driven as its users do: its functions, whole training runs, and its findings."""
    from adalora_ref.conformance.peft_findings import CLAIMS, look, write_scripts
    from adalora_ref.conformance.peft_run import run_rows
    from adalora_ref.conformance.peft_target import PeftTarget, peft_version

    target = Target(f"peft {peft_version()}", PeftTarget())
    if options.stages:
        return _report(target.name, [target], options, options.rules(PEFT), console).status
    looked = _in_progress(look(), len(CLAIMS), "findings", console)
    report = _report(target.name, [target], options, options.rules(PEFT), console, run_rows(), looked)
    if options.repro:
        paths = write_scripts(report.findings, options.repro)
        console.print(Text(f"{len(paths)} reproductions written to {options.repro}"), soft_wrap=True)
    return report.status


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
) -> Report:
    """Run the stages, then *more*, then look for *findings*; show and write the verdict."""
    stages = [stage_named(s) for s in options.stages] or [s for s in STAGES if s.holds_under(rules)]
    rows = check_stages(targets, stages, rules, dtypes=options.dtypes, cases=PRESETS[options.preset], seed=options.seed)
    checked = tuple(_with_progress(rows, more, stages, console))
    return _shown(name, checked, options, rules, console, tuple(findings))


def _shown(
    name: str,
    rows: tuple[Row, ...],
    options: Options,
    rules: Convention,
    console: Console,
    findings: tuple[Finding, ...] = (),
) -> Report:
    """Show and write the verdict; a defect that was found fails it like a stage."""
    status = 1 if any(finding.is_defect for finding in findings) else exit_status(rows, options.require)
    report = Report(name, rules.name, options.preset, options.seed, rows, status, findings)
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
        hunted = mutants.hunt(mistakes, cases=cases, seed=seed)
        hunts = tuple(progress.track(hunted, len(mistakes), description="mistakes"))
        tried = () if options.stages else mutants.try_variants(checks=checks, seed=seed)
        trials = tuple(progress.track(tried, len(VARIANTS), description="variants"))
    mutants.show(hunts, trials, console)
    if options.json:
        mutants.write(hunts, trials, options.json)
    return 0 if mutants.holds(hunts, trials) else 1
