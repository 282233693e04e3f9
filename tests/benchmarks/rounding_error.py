"""How much of its rounding-error bound the core uses: random small cases of every stage, core against oracle.

Every element of every result must lie within its bound of the 50-digit value; otherwise the exit status is 1.
"""

from __future__ import annotations

import argparse
import math
import platform
import re
import statistics
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mpmath
import numpy as np
from rich.console import Console
from rich.progress import track

import adalora_ref as ref
from adalora_ref.conformance import cases, oracle_run, oracles
from adalora_ref.conformance.cases import Draw
from adalora_ref.conformance.lifting import evaluate, ratio
from adalora_ref.conformance.target import leaves
from adalora_ref.convention import CONVENTIONS
from adalora_ref.networks.mlp import MLP

Trial = tuple[Any, dict[str, Any]]
"""What the core returns, and what each leaf of it should be."""

ADAM = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}


def judged(oracle: Callable[..., Any], draw: Draw, got: Any, *args: Any, **options: Any) -> Trial:
    """Put beside what the core returned what the oracle expects."""
    working = "float64" if draw.dtype == "float64" else "float32"
    return got, evaluate(oracle, *args, **options, working=working, like=got)


def alike(name: str, draw: Draw, outputs: tuple[str, ...], *args: Any, **options: Any) -> Trial:
    """Call the core and an oracle that takes the same arguments."""
    result = getattr(ref, name)(*args, **options)
    got = dict(zip(outputs, result if len(outputs) > 1 else [result], strict=True))
    return judged(getattr(oracles, name), draw, got, *args, **options)


def rows(a: Any) -> Any:
    """Flatten the leading axes."""
    return None if a is None else a.reshape(-1, a.shape[-1])


def linear_forward(draw: Draw) -> Trial:
    """Draw a layer, with and without bias and mask."""
    i = cases.linear(draw)
    W, factors, mask = i["W"], i["factors"], i["dropout_mask"]
    options = {"scale": i["scale"], "bias": i["bias"]}
    y, _ = ref.linear_forward(i["x"], W, factors, dropout_mask=mask, **options)
    return judged(oracles.linear_forward, draw, {"y": y}, rows(i["x"]), W, factors, dropout_mask=rows(mask), **options)


def linear_backward(draw: Draw) -> Trial:
    """Draw a layer and the gradient at its output."""
    i = cases.linear(draw)
    x, dy, W, factors, mask, scale = (i[k] for k in ("x", "dy", "W", "factors", "dropout_mask", "scale"))
    dx, grads = ref.linear_backward(dy, ref.linear_forward(x, W, factors, scale=scale, dropout_mask=mask)[1])
    inputs, options = (rows(dy), rows(x), W, factors), {"scale": scale, "dropout_mask": rows(mask)}
    return judged(oracles.linear_backward, draw, {"dx": dx, "d": grads}, *inputs, **options)


def increment(draw: Draw) -> Trial:
    """Draw factors and a scale."""
    i = cases.weight(draw)
    got = {"ΔW": ref.increment(i["factors"], scale=i["scale"])}
    return judged(oracles.increment, draw, got, i["factors"], scale=i["scale"], d_in=i["W"].shape[1])


def merging(name: str) -> Callable[[Draw], Trial]:
    """Draw a weight, factors and a scale."""

    def trial(draw: Draw) -> Trial:
        i = cases.weight(draw)
        return alike(name, draw, ("W",), i["W"], i["factors"], scale=i["scale"])

    return trial


def update_importance(draw: Draw) -> Trial:
    """Draw averages, weights and gradients."""
    i = cases.importance(draw)
    inputs = (i["state"], i["weights"], i["grads"])
    return alike("update_importance", draw, ("Ī", "Ū"), *inputs, beta1=i["beta1"], beta2=i["beta2"])


def triplet_scores(draw: Draw) -> Trial:
    """Draw averages."""
    like = draw.factors(*draw.shape())
    state = ref.Importance(draw.averages(like, typical=2e-9), draw.averages(like, typical=2e-9))
    return alike("triplet_scores", draw, ("S",), state)


def schedule(name: str) -> Callable[[Draw], Trial]:
    """Draw a schedule; ask at each of its steps."""

    def trial(draw: Draw) -> Trial:
        i = cases.schedule(draw)
        got = {"value": np.asarray([getattr(ref, name)(i["schedule"], t) for t in i["steps"]])}
        return judged(
            lambda s, steps: [getattr(oracles, name)(s, t) for t in steps], draw, got, i["schedule"], i["steps"]
        )

    return trial


def allocate(draw: Draw) -> Trial:
    """Draw scores with ties, a budget and sometimes costs."""
    i = cases.scores(draw)
    got = ref.allocate(i["scores"], i["budget"], cost=i["cost"])
    return judged(oracles.allocate, draw, {"keep": got}, i["scores"], i["budget"], cost=i["cost"])


def masked(name: str) -> Callable[[Draw], Trial]:
    """Draw factors and a mask."""

    def trial(draw: Draw) -> Trial:
        i = cases.masked(draw)
        return alike(name, draw, ("factors",), i["factors"], i["keep"])

    return trial


def penalty(name: str) -> Callable[[Draw], Trial]:
    """Draw factors, sometimes orthonormal ones."""
    return lambda draw: alike(name, draw, ("R", "d"), cases.factors(draw)["factors"])


def adamw_step(draw: Draw) -> Trial:
    """Draw weights, gradients and moments."""
    i = cases.optimiser(draw)
    rates = {"learning_rate": i["learning_rate"], "weight_decay": i["weight_decay"] or 0.0}
    return alike("adamw_step", draw, ("weights", "state"), i["weights"], i["grads"], i["state"], **ADAM, **rates)


def cross_entropy(draw: Draw) -> Trial:
    """Draw logits and labels."""
    logits = draw.array(draw.size(1, 4), draw.size(1, 5))
    labels = draw.rng.integers(0, logits.shape[1], logits.shape[0])
    return alike("cross_entropy", draw, ("loss", "dlogits"), logits, labels)


def mean_square(draw: Draw) -> Trial:
    """Draw an output and a target."""
    output = draw.array(draw.size(1, 4), draw.size(1, 5))
    return alike("mean_square", draw, ("loss", "doutput"), output, draw.array(*output.shape))


def network(draw: Draw) -> MLP:
    """Draw two layers of at most three units, the first with a bias, the last with two units or more."""
    d_in, hidden, d_out = draw.size(1, 3), draw.size(1, 3), draw.size(2, 3)
    weights = {"first": draw.array(hidden, d_in), "last": draw.array(d_out, hidden)}
    loss = ref.cross_entropy if draw.index % 2 else ref.mean_square
    return MLP(weights, {"first": draw.array(hidden)}, loss)


def train_step(draw: Draw) -> Trial:
    """Draw a state somewhere in a run under one of the conventions, and make one step."""
    draw = Draw(draw.rng, draw.dtype, 3 * draw.index + 1)  # of ordinary magnitude: ties of scores are the allocation's
    net, r, convention = network(draw), draw.size(1, 2), list(CONVENTIONS.values())[draw.index % len(CONVENTIONS)]
    held = {name: draw.factors(*W.shape, r) for name, W in net.weights.items()}
    plan = ref.BudgetSchedule(
        initial=2 * r, target=draw.size(0, 2 * r), warmup=1, final=2, total=7, interval=draw.size(1, 2)
    )
    state = ref.TrainState(
        draw.size(0, 7),
        held,
        {n: ref.Importance(draw.averages(f, typical=1.0), draw.averages(f, typical=1.0)) for n, f in held.items()},
        {n: ref.AdamState(f, draw.averages(f, typical=1.0), draw.size(0, 9)) for n, f in held.items()},
        {n: draw.rng.random(r) < 0.7 for n in held},
    )
    config = ref.Config(
        schedule=plan,
        initial_rank=r,
        alpha=1.5,
        learning_rate=0.01,
        weight_decay=0.1,
        clip_norm=[None, 0.5][draw.size(0, 1)],
    )
    shapes = [W.shape for W in net.weights.values()]
    batch = [(draw.array(2, shapes[0][1]), _target(draw, net, shapes[-1][0])) for _ in range(draw.size(1, 2))]
    got = dict(zip(("state", "report"), ref.train_step(state, batch, net, config, convention=convention), strict=True))
    return judged(
        oracle_run.train_step, draw, got, state, batch, net, config, oracle_run.CONSTANTS, convention=convention
    )


def _target(draw: Draw, net: MLP, d_out: int) -> Any:
    return draw.rng.integers(0, d_out, 2) if net.loss is ref.cross_entropy else draw.array(2, d_out)


TRIALS: dict[str, Callable[[Draw], Trial]] = {
    "linear_forward": linear_forward,
    "linear_backward": linear_backward,
    "increment": increment,
    "merge": merging("merge"),
    "unmerge": merging("unmerge"),
    "orthogonality_penalty": penalty("orthogonality_penalty"),
    "orthogonality_norm": penalty("orthogonality_norm"),
    "update_importance": update_importance,
    "triplet_scores": triplet_scores,
    "budget_at": schedule("budget_at"),
    "allocates_at": schedule("allocates_at"),
    "allocate": allocate,
    "prune": masked("prune"),
    "compress": masked("compress"),
    "adamw_step": adamw_step,
    "cross_entropy": cross_entropy,
    "mean_square": mean_square,
    "train_step": train_step,
}


class Measured(NamedTuple):
    """One result of one case: largest error over bound, and whether the bound is 0 or infinite."""

    quantity: str
    ratio: float
    exact: bool
    unbounded: bool


def measure(stage: str, index: int, dtype: str, seed: int = 0) -> Iterator[Measured]:
    """Draw one case and hold each result of the core against its bound."""
    rng = np.random.default_rng([seed, zlib.crc32(stage.encode()), index])
    got, expected = TRIALS[stage](Draw(rng, dtype, index))
    for path, value in leaves(got):
        want = expected[path]
        largest = float(np.max(ratio(value, want), initial=0.0))
        bounds = np.asarray(want.error)
        yield Measured(_quantity(path), largest, not np.any(bounds), not np.all(np.isfinite(bounds)))


def _quantity(path: str) -> str:
    """Drop the names of matrices: [state].factors[first].B is state.factors.B."""
    return re.sub(r"\[(first|last|layer\d+)\]", "", path).replace("[", "").replace("]", "")


def table(stages: list[str], count: int, dtype: str, console: Console) -> tuple[list[str], float]:
    """Measure *count* cases of each stage; return the rows, and the largest ratio of all."""
    lines, largest = [], 0.0
    for stage in stages:
        found: dict[str, list[Measured]] = {}
        for index in track(range(count), stage, console=console, disable=not console.is_terminal, transient=True):
            for m in measure(stage, index, dtype):
                found.setdefault(m.quantity, []).append(m)
        for quantity, held in found.items():
            worst, typical = max(m.ratio for m in held), [m.ratio for m in held if not m.exact and not m.unbounded]
            median = f"{statistics.median(typical):.3f}" if typical else "–"
            exact, unbounded = sum(m.exact for m in held), sum(m.unbounded for m in held)
            lines.append(f"| {stage} | {quantity} | {len(held)} | {exact} | {unbounded} | {worst:.3f} | {median} |")
            largest = max(largest, worst)
    return lines, largest


HEAD = """# Rounding error of the core

Every element of every stage, computed by the core in {dtype}, lies within its own rounding-error bound of the 50-digit
value if the ratio of error to bound is at most 1. Each row is one result of one public function over random small cases
(sizes up to 5, magnitudes from eighths over ordinary ones to those of training; rank 0 and no samples included).

- *exact*: cases in which nothing can round, so that the bound is 0 and the core must be equal;
- *unbounded*: cases without a finite bound, such as the gradient of an unsquared norm near orthonormality;
- *largest*: largest ratio of error to bound over all elements of all cases;
- *median*: median over the other cases of each case's largest ratio.

| stage | result | cases | exact | unbounded | largest | median |
| --- | --- | --- | --- | --- | --- | --- |
"""


def main() -> int:
    """Write the table; 1 if anything lies outside its bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    parser.add_argument("--stage", action="append", choices=tuple(TRIALS))
    parser.add_argument("--out", type=Path, help="Markdown file; without it the table is printed")
    given = parser.parse_args()
    lines, largest = table(given.stage or list(TRIALS), given.cases, given.dtype, Console(stderr=True))
    command = f"python tests/benchmarks/rounding_error.py --cases {given.cases} --dtype {given.dtype}"
    foot = (
        f"\nLargest ratio of all: {largest:.3f}. Made with `{command}`, adalora_ref {ref.__version__}, "
        f"Python {platform.python_version()}, NumPy {np.__version__}, mpmath {mpmath.__version__}.\n"
    )
    text = HEAD.format(dtype=given.dtype) + "\n".join(lines) + "\n" + foot
    if given.out:
        given.out.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 0 if lines and math.isfinite(largest) and largest <= 1.0 else 1


if __name__ == "__main__":
    sys.exit(main())
