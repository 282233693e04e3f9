"""What a run shows: progress while it lasts, then one table and a heat map of the ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean, median

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

import adalora_ref
from adalora_ref.budget import phase_at
from adalora_ref.experiments.digits import Options, SeedResult, Settings, Watch, spread

LABELS = {"pre-training": "pre-training", "lora": "LoRA", "adalora": "AdaLoRA"}
PHASES = {"warmup": "warm-up", "pruning": "pruning", "final": "final"}
SYMBOLS = ".123456789abcdefghijklmnopqrstuvwxyz"
"""A rank as one character; what is larger is shown as +."""
SHADES = (
    "white on #10161f",
    "white on #17324d",
    "white on #1d4f7c",
    "white on #2a74ad",
    "black on #62a5d8",
    "black on #b9dcf5",
)
COLUMNS = 60
"""Widest heat map, in points of time."""


@contextmanager
def progress(console: Console, options: Options, settings: Settings) -> Iterator[Watch]:
    """Show arm, phase and budget while the run lasts, on a terminal only."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=options.seeds * (settings.pretraining_steps + 2 * settings.steps))

        def watch(seed: int, arm: str, phase: str, budget: int) -> None:
            what = "" if arm == "pre-training" else f" · {PHASES[phase]} · budget {budget}"
            bar.update(task, advance=1, description=f"seed {seed} · {LABELS[arm]}{what}")

        yield watch


def show(results: Sequence[SeedResult], options: Options, settings: Settings, console: Console) -> None:
    """Print what was run, the table, and the heat map of the first seed."""
    seeds = f"seed {options.seed}" if options.seeds == 1 else f"seeds {options.seed} to {options.numbers[-1]}"
    title = f"adalora-ref {adalora_ref.__version__} · specification {adalora_ref.SPECIFICATION}"
    pretrained = percent(fmean(result.pretrained for result in results))
    for line in (
        f"{title} · convention {options.convention} · {options.backend} · {seeds}",
        f"A network trained on the digits 0–4 (right on {pretrained} of held-out ones), frozen, then adapted to 5–9:\n",
    ):
        console.print(Text(line), soft_wrap=not console.is_terminal)
    console.print(table(results, options))
    console.print()
    for text in heat_map(results[0], settings, console.width):
        console.print(text, soft_wrap=True)


def table(results: Sequence[SeedResult], options: Options) -> Table:
    """A column for frozen, LoRA and AdaLoRA; over several seeds, parameters and ranks are means."""
    adalora = "AdaLoRA" if options.convention == "SPEC" else f"AdaLoRA ({options.convention})"
    found = Table("", box=None, pad_edge=False)
    for heading in ("frozen", "LoRA", adalora):
        found.add_column(heading, justify="right")
    arms = [[result.arms[name] for result in results] for name in ("lora", "adalora")]
    right = [[result.frozen for result in results], *([arm.accuracy for arm in held] for held in arms)]
    spreads = [spread(values) for values in right]
    found.add_row("accuracy on held-out 5–9", *(percent(fmean(values)) for values in right))
    found.add_row("standard deviation", *("–" if value is None else percent(value) for value in spreads))
    found.add_row("trainable parameters", "0", *over([[arm.parameters for arm in held] for held in arms]))
    found.add_row("seconds per step", "–", *(f"{median(arm.seconds for arm in held):.4f}" for held in arms))
    for name in results[0].arms["lora"].ranks:
        found.add_row(f"rank of {name}", "–", *over([[arm.ranks[name] for arm in held] for held in arms]))
    return found


def over(counts: list[list[int]]) -> list[str]:
    """The mean of each arm's counts over the seeds; without decimals where it is whole."""
    means = [fmean(held) for held in counts]
    return [f"{mean:,.0f}" if mean == round(mean) else f"{mean:,.1f}" for mean in means]


def percent(share: float) -> str:
    """0.9731 as 97.3 %."""
    return f"{100 * share:.1f} %"


def heat_map(result: SeedResult, settings: Settings, width: int) -> list[Text]:
    """Matrices × time: each character is the rank of a matrix after a step, darker the smaller on a terminal."""
    kept = result.arms["adalora"].kept
    names = list(kept[0])
    margin = max(map(len, (*names, "budget", "phase"))) + 2
    points = times(len(kept), max(2, min(COLUMNS, width - margin - 1)))
    schedule = settings.adaptation(settings.initial_rank, settings.target_rank).schedule
    lines = [Text(f"Ranks over time, AdaLoRA, seed {result.seed}")]
    for name in names:
        line = Text(name.ljust(margin))
        for t in points:
            line.append(symbol(kept[t][name]), style=shade(kept[t][name], settings.initial_rank))
        lines.append(line)
    lines.append(Text("phase".ljust(margin) + "".join(phase_at(schedule, t)[0] for t in points)))
    lines.append(Text("step".ljust(margin) + ruler(points)))
    lines.append(Text(f"{SYMBOLS[:10]}abc… rank 0 to 9, 10, 11, 12…; w warm-up, p pruning, f final"))
    return lines


def times(steps: int, columns: int) -> list[int]:
    """At most *columns* steps, evenly spread from the first to the last."""
    if steps <= columns:
        return list(range(steps))
    return [i * (steps - 1) // (columns - 1) for i in range(columns)]


def ruler(points: Sequence[int]) -> str:
    """The numbers of some of the steps, each beginning below its own column, the last ending below it."""
    last = str(points[-1])
    line = " " * len(points)
    for column in range(0, max(1, len(points) - len(last) - 5), 10):
        number = str(points[column])
        line = line[:column] + number + line[column + len(number) :]
    return (line[: len(points) - len(last)] + last) if len(points) > len(last) else line


def symbol(rank: int) -> str:
    """A rank as one character."""
    return SYMBOLS[rank] if rank < len(SYMBOLS) else "+"


def shade(rank: int, full: int) -> str:
    """A background from dark to light blue, with readable ink; nothing is said by colour alone."""
    level = round((len(SHADES) - 1) * rank / max(1, full))
    return SHADES[min(len(SHADES) - 1, level)]
