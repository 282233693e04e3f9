"""One step of a run as a table, matrix × triplet, and the controls by which a reader chooses another."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree as ET

from adalora_ref.html.elements import e, scrolling, terms
from adalora_ref.html.steps import Allocation, Pairs, Shown, length, scientific

KEPT, DROPPED = "●", "○"
CAME_BACK, JUST_DROPPED = "↑", "↓"
NOWHERE = -5.0
"""Where the line of a threshold stands before there is one: outside of the bar."""


def step_section(held: Shown) -> ET.Element:
    """How to read it, the controls, and the last step, which is all that a page without its script can show."""
    at = len(held.steps) - 1
    last = terms(_facts(held, at), "facts")
    return e(
        "section",
        e("h2", "Step by step"),
        e("p", *_reading(held)),
        _controls(held),
        e("p", id="said", class_="unseen", aria_live="polite"),
        last,
        _table(held, at),
        id="steps-shown",
        aria_label="Step by step",
    )


def _reading(held: Shown) -> Iterator[str]:
    yield (
        f"Each cell is a triplet after the step: {KEPT} kept, {DROPPED} dropped; {CAME_BACK} came back and "
        f"{JUST_DROPPED} was dropped at the latest allocation. The number is its score in nats², to four digits; the "
        "bar is its logarithm, from the lowest score of the run to the highest, and the line across it the threshold "
        "in force."
    )
    if len(held.steps) < held.total:
        yield f" Of {held.total} steps {len(held.steps)} are shown, every one with an allocation among them."


def _controls(held: Shown) -> ET.Element:
    last = len(held.steps) - 1
    slider = e("input", type="range", id="slider", min=0, max=last, step=1, value=last)
    number = e("input", type="number", id="number", min=held.steps[0], max=held.steps[last], value=held.steps[last])
    back = e("button", "◀ allocation", type="button", id="back", aria_label="to the allocation before")
    on = e("button", "allocation ▶", type="button", id="on", aria_label="to the next allocation")
    return e(
        "div",
        e("label", "Step", for_="number"),
        number,
        e("label", "Slide through the steps", for_="slider", class_="unseen"),
        slider,
        back,
        on,
        class_="controls scripted",
        role="group",
        aria_label="Choose a step",
    )


def _facts(held: Shown, at: int) -> Iterator[tuple[str, ET.Element | str]]:
    """What holds at a step beside the table; the script writes the same into these elements."""
    step, latest = held.steps[at], held.latest(held.steps[at])
    allocation = held.allocations[latest] if latest >= 0 else None
    kept = sum(held.masks[at])
    yield "Step", e("span", f"{step} (of 0 to {held.total - 1})", id="fact-step")
    yield "Phase", e("span", held.phases[at], id="fact-phase")
    yield "Budget", e("span", f"{held.budgets[at]:d}", id="fact-budget")
    yield "Kept", e("span", f"{kept} of {sum(held.ranks.values())} triplets", id="fact-kept")
    yield "Loss (nats)", e("span", scientific(held.losses[at]), id="fact-loss")
    yield "Accuracy, last measured", e("span", percent(held.accuracies[at]), id="fact-accuracy")
    yield (
        "Latest allocation",
        e("span", "none yet" if allocation is None else f"step {allocation.step}", id="fact-latest"),
    )
    yield "Threshold (nats²)", e("span", scientific(allocation.threshold if allocation else None), id="fact-threshold")
    yield f"{JUST_DROPPED} Dropped there", e("span", named(allocation.dropped if allocation else []), id="fact-dropped")
    yield f"{CAME_BACK} Came back there", e("span", named(allocation.revived if allocation else []), id="fact-revived")


def percent(share: float | None) -> str:
    """A share as the page's script writes it."""
    return "–" if share is None else f"{100 * share:.1f} %"


def named(who: Pairs) -> str:
    """Triplets by matrix: ``layer1: 0, 3; head: 1``."""
    return "; ".join(f"{name}: {', '.join(map(str, held))}" for name, held in who) or "nobody"


def _table(held: Shown, at: int) -> ET.Element:
    most = max(held.ranks.values(), default=0)
    latest = held.latest(held.steps[at])
    cells = _cells(held, at, held.allocations[latest] if latest >= 0 else None)
    lines = []
    for name, rank in held.ranks.items():
        row = [next(cells) for _ in range(rank)] + [e("td", class_="empty") for _ in range(most - rank)]
        lines.append(e("tr", e("th", name, scope="row"), *row))
    head = e("tr", e("th", "matrix \\ triplet", scope="col"), *(e("th", str(i), scope="col") for i in range(most)))
    caption = e("caption", "Score of every triplet, and whether it is kept")
    held_by = e("table", caption, e("thead", head), e("tbody", *lines), class_="triplets", id="triplets")
    return scrolling("Triplets at the chosen step", held_by)


def _cells(held: Shown, at: int, allocation: Allocation | None) -> Iterator[ET.Element]:
    """A cell a triplet, in forward order."""
    dropped, revived = ({(n, i) for n, who in pairs for i in who} for pairs in _changes(allocation))
    names = [(name, i) for name, rank in held.ranks.items() for i in range(rank)]
    line = length(allocation.threshold, held.scale) if allocation and allocation.threshold else NOWHERE
    for triplet, score, kept in zip(names, held.scores[at], held.masks[at], strict=True):
        change = CAME_BACK if triplet in revived else JUST_DROPPED if triplet in dropped else ""
        sign = e("b", (KEPT if kept else DROPPED) + change)
        word = e("span", "kept" if kept else "dropped", class_="unseen")
        bar = e(
            "svg",
            e("rect", class_="bar", width=f"{length(score, held.scale):.2f}", y=1.5, height=5),
            e("line", class_="threshold", x1=f"{line:.2f}", x2=f"{line:.2f}", y1=0, y2=8),
            viewBox="0 0 100 8", preserveAspectRatio="none", aria_hidden="true", class_="scale",
        )  # fmt: skip
        yield e(
            "td", sign, word, e("span", scientific(score), class_="score"), bar, class_="kept" if kept else "dropped"
        )


def _changes(allocation: Allocation | None) -> tuple[Pairs, Pairs]:
    return (allocation.dropped, allocation.revived) if allocation else ([], [])
