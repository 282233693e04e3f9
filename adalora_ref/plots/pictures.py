"""The pictures of a training run, each a figure drawn from `data`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from adalora_ref.experiments.run_folder import Arm
from adalora_ref.plots import data
from adalora_ref.plots.style import (
    BLUE,
    DASHES,
    GREEN,
    NARROW,
    VERMILION,
    ink,
    look_of,
    name_axes,
    new_figure,
    over_steps,
    rank_colours,
    shade,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figures(
    arm: Arm, config: Mapping[str, Any], /, *, lora: Arm | None = None, seed: int | None = None
) -> dict[str, Figure]:
    """Draw every picture of *arm*, in order of display; needs matplotlib, and none of pyplot's global state.

    Parameters
    ----------
    config
        Of the run: `Run.config`.
    lora
        The baseline, drawn beside *arm* where both have the quantity.
    seed
        Named in the pictures if given.

    Returns
    -------
    dict
        Figures named budget, ranks, final_ranks, scores, orthogonality, loss and revivals.
    """
    told = [str(config["experiment"]), f"convention {config['convention']}"]
    below = " · ".join(told if seed is None else [*told, f"seed {seed}"])
    return {
        "budget": draw_budget(arm, config, below),
        "ranks": draw_ranks(arm, below),
        "final_ranks": draw_final_ranks(arm, below),
        "scores": draw_scores(arm, below),
        "orthogonality": draw_orthogonality(arm, below),
        "loss": draw_loss(arm, lora, below),
        "revivals": draw_revivals(arm, below),
    }


def draw_budget(arm: Arm, config: Mapping[str, Any], below: str) -> Figure:
    """The budget, what is kept, and the steps with an allocation, over the phases."""
    held, phases = data.budget(arm, config), data.phases(arm)
    figure, steps = new_figure(), np.arange(len(held.budget))
    axes = figure.subplots()
    shade(axes, phases)
    axes.step(steps, held.kept, where="post", color=VERMILION, linestyle=DASHES[1], linewidth=1.8, label="kept")
    axes.step(steps, held.budget, where="post", color=BLUE, linewidth=1.8, label="budget")
    at = held.allocations
    axes.plot(at, held.budget[at], "o", color=BLUE, markerfacecolor="white", markersize=5, label="allocation")
    axes.set(ylabel=f"{held.unit}, over all matrices", ylim=(0, 1.08 * max(held.kept.max(), held.budget.max(), 1)))
    axes.legend(frameon=False, loc="lower left")
    over_steps(axes, phases)
    counted = f"{len(at)} allocation" + "s" * (len(at) != 1)
    first, last = held.budget[0], held.budget[-1]
    moves = f"falls from {first:,} to {last:,} {held.unit}" if last < first else f"stays at {first:,} {held.unit}"
    name_axes(axes, f"The budget {moves}, with {counted}", below)
    return figure


def draw_ranks(arm: Arm, below: str) -> Figure:
    """Matrices × steps: the rank of each matrix after each step, as a heat map with numbers."""
    held, phases = data.ranks(arm), data.phases(arm)
    rows, steps = held.kept.shape
    figure = new_figure(2.2 + 0.42 * rows)
    axes = figure.subplots()
    image = axes.imshow(
        held.kept, aspect="auto", interpolation="nearest", **rank_colours(int(held.kept.max())),
        extent=(-0.5, steps - 0.5, rows - 0.5, -0.5),
    )  # fmt: skip
    for row, kept in enumerate(held.kept):
        for first, end in data.runs(kept):
            if end - first >= NARROW / 2 * steps:
                rank = int(kept[first])
                axes.text((first + end - 1) / 2, row, str(rank), ha="center", va="center", color=ink(image, rank))
    shade(axes, phases)
    over_steps(axes, phases)
    axes.set_yticks(range(rows), held.names)
    axes.set(ylabel="matrix, in forward order")
    axes.hlines(np.arange(1, rows) - 0.5, -0.5, steps - 0.5, color="white", linewidth=1.5)
    figure.colorbar(image, ax=axes, label="rank (triplets kept)", format="%d", ticks=_whole_ticks())
    least, most = held.kept[:, -1].min(), held.kept[:, -1].max()
    name_axes(axes, f"Every matrix starts at rank {held.kept[0, 0]} and ends at {_between(least, most)}", below)
    return figure


def draw_final_ranks(arm: Arm, below: str) -> Figure:
    """The paper's Figure 3: the rank of each matrix at the end, kind × layer, a number in each cell."""
    held, kept = data.grid(arm.steps[-1]["kept"]), data.ranks(arm).kept
    rows, columns = held.ranks.shape
    figure = new_figure(1.9 + 0.5 * rows)
    axes = figure.subplots()
    shown = np.ma.masked_less(held.ranks, 0)
    image = axes.imshow(shown, aspect="auto", **rank_colours(int(kept.max())))
    for (row, column), rank in np.ndenumerate(held.ranks):
        if rank >= 0:
            axes.text(column, row, str(rank), ha="center", va="center", color=ink(image, rank), fontsize=12)
    axes.set_xticks(range(columns), held.layers)
    axes.set_yticks(range(rows), held.kinds)
    axes.set_xticks(np.arange(1, columns) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, rows) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.set(xlabel="matrix, in forward order" if rows == 1 else "layer", ylabel="" if rows == 1 else "kind of matrix")
    figure.colorbar(image, ax=axes, label="rank", format="%d", ticks=_whole_ticks())
    name_axes(axes, f"Ranks at the end: {kept[:, -1].sum()} of {kept[:, 0].sum()} triplets are left", below)
    return figure


def draw_scores(arm: Arm, below: str) -> Figure:
    """Range, middle half and median of the scores, of kept and of dropped triplets; and the threshold."""
    held, phases = data.scores(arm), data.phases(arm)
    figure = new_figure(4.6)
    axes, steps = figure.subplots(), np.arange(len(held.threshold))
    shade(axes, phases)
    looks = {"kept": (held.kept, BLUE, "-", None), "dropped": (held.dropped, VERMILION, DASHES[1], "///")}
    for name, (bands, colour, dash, hatch) in looks.items():
        for (low, high), alpha in (((0, 4), 0.18), ((1, 3), 0.35)):
            axes.fill_between(
                steps,
                bands[low],
                bands[high],
                alpha=alpha,
                facecolor=colour,
                linewidth=0,
                hatch=hatch,
                edgecolor=colour,
            )
        axes.plot(steps, bands[2], color=colour, linestyle=dash, linewidth=1.8, label=f"{name}: median, half, range")
    axes.step(steps, held.threshold, where="post", color="black", linewidth=1.3, label="lowest score kept")
    at = held.allocations
    axes.plot(at, held.threshold[at], "D", color="black", markersize=3.5, label="at an allocation")
    axes.set(yscale="log", ylabel="score S of a triplet (nats²)")
    axes.legend(frameon=False, ncols=2, loc="best")
    over_steps(axes, phases)
    name_axes(axes, "Scores of the triplets, and the threshold between kept and dropped", below)
    return figure


def draw_orthogonality(arm: Arm, below: str) -> Figure:
    """The paper's Figure 4: how far B's columns and A's rows are from orthonormal, a line for each matrix."""
    phases, steps = data.phases(arm), np.arange(len(arm.steps))
    figure = new_figure(4.6)
    panels = figure.subplots(1, 2, sharey=True)
    sides = (("‖BᵀB − I‖_F, columns of B", arm.timeline.defect_B), ("‖AAᵀ − I‖_F, rows of A", arm.timeline.defect_A))
    for axes, (title, defects) in zip(panels, sides, strict=True):
        shade(axes, phases)
        for index, (name, defect) in enumerate(defects.items()):
            axes.plot(steps, defect, label=name, **look_of(index))
        axes.set(yscale="log", ylabel=f"{title} (no unit)")
        axes.tick_params(labelleft=True)
        over_steps(axes, phases)
    panels[0].legend(frameon=False, title="matrix")
    name_axes(panels[0], "How far B and A are from orthonormal", below)
    return figure


def draw_loss(arm: Arm, lora: Arm | None, below: str) -> Figure:
    """The loss of every step with its moving mean, and the accuracy on held-out examples."""
    phases = data.phases(arm)
    figure = new_figure(6.0)
    above, under = figure.subplots(2, 1, sharex=True)
    arms = {"AdaLoRA": (arm, BLUE, "-"), "LoRA": (lora, VERMILION, DASHES[1])}
    for name, (held, colour, dash) in arms.items():
        if held is None:
            continue
        losses, window = data.losses(held), max(1, len(held.steps) // 20)
        above.plot(np.arange(len(losses)), losses, color=colour, linewidth=0.6, alpha=0.45, label="_step")
        above.plot(*data.smoothed(losses, window), color=colour, linestyle=dash, linewidth=1.8, label=name)
        right = 100.0 * held.timeline.accuracy
        label = f"{name}, {right[-1]:.1f} % at the end"
        under.plot(np.arange(len(right)), right, color=colour, linestyle=dash, linewidth=1.5, label=label)
    for axes, named in ((above, True), (under, False)):
        shade(axes, phases, named=named)
        over_steps(axes, phases)
    above.set(yscale="log", ylabel="loss of the task (nats)", xlabel="")
    above.legend(frameon=False, title=f"thin: each step; thick: mean over {window}")
    under.set(ylabel="right on held-out (%)", ylim=(0, 102))
    under.legend(frameon=False, loc="lower right")
    name_axes(above, "Loss while training, and accuracy on held-out examples", below)
    return figure


def draw_revivals(arm: Arm, below: str) -> Figure:
    """How many triplets each allocation drops, downwards, and brings back, upwards."""
    held, phases = data.exchange(arm), data.phases(arm)
    figure = new_figure()
    axes = figure.subplots()
    shade(axes, phases)
    width = 0.7 * float(np.diff(held.steps).min()) if len(held.steps) > 1 else 1.0
    axes.bar(held.steps, held.revived, width, color=GREEN, edgecolor="black", linewidth=0.6, label="revived")
    axes.bar(
        held.steps,
        -held.dropped,
        width,
        color=VERMILION,
        edgecolor="black",
        linewidth=0.6,
        hatch="///",
        label="dropped",
    )
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(ylabel="triplets, over all matrices")
    axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    axes.legend(frameon=False, loc="best")
    over_steps(axes, phases)
    name_axes(axes, f"{held.dropped.sum()} times a triplet is dropped, {held.revived.sum()} times one returns", below)
    return figure


def _between(least: int, most: int) -> str:
    return f"{least}" if least == most else f"{least} to {most}"


def _whole_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(integer=True)
