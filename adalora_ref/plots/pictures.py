"""The pictures of a training run, each a figure drawn from `data`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from adalora_ref.experiments.run_folder import Arm
from adalora_ref.plots import data
from adalora_ref.plots.style import (
    ACROSS,
    BLUE,
    DASHES,
    DIGIT,
    GREEN,
    LABELLED,
    LEGEND,
    MANY,
    OUTSIDE,
    VERMILION,
    ink,
    look_of,
    name_axes,
    name_powers,
    new_figure,
    over_steps,
    rank_colours,
    shade,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def figures(
    arm: Arm,
    config: Mapping[str, Any],
    /,
    *,
    name: str = "AdaLoRA",
    lora: Arm | None = None,
    seed: int | None = None,
) -> dict[str, Figure]:
    """Draw every picture of *arm*, in order of display; needs matplotlib, and none of pyplot's global state.

    Parameters
    ----------
    config
        Of the run: `Run.config`.
    name
        Of *arm*, where others are drawn beside it.
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
        "orthogonality": draw_orthogonality(arm, config, below),
        "loss": draw_loss({name: arm} if lora is None else {name: arm, "LoRA": lora}, below),
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
    if at.size:
        axes.plot(at, held.budget[at], "o", color=BLUE, markerfacecolor="white", markersize=5, label="allocation")
    axes.set(ylabel=f"{held.unit}, over all matrices", ylim=(0, 1.08 * max(held.kept.max(), held.budget.max(), 1)))
    axes.legend(**LEGEND, loc="upper right" if held.budget[-1] < held.budget[0] else "lower right")
    over_steps(axes, phases)
    first, last = held.budget[0], held.budget[-1]
    moves = f"falls from {first:,} to {last:,} {held.unit}" if last < first else f"stays at {first:,} {held.unit}"
    name_axes(axes, f"The budget {moves}, with {_times(len(at), 'allocation')}", below)
    return figure


def draw_ranks(arm: Arm, below: str) -> Figure:
    """Matrices × steps: the rank of each matrix after each step, as a heat map with numbers."""
    held, phases = data.ranks(arm), data.phases(arm)
    rows, steps = held.kept.shape
    figure = new_figure(2.2 + 0.42 * rows)
    axes = figure.subplots()
    least, full = int(held.kept.min()), int(held.kept.max())
    image = axes.imshow(
        held.kept, aspect="auto", interpolation="nearest", **rank_colours(least, full),
        extent=(-0.5, steps - 0.5, rows - 0.5, -0.5),
    )  # fmt: skip
    room = DIGIT * steps * len(str(full))
    for row, kept in enumerate(held.kept):
        for first, end in data.labelled(kept, [phase.first for phase in phases], least=room):
            rank, middle = int(kept[first]), (first + end - 1) / 2
            axes.text(middle, row, str(rank), ha="center", va="center", color=ink(image, rank))
    shade(axes, phases, grey=False)
    over_steps(axes, phases)
    axes.set_yticks(range(rows), held.names)
    axes.set(ylabel="matrix, in forward order")
    axes.hlines(np.arange(1, rows) - 0.5, -0.5, steps - 0.5, color="white", linewidth=1.5)
    figure.colorbar(image, ax=axes, label="rank (triplets kept)", format="%d", ticks=_whole_ticks())
    name_axes(axes, _ranks_in_words(held.kept), below)
    return figure


def draw_final_ranks(arm: Arm, below: str) -> Figure:
    """The paper's Figure 3: the rank of each matrix at the end, kind × layer, a number in each cell."""
    held, kept = data.grid(arm.steps[-1]["kept"]), data.ranks(arm).kept
    rows, columns = held.ranks.shape
    figure = new_figure(1.9 + 0.5 * rows)
    axes = figure.subplots()
    shown = np.ma.masked_less(held.ranks, 0)
    image = axes.imshow(shown, aspect="auto", **rank_colours(int(kept.min()), int(kept.max())))
    for (row, column), rank in np.ndenumerate(held.ranks):
        if rank >= 0:
            axes.text(column, row, str(rank), ha="center", va="center", color=ink(image, rank), fontsize=12)
    axes.set_xticks(range(columns), held.layers)
    axes.set_yticks(range(rows) if rows > 1 else [], held.kinds if rows > 1 else [])
    axes.set_xticks(np.arange(1, columns) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, rows) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.set(xlabel="matrix, in forward order" if rows == 1 else "layer", ylabel="" if rows == 1 else "kind of matrix")
    name_axes(axes, f"Ranks at the end: {kept[:, -1].sum()} of {kept[:, 0].sum()} triplets are left", below)
    return figure


def draw_scores(arm: Arm, below: str) -> Figure:
    """Range, middle half and median of the scores, of kept and of dropped triplets; and the threshold."""
    held, phases = data.scores(arm), data.phases(arm)
    figure, steps = new_figure(4.6), np.arange(len(arm.steps))
    axes = figure.subplots()
    shade(axes, phases)
    for name, bands, colour, dash, hatch in (
        ("kept", held.kept, BLUE, "-", ""),
        ("dropped", held.dropped, VERMILION, DASHES[1], "///"),
    ):
        if np.isnan(bands).all():
            continue
        for low, high, alpha in ((0, 4, 0.18), (1, 3, 0.35)):
            axes.fill_between(steps, bands[low], bands[high], facecolor=(colour, alpha), linewidth=0)
        if hatch:  # by itself: a pattern of SVG has no pale ground
            axes.fill_between(
                steps, bands[0], bands[4], facecolor="none", edgecolor=colour, linewidth=0, hatch=hatch
            )  # fmt: skip
        axes.plot(steps, bands[2], color=colour, linestyle=dash, linewidth=1.8, label=name)
    if held.allocations.size:
        marks: dict[str, Any] = {"marker": "D", "markersize": 3.5, "markevery": held.allocations.tolist()}
        label = "threshold: lowest score kept by each allocation"
        axes.step(steps, held.threshold, where="post", color="black", linewidth=1.3, label=label, **marks)
    axes.set(yscale="log", ylabel="score S of a triplet (nats²)")
    figure.legend(**OUTSIDE, ncols=3, loc="outside lower center")
    over_steps(axes, phases)
    what = (
        ", and the threshold between kept and dropped"
        if held.allocations.size
        else "; without allocations they decide nothing"
    )
    name_axes(axes, f"Scores of the triplets{what}", f"{below} · line: median; dark: middle half; light: range")
    return figure


def draw_orthogonality(arm: Arm, config: Mapping[str, Any], below: str) -> Figure:
    """The paper's Figure 4: how far B's columns and A's rows are from orthonormal, a line for each matrix."""
    phases = data.phases(arm)
    figure = new_figure(6.0)
    panels = figure.subplots(2, 1, sharex=True, sharey=True)
    sides = data.defects(arm, config)
    for axes, side in zip(panels, sides, strict=True):
        shade(axes, phases, named=axes is panels[0])
        _draw_defects(axes, side)
        for least in sorted(set(side.least.values())):
            axes.axhline(least, color="0.35", linewidth=0.8, label="_least")
        axes.set(yscale="log", ylabel=f"{side.norm} (no unit)")
        name_powers(axes)
        over_steps(axes, phases)
    panels[0].set(xlabel="")
    handles = panels[0].get_legend_handles_labels()
    longest = max(map(len, handles[1]))
    ncols = max(1, min(6, len(handles[0]), ACROSS // (longest + 8)))
    figure.legend(*handles, **OUTSIDE, ncols=ncols, loc="outside lower center")
    tight = [f"{name}: {side.vectors[name][0]} {side.what} in {side.vectors[name][1]} dimensions"
             for side in sides for name in side.least]  # fmt: skip
    told = f"{tight[0]}{'; …' * (len(tight) > 1)}" if tight else ""
    told = "more vectors than dimensions" if len(told) > ACROSS // 2 else told
    why = f" · thin: the least possible ({told})" if tight else ""
    name_axes(panels[0], "How far B's columns and A's rows are from orthonormal", below + why)
    return figure


def _draw_defects(axes: Axes, side: data.Defects) -> None:
    """A line for each matrix; of many, the range, the middle half and the median."""
    if len(side.by_matrix) <= MANY:
        for index, (name, defect) in enumerate(side.by_matrix.items()):
            axes.plot(defect, label=name, **look_of(index))
        return
    bands = data.spread(side)
    steps = np.arange(bands.shape[1])
    for low, high, alpha, label in ((0, 4, 0.18, "their range"), (1, 3, 0.35, "their middle half")):
        axes.fill_between(steps, bands[low], bands[high], facecolor=(BLUE, alpha), linewidth=0, label=label)
    axes.plot(steps, bands[2], label=f"median of {len(side.by_matrix)} matrices", **look_of(0))


def draw_loss(arms: Mapping[str, Arm], below: str) -> Figure:
    """The loss of every step with its moving mean, and the accuracy on held-out examples; the first arm's phases."""
    phases = data.phases(next(iter(arms.values())))
    figure = new_figure(6.0)
    above, under = figure.subplots(2, 1, sharex=True)
    looks: Sequence[tuple[str, Any, dict[str, Any]]] = (
        (BLUE, "-", {"linewidth": 0.6}),
        (VERMILION, DASHES[1], {"linestyle": "", "marker": "x", "markersize": 3}),
    )
    for (name, held), (colour, dash, thin) in zip(arms.items(), looks, strict=False):
        losses, window = data.losses(held), max(1, len(held.steps) // 20)
        above.plot(np.arange(len(losses)), losses, color=colour, alpha=0.55, label="_step", **thin)
        above.plot(*data.smoothed(losses, window), color=colour, linestyle=dash, linewidth=1.8, label=name)
        at, right = held.timeline.measured, 100.0 * held.timeline.accuracy
        label = f"{name}, {right[-1]:.1f} % at the end"
        under.plot(at, right, color=colour, linestyle=dash, linewidth=1.5, marker="o", markersize=3, label=label)
    for axes, named in ((above, True), (under, False)):
        shade(axes, phases, named=named)
        over_steps(axes, phases)
    above.set(yscale="log", ylabel="loss of the task (nats)", xlabel="")
    name_powers(above)
    thin_too = "thin, ×" if len(arms) > 1 else "thin"
    above.legend(
        **LEGEND,
        loc="upper right",
        ncols=2,
        title=f"{thin_too}: each step; thick: mean over {window} steps",
    )
    under.set(ylabel="accuracy, held-out (%)", ylim=(0, 102))
    under.legend(**LEGEND, loc="lower right")
    name_axes(above, "Loss while training, and accuracy on held-out examples", below)
    return figure


def draw_revivals(arm: Arm, below: str) -> Figure:
    """How many triplets each allocation drops, downwards, and brings back, upwards."""
    held, phases = data.exchange(arm), data.phases(arm)
    figure = new_figure()
    axes = figure.subplots()
    shade(axes, phases)
    axes.axhline(0, color="black", linewidth=0.8)
    changed = held.steps[(held.revived > 0) | (held.dropped > 0)]
    width = 0.7 * float(np.diff(changed).min(initial=0.03 * len(arm.steps)))
    sides = {"revived": (held.revived, GREEN, ""), "dropped": (-held.dropped, VERMILION, "///")}
    for name, (counts, colour, hatch) in sides.items():
        at, some = held.steps[counts != 0], counts[counts != 0]
        if some.size:
            bars = axes.bar(at, some, width, label=name, color=colour, hatch=hatch, edgecolor="black", linewidth=0.6)
            axes.bar_label(bars, [_signed(count) for count in some] if some.size <= LABELLED else [], padding=2)
    if held.steps.size:
        axes.plot(held.steps, np.zeros(held.steps.size), "|", color="black", markersize=7, label="allocation")
        axes.legend(**LEGEND, loc="lower right")
    reach = [1.3 * counts.max(initial=1) for counts in (held.dropped, held.revived)]
    axes.set(ylabel="triplets dropped (−) and revived (+)", ylim=(-reach[0], reach[1]))
    axes.yaxis.set_major_locator(_whole_ticks())
    axes.yaxis.set_major_formatter(lambda value, _: _signed(value))
    over_steps(axes, phases)
    gone, back = _times(held.dropped.sum(), "drop"), _times(held.revived.sum(), "revival")
    title = f"{gone[0].upper()}{gone[1:]} and {back} in {_times(len(held.steps), 'allocation')}"
    name_axes(axes, title if held.steps.size else "Without allocations, no triplet is dropped or revived", below)
    return figure


def _signed(count: float) -> str:
    return f"{count:+.0f}".replace("-", "−") if count else "0"


def _times(count: int, what: str) -> str:
    return f"{count or 'no'} {what}" if count == 1 else f"{count or 'no'} {what}s"


def _ranks_in_words(kept: data.Array) -> str:
    first, (least, *_, most) = kept[0, 0], (kept[:, -1].min(), kept[:, -1].max())
    if least == most == first:
        return f"Every matrix has rank {first} from the first step to the last"
    return f"Every matrix starts at rank {first} and ends at {least if least == most else f'{least} to {most}'}"


def _whole_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(integer=True, min_n_ticks=1)
