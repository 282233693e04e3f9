"""The command ``adalora-ref``; what a command needs is imported when it is called."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

import adalora_ref

if TYPE_CHECKING:
    from rich.console import Console

PIPED_WIDTH = 10_000
"""Off a terminal nothing is wrapped or cut."""


class Refused(click.ClickException):
    """Wrong usage: one sentence, exit status 2."""

    exit_code = 2


class Terminated(KeyboardInterrupt):
    """SIGTERM; an interruption, so that it is not taken for something that a target raised."""


def _terminate(*_: Any) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # what swallows this one does not swallow the next
    raise Terminated


@contextmanager
def in_one_sentence(interrupted: str = "Interrupted; nothing half-written is left.") -> Iterator[None]:
    """Turn what the package refuses into ``Error: …`` and status 2, a diverged run into status 1, Ctrl-C into 130.

    SIGTERM ends the command as Ctrl-C does, with status 143, so that what it was writing is cleared away.
    """
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except Terminated:
        raise SystemExit(143) from None
    except KeyboardInterrupt:
        click.echo(interrupted, err=True)
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        raise Refused(str(error)) from error
    except FloatingPointError as error:
        raise click.ClickException(str(error)) from error
    finally:
        signal.signal(signal.SIGTERM, before)


def _folder(text: str) -> Path:
    """A folder by its name; the empty one would be the current folder, which nobody meant."""
    if not text:
        raise click.BadParameter("a folder must have a name; got ''")
    return Path(text)


def make_console() -> Console:
    """A console as wide as the terminal, or as wide as it takes."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPED_WIDTH)


@contextmanager
def report_alone_on_stdout() -> Iterator[Console]:
    """A console on standard output, to which nothing that a target prints is added: that goes to standard error."""
    console = make_console()
    console.file = sys.stdout
    with redirect_stdout(sys.stderr):
        yield console


def _escape_what_cannot_be_encoded() -> None:
    """Let a letter that a stream has no code for come out escaped, as a stream for errors does."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@click.group()
@click.version_option(adalora_ref.__version__, prog_name="adalora-ref")
def main() -> None:
    """A reference implementation of AdaLoRA, and the kit that checks others against it."""
    _escape_what_cannot_be_encoded()


@main.group()
def train() -> None:
    """Train on real data."""


@train.command()
@click.option(
    "--backend",
    default="numpy",
    show_default=True,
    metavar="NAME",
    help="numpy, cupy, or another array library.",
)
@click.option(
    "--convention",
    default="SPEC",
    show_default=True,
    metavar="NAME",
    help="Convention of the AdaLoRA arm: SPEC, PAPER, LORALIB, PEFT or LORA.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The first seed.")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="How many seeds.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The run folder, which must not exist; by default runs/digits-BACKEND-CONVENTION-seedN.",
)
def digits(backend: str, convention: str, seed: int, seeds: int, out: Path | None) -> None:
    """Adapt a small network from the digits 0–4 to 5–9, by AdaLoRA and by LoRA with as many parameters.

    Needs scikit-learn: pip install scikit-learn.
    """
    with in_one_sentence():
        from adalora_ref.experiments import digits as experiment
        from adalora_ref.experiments.tables import progress, show

        options = experiment.Options(backend=backend, convention=convention, seed=seed, seeds=seeds, out=out)
        settings, console = experiment.Settings(), make_console()
        with progress(console, options, settings) as watch:
            results = experiment.run(options, settings, watch)
        show(results, options, settings, console)
        click.echo(f"\nwritten to {options.folder}")


@main.command()
@click.argument("target", required=False)
@click.option("--convention", metavar="NAME", help="SPEC (the default), PAPER, LORALIB, PEFT or LORA.")
@click.option(
    "--dtype", "dtypes", multiple=True, metavar="NAME", help="float64, float32, float16 or bfloat16; repeatable."
)
@click.option("--stage", "stages", multiple=True, metavar="NAME", help="Check this stage alone; repeatable.")
@click.option("--require", multiple=True, metavar="NAME", help="Insist that this stage runs; repeatable.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the cases.")
@click.option("--preset", type=click.Choice(["quick", "default", "thorough"]), default="default", show_default=True)
@click.option("--json", type=click.Path(path_type=Path), metavar="FILE", help="Write the verdict as JSON.")
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Write the verdict as JUnit XML.")
@click.option("--known", type=click.Path(path_type=Path), metavar="FILE", help="Known failures, as TOML.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Stages checked at once.")
@click.option(
    "--repro",
    type=_folder,
    metavar="DIR",
    help="Where to write a reproduction of each failing stage; by default adalora-ref-repro.",
)
@click.option("--no-repro", is_flag=True, help="Write none.")
def verify(target: str | None, **options: Any) -> None:
    """Check TARGET against the mathematics; without one, the reference itself, and one planted mistake.

    TARGET is package.module:object or package.module, found here or among what is installed; exec:COMMAND, a program in
    any language; trace:FILE, a recorded run; or peft, the installed PEFT.

    The exit status is 0 if it conforms, 1 if not, 2 for wrong usage, 3 if a stage is inconclusive or a stage named by
    --require did not run. A defect that is found in PEFT makes it 1, a convention does not.
    """
    with in_one_sentence():
        from adalora_ref.conformance import command

        with report_alone_on_stdout() as console:
            status = command.verify(target, command.Options(**options), console)
    raise SystemExit(status)


@main.command()
@click.option("--preset", type=click.Choice(["quick", "default", "thorough"]), default="default", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the cases.")
@click.option("--stage", "stages", multiple=True, metavar="NAME", help="Only mistakes of this stage; repeatable.")
@click.option("--dtype", "dtypes", multiple=True, metavar="NAME", help="Hunt mistakes in this dtype; repeatable.")
@click.option("--json", type=click.Path(path_type=Path), metavar="FILE", help="Write the whole matrix as JSON.")
def mutants(**options: Any) -> None:
    """Test the kit itself: plant every known mistake and hunt it, let every correct variant through.

    The exit status is 0 if every mistake is killed at the stage that its entry names, at least 95 % are named by the
    diagnosis, and no correct variant fails; else 1.
    """
    with in_one_sentence():
        from adalora_ref.conformance import command

        status = command.mutate(command.Options(**options), make_console())
    raise SystemExit(status)


@main.group()
def vectors() -> None:
    """Golden vectors, for implementations in other languages and on other machines."""


@vectors.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--preset", type=click.Choice(["tiny", "quick", "default", "thorough"]), default="default", show_default=True
)
@click.option("--dtype", "dtypes", multiple=True, metavar="NAME", help="By default float64 and float32; repeatable.")
@click.option("--convention", metavar="NAME", help="SPEC (the default), PAPER, LORALIB, PEFT or LORA.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the cases; tiny has its own."
)
@click.option("--stage", "stages", multiple=True, metavar="NAME", help="Export this stage alone; repeatable.")
def export(folder: Path, **options: Any) -> None:
    """Write a suite of vectors into DIR: inputs, expected values and bounds, as safetensors and JSON.

    DIR must not exist, or be empty. docs/verify/vectors.md has the form.
    """
    with in_one_sentence():
        from adalora_ref.conformance import command, vectors_command

        vectors_command.export(folder, command.Options(**options), make_console())


@vectors.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--require", multiple=True, metavar="NAME", help="Insist that this stage has results; repeatable.")
@click.option("--json", type=click.Path(path_type=Path), metavar="FILE", help="Write the verdict as JSON.")
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Write the verdict as JUnit XML.")
def check(folder: Path, results: Path, **options: Any) -> None:
    """Judge RESULTS by the suite in DIR, or by the one in the package, which is named tiny.

    RESULTS is a folder with CASE.safetensors for each case, or one safetensors file with tensors CASE/result. The exit
    status is that of verify.
    """
    with in_one_sentence():
        from adalora_ref.conformance import command, vectors_command

        status = vectors_command.check(folder, results, command.Options(**options), make_console())
    raise SystemExit(status)


@vectors.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("results", type=click.Path(path_type=Path))
@click.argument("target")
def answer(folder: Path, results: Path, target: str) -> None:
    """Write into RESULTS what TARGET, package.module:object or adalora_ref, makes of the suite in DIR.

    RESULTS must not exist, or be an empty folder.
    """
    with in_one_sentence():
        from adalora_ref.conformance import vectors_command

        vectors_command.answer(folder, results, target, make_console())


@main.command()
@click.argument("target", required=False)
@click.option("--examples", type=click.IntRange(min=1), help="Of each law, at most; 100, or what --time allows.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the examples.")
@click.option(
    "--time",
    "seconds",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="In all; each law gets 25 examples even so, or as many as --examples says.",
)
@click.option("--law", "laws", multiple=True, metavar="NAME", help="Run this law alone; repeatable.")
@click.option("--keep", is_flag=True, help="Keep the call that departs as a permanent vector.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("adalora-ref-laws"),
    show_default=True,
    metavar="DIR",
    help="Where reproductions are written.",
)
def laws(target: str | None, **options: Any) -> None:
    """Hold TARGET, or the reference, to the laws of AdaLoRA, on cases that are drawn and made small.

    TARGET is package.module:object or package.module. The exit status is 0 if all laws hold, 1 if one broke, 2 for
    wrong usage, 3 if a law could not be decided.
    """
    with in_one_sentence():
        from adalora_ref.laws import command

        with report_alone_on_stdout() as console:
            status = command.run(target, command.Options(**options), console)
    raise SystemExit(status)


@main.command()
@click.argument("source", metavar="RUN|VERDICT", type=click.Path(path_type=Path))
@click.option("--seed", type=click.IntRange(min=0), help="Of a run with several seeds; by default the first.")
@click.option("--arm", metavar="NAME", help="Of a run: adalora (the default) or lora.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="By default beside RUN or VERDICT.")
def report(source: Path, **options: Any) -> None:
    """Write one HTML page about the folder of a RUN, or about the VERDICT that verify --json wrote.

    The page loads nothing from anywhere. An earlier report page is replaced; no other file is. A run needs matplotlib.
    """
    with in_one_sentence():
        from adalora_ref.html import command

        written = command.write(source, command.Options(**options))
    click.echo(f"written to {written}")


@main.command()
@click.argument("stage", required=False)
@click.option("--numbers", type=click.Choice(["integers", "random"]), default="integers", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the numbers.")
@click.option("--r", type=click.IntRange(1, 6), default=2, show_default=True, help="Triplets of a matrix.")
@click.option("--d-in", type=click.IntRange(1, 6), default=3, show_default=True, help="Inputs of a matrix.")
@click.option("--d-out", type=click.IntRange(1, 6), default=3, show_default=True, help="Outputs of a matrix.")
@click.option("--n", type=click.IntRange(1, 6), default=2, show_default=True, help="Samples.")
@click.option("--check", is_flag=True, help="Ask for a result of your own, and say where it departs.")
def explain(stage: str | None, **options: Any) -> None:
    """Work STAGE step by step on numbers for a pencil: formula, line of code, value. Without STAGE, list them.

    With --check the exit status is 0 if your result is right, 1 if not, 2 for wrong usage.
    """
    with in_one_sentence("Interrupted."):
        from adalora_ref.explain import command, drawing

        check = options.pop("check")
        status = command.run(stage, drawing.Options(**options), make_console(), check=check)
    raise SystemExit(status)


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Of the run; by default its first.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Where to write; by default RUN/plots.")
@click.option("--format", "form", type=click.Choice(["png", "svg", "pdf"]), default="png", show_default=True)
@click.option("--dpi", type=click.IntRange(50, 1200), metavar="N", help="Pixels per inch of a png; by default 100.")
def plot(run: Path, seed: int | None, out: Path | None, form: str, dpi: int | None) -> None:
    """Draw RUN, a folder written by train: budget, ranks, scores, orthogonality, loss and accuracy, revivals.

    Pictures of an earlier call are replaced, other files never. Needs matplotlib: pip install '.[plots]' in a checkout.
    """
    with in_one_sentence():
        from adalora_ref.plots import command

        for path in command.plot(run, seed=seed, out=out, form=form, dpi=dpi):
            click.echo(path)
