"""What docs/derivations measures on the digits: whether −w · g foretells a loss, and what the penalty does to scores.

    python -m adalora_ref.experiments.derivations [docs/derivations/sensitivity.png]

prints the tables of those pages, and draws the picture anew if it is told where. It needs scikit-learn; the picture
needs matplotlib.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adalora_ref.experiments.digits import CLASSES, Examples, Settings, batches, divided, load, pretrain
from adalora_ref.factors import Factors, map_factors
from adalora_ref.importance import triplet_scores
from adalora_ref.networks.mlp import MLP
from adalora_ref.records import Batch, Config, StepReport, TrainState
from adalora_ref.training import init_state, scales_of, train

PARTS = ("B", "s", "A")
STEPS = (10, 40, 180)
"""Early; where pruning starts; where it ends, with the last scores that decide."""
GAMMAS = (0.001, 0.01, 0.1, 1.0, 10.0)
WATCHED = (0, 1, 10, 40, 179)
"""The steps at which the penalty's share is looked at; 179 is the last that counts."""
EXAMPLES = 200
"""On so many the loss is taken that is predicted."""


class Start(NamedTuple):
    """The run of `adalora-ref train digits`, arm AdaLoRA, before its first step."""

    network: MLP
    config: Config
    state: TrainState
    stream: list[Batch]
    examples: Examples


class Zeroing(NamedTuple):
    """For several entries: −w · g, and what the loss does when that entry becomes 0."""

    predicted: Any
    true: Any


@cache
def start(gamma: float = 0.1, *, seed: int = 0) -> Start:
    """Pre-train on 0–4 and stand ready to adapt to 5–9, with γ = *gamma*."""
    settings = Settings(orthogonality_weight=gamma)
    network, new, order, first = _frozen(seed)
    config = settings.adaptation(settings.initial_rank, settings.target_rank)
    stream = batches(new, settings.batch_size, settings.steps, np.random.default_rng(order))
    x, y = new
    examples = x[:EXAMPLES], y[:EXAMPLES]
    return Start(network, config, init_state(network, config, np.random.default_rng(first)), stream, examples)


@cache
def _frozen(seed: int) -> tuple[MLP, Examples, Any, Any]:
    split, dense, order, first = np.random.SeedSequence(seed).spawn(4)
    held_out, like = np.random.default_rng(split), np.zeros(1)
    old, _ = divided(load(), held_out, first=0, like=like)
    new, _ = divided(load(), held_out, first=CLASSES, like=like)
    return pretrain(old, Settings(), np.random.default_rng(dense), lambda *_: None), new, order, first


def after(begun: Start, steps: int) -> tuple[TrainState, list[StepReport]]:
    """Return the state after so many steps, at least one, and the report of each."""
    made = list(islice(train(begun.state, begun.stream, begun.network, begun.config), steps))
    return made[-1][0], [report for _, report in made]


# ZEROING


def zeroing(begun: Start, state: TrainState, /, *, entries: int = 40) -> dict[str, Zeroing]:
    """For each part, *entries* (or all, if fewer) of those whose w · g is not 0, drawn over all matrices.

    Loss and gradient are those of the task on `Start.examples`, without the penalty.
    """
    whole, gradient = _loss(begun, state, state.factors)
    rng, found = np.random.default_rng(0), {}
    products = {name: map_factors(lambda w, g: -w * g, w, gradient[name]) for name, w in state.factors.items()}
    for part in PARTS:
        places = [(name, *at) for name, held in products.items() for at in np.argwhere(getattr(held, part) != 0)]
        drawn = [(name, tuple(at)) for name, *at in (places[i] for i in rng.permutation(len(places))[:entries])]
        predicted = [getattr(products[name], part)[at] for name, at in drawn]
        true = [_loss(begun, state, _without(state.factors, name, part, at))[0] - whole for name, at in drawn]
        found[part] = Zeroing(np.asarray(predicted), np.asarray(true))
    return found


def scores_against_truth(begun: Start, state: TrainState, /) -> tuple[Any, Any, Any]:
    """For every triplet whose s is not 0: its score S, |s · g|, and what the loss does when s becomes 0."""
    whole, gradient = _loss(begun, state, state.factors)
    rows = [
        (triplet_scores(state.importance[name])[i], abs(held.s[i] * gradient[name].s[i]),
         _loss(begun, state, _without(state.factors, name, "s", (i,)))[0] - whole)
        for name, held in state.factors.items() for i in map(int, np.flatnonzero(held.s))
    ]  # fmt: skip
    scores, products, true = np.asarray(rows).T
    return scores, products, true


def _loss(begun: Start, state: TrainState, factors: Mapping[str, Factors]) -> tuple[float, dict[str, Factors]]:
    x, target = begun.examples
    output, held = begun.network.forward(x, factors, scales_of(state, begun.config))
    value, doutput = begun.network.loss(output, target)
    return float(value), begun.network.backward(doutput, held) if factors is state.factors else {}


def _without(factors: Mapping[str, Factors], name: str, part: str, at: tuple[int, ...]) -> dict[str, Factors]:
    arrays = {other: a.copy() for other, a in zip(PARTS, factors[name], strict=True)}
    arrays[part][at] = 0.0
    return {**factors, name: Factors(**arrays)}


def rank_correlation(a: Any, b: Any) -> float:
    """Spearman's: 1 if *a* and *b* order alike."""
    return float(np.corrcoef(np.argsort(np.argsort(a)), np.argsort(np.argsort(b)))[0, 1])


def agreement(held: Zeroing) -> tuple[float, float, float]:
    """Rank correlation of the two sizes; share of right signs; median of |true − predicted| / |predicted|."""
    predicted, true = held
    error = np.median(np.abs(true - predicted) / np.abs(predicted))
    return rank_correlation(abs(predicted), abs(true)), float(np.mean(predicted * true > 0)), float(error)


# THE PICTURE


def draw(moments: Mapping[str, Mapping[str, Zeroing]], path: Path) -> Any:
    """Draw a panel for each moment, |predicted| against |true|; write it, and return the figure."""
    from matplotlib.figure import Figure

    looks = {"B": ("o", "white", "#0072b2"), "A": ("^", "white", "#d55e00"), "s": ("s", "black", "black")}
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    panels = figure.subplots(1, len(moments), sharex=True, sharey=True, squeeze=False)[0]
    for panel, (title, parts) in zip(panels, moments.items(), strict=True):
        panel.axline((1e-6, 1e-6), (1.0, 1.0), color="0.6", linewidth=1.0, zorder=0)
        for part, (marker, face, edge) in looks.items():
            predicted, true = parts[part]
            style = {"facecolors": face, "edgecolors": edge, "linewidths": 1.0, "label": f"entries of {part}"}
            panel.scatter(np.abs(predicted), np.abs(true), s=22, marker=marker, alpha=0.85, **style)
        panel.set(xscale="log", yscale="log", title=title, aspect="equal", xlabel="predicted, |w · ∂loss/∂w| (nats)")
    panels[0].set(ylabel="true, |change of the loss| (nats)")
    panels[0].legend(loc="upper left", frameon=False, handletextpad=0.2)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    return figure


# THE TABLES


def foretelling(moments: Mapping[int, Mapping[str, Zeroing]]) -> Iterator[str]:
    """Give a line for each moment and part."""
    for steps, parts in moments.items():
        for part, held in parts.items():
            yield f"{steps:5}  {part:4}" + "".join(f"  {figure:11.2f}" for figure in agreement(held))


def ordering(begun: Start, states: Mapping[int, TrainState]) -> Iterator[str]:
    """Give a line for each moment: how well S orders the triplets, and how well |s · g| does."""
    for steps, state in states.items():
        S, products, true = scores_against_truth(begun, state)
        yield f"{steps:5}  {rank_correlation(S, true):7.2f}  {rank_correlation(products, true):7.2f}"


def shares() -> Iterator[str]:
    """Give a line for each γ: mean shares at the steps watched, and of kept and dropped ones; ranks and penalty."""
    for gamma in GAMMAS:
        state, reports = after(start(gamma), WATCHED[-1] + 1)
        by_step = [np.concatenate([*reports[t].penalty_share.values()]) for t in WATCHED]
        kept = np.concatenate([*state.masks.values()])
        means = [np.mean(share) for share in (*by_step, by_step[-1][kept], by_step[-1][~kept])]
        ranks = " ".join(map(str, reports[-1].kept.values()))
        yield f"{gamma:6}" + "".join(f"  {mean:8.2f}" for mean in means) + f"  {ranks}  {reports[-1].penalty:7.2f}"


def main(picture: Path | None = None) -> None:
    """Train, print the tables, and draw if told where."""
    begun = start()
    runs = {steps: after(begun, steps) for steps in STEPS}
    moments = {steps: zeroing(begun, state) for steps, (state, _) in runs.items()}
    tables = {
        "steps  part  correlation  right signs  median error": foretelling(moments),
        "steps        S  |s · g|": ordering(begun, {steps: state for steps, (state, _) in runs.items()}),
        "     γ" + "".join(f"  {f'step {t}':>8}" for t in WATCHED) + "      kept   dropped  ranks    penalty": shares(),
    }
    sys.stdout.write("\n\n".join("\n".join((head, *lines)) for head, lines in tables.items()) + "\n")
    if picture:
        titles = {steps: f"after {steps} steps, loss {reports[-1].loss:.2f}" for steps, (_, reports) in runs.items()}
        draw({titles[steps]: parts for steps, parts in moments.items()}, picture)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
