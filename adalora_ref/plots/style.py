"""How the pictures look: colours that everyone can tell apart, in grey too, and what all pictures share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from adalora_ref.plots.data import Phase

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLACK, ORANGE, BLUE, GREEN, VERMILION, PURPLE, SKY = (
    "#000000", "#e69f00", "#0072b2", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"
)  # fmt: skip
"""Okabe and Ito's, without their yellow, which is too light for a line."""
COLOURS = (BLUE, VERMILION, GREEN, BLACK, PURPLE, ORANGE, SKY)
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
PHASES = {
    "warmup": ("warm-up", "0.97"),
    "pruning": ("pruning", "0.88"),
    "final": ("final", "0.94"),
    "whole": ("", "1.0"),
}
LEGEND: dict[str, Any] = {"frameon": True, "framealpha": 0.85, "edgecolor": "none", "fontsize": 9, "title_fontsize": 9}
OUTSIDE: dict[str, Any] = {"frameon": False, "fontsize": 9, "title_fontsize": 9}
NARROW = 0.075
"""A phase with less of the axis than this has no room for its name."""

DIGIT = 0.016
"""What each digit of a number needs of the axis."""

ACROSS = 116
"""So many small letters fit across a picture."""

MANY = 12
"""More lines than these cannot be told apart, nor named below."""

LABELLED = 40
"""More bars than these get no number each."""


def new_figure(height: float = 4.2) -> Figure:
    """An empty figure that belongs to nobody's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(8.4, height), layout="constrained")


def name_axes(axes: Axes, title: str, below: str) -> None:
    """Write the title over *axes*, and under it in small what is told beside."""
    axes.annotate(below, (0, 1), (0, 22), xycoords="axes fraction", textcoords="offset points", fontsize=9, color="0.3")
    axes.set_title(title, loc="left", fontsize=11.5, fontweight="bold", pad=38)


def shade(axes: Axes, phases: Sequence[Phase], *, grey: bool = True, named: bool = True) -> None:
    """Shade the phases, part them by lines, and name them over the axes."""
    steps = phases[-1].end
    for phase in phases:
        name, tone = PHASES[phase.name]
        if grey:
            axes.axvspan(phase.first - 0.5, phase.end - 0.5, color=tone, zorder=0, linewidth=0)
        if named and (phase.end - phase.first) / steps >= NARROW:
            middle = (phase.first + phase.end - 1) / 2
            axes.annotate(
                name, (middle, 1), (0, 4), xycoords=("data", "axes fraction"), textcoords="offset points",
                ha="center", fontsize=9, color="0.25",
            )  # fmt: skip
    for phase in phases[1:]:
        axes.axvline(phase.first - 0.5, color="0.55" if grey else "white", linewidth=0.8 if grey else 1.5, zorder=1)


def over_steps(axes: Axes, phases: Sequence[Phase]) -> None:
    """Make the horizontal axis that of the steps, as wide as the run."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(-0.5, phases[-1].end - 0.5)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def name_powers(axes: Axes) -> None:
    """Write 0.1 and 6 on a logarithmic axis, not powers and products; between powers only where there is room."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):  # type: ignore[misc, unused-ignore] # without matplotlib its type is unknown
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(Plain(labelOnlyBase=False, minor_thresholds=(1, 0.4)))


def look_of(index: int) -> dict[str, Any]:
    """A colour and a dash of its own for each of several lines."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index % len(DASHES)], "linewidth": 1.6}


def rank_colours(least: int, full: int) -> dict[str, Any]:
    """A colour for each rank from *least* to *full*, darker the smaller, as far apart in grey as so many can be."""
    from matplotlib import colormaps

    return {"cmap": colormaps["viridis"].resampled(full - least + 1), "vmin": least - 0.5, "vmax": full + 0.5}


def ink(image: Any, value: float) -> str:
    """Black on light cells, white on dark ones."""
    red, green, blue, _ = image.cmap(image.norm(value))
    return "black" if float(np.dot((0.2126, 0.7152, 0.0722), (red, green, blue))) > 0.45 else "white"
