"""Time several libraries against each other: one process each, taking turns, and a table of medians and ratios.

One process each, because the thread pools of two BLAS libraries in one process slow each other down; taking turns, so
that whatever else the machine does falls on all of them alike. Before anything is timed, what the libraries computed is
compared, so that nobody wins by doing something else.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import track

import adalora_ref

Prepare = Callable[[str], tuple[Callable[[], Any], Callable[[Any], float | None]]]
"""For the name of a case: what to time, and a number by which its results are compared, or None."""

POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
PAUSE = 0.3
"""Seconds before each turn, in which the threads of the one before stop spinning."""


class Benchmark(NamedTuple):
    """What a script measures.

    Attributes
    ----------
    script
        Its path: the processes are started from it.
    title, text
        Of the page.
    libraries
        How each prepares a case; the first is what all ratios are taken of.
    cases, tiny
        Names of the cases, and of those that only show that it works.
    packages
        Whose versions the page states.
    """

    script: Path
    title: str
    text: str
    libraries: Mapping[str, Prepare]
    cases: Sequence[str]
    tiny: Sequence[str]
    packages: Sequence[str]


# IN EACH PROCESS


def serve(prepare: Prepare) -> None:
    """Answer each line, a case and how many seconds to spend on it, with the median time and the result's number."""
    held: dict[str, tuple[Callable[[], Any], float | None]] = {}
    for line in sys.stdin:
        case, seconds = json.loads(line)
        if case not in held:
            held.clear()  # one case at a time: the large ones fill the memory
            run, number = prepare(case)
            held[case] = run, number(run())
        run, value = held[case]
        sys.stdout.write(json.dumps([median_time(run, seconds), value]) + "\n")
        sys.stdout.flush()


def median_time(run: Callable[[], Any], seconds: float) -> float:
    """Return the median over calls for so many seconds, at least three."""
    run()
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


# IN THE PROCESS THAT ASKS


@contextmanager
def worker(script: Path, library: str, threads: int) -> Iterator[Callable[[str, float], list[float]]]:
    """Start a process of *script* for one library; yield the function that gives it a turn."""
    command = [sys.executable, str(script), "--worker", library]
    environment = os.environ | dict.fromkeys(POOLS, str(threads))
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ask, answer = process.stdin, process.stdout

        def turn(case: str, seconds: float) -> list[float]:
            time.sleep(PAUSE)
            ask.write(json.dumps([case, seconds]) + "\n")
            ask.flush()
            line = answer.readline()
            if not line:
                raise RuntimeError(f"the process of {library} ended in {case!r} with status {process.wait()}")
            return [float("nan") if value is None else value for value in json.loads(line)]

        yield turn
        ask.close()


def medians(benchmark: Benchmark, case: str, threads: int, rounds: int, seconds: float) -> dict[str, float]:
    """Let the libraries take turns at one case; return the median time of each."""
    times: dict[str, list[float]] = {library: [] for library in benchmark.libraries}
    with ExitStack() as stack:
        turns = {name: stack.enter_context(worker(benchmark.script, name, threads)) for name in times}
        numbers = [value for name, turn in turns.items() if not math.isnan(value := turn(case, 0.0)[1])]
        if len(numbers) < 2 or not all(math.isclose(value, numbers[0], rel_tol=1e-4) for value in numbers):
            raise RuntimeError(f"the libraries must compute the same in {case!r}; got {numbers}")
        for _ in range(rounds):
            for name, turn in turns.items():
                times[name].append(turn(case, seconds)[0])
    return {name: statistics.median(held) for name, held in times.items()}


def page(benchmark: Benchmark, given: argparse.Namespace) -> str:
    """Measure everything; return the page."""
    first, *others = benchmark.libraries
    head = ["case", "threads", *(f"{name}, ms" for name in benchmark.libraries), *(f"{first} / {o}" for o in others)]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    names = given.case or (benchmark.tiny if given.tiny else benchmark.cases)
    console = Console(stderr=True)
    both = [(case, threads) for case in names for threads in given.threads]
    for case, threads in track(both, benchmark.title, console=console, disable=not console.is_terminal, transient=True):
        found = medians(benchmark, case, threads, given.rounds, given.seconds)
        ratios = [f"{found[first] / found[name]:.2f}" for name in others]
        lines.append(
            f"| {case} | {threads} | " + " | ".join([*(f"{1e3 * t:.3g}" for t in found.values()), *ratios]) + " |"
        )
    return f"# {benchmark.title}\n\n{benchmark.text}\n\n" + "\n".join(lines) + f"\n\n{made_with(benchmark, given)}\n"


def made_with(benchmark: Benchmark, given: argparse.Namespace) -> str:
    """Say how, with what and on what the page was made."""
    options = " ".join(["--tiny"] * given.tiny + [f"--case {case!r}" for case in given.case or []])
    threads = " ".join(map(str, given.threads))
    command = f"python tests/benchmarks/{benchmark.script.name} {options}".rstrip()
    command += f" --threads {threads} --rounds {given.rounds} --seconds {given.seconds:g}"
    versions = ", ".join(f"{name} {_version(name)}" for name in benchmark.packages)
    return (
        f"Medians of {given.rounds} turns of at least {given.seconds:g} s and three calls each, float32.\n"
        f"Made with `{command}`, adalora_ref {adalora_ref.__version__}, Python {platform.python_version()}, "
        f"{versions}, on {os.cpu_count()} cores ({_processor()}, {platform.system()})."
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


def _processor() -> str:
    """Return the processor's model, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def main(benchmark: Benchmark) -> int:
    """Be one of the processes, or start them and write the page."""
    parser = argparse.ArgumentParser(description=benchmark.title)
    parser.add_argument("--case", action="append", choices=(*benchmark.cases, *benchmark.tiny), help="default: all")
    parser.add_argument("--tiny", action="store_true", help="small cases, which only show that it works")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="least time of a turn")
    parser.add_argument("--out", type=Path, help="Markdown file; without it the page is printed")
    parser.add_argument("--worker", choices=tuple(benchmark.libraries), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        serve(benchmark.libraries[given.worker])
        return 0
    text = page(benchmark, given)
    if given.out:
        given.out.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 0
