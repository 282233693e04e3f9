"""What `adalora-ref vectors` does: export a suite, judge results by it, let a target in Python answer it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from adalora_ref.conformance import answers, suite_writing, vectors_check
from adalora_ref.conformance.checking import stage_named
from adalora_ref.conformance.command import Options
from adalora_ref.conformance.deviations import reference
from adalora_ref.conformance.report import Report, show, write_json, write_junit
from adalora_ref.conformance.stages import STAGES
from adalora_ref.conformance.suite import Manifest, read_manifest, suite_folder
from adalora_ref.conformance.suite_writing import Track
from adalora_ref.conformance.target import Target, load_target
from adalora_ref.conformance.verdict import exit_status
from adalora_ref.convention import SPEC, convention

DTYPES = ("float64", "float32")
"""Those of a suite, unless others are asked for: a float64 lane sees what float32 hides."""


def export(folder: Path, options: Options, console: Console) -> int:
    """Write a suite, and say what it holds."""
    stages = [stage_named(name) for name in dict.fromkeys(options.stages)] or STAGES
    rules = options.rules(SPEC)
    manifest = suite_writing.export(
        folder,
        rules,
        preset=options.preset,
        dtypes=tuple(dict.fromkeys(options.dtypes)) or DTYPES,
        stages=stages,
        seed=options.seed,
        track=_track(console),
    )
    console.print(Text(f"{_sentence(manifest)}, written to {folder}"), soft_wrap=True)
    for name, reason in manifest.left_out.items():
        console.print(Text(f"left out: {name}: {reason}"), soft_wrap=True)
    return 0


def check(folder: Path, results: Path, options: Options, console: Console) -> int:
    """Judge results by a suite, show and write the verdict, and return the exit status."""
    manifest, rows = vectors_check.check(suite_folder(folder), results, track=_track(console))
    status = exit_status(rows, options.require)
    report = Report(str(results), manifest.convention, manifest.preset, manifest.seed or 0, rows, status)
    show(report, console)
    if options.json:
        write_json(report, options.json)
    if options.junit:
        write_junit(report, options.junit)
    return status


def answer(folder: Path, results: Path, spec: str, console: Console) -> int:
    """Let a target answer a suite, and say how far it did."""
    suite = suite_folder(folder)
    manifest = read_manifest(suite)
    rules = convention(manifest.convention)
    target = Target(spec, reference(rules)) if spec == "adalora_ref" else load_target(spec)
    silent = answers.answer(suite, results, target, track=_track(console))
    for reason, number in silent.items():
        console.print(Text(f"{number} cases have no result: {reason}"), soft_wrap=True)
    answered = len(manifest.cases) - sum(silent.values())
    console.print(Text(f"{answered} of {len(manifest.cases)} cases answered, written to {results}"), soft_wrap=True)
    return 0


def _sentence(manifest: Manifest) -> str:
    bounded = f", {len(manifest.left_out)} left out" if manifest.left_out else ""
    return f"{len(manifest.cases)} cases of convention {manifest.convention} in {', '.join(manifest.dtypes)}{bounded}"


def _track(console: Console) -> Track:
    """A progress bar on a terminal, nothing elsewhere."""

    def track(items: Sequence[Any], description: str, /) -> Iterator[Any]:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            yield from progress.track(items, description=description)

    return track
